"""Labelled and captioned images from files, folders and the hub; training and evaluation read the same things alike.

One module a kind of source: `_folders`, `_imagenet`, `_tables` (Parquet, saved data sets, the hub), `_delimited`
(CSV, TSV), `_shards` (WebDataset); `_open` tells them apart, `_pairs` makes training's image-text pairs of them.
"""

from __future__ import annotations

from clipsr_training.data._columns import SetOptions
from clipsr_training.data._image_set import CaptionedImages, ImageSet, check_images
from clipsr_training.data._images import IMAGE_ENDINGS, check_ending, decode, encode, find_images, read_image
from clipsr_training.data._open import open_set
from clipsr_training.data._pairs import PairSource, read_pairs

__all__ = [
    "IMAGE_ENDINGS",
    "CaptionedImages",
    "ImageSet",
    "PairSource",
    "SetOptions",
    "check_ending",
    "check_images",
    "decode",
    "encode",
    "find_images",
    "open_set",
    "read_image",
    "read_pairs",
]
