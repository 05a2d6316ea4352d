"""The seam between the gateway and whatever computes: Triton in production, a fake in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

# Empty: the checkpoint's own, which the models read from the manifest.
Fit = Literal["", "center_crop", "squash"]
Route = Literal["upscaled", "native"]
# "auto" is the plain one, whose embedding then says whether the robust one is to follow.
Encoder = Literal["plain", "robust", "auto"]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What the robust encoder says is wrong with an image, in the order of the kinds of damage.

    Attributes:
        cosine: [C] float32 in [-1, 1].
        probability: [C] float32 in [0, 1].
    """

    cosine: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]

    def validate(self, count: int) -> str | None:
        """Return what makes these unusable for C = `count` kinds, or None if they are sound."""
        for values in (self.cosine, self.probability):
            if values.shape != (count,):
                return f"{count} kinds of damage were expected, {values.shape} came"
            if not np.isfinite(values).all():
                return "a cosine or probability of a kind of damage is not finite"
        return None


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """What the models make of one image.

    Attributes:
        embedding: [D] float32, L2-normalized.
        damage: what is wrong with it; None unless the robust encoder ran.
    """

    embedding: npt.NDArray[np.float32]
    damage: Damage | None = None


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """What the models say about one image.

    Attributes:
        cosine: [K] float32 in [-1, 1], in the order of the labels.
        probability: [K] float32 in [0, 1], in the order of the labels.
        image_embedding: [D] float32, L2-normalized; None unless asked for.
        pixels: [3, R, R] uint8 RGB, what the image encoder received; None unless asked for.
        label_is_cut: [K] whether the text encoder does not see all of a label; None unless asked for.
        damage: what is wrong with the image; None unless the robust encoder ran.
        none_probability: that the image shows none of the labels, in [0, 1]; NaN where there is nothing to compare them
            with; None unless asked for.
    """

    cosine: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]
    image_embedding: npt.NDArray[np.float32] | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    label_is_cut: npt.NDArray[np.bool_] | None = None
    damage: Damage | None = None
    none_probability: float | None = None

    def validate(
        self,
        *,
        label_count: int,
        embed_dim: int | None = None,
        side_px: int | None = None,
        kind_count: int | None = None,
    ) -> str | None:
        """Return what makes these similarities unusable, or None if they are sound.

        Args:
            label_count: K.
            embed_dim: D where the embedding was asked for.
            side_px: R where the pixels were asked for.
            kind_count: C where the robust encoder was.
        """
        if self.cosine.shape != (label_count,) or self.probability.shape != (label_count,):
            return (
                f"{label_count} labels were sent, but cosine has shape {self.cosine.shape} "
                f"and probability {self.probability.shape}"
            )
        if self.label_is_cut is not None and self.label_is_cut.shape != (label_count,):
            return f"{label_count} labels were sent, but label_is_cut has shape {self.label_is_cut.shape}"
        if not (np.isfinite(self.cosine).all() and np.isfinite(self.probability).all()):
            return "cosine or probability is not finite"
        if embed_dim is not None and (fault := embedding_fault(self.image_embedding, (embed_dim,))):
            return fault
        if side_px is not None and (self.pixels is None or self.pixels.shape != (3, side_px, side_px)):
            shape = None if self.pixels is None else self.pixels.shape
            return f"pixels of shape (3, {side_px}, {side_px}) were expected, {shape} came"
        return None if kind_count is None else damage_fault(self.damage, kind_count)


@dataclass(frozen=True, kw_only=True)
class TextEmbeddings:
    """What the models make of texts.

    Attributes:
        values: [N, D] float32, L2-normalized.
        is_cut: [N] whether the text encoder does not see all of a text.
    """

    values: npt.NDArray[np.float32]
    is_cut: npt.NDArray[np.bool_]


def embedding_fault(values: npt.NDArray[np.float32] | None, shape: tuple[int, ...]) -> str | None:
    """Return what makes embeddings unusable that should have a shape, or None if they are sound."""
    if values is None or values.shape != shape:
        return f"embeddings of shape {shape} were expected, {None if values is None else values.shape} came"
    return None if np.isfinite(values).all() else "an embedding is not finite"


def damage_fault(damage: Damage | None, kind_count: int) -> str | None:
    """Return what makes the damage that the robust encoder should have named unusable, or None if it is sound."""
    return "no kinds of damage came from the robust encoder" if damage is None else damage.validate(kind_count)


