"""Calibrates and measures a model that runs in this process, on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from clipsr_training import prompts
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.data import ImageSet, SetOptions, open_set
from clipsr_training.evaluation._backends.base import LocalBackend
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._statistics import CONFIDENCE, Estimate
from clipsr_training.liif import Upscaler
from clipsr_training.none_of_these._calibration import Calibration
from clipsr_training.none_of_these._fit import LABEL_COUNTS, Draw, Quality, calibrate, draw_labels, measure
from clipsr_training.none_of_these._odds import Cosines, compare

# The service compares the names in its default prompts, whatever prompts the labels come in.
TEMPLATES = ("@simple",)
_BATCH = 64


@dataclass(frozen=True)
class Measured:
    """Images with one of some labels against images with none, over several draws of labels.

    Attributes:
        what: the labels, in words.
        auroc: area under the ROC curve.
        calibration_error: expected.
        false_refusals: share of images with one of the labels that are refused.
        caught: share of the others that are.
    """

    what: str
    auroc: Estimate
    calibration_error: Estimate
    false_refusals: Estimate
    caught: Estimate


def join(sets: Sequence[ImageSet]) -> ImageSet:
    """Return the images of several sets as one; classes of one name are one class."""
    names = tuple(dict.fromkeys(name for images in sets for name in images.classnames))
    targets = [np.array([names.index(n) for n in images.classnames])[images.targets] for images in sets]
    places = [(images, i) for images in sets for i in range(len(images))]
    return ImageSet(
        name=" + ".join(images.name for images in sets),
        classnames=names,
        targets=np.concatenate(targets),
        names=[images.names[i] for images, i in places],
        read=lambda place: places[place][0].read(places[place][1]),
    )


def take_per_class(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Return `count` images of every class: those that `clipsr-train clip` with this seed keeps off training."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(images.targets == c))[:count] for c in range(len(images.classnames))]
    return images.select(np.sort(np.concatenate(rows)))


def names_to_compare(taught: Sequence[str] | None) -> tuple[str, ...]:
    """Return what an image may show instead of the labels, in one language, so that no thing is compared twice.

    Args:
        taught: what the model was taught; None takes the English names of 2,400 things.
    """
    things = prompts.read_things()
    english = tuple(dict.fromkeys(thing.names["en"] for thing in things))
    translations = {name for thing in things for name in thing.names.values()} - set(english)
    return tuple(name for name in taught or english if name not in translations)


def calibrate_checkpoint(clip: ClipCheckpoint, upscaler: Upscaler, data: str) -> Calibration:
    """Calibrate a checkpoint as it is to be served, by labelled validation images.

    Args:
        clip: the checkpoint.
        upscaler: what renders small images.
        data: images that it was not trained on, as `open_set` reads them; of several splits "validation".

    Raises:
        FileNotFoundError: there are no images.
        ValueError: they can't be read, their classes are too few, or the names tell nothing.
    """
    images = open_set(data, SetOptions(split="validation"))
    names = names_to_compare(clip.taught_names)
    return calibrate_model(TorchBackend(clip, upscaler, name="none of these"), images, names)


def calibrate_model(
    backend: LocalBackend,
    images: ImageSet,
    names: Sequence[str],
    *,
    on_images: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Calibrate a model's rule on validation images.

    Args:
        backend: the model.
        images: with labels; images that it was not trained on.
        names: of things that an image may show instead of the labels.
        on_images: called with the number of images done.

    Raises:
        ValueError: an image can't be decoded, there are too few classes, or the names tell nothing.
    """
    cosines = compare_model(backend, images, images.classnames, names, on_images)
    data = f"{len(images):,} images of {images.name}"
    return calibrate(cosines, images.targets, backend.scoring.logit_scale, names=names, data=data)


def measure_model(
    backend: LocalBackend,
    images: ImageSet,
    calibration: Calibration,
    *,
    others: ImageSet | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Iterator[Measured]:
    """Yield how good the rule is on other images, by the number of labels, and with all labels against other images.

    Intervals are over draws of labels; with all labels, over images.

    Raises:
        ValueError: an image can't be decoded, or no class of the other images is another.
    """
    scale, names = backend.scoring.logit_scale, calibration.names
    cosines = compare_model(backend, images, images.classnames, names, on_images)
    n_classes = len(np.unique(images.targets))
    for count in (n for n in LABEL_COUNTS if n < n_classes):
        drawn = draw_labels(cosines, images.targets, scale, count=count, seed=1)
        yield _summarize_draws(f"{count} of {n_classes} labels", [_measure(draw, calibration) for draw in drawn])
    if others is None:
        return
    is_new = np.array([name not in images.classnames for name in others.classnames])[others.targets]
    if not is_new.any():
        raise ValueError(f"every class of {others.name} is a class of {images.name}; give images of other things")
    others = others.select(np.flatnonzero(is_new))
    more = compare_model(backend, others, images.classnames, names, on_images)
    every = np.arange(len(images.classnames))
    odds = [part.log_odds(every, scale) for part in (cosines, more)]
    draw = Draw(np.concatenate(odds), np.arange(len(images) + len(others)) < len(images))
    yield _summarize_images(f"all labels, against {len(others):,} images of {others.name}", draw, calibration)


def compare_model(
    backend: LocalBackend,
    images: ImageSet,
    labels: Sequence[str],
    names: Sequence[str],
    on_images: Callable[[int], None],
) -> Cosines:
    """Embed images, labels and names, and compare them."""
    parts: list[np.ndarray] = []
    for start in range(0, len(images), _BATCH):
        rows = range(start, min(start + _BATCH, len(images)))
        parts.append(
            backend.embed_images([images.read(i) for i in rows], [images.names[i] for i in rows], route="auto")
        )
        on_images(len(rows))
    embedded = backend.embed_labels([*labels, *names], TEMPLATES)
    classes, bank = embedded[: len(labels)], embedded[len(labels) :]
    return compare(np.concatenate(parts), classes, bank, labels, names)


def _measure(draw: Draw, by: Calibration) -> Quality:
    return measure(draw, temperature=by.temperature, bias=by.bias, threshold=by.threshold)


def _resample(draw: Draw, n: int = 200, seed: int = 0) -> Iterator[Draw]:
    rng = np.random.default_rng(seed)
    for _ in range(n):
        rows = rng.integers(0, len(draw.shows), len(draw.shows))
        yield Draw(draw.log_odds[rows], draw.shows[rows])


def _summarize_draws(what: str, found: Sequence[Quality]) -> Measured:
    """Return means over draws of labels, with intervals by Student's t."""
    values = np.array(found)
    mean, error = values.mean(axis=0), stats.sem(values, axis=0)
    reach = error * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return _estimate(what, mean, mean - reach, mean + reach)


def _summarize_images(what: str, draw: Draw, by: Calibration) -> Measured:
    """Return the figures of one draw, with the percentiles of those of resampled images."""
    found = np.array([_measure(part, by) for part in _resample(draw)])
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return _estimate(what, np.array(_measure(draw, by)), low, high)


def _estimate(what: str, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Measured:
    rows = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return Measured(what, *(Estimate(value=value, low=least, high=most) for value, least, most in rows))
