"""Which layers of an image encoder keep floating point, where all in int8 would cost too much.

The layers are divided into parts of about equal work. Each part in turn keeps floating point while the rest is in int8,
which shows what its int8 costs; then those that cost most for their work keep it, one more at a time, until the
embeddings are near enough to those in fp32.

Source: Dong et al. 2019, "HAWQ: Hessian AWare Quantization of Neural Networks with Mixed-Precision" (layers differ in
what quantization costs, and precision goes where it costs most); measured here instead of estimated.
"""

# onnx ships partial types: what comes out of it is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from clipsr_export._errors import ExportError
from clipsr_export._graphs.int8 import Pixels, PreparedEncoder, measure_agreement
from clipsr_export._graphs.work import count_macs, fix_batch

__all__ = ["MixedPrecision", "Part", "choose_parts", "divide"]

# Each costs a quantization and a run over the images below.
_N_PARTS = 12
_N_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Part:
    """Layers that follow each other.

    Attributes:
        names: of the nodes.
        macs: multiply-accumulates of an image.
    """

    names: tuple[str, ...]
    macs: int


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """What was chosen.

    Attributes:
        keep: names of the nodes that keep floating point.
        int8_share: of the work of all layers that could be in int8, 0 to 1.
        mean_cosine: with fp32, on images that were calibrated on.
    """

    keep: frozenset[str]
    int8_share: float
    mean_cosine: float


def choose_parts(
    encoder: PreparedEncoder, pixels: Pixels, *, mean_cosine: float, report: Callable[[str], None]
) -> MixedPrecision:
    """Find the fewest layers that have to keep floating point.

    Args:
        encoder: what is to be quantized.
        pixels: [M, 3, R, R] images to calibrate and measure on, as the encoder sees them in service.
        mean_cosine: with the embeddings in fp32, to be reached on these images.
        report: called with one line for each step.

    Raises:
        ExportError: not even one part in int8 reaches it.
    """
    parts, pixels = divide(encoder.path, count=_N_PARTS), pixels[:_N_IMAGES]
    total = sum(part.macs for part in parts)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"

        def measure(kept: Sequence[Part]) -> float:
            encoder.quantize(target, pixels, keep=frozenset(name for part in kept for name in part.names))
            return measure_agreement(encoder.source, target, pixels).mean

        def describe(kept: Sequence[Part], mean: float) -> MixedPrecision:
            keep = frozenset(name for part in kept for name in part.names)
            share = 1 - sum(part.macs for part in kept) / total
            report(f"{100 * share:.0f} % of the work in int8: mean cosine with fp32 {mean:.5f}")
            return MixedPrecision(keep=keep, int8_share=share, mean_cosine=mean)

        mean = measure(())
        found = describe((), mean)
        if mean >= mean_cosine:
            return found
        gains = {part: measure([part]) - mean for part in parts}
        order = sorted(parts, key=lambda part: gains[part] / part.macs, reverse=True)
        for count in range(1, len(order)):
            found = describe(order[:count], measure(order[:count]))
            if found.mean_cosine >= mean_cosine:
                return found
    raise ExportError(
        f"with {100 * found.int8_share:.0f} % of the work in int8 the mean cosine with fp32 is still "
        f"{found.mean_cosine:.5f}, and {mean_cosine:g} is asked for; ask for less, or serve bf16 (no int8)"
    )


def divide(path: Path, *, count: int) -> list[Part]:
    """Divide the layers that can be quantized into parts of about equal work, in their order."""
    model = onnx.load(str(path))
    layers = {node.name for node in PreparedEncoder.quantizable(model.graph)}
    work = {name: macs for name, macs in count_macs(fix_batch(model)) if name in layers}
    parts: list[Part] = []
    names: list[str] = []
    done = macs = 0
    total = sum(work.values())
    for name, cost in work.items():
        names.append(name)
        macs += cost
        if done + macs >= total * (len(parts) + 1) / count:
            parts.append(Part(names=tuple(names), macs=macs))
            done, macs, names = done + macs, 0, []
    return parts
