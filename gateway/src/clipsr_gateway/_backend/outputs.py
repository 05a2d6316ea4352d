"""Reads the outputs of a result of Triton, and refuses those of another type or shape than the contract's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clipsr_gateway._backend.protocol import Damage, Similarities
from clipsr_gateway.errors import BackendFaultError

# Of the models with the robust encoder; they must be asked for.
DEGRADATION_OUTPUTS = ("degradation_cosine", "degradation_probability")


def read_float(result: Any, name: str, *, rank: int, count: int = 1) -> npt.NDArray[np.float32]:
    """Return an output with its batch dimension.

    Raises:
        BackendFaultError: the output is absent or is not FP32 with a batch of `count` before `rank` dimensions.
    """
    tensor: npt.NDArray[Any] | None = result.as_numpy(name)
    if tensor is None:
        raise BackendFaultError(f"Triton's answer has no output {name!r}")
    if tensor.dtype != np.float32 or tensor.ndim != 1 + rank or tensor.shape[0] != count:
        expected = f"float32 ({count}{', N' * rank})"
        raise BackendFaultError(f"Triton's output {name!r} is {tensor.dtype} {tensor.shape}, expected {expected}")
    return tensor


def read_bool(result: Any, name: str, *, count: int = 1) -> npt.NDArray[np.bool_]:
    """Return an output of one dimension with its batch dimension.

    Raises:
        BackendFaultError: the output is absent or is not BOOL with a batch of `count`.
    """
    tensor: npt.NDArray[Any] | None = result.as_numpy(name)
    if tensor is None or tensor.dtype != np.bool_ or tensor.ndim != 2 or tensor.shape[0] != count:
        found = "absent" if tensor is None else f"{tensor.dtype} {tensor.shape}"
        raise BackendFaultError(f"Triton's output {name!r} is {found}, expected bool ({count}, N)")
    return tensor


def read_pixels(result: Any, *, count: int) -> npt.NDArray[np.uint8]:
    """Return `pixels`.

    Raises:
        BackendFaultError: it is absent or is not UINT8 of shape [count, 3, R, R].
    """
    pixels: npt.NDArray[Any] | None = result.as_numpy("pixels")
    if pixels is None:
        raise BackendFaultError("Triton's answer has no output 'pixels'")
    is_square = pixels.ndim == 4 and pixels.shape[2] == pixels.shape[3]
    if pixels.dtype != np.uint8 or not is_square or pixels.shape[:2] != (count, 3):
        expected = f"uint8 ({count}, 3, R, R)"
        raise BackendFaultError(f"Triton's output 'pixels' is {pixels.dtype} {pixels.shape}, expected {expected}")
    return pixels


def read_picture(result: Any, name: str, *, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the one picture of an output.

    Raises:
        BackendFaultError: it is absent or is not UINT8 of this shape in a batch of one.
    """
    picture: npt.NDArray[Any] | None = result.as_numpy(name)
    if picture is None or picture.dtype != np.uint8 or picture.shape != (1, *shape):
        found = "absent" if picture is None else f"{picture.dtype} {picture.shape}"
        raise BackendFaultError(f"Triton's output {name!r} is {found}, expected uint8 {(1, *shape)}")
    return picture[0]


def read_damage(result: Any, count: int) -> list[Damage]:
    """Return what the robust encoder found wrong with each of `count` images; raises as `read_float` does."""
    values = (read_float(result, name, rank=1, count=count) for name in DEGRADATION_OUTPUTS)
    return [Damage(cosine=cosine, probability=probability) for cosine, probability in zip(*values, strict=True)]


def read_similarities(
    result: Any,
    *,
    count: int,
    wants_embedding: bool,
    wants_pixels: bool,
    wants_cut: bool,
    wants_none: bool,
    is_robust: bool,
) -> list[Similarities]:
    """Return what each of `count` images was answered, with what else was asked for; see EncodedLabels.classify.

    Raises:
        BackendFaultError: an output is absent, or of another type or shape.
    """
    cosine = read_float(result, "cosine", rank=1, count=count)
    probability = read_float(result, "probability", rank=1, count=count)
    embedding = read_float(result, "image_embedding", rank=1, count=count) if wants_embedding else None
    pixels = read_pixels(result, count=count) if wants_pixels else None
    is_cut = read_bool(result, "label_is_cut", count=count) if wants_cut else None
    none = read_float(result, "none_probability", rank=1, count=count) if wants_none else None
    damage = read_damage(result, count) if is_robust else None
    return [
        Similarities(
            cosine=cosine[row],
            probability=probability[row],
            image_embedding=None if embedding is None else embedding[row],
            pixels=None if pixels is None else pixels[row],
            label_is_cut=None if is_cut is None else is_cut[row],
            damage=damage[row] if damage else None,
            none_probability=None if none is None else float(none[row, 0]),
        )
        for row in range(count)
    ]
