"""What is trained on what, tested on what, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from clipsr_training.clip._checkpoint import ClipCheckpoint
from clipsr_training.clip._recipes import ClipRecipe
from clipsr_training.clip._rendering import Rendering
from clipsr_training.data import PairSource

Arm = Literal["none", "bicubic", "liif"]
ARMS: tuple[Arm, ...] = ("none", "bicubic", "liif")
# Renderings in training and at test.
CELLS: tuple[tuple[Arm, Arm], ...] = tuple(product(ARMS, ARMS))
ARM_TITLES: Mapping[Arm, str] = {"none": "none", "bicubic": "bicubic ×2", "liif": "LIIF ×2"}
# The study's test: 2,000 images, and the gain that it reports on them.
PUBLISHED_N_TEST = 2_000
PUBLISHED_TOP1: Mapping[Arm, float] = {"none": 0.950, "liif": 0.965}
_ENLARGEMENT = 2.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is done.

    Attributes:
        n_train: training images.
        n_test: test images.
        n_seeds: trainings of each arm.
        epochs: passes over the training images, from random weights.
        batch_size: images a step, from random weights; few images need small batches to make enough steps.
    """

    n_train: int
    n_test: int
    n_seeds: int
    epochs: int
    batch_size: int


# `quick` shows that everything works; its models are far from trained.
SCALES: Mapping[str, Scale] = {
    "quick": Scale(n_train=2_000, n_test=2_000, n_seeds=3, epochs=3, batch_size=64),
    "full": Scale(n_train=10_000, n_test=10_000, n_seeds=3, epochs=10, batch_size=256),
}


@dataclass(frozen=True, kw_only=True)
class ExperimentDesign:
    """One experiment.

    Attributes:
        start: what the trainings start from, for reports.
        start_digest: of the weights that seed 0 starts from.
        make_checkpoint: returns the model that the training of a seed starts from; equal for equal seeds.
        recipe: hyperparameters of every training; its rendering is the arm's.
        train: training images, those held out for validation included.
        test: test images, with the same classes.
        liif: weights of the LIIF arm.
        n_seeds: trainings of each arm, seeds 0, 1, ...
        templates: prompts of the test.
    """

    start: str
    start_digest: str
    make_checkpoint: Callable[[int], ClipCheckpoint]
    recipe: ClipRecipe
    train: PairSource
    test: PairSource
    liif: Path
    n_seeds: int
    templates: tuple[str, ...] = ("@cifar",)

    def __post_init__(self) -> None:
        if self.train.phrases != self.test.phrases:
            raise ValueError(f"{self.train.name} and {self.test.name} have different classes")
        if not self.train.has_classes:
            raise ValueError(f"{self.train.name} has captions; the experiment needs classes")

    @property
    def targets(self) -> np.ndarray:
        """[N] int64, the class of each test image."""
        return np.array([own[0] for own in self.test.texts])

    @property
    def n_trained(self) -> int:
        """Images that a training sees, without those held out."""
        return len(self.train) - self.recipe.validation_per_class * len(self.train.phrases)

    def rendering(self, arm: Arm) -> Rendering:
        """Return how an arm's images reach the encoder: enlarged twice, or not, then CLIP's own resize."""
        if arm == "none":
            return Rendering()
        return Rendering(upscaler=self.liif if arm == "liif" else arm, scale=_ENLARGEMENT)

    def make_recipe(self, arm: Arm) -> ClipRecipe:
        """Return the hyperparameters of an arm."""
        return replace(self.recipe, rendering=self.rendering(arm))

    def settings(self) -> dict[str, object]:
        """Return everything that the figures depend on, but for the number of seeds: more may be added later."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if name != "rendering"}
        return {
            "start": self.start,
            "start_digest": self.start_digest,
            "recipe": recipe,
            "renderings": {arm: self.rendering(arm).version for arm in ARMS},
            "train": {"name": self.train.name, "n": self.n_trained, "digest": self.train.digest},
            "test": {"name": self.test.name, "n": len(self.test), "digest": self.test.digest},
            "templates": list(self.templates),
        }


def draw(source: PairSource, n: int, *, seed: int = 0) -> PairSource:
    """Return `n` images of a source, as many of each class, always the same.

    Raises:
        ValueError: the classes don't divide `n`, or one has too few images.
    """
    rows = balanced_rows(np.array([own[0] for own in source.texts]), n, seed=seed)
    return replace(
        source,
        encoded=lambda index: source.encoded(int(rows[index])),
        where=lambda index: source.where(int(rows[index])),
        texts=[source.texts[row] for row in rows],
    )


def balanced_rows(targets: np.ndarray, n: int, *, seed: int = 0) -> np.ndarray:
    """Return `n` ascending indices, as many of each class that occurs, drawn at random.

    Raises:
        ValueError: the classes don't divide `n`, or one has too few images.
    """
    classes, counts = np.unique(targets, return_counts=True)
    each, rest = divmod(n, len(classes))
    if rest or each < 1:
        raise ValueError(f"{n:,} images can't be shared evenly by {len(classes)} classes")
    if counts.min() < each:
        raise ValueError(f"{each:,} images of each class are wanted, but one has only {counts.min():,}")
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(targets == c))[:each] for c in classes]))


def describe_recipe(recipe: ClipRecipe) -> str:
    """Return the hyperparameters that matter, in words."""
    rates = f"Muon {recipe.muon_lr:g} and AdamW {recipe.lr:g}" if recipe.optimizer == "muon" else f"AdamW {recipe.lr:g}"
    augmentation = "flips and shifts" if recipe.augmented else "no augmentation"
    return f"{recipe.epochs} epochs, batches of {recipe.batch_size}, {rates}, {augmentation}"
