"""Does a graph compute what PyTorch computes? Measured before anything is written."""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from clipsr_export._errors import ExportError, ParityError
from clipsr_export._graphs.modules import UpscaleGraph

# Pixels: UINT8 levels. Both sides round the same fp32 value, which may lie on either side of a half.
PIXEL_TOLERANCE = 1.0
# RGB in [0, 1] before rounding: two orders of summation over a whole encoder and decoder (the same as the models' own
# tolerance against the reference implementation).
RGB_TOLERANCE = 1e-4
# 1 - cosine of two embeddings; fp32 round-off over a whole tower stays well below.
COSINE_TOLERANCE = 1e-4


def check_graph(name: str, module: nn.Module, path: Path, samples: Iterable[Mapping[str, npt.NDArray[Any]]]) -> float:
    """Compare an ONNX file in ONNX Runtime with the module it came from.

    Args:
        name: of the graph, for the error.
        module: the PyTorch module; of a tuple, its first tensor is the graph's output.
        path: the ONNX file.
        samples: inputs by name.

    Returns:
        The largest difference: in levels for UINT8 images, in units of [0, 1] for float images, in 1 - cosine for
        embeddings (two axes).

    Raises:
        ParityError: the difference exceeds the tolerance, or is not a number.
        ExportError: PyTorch's results are not finite.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for sample in samples:
        with torch.inference_mode():
            tensors = [torch.from_numpy(array) for array in sample.values()]
            results = module(*tensors)
            result = results[0] if isinstance(results, tuple) else results
            unrounded = module.rgb(*tensors) if isinstance(module, UpscaleGraph) else result
        expected = result.numpy()
        if not bool(torch.isfinite(unrounded).all()):
            raise ExportError(f"{name}: PyTorch's own results are not finite; the checkpoint is not fit for use")
        actual = np.asarray(session.run(None, dict(sample))[0])
        quantity, tolerance, difference = _compare(actual, expected)
        if not difference <= tolerance:
            raise ParityError(name, quantity, difference, tolerance)
        worst = max(worst, difference)
    return worst


def _compare(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> tuple[str, float, float]:
    """Return what is compared, its tolerance, and the largest difference."""
    if expected.dtype == np.uint8:
        levels = np.abs(actual.astype(np.int16) - expected.astype(np.int16)).max()
        return "a pixel (levels)", PIXEL_TOLERANCE, float(levels)
    if expected.ndim == 4:
        return "a pixel (of [0, 1])", RGB_TOLERANCE, float(np.abs(actual - expected).max())
    return "an embedding (1 - cosine)", COSINE_TOLERANCE, float((1 - (actual * expected).sum(axis=-1)).max())
