"""Graphs of the same weights are written once in a run of the tests, by one of its workers: each takes seconds.

Every export compares the file that it gets with PyTorch, so one that does not fit is no less refused.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from clipsr_export._graphs.onnx import write_onnx
from clipsr_training._identity import digest_modules

EXPORTING_MODULES = (
    "clipsr_export._repository.export",
    "clipsr_export._repository.restorer",
    "clipsr_export._upscaler",
)
# Models of full size are exported by slow tests, once each.
_MOST_BYTES = 1 << 25


def write_once(
    kept: Path,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic_axes: Mapping[str, Mapping[int, str]],
    *,
    inner: Sequence[str] = (),
) -> None:
    """Stand where `write_onnx` does; `kept` is a folder that the workers share."""
    kinds = [
        (name, tensor.dtype, [dynamic_axes[name].get(axis, n) for axis, n in enumerate(tensor.shape)])
        for name, tensor in inputs.items()
    ]
    module.eval()
    key = digest_modules(module, facts=repr((_settings(module), kinds, tuple(outputs), inner)))
    if (kept / key).exists():
        shutil.copyfile(kept / key, path)
        return
    write_onnx(module, inputs, outputs, path, dynamic_axes, inner=inner)
    if path.stat().st_size <= _MOST_BYTES:
        with tempfile.NamedTemporaryFile(dir=kept, delete=False) as file:
            file.write(path.read_bytes())
        Path(file.name).replace(kept / key)


def _settings(module: nn.Module) -> list[object]:
    """Return what else a module computes by: the plain values of all its parts."""
    plain = (bool, int, float, str, tuple)
    return [
        (name, type(part), sorted((key, value) for key, value in vars(part).items() if isinstance(value, plain)))
        for name, part in module.named_modules()
    ]
