"""Image-text pairs on disk: class folders, `datasets` tables, caption files and WebDataset shards, read by index."""

import csv
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset as TableDataset
from datasets import Image as ImageColumn
from datasets import load_dataset, load_from_disk
from PIL import Image

from clipsr_training.clip._preprocess import decode

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_IMAGE_COLUMNS = ("image", "img", "filepath", "path", "file_name")
_CAPTION_COLUMNS = ("caption", "text", "title")


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Images by index, each with one text or more.

    Attributes:
        name: for logs and reports.
        encoded: returns the file of an image, by index.
        where: names an image in an error message, by index.
        texts: for each image the indices of its texts in `phrases`.
        phrases: class names as written in prompts, or whole captions; without repetition.
        has_classes: phrases are class names, to be put into templates; otherwise captions, used as they are.
        webp_quality: encode losslessly stored images as WebP of this quality first (1-100); None leaves them as they
            are. Where one source is lossy and another is not, a model learns to tell the two apart by the artifacts.
    """

    name: str
    encoded: Callable[[int], bytes]
    where: Callable[[int], str]
    texts: Sequence[tuple[int, ...]]
    phrases: tuple[str, ...]
    has_classes: bool
    webp_quality: int | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.texts)

    def image(self, index: int) -> Image.Image:
        """Return an image as RGB, its orientation and transparency treated as the service does.

        Raises:
            ValueError: it can't be read or decoded; the message names it.
        """
        try:
            encoded = self.encoded(index)
        except OSError as error:
            raise ValueError(f"{self.where(index)} can't be read: {error}") from error
        image = decode(encoded, self.where(index))
        if self.webp_quality is not None and not is_lossy(encoded):
            lossy = io.BytesIO()
            image.save(lossy, "WEBP", quality=self.webp_quality)
            image = decode(lossy.getvalue(), self.where(index))
        return image

    def check(self) -> None:
        """Look at every image's header, so that a run does not stop at an unreadable file hours later.

        Raises:
            ValueError: an image can't be read; the message names it.
        """
        for index in range(len(self)):
            try:
                Image.open(io.BytesIO(self.encoded(index))).verify()
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"{self.where(index)}: the image can't be read ({error})") from error

    def digest(self) -> str:
        """Return the SHA-256 over all image files in order, and over how they are read."""
        digest = hashlib.sha256(f"webp {self.webp_quality}".encode())
        for index in range(len(self)):
            digest.update(hashlib.sha256(self.encoded(index)).digest())
        return digest.hexdigest()


def is_lossy(encoded: bytes) -> bool:
    """Return whether a file is a JPEG or a lossy WebP; of WebP's two codecs, "VP8 " is the lossy one (RFC 9649)."""
    is_jpeg = encoded.startswith(b"\xff\xd8")
    is_webp = encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP"
    return is_jpeg or (is_webp and b"VP8 " in encoded[12:64])


def read_pairs(path: Path, webp_quality: int | None = None) -> PairSource:
    """Open image-text pairs; the kind follows from the path.

    | path | kind |
    |---|---|
    | `*.parquet`, or a folder that `datasets` saved | a table with `image`, and `label` with class names or `caption` |
    | `*.csv`, `*.tsv` | a header line, then paths and captions; paths relative to the file |
    | `*.tar`, or a folder of them | WebDataset shards: `KEY.jpg` beside `KEY.txt` or `KEY.json` with `caption` |
    | any other folder | a folder of images for each class |

    Args:
        path: file or folder.
        webp_quality: see `PairSource`.

    Raises:
        FileNotFoundError: there is nothing at the path, or a file that it names is missing.
        ValueError: it holds no pairs, or not in the form above; the message says what was expected.
    """
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}")
    ending = path.suffix.lower()
    if ending == ".parquet" or (path / "dataset_info.json").is_file():
        return _table(path, webp_quality)
    if ending in {".csv", ".tsv"}:
        return _captions(path, "\t" if ending == ".tsv" else ",", webp_quality)
    if ending == ".tar":
        return _shards(path, [path], webp_quality)
    if path.is_file():
        raise ValueError(f"{path}: expected .parquet, .csv, .tsv, .tar or a folder")
    if shards := sorted(path.glob("*.tar")):
        return _shards(path, shards, webp_quality)
    return _class_folders(path, webp_quality)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _table(path: Path, webp_quality: int | None) -> PairSource:
    if path.is_dir():
        table = load_from_disk(str(path))
        if not isinstance(table, TableDataset):
            raise ValueError(f"{path} holds several splits ({', '.join(map(str, table))}); give the folder of one")
    else:
        table = load_dataset("parquet", data_files=str(path), split="train")
        assert isinstance(table, TableDataset)
    columns = table.column_names
    if "image" not in columns:
        raise ValueError(f"{path} has no column image; it has {', '.join(columns)}")
    files = table.cast_column("image", ImageColumn(decode=False)) if len(table) else table
    caption_column = next((name for name in _CAPTION_COLUMNS if name in columns), None)
    if "label" in columns:
        names = getattr(table.features["label"], "names", None)
        if names is None:
            raise ValueError(f"{path}: the label column has no class names (a datasets ClassLabel)")
        texts: list[tuple[int, ...]] = [(label,) for label in table["label"]]
        phrases = tuple(map(_spoken, names))
    elif caption_column:
        values = [[v] if isinstance(v, str) else list(v) for v in table[caption_column]]
        texts, phrases = _index(values)
    else:
        raise ValueError(f"{path} has no column label or caption; it has {', '.join(columns)}")

    def encoded(index: int) -> bytes:
        entry = files[index]["image"]
        return entry["bytes"] if entry["bytes"] is not None else Path(entry["path"]).read_bytes()

    return _source(path, encoded, lambda i: f"{path}, row {i}", texts, phrases, "label" in columns, webp_quality)


