"""Data sets as every kind of source gives them: encoded images, read one at a time, with classes or captions."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np

from clipsr_training._identity import digest_files
from clipsr_training.data._images import find_objection

# Errors of a broken data set are shown by a few examples.
_N_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Labelled images that stay on disk.

    Attributes:
        name: for reports, such as "cifar10".
        classnames: label of each class, as written into prompts.
        targets: [N] int64 index into `classnames`.
        names: what to call each image in messages and logs: a path, or a row.
        read: returns image i as the encoded bytes of its file; raises OSError if it can't.
    """

    name: str
    classnames: tuple[str, ...]
    targets: np.ndarray
    names: Sequence[str]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        """Return N."""
        return len(self.targets)

    @cached_property
    def digest(self) -> str:
        """What tells this set from others, wherever it lies: SHA-256 over class names, targets and image files."""
        facts = "\0".join(self.classnames).encode() + self.targets.astype("<i8").tobytes()
        return hashlib.sha256(facts + digest_files(self.read, len(self)).encode()).hexdigest()

    def select(self, rows: np.ndarray) -> ImageSet:
        """Return the images at these rows, in that order."""
        names, read = self.names, self.read
        return replace(
            self,
            targets=self.targets[rows],
            names=[names[row] for row in rows],
            read=lambda i: read(int(rows[i])),
        )

    def sample(self, limit: int | None, seed: int = 0) -> ImageSet:
        """Return at most `limit` images drawn at random, in the set's order; None returns all."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))

    def of_classes(self, is_kept: Callable[[str], bool]) -> ImageSet:
        """Return the images of some classes, told apart from each other only.

        Args:
            is_kept: whether a class of this label is one of them.

        Raises:
            ValueError: fewer than two are.
        """
        kept = [i for i, name in enumerate(self.classnames) if is_kept(name)]
        if len(kept) < 2:
            raise ValueError(
                f"{self.name} ({_shown(self.classnames)}) has {len(kept)} of these classes, and two at least are needed"
            )
        chosen = self.select(np.flatnonzero(np.isin(self.targets, kept)))
        place = np.searchsorted(kept, chosen.targets)
        return replace(chosen, classnames=tuple(self.classnames[i] for i in kept), targets=place)

    def renamed(self, classnames: Sequence[str]) -> ImageSet:
        """Return the set with other labels for its classes.

        Raises:
            ValueError: there are not as many labels as classes.
        """
        if len(classnames) != len(self.classnames):
            raise ValueError(
                f"{self.name} has {len(self.classnames)} classes ({_shown(self.classnames)}), "
                f"but {len(classnames)} labels were given ({_shown(classnames)})"
            )
        return replace(self, classnames=tuple(classnames))


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """Captioned images that stay on disk.

    Attributes:
        name: for logs and reports.
        captions: for each image its captions, one or more.
        names: what to call each image in messages: a path, or a row.
        read: returns image i as the encoded bytes of its file; raises OSError if it can't.
    """

    name: str
    captions: Sequence[Sequence[str]]
    names: Sequence[str]
    read: Callable[[int], bytes]


def warn_of_left_out(folder: Path, images: Sequence[Path], why: str) -> None:
    """Say in one line how many images in a folder are no part of a set, if any, and why."""
    if images:
        first = images[0].relative_to(folder)
        warnings.warn(f"{folder}: {len(images):,} images {why} are left out, the first {first}", stacklevel=3)


def check_images(images: ImageSet, *, on_image: Callable[[], None] = lambda: None) -> None:
    """Decode every image once, before hours are spent on those that come first.

    Args:
        images: the set.
        on_image: called after every image.

    Raises:
        ValueError: images are missing or damaged; the message counts them and names a few.
    """
    check_files(images.read, images.names, images.name, on_image=on_image)


def check_files(
    read: Callable[[int], bytes], names: Sequence[str], set_name: str, *, on_image: Callable[[], None] = lambda: None
) -> None:
    """Decode the files that `names` names; see `check_images`."""

    def objection(i: int) -> str | None:
        try:
            found = find_objection(read(i))
        except OSError as error:
            found = str(error)
        return None if found is None else f"{names[i]} ({found})"

    objections: list[str] = []
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        for found in pool.map(objection, range(len(names))):
            objections += [] if found is None else [found]
            on_image()
    if objections:
        raise ValueError(
            f"{len(objections):,} of {len(names):,} images of {set_name} can't be read: {_shown(objections)}"
        )


def require_every_class(images: ImageSet) -> None:
    """Check that every class occurs: a class without images makes no accuracy, and hints at a half-copied data set.

    Raises:
        ValueError: some don't; the message names them.
    """
    counts = np.bincount(images.targets, minlength=len(images.classnames))
    absent = [name for name, count in zip(images.classnames, counts, strict=True) if count == 0]
    if absent:
        raise ValueError(
            f"{images.name} has no image of {len(absent)} of its {len(images.classnames)} classes: {_shown(absent)}"
        )


def _shown(items: Sequence[str]) -> str:
    more = f" and {len(items) - _N_SHOWN} more" if len(items) > _N_SHOWN else ""
    return ", ".join(items[:_N_SHOWN]) + more
