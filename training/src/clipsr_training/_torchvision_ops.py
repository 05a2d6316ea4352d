"""Makes torchvision importable beside a CPU-only PyTorch.

PyPI's torchvision is a CUDA build. Beside a CPU-only torch its C++ library does not load, and its import fails because
it registers fake kernels for operators that do not exist. Defining the two schemas is enough for the import; nothing in
this package calls them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# Kept for the life of the process: a library that is collected takes its operators along.
_library = torch.library.Library("torchvision", "FRAGMENT")


def define_missing_schemas() -> list[str]:
    """Define the operator schemas that torchvision's import needs, if its own library can't.

    Returns:
        The names that had to be defined; none where torchvision and torch fit each other, or there is no torchvision.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _load_extension(Path(spec.origin).parent):
        return []
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        _library.define(_SCHEMAS[name])
    return missing


def _load_extension(folder: Path) -> bool:
    """Load torchvision's operators as its own import does; return whether that worked."""
    for library in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            return False
        return True
    return False