def _captions(path: Path, delimiter: str, webp_quality: int | None) -> PairSource:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    columns = list(rows[0]) if rows else []
    image_column = next((name for name in _IMAGE_COLUMNS if name in columns), None)
    caption_column = next((name for name in _CAPTION_COLUMNS if name in columns), None)
    if image_column is None or caption_column is None:
        missing = "image paths" if image_column is None else "captions"
        expected = _IMAGE_COLUMNS if image_column is None else _CAPTION_COLUMNS
        found = ", ".join(map(str, columns)) or "none"
        raise ValueError(f"{path} has no column of {missing} ({', '.join(expected)}); it has {found}")
    captions: dict[Path, list[str]] = {}
    for line, row in enumerate(rows, start=2):
        if not row[image_column] or not row[caption_column]:
            raise ValueError(f"{path}, line {line}: needs both {image_column} and {caption_column}")
        captions.setdefault(path.parent / row[image_column], []).append(row[caption_column])
    files = list(captions)
    if missing_files := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{path} names {len(missing_files)} missing files, the first {missing_files[0]}")
    texts, phrases = _index(captions.values())
    return _source(path, lambda i: files[i].read_bytes(), lambda i: str(files[i]), texts, phrases, False, webp_quality)


def _class_folders(path: Path, webp_quality: int | None) -> PairSource:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    files: list[Path] = []
    texts: list[tuple[int, ...]] = []
    for index, folder in enumerate(folders):
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
        if not found:
            raise ValueError(f"{folder} holds no images; every folder in {path} is a class")
        files += found
        texts += [(index,)] * len(found)
    if not files:
        raise ValueError(f"{path} holds neither class folders nor .tar shards nor a saved dataset")
    phrases = tuple(_spoken(folder.name) for folder in folders)
    return _source(path, lambda i: files[i].read_bytes(), lambda i: str(files[i]), texts, phrases, True, webp_quality)


def _shards(path: Path, shards: Sequence[Path], webp_quality: int | None) -> PairSource:
    # Shards are tar files without compression, so that a sample is a range of bytes and can be read in any order.
    samples: list[tuple[Path, str, int, int]] = []
    captions: list[list[str]] = []
    for shard in shards:
        for key, members in _samples(shard):
            image = next((m for ending, m in members.items() if f".{ending}" in IMAGE_ENDINGS), None)
            if image is None:
                continue
            caption = _caption_of(shard, key, members)
            samples.append((shard, image.name, image.offset_data, image.size))
            captions.append(caption)
    if not samples:
        raise ValueError(f"{path} holds no samples of an image beside a .txt or .json file")
    texts, phrases = _index(captions)

    def encoded(index: int) -> bytes:
        shard, _, offset, size = samples[index]
        with shard.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    return _source(path, encoded, lambda i: f"{samples[i][0]}, {samples[i][1]}", texts, phrases, False, webp_quality)


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


def _caption_of(shard: Path, key: str, members: dict[str, tarfile.TarInfo]) -> list[str]:
    member = members.get("txt") or members.get("json")
    if member is None:
        raise ValueError(f"{shard}: {key} has no .txt or .json file with its caption")
    with shard.open("rb") as file:
        content = os.pread(file.fileno(), member.size, member.offset_data).decode(errors="replace")
    if member.name.endswith(".txt"):
        return [content.strip()]
    entry = json.loads(content)
    caption = next((entry[name] for name in _CAPTION_COLUMNS if name in entry), None)
    if caption is None:
        raise ValueError(f"{shard}: {member.name} has none of {', '.join(_CAPTION_COLUMNS)}")
    return [caption]


def _index(captions: Iterable[Sequence[str]]) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Number the distinct captions; repeated ones share a number."""
    number: dict[str, int] = {}
    texts = [tuple(dict.fromkeys(number.setdefault(c, len(number)) for c in own)) for own in captions]
    return texts, tuple(number)


def _source(
    path: Path,
    encoded: Callable[[int], bytes],
    where: Callable[[int], str],
    texts: Sequence[tuple[int, ...]],
    phrases: tuple[str, ...],
    has_classes: bool,
    webp_quality: int | None,
) -> PairSource:
    if not texts:
        raise ValueError(f"{path} holds no images")
    for index, own in enumerate(texts):
        if not own or min(own) < 0 or max(own) >= len(phrases):
            raise ValueError(f"{where(index)}: the image has no text or no known class")
    generic = path.stem in {"train", "training"} and path.parent.name
    return PairSource(
        name=path.parent.name if generic else path.stem,
        encoded=encoded,
        where=where,
        texts=texts,
        phrases=phrases,
        has_classes=has_classes,
        webp_quality=webp_quality,
    )
