"""Zero-shot accuracy of a back end on labelled images."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from clipsr_training.data import ImageSet
from clipsr_training.evaluation._backends.base import Backend
from clipsr_training.evaluation._backends.pixels import Route
from clipsr_training.evaluation._log import RunLog, read_log
from clipsr_training.evaluation._statistics import (
    Estimate,
    PairedTest,
    bootstrap_mean,
    compare_paired,
    mean_per_class,
    wilson,
)

LOG_NAME = "images.jsonl"
TOP_K = 5
# Below the published figure by more than this, something in the set-up is wrong.
_TOLERANCE = 0.005
_IMAGENET_VALIDATION_IMAGES = 50_000


@dataclass(frozen=True, kw_only=True)
class ZeroShotPlan:
    """What is measured.

    Attributes:
        backend: the model.
        images: labelled images.
        templates: prompts, or one `@name`.
        route: how images reach the encoder.
        batch_size: images given to the back end at once.
    """

    backend: Backend
    images: ImageSet
    templates: tuple[str, ...]
    route: Route
    batch_size: int

    def settings(self) -> dict[str, object]:
        """Return everything that the figures depend on."""
        return {
            "model": self.backend.describe(),
            "data": self.images.name,
            "data_digest": self.images.digest,
            "templates": self.templates,
            "route": self.route,
            "batch_size": self.batch_size,
        }


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult:
    """What was found.

    Attributes:
        targets: [N] class indices.
        predicted: [N, K] class indices, best first; K is 5, or the number of classes where there are fewer.
        cosines: [N, K] of the predicted classes.
        latency_ms: [N] time of the image's batch divided by the batch's size, decoding included.
        classnames: labels of the classes.
    """

    targets: np.ndarray
    predicted: np.ndarray
    cosines: np.ndarray
    latency_ms: np.ndarray
    classnames: tuple[str, ...]

    @property
    def correct(self) -> np.ndarray:
        """[N] whether the best label is the right one."""
        return self.predicted[:, 0] == self.targets

    def top(self, k: int) -> Estimate:
        """Return the share of images whose label is among the best `k`."""
        hits = (self.predicted[:, :k] == self.targets[:, None]).any(axis=1)
        return wilson(int(hits.sum()), len(hits))

    def class_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return right answers [C] and images [C] of each class."""
        n_classes = len(self.classnames)
        right = np.bincount(self.targets[self.correct], minlength=n_classes)
        return right, np.bincount(self.targets, minlength=n_classes)

    def mean_per_class(self) -> Estimate:
        """Return the mean of the accuracies of the classes that occur."""
        right, n = self.class_counts()
        return mean_per_class(right[n > 0], n[n > 0])

    def mean_of_classes(self) -> Estimate:
        """Return the same mean, with an interval over classes: what others of their kind might have given."""
        right, n = self.class_counts()
        return bootstrap_mean(right[n > 0] / n[n > 0])

    def confusion(self) -> np.ndarray:
        """Return [C, C] counts; rows are the true classes, columns the predicted."""
        n_classes = len(self.classnames)
        flat = self.targets * n_classes + self.predicted[:, 0]
        return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def measure_zero_shot(
    plan: ZeroShotPlan, folder: Path, *, resume: bool, on_images: Callable[[int], None] = lambda _: None
) -> ZeroShotResult:
    """Classify every image, logging each batch as it is done.

    Args:
        plan: what is measured.
        folder: gets `images.jsonl`.
        resume: go on with the log that is there.
        on_images: called with the number of images done, first with those of a resumed log.

    Raises:
        ValueError: an image can't be classified, or the log holds another measurement.
        OSError: the service fails, or the log can't be written; the log holds what is done.
    """
    images = plan.images
    with RunLog(folder / LOG_NAME, plan.settings(), resume=resume) as log:
        n_done = len(log.entries)
        on_images(n_done)
        if n_done < len(images):
            classifier = plan.backend.classifier(images.classnames, plan.templates)
            k = min(TOP_K, len(images.classnames))
            for start in range(n_done, len(images), plan.batch_size):
                rows = range(start, min(start + plan.batch_size, len(images)))
                names = [images.names[i] for i in rows]
                began = time.perf_counter()
                ranking = classifier.rank([images.read(i) for i in rows], names, route=plan.route, k=k)
                per_image_ms = (time.perf_counter() - began) * 1000 / len(rows)
                answers = zip(rows, ranking.indices, ranking.cosines, strict=True)
                log.append(*(_entry(images, *answer, per_image_ms) for answer in answers))
                on_images(len(rows))
        return _result(log.entries, images.classnames)


