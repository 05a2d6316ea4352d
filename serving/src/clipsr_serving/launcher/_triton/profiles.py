"""Which `configs/NAME.pbtxt` the models are served with, and whether this machine can do what it asks for.

Triton itself takes config.pbtxt for every model that lacks the named file, and onnxruntime the CPU where a GPU's
provider is missing. Both would serve, slower and without a word; here either is an error.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsr_serving.errors import LaunchError
from clipsr_serving.manifest import Manifest

INT8_ENCODER = "image_encoder/1/model.int8.onnx"
PLANS_NAME = "tensorrt.json"  # written by `clipsr-export tensorrt`
# onnxruntime on the CPU is what every config.pbtxt says: a name for it, and no file.
_PLAIN = "cpu-onnx"
_CPU, _INT8, _TENSORRT = "cpu", "cpu-int8", "gpu-tensorrt"
# What `cpu` means without int8; its file is cpu.pbtxt.
_BF16 = "cpu-bf16"
_GPU_PREFIX = "gpu-"
# Linux's names, /proc/cpuinfo. Without VNNI, int8 products of 8-bit values saturate in 16 bits, and gain little speed.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_VNNI_FLAGS = ("avx512_vnni", "avx_vnni")
_SMI_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class ProfileChoice:
    """What Triton is told.

    Attributes:
        config_name: `--model-config-name`; None for config.pbtxt.
        message: what was chosen and why, for the user; empty where nothing was chosen.
    """

    config_name: str | None
    message: str = ""


def read_cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's instruction sets in Linux's words.

    None where the file is missing or of another architecture.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def default_profile(repository: Path, *, triton_kind: str) -> str:
    """Return the profile where none is named: `cpu` with the embedded Triton, whose openvino backend is ours.

    With NVIDIA's own Triton it is `cpu-onnx`.
    """
    has_cpu = next(repository.glob(f"*/configs/{_CPU}.pbtxt"), None) is not None
    return _CPU if triton_kind == "embedded" and has_cpu else _PLAIN


def choose_profile(requested: str, repository: Path, manifest: Manifest, *, cpu_flags: frozenset[str]) -> ProfileChoice:
    """Find the configurations for a profile; `cpu` takes what suits this processor.

    Raises:
        LaunchError: no model has the profile, or a file that it needs was not exported.
    """
    known = sorted(known_profiles(repository))
    if requested not in known:
        raise LaunchError(f"There is no profile {requested!r}; the models in {repository} have {', '.join(known)}.")
    has_int8 = INT8_ENCODER in manifest.artifacts
    if requested == _INT8 and not has_int8:
        raise LaunchError(
            f"The profile {_INT8} needs {repository / INT8_ENCODER}; write it by `clipsr-export int8 --repository "
            f"{repository} --calibration DATA`."
        )
    if requested == _PLAIN:
        return ProfileChoice(config_name=None)
    if requested == _BF16:
        return ProfileChoice(config_name=_CPU)
    if requested == _CPU:
        return _choose_for_cpu(cpu_flags, has_int8=has_int8)
    return ProfileChoice(config_name=requested)


def known_profiles(repository: Path) -> set[str]:
    """Return the names that `--profile` takes for this model repository."""
    names = {path.stem for path in repository.glob("*/configs/*.pbtxt")}
    return {_PLAIN} | names | ({_BF16} if _CPU in names else set[str]())


def _choose_for_cpu(cpu_flags: frozenset[str], *, has_int8: bool) -> ProfileChoice:
    """int8 where it was exported and VNNI makes it fast, else bf16 where the processor has it, else fp32.

    Only `clipsr-export int8` makes the int8 encoder, and says how far it is from fp32; who ran it wants it.
    """
    vnni = next((flag for flag in _VNNI_FLAGS if flag in cpu_flags), None)
    bf16 = next((flag for flag in _BF16_FLAGS if flag in cpu_flags), None)
    if has_int8 and vnni:
        message = f"profile cpu: image encoder in int8, as it was exported and this processor has {vnni}"
        return ProfileChoice(config_name=_INT8, message=message)
    without = "this processor has no VNNI for int8" if has_int8 else "no int8 encoder was exported"
    best = f"bf16, as this processor has {bf16}" if bf16 else "fp32, as this processor has no bf16"
    return ProfileChoice(config_name=_CPU, message=f"profile cpu: image encoder in {best}, and {without}")


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
            f"batches that are not full and knows none of our parameters. Use --profile {_PLAIN}, or --triton embedded."
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
