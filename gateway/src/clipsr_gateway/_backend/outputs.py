"""Reads the outputs of a result of Triton, and refuses those of another type or shape than the contract's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clipsr_gateway.errors import BackendFaultError


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