def _entry(images: ImageSet, i: int, indices: np.ndarray, cosines: np.ndarray, latency_ms: float) -> dict[str, object]:
    target = int(images.targets[i])
    return {
        "image": images.names[i],
        "target": target,
        "label": images.classnames[target],
        "predicted_label": images.classnames[int(indices[0])],
        "predicted": indices.tolist(),
        "cosine": [round(float(cosine), 6) for cosine in cosines],
        "latency_ms": round(latency_ms, 4),
    }


def _result(entries: Sequence[dict[str, Any]], classnames: tuple[str, ...]) -> ZeroShotResult:
    return ZeroShotResult(
        targets=np.array([entry["target"] for entry in entries]),
        predicted=np.array([entry["predicted"] for entry in entries]),
        cosines=np.array([entry["cosine"] for entry in entries]),
        latency_ms=np.array([entry["latency_ms"] for entry in entries]),
        classnames=classnames,
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """This measurement (A) beside an earlier one (B) of the same images.

    Attributes:
        other: folder of the earlier one.
        other_model: what it measured.
        same_top1: share of images with the same best label.
        max_cosine_difference: the largest, over labels that both rank among their best.
        test: McNemar's test of their right answers.
    """

    other: str
    other_model: str
    same_top1: float
    max_cosine_difference: float
    test: PairedTest


def check_comparable(images: ImageSet, folder: Path) -> None:
    """Check that a folder holds a finished measurement of the same images, before this one starts.

    Raises:
        FileNotFoundError: it holds none.
        ValueError: it is of other images, or not finished.
    """
    settings, entries = read_log(folder / LOG_NAME)
    if settings.get("data_digest") != images.digest:
        raise ValueError(
            f"{folder} can't be compared: it measured other images or labels ({settings.get('data')}), or they have "
            "changed since"
        )
    if len(entries) != len(images):
        raise ValueError(f"{folder} can't be compared: {len(entries):,} of its {len(images):,} images are done")


def compare_with(result: ZeroShotResult, folder: Path) -> Agreement:
    """Compare with the measurement in a folder; see `check_comparable`."""
    settings, entries = read_log(folder / LOG_NAME)
    other = _result(entries, result.classnames)
    same_label = result.predicted[:, :, None] == other.predicted[:, None, :]
    difference = np.abs(result.cosines[:, :, None] - other.cosines[:, None, :])
    model = settings["model"]
    return Agreement(
        other=str(folder),
        other_model=f"{model['model']} ({model['backend']})",
        same_top1=float((result.predicted[:, 0] == other.predicted[:, 0]).mean()),
        max_cosine_difference=float(difference[same_label].max(initial=0.0)),
        test=compare_paired(result.correct, other.correct),
    )


@cache
def published_imagenet_top1() -> dict[str, float]:
    """Return ImageNet top-1 of OpenAI's weights by OpenCLIP's model name, as fractions."""
    text = files("clipsr_training.evaluation").joinpath("imagenet_top1.json").read_text(encoding="utf-8")
    return {name: percent / 100 for name, percent in json.loads(text)["top1_percent"].items()}


def below_published_warning(result: ZeroShotResult, data: str, model_name: str, weights: str | None) -> str | None:
    """Return a sentence where a known model lands more than 0.5 points below its published ImageNet top-1.

    Args:
        result: what was found.
        data: name of the image set.
        model_name: OpenCLIP's name.
        weights: tag or file; a tag other than "openai" names weights that the table doesn't hold.
    """
    published = published_imagenet_top1().get(model_name.removesuffix("-quickgelu"))
    is_openai = weights is not None and (weights == "openai" or Path(weights).is_file())
    is_whole = data == "imagenet" and len(result.targets) == _IMAGENET_VALIDATION_IMAGES
    if published is None or not is_openai or not is_whole or result.top(1).value >= published - _TOLERANCE:
        return None
    return (
        f"{model_name} reaches {result.top(1).value:.1%} on ImageNet, but {published:.1%} is published for OpenAI's "
        "weights: check the templates (@imagenet), the preprocessing (--route native) and the order of the classes"
    )
