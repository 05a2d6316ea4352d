"""Graphs of the same weights are written once in a run of the tests: the exporter takes seconds for each.

Every export compares the file that it gets with PyTorch, so one that does not fit is no less refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from clipsr_export._graphs.onnx import write_onnx
from clipsr_training._identity import digest_modules

_WRITTEN: dict[str, bytes] = {}


def write_once(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    path: Path,
    dynamic_axes: Mapping[str, Mapping[int, str]],
    *,
    inner: Sequence[str] = (),
) -> None:
    """Stand where `write_onnx` does."""
    kinds = [
        (name, tensor.dtype, [dynamic_axes[name].get(axis, n) for axis, n in enumerate(tensor.shape)])
        for name, tensor in inputs.items()
    ]
    facts = (type(module), module, getattr(module, "image_size_px", None), kinds, output, inner)
    key = digest_modules(module, facts=repr(facts))
    if key not in _WRITTEN:
        write_onnx(module, inputs, output, path, dynamic_axes, inner=inner)
        _WRITTEN[key] = path.read_bytes()
    module.eval()
    path.write_bytes(_WRITTEN[key])
