"""What the models gave becomes the values that the client returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr import _pixels
from clipsr._errors import ClipsrError, InvalidRequestError, ServiceError
from clipsr._types import (
    AnswerWarning,
    Classification,
    Degradation,
    EncoderTaken,
    FailedImage,
    Prediction,
    RouteTaken,
)
from clipsr.local._options import LocalOptions
from clipsr_serving import InputError, ServingError


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedImage:
    """An image that went through the image encoder.

    Attributes:
        input_hw: its rows and columns, upright.
        route: the path taken.
        pixels: UINT8 [1, 3, R, R] that the encoder saw.
        embedding: FP32 [1, D], L2-normalized.
        degradations: what may be wrong with it, most likely first; empty where the plain encoder embedded it.
    """

    input_hw: tuple[int, int]
    route: RouteTaken
    pixels: npt.NDArray[np.uint8]
    embedding: npt.NDArray[np.float32]
    degradations: tuple[Degradation, ...] = ()

    @property
    def encoder(self) -> EncoderTaken:
        """What embedded it."""
        return "robust" if self.degradations else "plain"

    @property
    def values(self) -> tuple[float, ...]:
        """The embedding as the client gives it."""
        return tuple(self.embedding[0].tolist())


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One image and all labels.

    Attributes:
        cosine: FP32 [K].
        probability: FP32 [K].
        none: probability that the image shows none of them; None unless asked for.
    """

    cosine: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]
    none: float | None

    def rank(self, labels: Sequence[str], top_k: int) -> tuple[Prediction, ...]:
        """Return the best labels, ties in their order; by cosine, as in float32 small probabilities become 0."""
        order: list[int] = np.argsort(-self.cosine, kind="stable")[: top_k or None].tolist()
        return tuple(
            Prediction(
                label=labels[place], cosine=float(self.cosine[place]), probability=float(self.probability[place])
            )
            for place in order
        )


def describe(
    image: EmbeddedImage,
    scores: LabelScores,
    options: LocalOptions,
    *,
    inference_ms: float,
    model_digest: str,
    warnings: tuple[AnswerWarning, ...],
) -> Classification:
    """Return what is known about one image."""
    predictions = scores.rank(options.labels, options.top_k)
    best = predictions[0]
    return Classification(
        predictions=predictions,
        input_hw=image.input_hw,
        route=image.route,
        queue_ms=0.0,
        inference_ms=inference_ms,
        model_digest=model_digest,
        none_of_these=options.is_none_of_these(
            cosine=best.cosine, probability=best.probability, none_probability=scores.none
        ),
        none_probability=scores.none,
        embedding=image.values if options.wants_embedding else None,
        encoder_input=_to_png(image.pixels) if options.wants_encoder_input else None,
        warnings=warnings,
        encoder=image.encoder,
        degradations=image.degradations,
    )


def rank_degradations(
    kinds: Sequence[str], cosine: npt.NDArray[np.float32], probability: npt.NDArray[np.float32]
) -> tuple[Degradation, ...]:
    """Return the kinds of damage [C], most likely first, ties in their order."""
    order: list[int] = np.argsort(-cosine, kind="stable").tolist()
    return tuple(
        Degradation(kind=kinds[place], cosine=float(cosine[place]), probability=float(probability[place]))
        for place in order
    )


def _to_png(pixels: npt.NDArray[np.uint8]) -> bytes | None:
    return _pixels.to_file(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)))


def describe_failure(error: Exception) -> FailedImage:
    """Return why one image failed: its own fault, or a model's."""
    if isinstance(error, InputError):
        return FailedImage(code="INVALID_ARGUMENT", reason=error.reason, message=error.message)
    return FailedImage(code="INTERNAL", reason="INTERNAL", message=f"{type(error).__name__}: {error}")


def error_from_serving(error: ServingError, field: str) -> ClipsrError:
    """Return the client's error for labels or texts that were refused, or could not be embedded."""
    if isinstance(error, InputError):
        return InvalidRequestError(error.message, reason=error.reason, violations=((field, error.message),))
    return ServiceError(str(error), code="INTERNAL", reason="INTERNAL")
