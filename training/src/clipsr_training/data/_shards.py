"""WebDataset shards: tar files without compression, so that a sample is a range of bytes, read in any order."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from clipsr_training.data._columns import (
    CAPTION_COLUMNS,
    SetOptions,
    name_numbers,
    number_classes,
    require_captions,
    require_text,
    set_name,
)
from clipsr_training.data._image_set import CaptionedImages, ImageSet
from clipsr_training.data._images import IMAGE_ENDINGS

_BLOCK = tarfile.BLOCKSIZE
_CLASSNAMES = "classnames.txt"


@dataclass(frozen=True)
class _Sample:
    """Members of one shard with one key, by their endings."""

    shard: Path
    key: str
    members: dict[str, tarfile.TarInfo]

    @property
    def image(self) -> tarfile.TarInfo | None:
        return next((m for ending, m in self.members.items() if f".{ending}" in IMAGE_ENDINGS), None)

    def read(self, member: tarfile.TarInfo) -> bytes:
        with self.shard.open("rb") as file:
            return os.pread(file.fileno(), member.size, member.offset_data)

    def text(self, ending: str) -> str:
        try:
            return self.read(self.members[ending]).decode().strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where(ending)} is not UTF-8 ({error.reason})") from error

    def where(self, ending: str) -> str:
        return f"{self.shard}: {self.members[ending].name}"


def find_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a folder or, where they are sorted by splits as on the hub, those of the asked one."""
    name = glob.escape(split.strip("/"))
    places = ("*.tar", *((f"{name}/*.tar", f"data/{name}*.tar", f"data/{name}/*.tar") if name else ()))
    return next((found for place in places if (found := sorted(folder.glob(place)))), [])


def open_shards(
    path: Path, shards: Sequence[Path], options: SetOptions, *, or_captions: bool
) -> ImageSet | CaptionedImages:
    """Open `KEY.jpg` beside `KEY.txt`, `KEY.json` with a caption, or `KEY.cls` with a class, in every shard.

    Args:
        path: what the user named: a shard, or a folder of them.
        shards: the files.
        options: what the names leave open.
        or_captions: read captions where there are some.

    Raises:
        ValueError: a file is no tar file, compressed, or cut short; a key comes twice; an image has no caption or
            class; or there are no images.
    """
    found = [sample for shard in shards for sample in _samples(shard)]
    samples = [sample for sample in found if sample.image is not None]
    if not samples:
        raise ValueError(f"{path} holds no samples of an image beside a .txt, .json or .cls file")
    if without := [sample for sample in found if sample.image is None]:
        left_out = f"{path}: {len(without):,} samples without an image are left out, the first {without[0].key}"
        warnings.warn(left_out, stacklevel=2)
    images = [image for sample in samples if (image := sample.image) is not None]

    def read(i: int) -> bytes:
        return samples[i].read(images[i])

    names = [m.name if len(shards) == 1 else f"{s.shard.name}, {m.name}" for s, m in zip(samples, images, strict=True)]
    name = set_name(path.stem, path)
    if or_captions and _has_captions(samples[0], options):
        return CaptionedImages(name=name, captions=[_captions(s, options) for s in samples], names=names, read=read)
    classnames, targets = _classes(path, samples, options, or_captions=or_captions)
    return ImageSet(name=name, classnames=classnames, targets=targets, names=names, read=read)


def _samples(shard: Path) -> Iterator[_Sample]:
    """Yield the runs of members that share a key, as WebDataset groups them."""
    sample: _Sample | None = None
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            end = 0
            for member in tar:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                match = re.fullmatch(r"((?:.*/)?[^/.]+)\.([^/]+)", member.name)
                if member.isdir() or match is None:
                    continue
                if not member.isreg():
                    raise ValueError(f"{shard}: {member.name} is a link or a device; pack files themselves")
                key, ending = match[1], match[2].lower()
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    if key in seen:
                        raise ValueError(f"{shard}: the key {key} comes twice, apart from each other")
                    seen.add(key)
                    sample = _Sample(shard, key, {})
                if ending in sample.members:
                    raise ValueError(f"{shard}: {member.name} comes twice")
                sample.members[ending] = member
    except tarfile.ReadError as error:
        raise ValueError(f"{shard} is not an uncompressed tar file ({error})") from error
    _require_end(shard, end)
    if sample is not None:
        yield sample


def _require_end(shard: Path, offset: int) -> None:
    """Check that an archive ends after its last member, and that the file ends there too."""
    with shard.open("rb") as file:
        file.seek(offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError(f"{shard} has no end of archive: it was cut short")
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise ValueError(f"{shard} holds more behind its end of archive, such as a second archive: unpack it")


def _has_captions(sample: _Sample, options: SetOptions) -> bool:
    """Whether captions are to be read, of samples that may have classes too; their .json then often has no caption."""
    if "txt" in sample.members or "json" not in sample.members:
        return "txt" in sample.members
    is_sure = "cls" not in sample.members or options.caption_column is not None
    return is_sure or any(name in _entry(sample) for name in CAPTION_COLUMNS)


def _entry(sample: _Sample) -> dict[str, Any]:
    where = sample.where("json")
    try:
        entry = json.loads(sample.text("json"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise ValueError(f"{where} holds no object but a {type(entry).__name__}")
    return cast("dict[str, Any]", entry)


def _captions(sample: _Sample, options: SetOptions) -> list[str]:
    if "txt" in sample.members:
        return require_captions(sample.text("txt"), sample.where("txt"))
    if "json" not in sample.members:
        raise ValueError(f"{sample.shard}: {sample.key} has no .txt or .json file with its caption")
    entry = _entry(sample)
    fields = CAPTION_COLUMNS if options.caption_column is None else (options.caption_column,)
    if not any(name in entry for name in fields):
        raise ValueError(f"{sample.where('json')} has none of {', '.join(fields)}")
    return require_captions(next(entry[name] for name in fields if name in entry), sample.where("json"))


def _classes(
    path: Path, samples: Sequence[_Sample], options: SetOptions, *, or_captions: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    for sample in samples:
        if "cls" not in sample.members:
            wanted = ".txt, .json or .cls file" if or_captions else ".cls file with its class"
            raise ValueError(f"{sample.shard}: {sample.key} has no {wanted}")
    labels = [require_text(sample.text("cls"), sample.where("cls"), "label") for sample in samples]
    if not all(re.fullmatch(r"-?\d+", label) for label in labels):
        return number_classes(labels)
    named = options if options.labels is not None else replace(options, labels=_read_classnames(path))
    return name_numbers(np.array([int(label) for label in labels]), named, lambda i: samples[i].where("cls"), path)


def _read_classnames(path: Path) -> tuple[str, ...] | None:
    """Return the names that CLIP benchmark keeps in a file of one a line, beside the shards or their folder."""
    files = (folder / _CLASSNAMES for folder in (path, path.parent, path.parent.parent))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        return tuple(name for line in file.read_text("utf-8").splitlines() if (name := line.strip()))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason})") from error
