"""Image-text pairs for training, whatever the source: images by index, each with one text or more."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from clipsr_training._identity import digest_files
from clipsr_training.data._columns import SetOptions, set_name
from clipsr_training.data._image_set import ImageSet, check_files
from clipsr_training.data._images import decode
from clipsr_training.data._open import open_images
from clipsr_training.data._route_table import is_lossy

_TRAINING = SetOptions(split="train")


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
        """Decode every image once, so that a run does not stop at an unreadable file hours later.

        Raises:
            ValueError: images can't be read; the message counts them and names a few.
        """
        check_files(self.encoded, [self.where(i) for i in range(len(self))], self.name)

    @cached_property
    def image_digest(self) -> str:
        """SHA-256 over all image files in order, and over how they are read."""
        files = digest_files(self.encoded, len(self))
        return hashlib.sha256(f"webp {self.webp_quality} {files}".encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the images and their texts."""
        facts = json.dumps([self.image_digest, self.has_classes, self.phrases, list(self.texts)], allow_nan=False)
        return hashlib.sha256(facts.encode()).hexdigest()


def read_pairs(spec: str | Path, webp_quality: int | None = None, options: SetOptions | None = None) -> PairSource:
    """Open image-text pairs; the kind follows from the name.

    | name | kind |
    |---|---|
    | `*.parquet`, or a folder that `datasets` saved | a table with images, and labels with class names or captions |
    | `*.csv`, `*.tsv` | a header line, then paths and captions; paths relative to the file |
    | `*.tar`, or a folder of them | WebDataset shards: `KEY.jpg` beside `KEY.txt` or `KEY.json` with `caption` |
    | any other folder | a folder of images for each class |
    | `cifar10`, `cifar100`, `hub:OWNER/NAME` | a table that `datasets` downloads |

    Args:
        spec: file, folder, or name on the hub.
        webp_quality: see `PairSource`.
        options: what the name leaves open; None takes the split `train` and the usual columns.

    Raises:
        FileNotFoundError: there is nothing at the path, or a file that it names is missing.
        ValueError: it holds no pairs, or not in the form above; the message says what was expected.
    """
    images = open_images(str(spec), options or _TRAINING, or_captions=True)
    if has_classes := isinstance(images, ImageSet):
        texts, phrases = [(int(target),) for target in images.targets], images.classnames
    else:
        texts, phrases = _index(images.captions)
    return PairSource(
        # Of folders that are called `train`, every data set has one.
        name=set_name(images.name, Path(spec)),
        encoded=images.read,
        where=lambda i: f"{spec}, {images.names[i]}",
        texts=texts,
        phrases=phrases,
        has_classes=has_classes,
        webp_quality=webp_quality,
    )


def _index(captions: Iterable[Sequence[str]]) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Give distinct captions numbers; repeated ones share a number."""
    number: dict[str, int] = {}
    texts = [tuple(dict.fromkeys(number.setdefault(c, len(number)) for c in own)) for own in captions]
    return texts, tuple(number)