class EncodedLabels(Protocol):
    """Labels and templates, encoded once for all images of a call."""

    async def classify(
        self,
        image: bytes,
        *,
        fit: Fit,
        route: Route,
        request_id: str,
        timeout_s: float | None,
        size_hw: tuple[int, int] | None = None,
        encoder: Encoder = "plain",
        wants_embedding: bool = False,
        wants_pixels: bool = False,
        wants_cut: bool = False,
        wants_none: bool = False,
    ) -> Similarities:
        """Classify one image.

        Args:
            image: an encoded image file.
            fit: how an image that is not square meets the square input; empty for the checkpoint's own way.
            route: which ensemble runs.
            request_id: that of the call; shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.
            size_hw: rows and columns of the image. Small images of one call, one size and one moment are sent together;
                None sends the image alone.
            encoder: which image encoder runs; "robust" gives `Similarities.damage`, too, "auto" the plain one's
                `Similarities.image_embedding`.
            wants_embedding: whether `Similarities.image_embedding` is needed.
            wants_pixels: whether `Similarities.pixels` is needed.
            wants_cut: whether `Similarities.label_is_cut` is needed.
            wants_none: whether `Similarities.none_probability` is needed.

        Raises:
            BackendUnavailableError: the backend does not answer or has not loaded the ensemble.
            DeadlineExceededError: `timeout_s` passed.
            ImageRejectedError: the image is at fault.
            InvalidRequestError: the labels, the templates or the fit are.
            BackendFaultError: anything else.
        """
        ...

    async def warm(self, *, embed_dim: int, request_id: str, timeout_s: float | None) -> None:
        """Make the backend know the embeddings of these labels, so that requests with images find them.

        Args:
            embed_dim: D, width of an embedding.
            request_id: shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.

        Raises:
            BackendError, DeadlineExceededError: as classify.
        """
        ...


class InferenceBackend(Protocol):
    """Runs the models."""

    @property
    def target(self) -> str:
        """Where the backend is, as shown in messages: HOST:PORT."""
        ...

    async def is_ready(self, *, timeout_s: float) -> bool:
        """Say whether the backend and all models are ready; False, never an error, for one that is down."""
        ...

    def encode_labels(self, *, labels: Sequence[str], templates: Sequence[str]) -> EncodedLabels:
        """Encode labels and templates for any number of images. Pure computation; may run in any thread."""
        ...

    async def embed_image(
        self,
        image: bytes,
        *,
        fit: Fit,
        route: Route,
        request_id: str,
        timeout_s: float | None,
        size_hw: tuple[int, int] | None = None,
        encoder: Encoder = "plain",
    ) -> ImageFeatures:
        """Embed one image; arguments and errors are those of EncodedLabels.classify."""
        ...

    async def embed_texts(
        self, texts: Sequence[str], *, templates: Sequence[str], request_id: str, timeout_s: float | None
    ) -> TextEmbeddings:
        """Embed texts, each as the mean over the templates.

        Args:
            texts: N texts.
            templates: each with exactly one "{}".
            request_id: shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.

        Raises:
            BackendError, DeadlineExceededError: as EncodedLabels.classify.
        """
        ...

    async def max_tiles(self, model_name: str, *, timeout_s: float | None) -> int:
        """Return how many tiles one call of `upscale` with this model may hold, at least 1.

        Raises:
            BackendError, DeadlineExceededError: as EncodedLabels.classify.
        """
        ...

    async def upscale(
        self,
        model_name: str,
        canvas: npt.NDArray[np.uint8],
        box: npt.NDArray[np.float32],
        *,
        request_id: str,
        timeout_s: float | None,
    ) -> npt.NDArray[np.uint8]:
        """Render regions of low-resolution images.

        Args:
            model_name: of the repository.
            canvas: [N, 3, H, W] RGB, N at most `max_tiles`.
            box: [N, 4] (top, left, height, width) of each region, in canvas pixels.
            request_id: shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.

        Returns:
            [N, 3, R, R] RGB.

        Raises:
            BackendError, DeadlineExceededError: as EncodedLabels.classify.
        """
        ...

    async def restore(
        self,
        lq: npt.NDArray[np.uint8],
        context: npt.NDArray[np.float32],
        *,
        steps: int,
        seed: int,
        request_id: str,
        timeout_s: float | None,
    ) -> npt.NDArray[np.uint8]:
        """Restore a damaged picture.

        Args:
            lq: [3, H, W] RGB.
            context: [K] probabilities of the kinds of damage; zeros where they are unknown.
            steps: evaluations of the network for each pixel, at least 1.
            seed: of the noise, 0 to 2^64 - 1.
            request_id: shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.

        Returns:
            [3, H, W] RGB.

        Raises:
            BackendError, DeadlineExceededError: as EncodedLabels.classify.
        """
        ...

    async def close(self) -> None:
        """Release connections; calls in progress fail."""
        ...
