"""What every back end does: rank labels for images, and, where the models run in this process, embed them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from clipsr_training import prompts
from clipsr_training.evaluation._backends.pixels import Route


def require_finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return the values of a model, whose NaN would otherwise count as an answer.

    Raises:
        ValueError: some are not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"the model's {what} are not finite numbers: its weights are damaged, or diverged")
    return values


class Ranking(NamedTuple):
    """The best labels of a batch of images.

    Attributes:
        indices: [N, K] int64 into the labels, best first.
        cosines: [N, K] float32 in [-1, 1].
    """

    indices: np.ndarray
    cosines: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How cosines become probabilities.

    Attributes:
        function: softmax over the labels, or a sigmoid for each.
        logit_scale: factor on the cosine.
        logit_bias: term after the factor.
    """

    function: Literal["softmax", "sigmoid"]
    logit_scale: float
    logit_bias: float = 0.0

    def __post_init__(self) -> None:
        require_finite(np.array([self.logit_scale, self.logit_bias]), "logit_scale or logit_bias")

    def probabilities(self, cosines: np.ndarray) -> np.ndarray:
        """Return the probabilities [..., C] of the cosines [..., C] of all labels."""
        logits = cosines.astype(np.float64) * self.logit_scale + self.logit_bias
        if self.function == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)


class Classifier(Protocol):
    """A back end with labels."""

    def rank(self, files: Sequence[bytes], names: Sequence[str], *, route: Route, k: int) -> Ranking:
        """Rank the labels for encoded images.

        Args:
            files: the images.
            names: what to call them in messages.
            route: how they reach the encoder.
            k: labels to return, at most as many as there are.

        Raises:
            ValueError: an image can't be classified.
            OSError: the service fails.
        """
        ...


class Backend(Protocol):
    """A model behind one of the ways to run it.

    Attributes:
        image_size_px: R.
        scoring: how cosines become probabilities.
    """

    @property
    def image_size_px(self) -> int: ...
    @property
    def scoring(self) -> Scoring: ...

    def describe(self) -> dict[str, object]:
        """Return what a report says of the model: at least `backend`, `model` and `digest`."""
        ...

    def classifier(self, labels: Sequence[str], templates: Sequence[str]) -> Classifier:
        """Prepare labels.

        Args:
            labels: class names.
            templates: prompts with one `{}`, or one `@name` of a published set.

        Raises:
            ValueError: the templates are not usable.
        """
        ...


def resolve_templates(templates: Sequence[str]) -> list[str]:
    """Return the templates behind `@name`, or the given ones.

    Raises:
        ValueError: there is no such set, or a template has not exactly one `{}`.
    """
    if len(templates) == 1 and templates[0].startswith("@"):
        known = prompts.template_sets()
        name = templates[0].removeprefix("@")
        if name not in known:
            raise ValueError(f"no template set @{name}; known: {', '.join(f'@{n}' for n in known)}")
        return known[name]
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template needs one {{}} where the label goes; {template!r} has not")
    if not templates:
        raise ValueError("give at least one template")
    return list(templates)


class LocalBackend(ABC):
    """A model that runs in this process; subclasses supply its embeddings."""

    def __init__(self, *, image_size_px: int, scoring: Scoring) -> None:
        self.image_size_px = image_size_px
        self.scoring = scoring

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """See `Backend`."""

    @abstractmethod
    def embed_images(self, files: Sequence[bytes], names: Sequence[str], *, route: Route) -> np.ndarray:
        """Return L2-normalized embeddings float32 [N, D] of encoded images; ValueError if one can't be decoded."""

    @abstractmethod
    def embed_labels(self, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Return [C, D]: the L2-normalized mean of each label's L2-normalized embeddings over the templates."""

    def classifier(self, labels: Sequence[str], templates: Sequence[str]) -> Classifier:
        """See `Backend`."""
        return _LocalClassifier(self, self.embed_labels(labels, templates))


@dataclass(frozen=True)
class _LocalClassifier:
    backend: LocalBackend
    text_features: np.ndarray

    def rank(self, files: Sequence[bytes], names: Sequence[str], *, route: Route, k: int) -> Ranking:
        cosines = self.backend.embed_images(files, names, route=route) @ self.text_features.T
        # A stable sort: among equals the first label wins, as in the service.
        indices = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return Ranking(indices=indices, cosines=np.take_along_axis(cosines, indices, axis=1))
