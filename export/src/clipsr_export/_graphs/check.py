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
from torch import Tensor, nn

from clipsr_export._errors import ExportError, ParityError
from clipsr_export._graphs.modules import UpscaleGraph

# Pixels: UINT8 levels. Both sides round the same fp32 value, which may lie on either side of a half.
PIXEL_TOLERANCE = 1.0
# RGB in [0, 1] before rounding: two orders of summation over a whole encoder and decoder (the same as the models' own
# tolerance against the reference implementation).
RGB_TOLERANCE = 1e-4
# 1 - cosine of two embeddings; fp32 round-off over a whole tower stays well below.
COSINE_TOLERANCE = 1e-4
# Cosines with kinds of damage, and their probabilities: a logit scale of up to 100 is between the two.
NUMBER_TOLERANCE = 1e-3


def check_graph(name: str, module: nn.Module, path: Path, samples: Iterable[Mapping[str, npt.NDArray[Any]]]) -> float:
    """Compare an ONNX file in ONNX Runtime with the module it came from.

    Args:
        name: of the graph, for the error.
        module: the PyTorch module; of a tuple, its first tensors are the graph's outputs.
        path: the ONNX file.
        samples: inputs by name.

    Returns:
        The largest difference: in levels for UINT8 images, in units of [0, 1] for float images, in 1 - cosine for
        embeddings, in their own units for other numbers.

    Raises:
        ParityError: the difference exceeds the tolerance, or is not a number.
        ExportError: PyTorch's results are not finite.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    worst = 0.0
    for sample in samples:
        with torch.inference_mode():
            tensors = [torch.from_numpy(array) for array in sample.values()]
            found = module(*tensors)
            results: tuple[Tensor, ...] = found if isinstance(found, tuple) else (found,)
            unrounded = (module.rgb(*tensors),) if isinstance(module, UpscaleGraph) else results
        if not all(bool(torch.isfinite(tensor).all()) for tensor in unrounded):
            raise ExportError(f"{name}: PyTorch's own results are not finite; the checkpoint is not fit for use")
        # What follows the outputs in the tuple are inner tensors, which the graph does not return.
        for output, result, actual in zip(outputs, results, session.run(None, dict(sample)), strict=False):
            quantity, tolerance, difference = _compare(output, np.asarray(actual), result.numpy())
            if not difference <= tolerance:
                raise ParityError(name, quantity, difference, tolerance)
            worst = max(worst, difference)
    return worst


def _compare(output: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> tuple[str, float, float]:
    """Return what is compared, its tolerance, and the largest difference."""
    if expected.dtype == np.uint8:
        levels = np.abs(actual.astype(np.int16) - expected.astype(np.int16)).max()
        return "a pixel (levels)", PIXEL_TOLERANCE, float(levels)
    if expected.ndim == 4:
        return "a pixel (of [0, 1])", RGB_TOLERANCE, float(np.abs(actual - expected).max())
    if not output.endswith("_embedding"):
        return f"a {output.replace('_', ' ')}", NUMBER_TOLERANCE, float(np.abs(actual - expected).max())
    return "an embedding (1 - cosine)", COSINE_TOLERANCE, float((1 - (actual * expected).sum(axis=-1)).max())
