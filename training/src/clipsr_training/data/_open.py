"""What stands behind `--data`: files, folders, or the hub, told apart by their names."""

from __future__ import annotations

from pathlib import Path

from clipsr_training.data import _imagenet
from clipsr_training.data._columns import SetOptions
from clipsr_training.data._delimited import open_labels, open_pairs
from clipsr_training.data._folders import open_class_folders
from clipsr_training.data._image_set import CaptionedImages, ImageSet, require_every_class
from clipsr_training.data._shards import find_shards, open_shards
from clipsr_training.data._tables import (
    HUB_NAMES,
    HUB_PREFIX,
    is_on_hub,
    is_repository,
    is_saved,
    open_hub,
    open_parquet,
    open_repository,
    open_saved,
)


def open_set(spec: str, options: SetOptions | None = None) -> ImageSet:
    """Open the labelled images that a text names.

    Args:
        spec: a Parquet file, a CSV or TSV file of paths and labels, a folder of class folders, a flat folder of
            ImageNet-2012 validation images, a folder that `datasets` saved or that a repository of the hub was copied
            to, WebDataset shards (a `.tar` file or a folder of them), "cifar10" or "cifar100", or `hub:NAME`.
        options: what the name leaves open.

    Raises:
        FileNotFoundError: there is no such thing.
        ValueError: it is not what it should be; the message says what is wrong.
    """
    images = open_images(spec, options or SetOptions(), or_captions=False)
    assert isinstance(images, ImageSet)
    require_every_class(images)
    return images


def open_images(spec: str, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    """Open images with classes or, where `or_captions`, with captions.

    Args:
        spec: see `open_set`; with captions, CSV and TSV files hold captions instead of labels.
        options: what the name leaves open.
        or_captions: whether captions will do.

    Raises:
        FileNotFoundError: there is no such thing, or a file that it names is missing.
        ValueError: it is not what it should be; the message says what is wrong.
    """
    found = _open(spec, options, or_captions=or_captions)
    if options.labels is None:
        return found
    if isinstance(found, CaptionedImages):
        raise ValueError(f"{spec} has captions; --labels names classes")
    return found.renamed(options.labels)


def _open(spec: str, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, options, or_captions=or_captions)
    ending = path.suffix.lower()
    if path.is_file():
        if ending == ".parquet":
            return open_parquet(path, options, or_captions=or_captions)
        if ending in {".csv", ".tsv"}:
            return open_pairs(path, options) if or_captions else open_labels(path, options)
        if ending == ".tar":
            return open_shards(path, [path], options, or_captions=or_captions)
        raise ValueError(f"{path}: expected .parquet, .csv, .tsv, .tar or a folder")
    folder, _, config = spec.rpartition(":")
    if folder and Path(folder).is_dir():
        return open_repository(Path(folder), options, or_captions=or_captions, config=config)
    if is_on_hub(spec):
        return open_hub(spec, options, or_captions=or_captions)
    raise FileNotFoundError(
        f"no data at {spec}: expected a Parquet, CSV, TSV or tar file, a folder, {', '.join(HUB_NAMES)} or "
        f"{HUB_PREFIX}OWNER/NAME"
    )


def _open_folder(folder: Path, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    if is_saved(folder):
        return open_saved(folder, options, or_captions=or_captions)
    if shards := find_shards(folder, options.split):
        return open_shards(folder, shards, options, or_captions=or_captions)
    if is_repository(folder):
        return open_repository(folder, options, or_captions=or_captions)
    if any(_imagenet.IMAGE_PATTERN.fullmatch(path.name) for path in folder.iterdir()):
        return _imagenet.open_flat(folder, options.devkit)
    return open_class_folders(folder, options)
