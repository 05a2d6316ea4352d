"""Points in the space that images and texts share, as values."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr._types import AnswerWarning, Degradation, EncoderTaken, RouteTaken


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEmbedding:
    """An image as a point in the space that images and texts share.

    Attributes:
        values: L2-normalized; the sum of products with another embedding is their cosine.
        input_hw: rows and columns of the image, after EXIF orientation, in pixels.
        route: the path taken.
        queue_ms: waiting in the gateway.
        inference_ms: from the gateway to Triton and back, Triton's own queues included.
        model_digest: of the model that answered; embeddings of different digests cannot be compared.
        encoder: what embedded the image.
        degradations: what may be wrong with the image, most likely first; empty from the plain encoder.
    """

    values: tuple[float, ...]
    input_hw: tuple[int, int]
    route: RouteTaken
    queue_ms: float
    inference_ms: float
    model_digest: str
    encoder: EncoderTaken = "plain"
    degradations: tuple[Degradation, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEmbedding:
    """A text as a point in the space that images and texts share.

    Attributes:
        values: L2-normalized; the mean over the templates, where there are any.
        model_digest: of the model that answered; embeddings of different digests cannot be compared.
        warnings: what is doubtful about the texts that were sent with this one, and about the templates.
    """

    values: tuple[float, ...]
    model_digest: str
    warnings: tuple[AnswerWarning, ...] = ()
