"""Which `configs/NAME.pbtxt` the models run with, and what the profile `cpu` means on this processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipsr_serving.errors import LaunchError
from clipsr_serving.manifest import Manifest

__all__ = [
    "INT8_ENCODER",
    "PLAIN",
    "ProfileChoice",
    "choose_profile",
    "default_profile",
    "known_profiles",
    "read_cpu_flags",
]

INT8_ENCODER = "image_encoder/1/model.int8.onnx"
# onnxruntime on the CPU is what every config.pbtxt says: a name for it, and no file.
PLAIN = "cpu-onnx"
_CPU, _INT8 = "cpu", "cpu-int8"
# What `cpu` means without int8; its file is cpu.pbtxt.
_BF16 = "cpu-bf16"
# Linux's names, /proc/cpuinfo. Without VNNI, int8 products of 8-bit values saturate in 16 bits, and gain little speed.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_VNNI_FLAGS = ("avx512_vnni", "avx_vnni")


@dataclass(frozen=True, kw_only=True)
class ProfileChoice:
    """The configurations of a profile.

    Attributes:
        config_name: of `configs/NAME.pbtxt`, Triton's `--model-config-name`; None for config.pbtxt.
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
    return _CPU if triton_kind == "embedded" and has_cpu else PLAIN


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
    if requested == PLAIN:
        return ProfileChoice(config_name=None)
    if requested == _BF16:
        return ProfileChoice(config_name=_CPU)
    if requested == _CPU:
        return _choose_for_cpu(cpu_flags, has_int8=has_int8)
    return ProfileChoice(config_name=requested)


def known_profiles(repository: Path) -> set[str]:
    """Return the names that `--profile` takes for this model repository."""
    names = {path.stem for path in repository.glob("*/configs/*.pbtxt")}
    return {PLAIN} | names | ({_BF16} if _CPU in names else set[str]())


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
