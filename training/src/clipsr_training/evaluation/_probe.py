"""Linear probe: logistic regression on frozen embeddings."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from clipsr_training._files import write_array
from clipsr_training.data import ImageSet
from clipsr_training.evaluation._backends.base import LocalBackend
from clipsr_training.evaluation._backends.pixels import Route
from clipsr_training.evaluation._statistics import Estimate, mean_per_class, wilson

# Radford et al. 2021, appendix A.3: L-BFGS for at most 1,000 iterations, a first sweep of C over these powers of ten,
# then a search around the best between its neighbours.
_FIRST_EXPONENTS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
_N_HALVINGS = 3
_MAX_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class ProbeFit:
    """One value of C on the validation split.

    Attributes:
        c: inverse of the L2 penalty's weight.
        validation_top1: a fraction.
        has_converged: whether L-BFGS stopped by itself.
    """

    c: float
    validation_top1: float
    has_converged: bool


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What was found.

    Attributes:
        fits: every C that was tried, ascending.
        chosen: the C of the final fit, on training and validation images together.
        has_converged: whether the final fit stopped by itself.
        correct: [N] whether each test image is classified right.
        top5: share of test images whose label is among the best five.
        mean_per_class: over the classes of the test images.
        n_train: training images, validation included.
        n_validation: of them.
    """

    fits: tuple[ProbeFit, ...]
    chosen: float
    has_converged: bool
    correct: np.ndarray
    top5: Estimate
    mean_per_class: Estimate
    n_train: int
    n_validation: int

    @property
    def top1(self) -> Estimate:
        """Share of test images that are classified right."""
        return wilson(int(self.correct.sum()), len(self.correct))


def embed_cached(
    backend: LocalBackend,
    images: ImageSet,
    cache: Path,
    *,
    route: Route,
    batch_size: int,
    on_images: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Return the embeddings [N, D] float32 of a set, memory-mapped; computed once a model, set and route.

    Args:
        backend: the model.
        images: the set.
        cache: folder of the arrays; it must exist.
        route: how images reach the encoder.
        batch_size: images given to the back end at once.
        on_images: called with the number of images done.

    Raises:
        ValueError: an image can't be decoded.
        OSError: the cache can't be written.
    """
    settings = {"model": backend.describe(), "data": images.digest, "route": route}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]
    path = cache / f"{images.name}-{key}.npy"
    if path.is_file():
        on_images(len(images))
        return np.load(path, mmap_mode="r")

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(images), batch_size):
            rows = range(start, min(start + batch_size, len(images)))
            yield backend.embed_images([images.read(i) for i in rows], [images.names[i] for i in rows], route=route)
            on_images(len(rows))

    return write_array(path, len(images), parts())


def match_classes(train: ImageSet, test: ImageSet) -> np.ndarray:
    """Return the test set's targets in the training set's numbering.

    Raises:
        ValueError: the test set has a class that the training set doesn't have.
    """
    index = {name: i for i, name in enumerate(train.classnames)}
    unknown = [name for name in test.classnames if name not in index]
    if unknown:
        raise ValueError(
            f"the test images have {len(unknown)} classes that the training images lack, such as {unknown[0]!r}"
        )
    return np.array([index[name] for name in test.classnames])[test.targets]


def fit_probe(
    train: np.ndarray,
    train_targets: np.ndarray,
    test: np.ndarray,
    test_targets: np.ndarray,
    *,
    validation_share: float,
    seed: int,
    on_fit: Callable[[], None] = lambda: None,
) -> ProbeResult:
    """Choose C on a split of the training images, fit on all of them, and measure on the test images.

    Args:
        train: [N, D] embeddings.
        train_targets: [N].
        test: [M, D] embeddings.
        test_targets: [M].
        validation_share: of the training images, in (0, 1); drawn class by class.
        seed: of the split.
        on_fit: called after each of `n_fits()` fits.

    Raises:
        ValueError: a class is too small to be split.
    """
    if len(np.unique(train_targets)) < 2:
        raise ValueError("a probe tells classes apart, but the training images are of one class only")
    try:
        rows, held_out = train_test_split(
            np.arange(len(train)), test_size=validation_share, stratify=train_targets, random_state=seed
        )
    except ValueError as error:
        raise ValueError(f"no validation split can be drawn from {len(train):,} training images: {error}") from error

    def validate(exponent: float) -> ProbeFit:
        model, has_converged = _fit(train[rows], train_targets[rows], 10.0**exponent)
        on_fit()
        top1 = float(model.score(train[held_out], train_targets[held_out]))
        return ProbeFit(c=10.0**exponent, validation_top1=top1, has_converged=has_converged)

    fits = _search(validate)
    chosen = _best(fits.values()).c
    model, has_converged = _fit(train, train_targets, chosen)
    on_fit()
    logits = model.decision_function(test)
    # Two classes share one column.
    logits = np.stack([-logits, logits], axis=1) if logits.ndim == 1 else logits
    ranked = model.classes_[np.argsort(-logits, axis=1, kind="stable")[:, :5]]
    correct = ranked[:, 0] == test_targets
    n = np.bincount(test_targets)
    right = np.bincount(test_targets[correct], minlength=len(n))
    return ProbeResult(
        fits=tuple(fits[exponent] for exponent in sorted(fits)),
        chosen=chosen,
        has_converged=has_converged,
        correct=correct,
        top5=wilson(int((ranked == test_targets[:, None]).any(axis=1).sum()), len(test_targets)),
        mean_per_class=mean_per_class(right[n > 0], n[n > 0]),
        n_train=len(train),
        n_validation=len(held_out),
    )


def n_fits() -> int:
    """Return how many fits `fit_probe` does at most."""
    return len(_FIRST_EXPONENTS) + 2 * _N_HALVINGS + 1


def _search(validate: Callable[[float], ProbeFit]) -> dict[float, ProbeFit]:
    """Return the fits by exponent: the first sweep, then ever closer to its best."""
    fits = {exponent: validate(exponent) for exponent in _FIRST_EXPONENTS}
    step = 1.0
    for _ in range(_N_HALVINGS):
        centre = float(np.log10(_best(fits.values()).c))
        for exponent in (centre - step, centre + step):
            if exponent not in fits:
                fits[exponent] = validate(exponent)
        step /= 2
    return fits


def _best(fits: Iterable[ProbeFit]) -> ProbeFit:
    """Return the best fit; among equals the one with the strongest penalty."""
    return max(fits, key=lambda fit: (fit.validation_top1, -fit.c))


def _fit(features: np.ndarray, targets: np.ndarray, c: float) -> tuple[LogisticRegression, bool]:
    model = LogisticRegression(C=c, solver="lbfgs", max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, targets)
    has_converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return model, has_converged


def probe_tables(result: ProbeResult) -> str:
    """Return the figures as Markdown."""
    named: Sequence[tuple[str, Estimate]] = (
        ("top-1", result.top1),
        ("top-5", result.top5),
        ("mean per class", result.mean_per_class),
    )
    lines = ["| accuracy | | 95 % interval |", "|---|---|---|"]
    lines += [f"| {name} | {e.value:.2%} | {e.low:.2%} – {e.high:.2%} |" for name, e in named]
    lines += ["", "| C | validation top-1 |", "|---|---|"]
    lines += [
        f"| {fit.c:.3g}{' (chosen)' if fit.c == result.chosen else ''} | {fit.validation_top1:.2%}"
        f"{'' if fit.has_converged else ', not converged'} |"
        for fit in result.fits
    ]
    return "\n".join(lines)
