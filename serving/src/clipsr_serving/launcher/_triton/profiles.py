"""Whether this machine can do what a profile asks for.

Triton itself takes config.pbtxt for every model that lacks the named file, and onnxruntime the CPU where a GPU's
provider is missing. Both would serve, slower and without a word; here either is an error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from clipsr_serving.errors import LaunchError
from clipsr_serving.manifest import Manifest
from clipsr_serving.profiles import PLAIN

PLANS_NAME = "tensorrt.json"  # written by `clipsr-export tensorrt`
_TENSORRT = "gpu-tensorrt"
_GPU_PREFIX = "gpu-"
_SMI_TIMEOUT_S = 30


def require_machine(config_name: str | None, repository: Path, manifest: Manifest, *, triton_kind: str) -> None:
    """Make sure that a profile finds the backend and the processor that it needs.

    Args:
        config_name: what Triton is told.
        repository: the model repository.
        manifest: its manifest.
        triton_kind: `embedded`, `path` or `docker`.

    Raises:
        LaunchError: it needs the embedded Triton, or there is no GPU, no backend for the plans, or no plan that was
            built from these graphs.
    """
    if config_name is None:
        return
    if triton_kind != "embedded" and _has_openvino(config_name, repository):
        raise LaunchError(
            f"The profile {config_name} needs the embedded Triton, whose openvino backend is ours: NVIDIA's refuses "
            f"batches that are not full and knows none of our parameters. Use --profile {PLAIN}, or --triton embedded."
        )
    if not config_name.startswith(_GPU_PREFIX):
        return
    if config_name == _TENSORRT:
        if triton_kind == "embedded":
            raise LaunchError(
                "The embedded Triton has no TensorRT backend; serve gpu-tensorrt from NVIDIA's container "
                "(docker/Dockerfile), or use --profile gpu-onnx."
            )
        _require_plans(repository, manifest)
    if not _has_gpu():
        raise LaunchError(
            f"The profile {config_name} needs an NVIDIA GPU, and `nvidia-smi -L` finds none here; install its driver "
            "(in a container: `--gpus all`), or use --profile cpu."
        )


def _has_openvino(config_name: str, repository: Path) -> bool:
    """Whether a model of the profile runs in openvino."""
    configs = repository.glob(f"*/configs/{config_name}.pbtxt")
    return any('backend: "openvino"' in config.read_text(encoding="utf-8") for config in configs)


def _require_plans(repository: Path, manifest: Manifest) -> None:
    cure = f"run `clipsr-export tensorrt --repository {repository}` on the machine that serves"
    path = repository / PLANS_NAME
    try:
        plans: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["plans"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"There are no TensorRT plans at {path} ({type(error).__name__}); {cure}.") from error
    for graph, plan in plans.items():
        artifact = manifest.artifacts.get(graph)
        if artifact is None or artifact.sha256 != plan["onnx_sha256"]:
            raise LaunchError(f"{plan['file']} was built from another {graph} than this one; {cure}.")
        file = repository / plan["file"]
        if not file.is_file() or file.stat().st_size != plan["bytes"]:
            raise LaunchError(f"{file} is missing or not what {path} describes; {cure}.")


def _has_gpu() -> bool:
    """Whether the driver lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout
