"""Hardware and versions of everything that takes part."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting.environment import describe_environment

__all__ = ["describe", "machine"]

_BASELINES = Path(__file__).resolve().parents[1] / "baselines"
# Of the callers and the bare engines; where there is a GPU, onnxruntime has another name.
_PACKAGES = ("clipsr", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "open_clip_torch", "grpcio", "aiohttp")
_SERVICE_PACKAGES = (
    "clipsr", "clipsr-gateway", "clipsr-serving", "nvidia-pytriton", "onnxruntime", "onnxruntime-gpu", "openvino",
    "numpy", "grpcio", "pillow",
)  # fmt: skip
_PROGRAM = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def describe(serve_bin: Path, baselines: Sequence[str]) -> dict[str, Any]:
    """Return processor, memory, load average, and the versions of callers, service and baselines.

    The load average is that of the minute before: above about 0.5, something else was using the cores.
    """
    locks = {name: _BASELINES / name / "requirements.txt" for name in baselines}
    return {
        **describe_environment(_PACKAGES),
        "load_average_before": round(os.getloadavg()[0], 2),
        "service": _versions(serve_bin / "python", _SERVICE_PACKAGES),
        "baselines": {
            name: lock.read_text(encoding="utf-8").splitlines()[1:] for name, lock in locks.items() if lock.is_file()
        },
    }


def machine() -> dict[str, Any]:
    """Return what figures have in common that may stand beside each other."""
    described = describe_environment(())
    return {key: described[key] for key in ("processor", "cores")}


def _versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions in another environment; none if it does not answer, as then the service will say why."""
    try:
        answer = subprocess.run(
            [str(python), "-c", _PROGRAM, *packages], capture_output=True, text=True, check=True, timeout=60
        )
        return json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
