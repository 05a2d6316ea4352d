"""bf16 where the processor or GPU multiplies it, fp32 elsewhere.

PyTorch emulates bf16 where it is missing: on a processor with AVX2 only, a product of matrices takes sixty times as
long as in fp32.
"""

from __future__ import annotations

import torch

# As `torch.cpu.get_capabilities` calls them, on x86 and on ARM.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def has_bf16(device_type: str = "cpu") -> bool:
    """Whether a kind of device multiplies bf16 itself."""
    if device_type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _CPU_BF16)
    return device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device_type: str = "cpu") -> torch.autocast:
    """Return what runs products in bf16 where that is faster."""
    return torch.autocast(device_type, torch.bfloat16, enabled=has_bf16(device_type))


def default_precision() -> str:
    """Return Lightning's precision for the device that it chooses on this machine."""
    return "bf16-mixed" if has_bf16("cuda" if torch.cuda.is_available() else "cpu") else "32-true"
