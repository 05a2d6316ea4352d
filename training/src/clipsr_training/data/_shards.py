"""WebDataset shards: tar files without compression, so that a sample is a range of bytes, read in any order."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipsr_training.data._columns import CAPTION_COLUMNS, set_name
from clipsr_training.data._image_set import CaptionedImages
from clipsr_training.data._images import IMAGE_ENDINGS


def open_shards(path: Path, shards: Sequence[Path]) -> CaptionedImages:
    """Open `KEY.jpg` beside `KEY.txt`, or `KEY.json` with a caption, in every shard.

    Args:
        path: what the user named: a shard, or a folder of them.
        shards: the files.

    Raises:
        ValueError: a file is no tar file, or compressed; an image has no caption; or there are no images.
    """
    samples: list[tuple[Path, str, int, int]] = []
    captions: list[list[str]] = []
    for shard in shards:
        for key, members in _samples(shard):
            image = next((m for ending, m in members.items() if f".{ending}" in IMAGE_ENDINGS), None)
            if image is None:
                continue
            captions.append(_read_captions(shard, key, members))
            samples.append((shard, image.name, image.offset_data, image.size))
    if not samples:
        raise ValueError(f"{path} holds no samples of an image beside a .txt or .json file")

    def read(i: int) -> bytes:
        shard, _, offset, size = samples[i]
        with shard.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    names = [member if len(shards) == 1 else f"{shard.name}, {member}" for shard, member, _, _ in samples]
    return CaptionedImages(name=set_name(path.stem, path), captions=captions, names=names, read=read)


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yield (key, {ending: member}) for the runs of members that share a key, as WebDataset groups them."""
    try:
        with tarfile.open(shard, "r:") as tar:
            current: str | None = None
            members: dict[str, tarfile.TarInfo] = {}
            for member in tar:
                match = re.fullmatch(r"((?:.*/)?[^/.]+)\.([^/]+)", member.name)
                if not member.isfile() or match is None:
                    continue
                key, ending = match[1], match[2].lower()
                if key != current and current is not None:
                    yield current, members
                    members = {}
                current = key
                members[ending] = member
            if current is not None:
                yield current, members
    except tarfile.ReadError as error:
        raise ValueError(f"{shard} is not an uncompressed tar file ({error})") from error


def _read_captions(shard: Path, key: str, members: dict[str, tarfile.TarInfo]) -> list[str]:
    member = members.get("txt") or members.get("json")
    if member is None:
        raise ValueError(f"{shard}: {key} has no .txt or .json file with its caption")
    with shard.open("rb") as file:
        content = os.pread(file.fileno(), member.size, member.offset_data).decode(errors="replace")
    if member.name.endswith(".txt"):
        return [content.strip()]
    entry = json.loads(content)
    caption = next((entry[name] for name in CAPTION_COLUMNS if name in entry), None)
    if caption is None:
        raise ValueError(f"{shard}: {member.name} has none of {', '.join(CAPTION_COLUMNS)}")
    return [caption]
