"""An upscaler as one ONNX file for use without a server: any input size, any output size."""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from PIL import Image
from torch import Tensor, nn

from clipsr_export._errors import ExportError
from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._repository.replace import named_when_unwritable, require_folder, staging_folder
from clipsr_training.data import read_image
from clipsr_training.liif import Upscaler, describe_upscaler

InputType = Literal["uint8", "float32"]

# (input, output) rows and columns of the check on random images: whole and fractional scales, odd sides, one pixel,
# the size unchanged, and a reduction, each axis by a factor of its own.
_CHECKED_SIZES_HW = (
    ((9, 7), (21, 34)),
    ((16, 16), (64, 48)),
    ((1, 1), (3, 5)),
    ((13, 5), (13, 5)),
    ((31, 48), (17, 20)),
)
# Of the check on real images: longer side of the input, and scale.
_SAMPLE_SIDE_PX = 48
_SAMPLE_SCALE = 2.7
# Where the file says which model it holds, in the vocabulary of the official checkpoints.
_METADATA_KEY = "clipsr.upscaler"


class DynamicUpscaleGraph(nn.Module):
    """Whole images of one size to any other size.

    Args:
        upscaler: a LIIF of any kind.
    """

    def __init__(self, upscaler: Upscaler) -> None:
        super().__init__()
        self.upscaler = upscaler

    def forward(self, lr: Tensor, size_hw: Tensor) -> Tensor:
        """Map lr [N, 3, H, W] (UINT8, or FP32 in [0, 1]) and size_hw INT64 [2] to sr FP32 [N, 3, *size_hw].

        The result is RGB, nominally in [0, 1], not clamped.
        """
        # Not through int(): in the exporter these are symbols.
        rows, columns = cast("int", size_hw[0].item()), cast("int", size_hw[1].item())
        # The exporter knows nothing of numbers that arrive as data; this is its documented way to tell it.
        torch._check(rows >= 1)  # pyright: ignore[reportPrivateUsage]
        torch._check(columns >= 1)  # pyright: ignore[reportPrivateUsage]
        feat = self.upscaler.features(lr)
        # `full_box` would fix the example's height and width in the graph: it makes Python numbers of them.
        unit = torch.ones((lr.shape[0], 1))
        box = torch.cat((0 * unit, 0 * unit, lr.shape[2] * unit, lr.shape[3] * unit), dim=1)
        return self.upscaler.render(feat, box, (rows, columns))


@dataclass(frozen=True, kw_only=True)
class UpscalerPlan:
    """What is exported, and where to.

    Attributes:
        upscaler: the super-resolution model.
        output: the ONNX file.
        input_type: element type of `lr`: "uint8" takes levels, "float32" values in [0, 1].
        samples: real images that the graph is checked on, besides random ones.
        report: called with one line about the result.
    """

    upscaler: Upscaler
    output: Path
    input_type: InputType = "uint8"
    samples: tuple[Path, ...] = ()
    report: Callable[[str], None] = lambda _: None


def export_upscaler(plan: UpscalerPlan) -> float:
    """Export, compare with PyTorch at several sizes, then put the file in place.

    Returns:
        The largest difference from PyTorch, in units of [0, 1].

    Raises:
        ParityError: the graph does not compute what PyTorch computes; the output is as it was.
        IsADirectoryError: the output is a folder.
        ExportError: the output can't be written, or PyTorch's results are not finite.
    """
    if plan.output.is_dir():
        raise IsADirectoryError(f"{plan.output} is a folder; name the ONNX file to write")
    require_folder(plan.output.parent)
    try:
        plan.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{plan.output} can't be written: {error.strerror or error}") from error
    graph = DynamicUpscaleGraph(plan.upscaler)
    axes = {"lr": {0: "batch", 2: "height", 3: "width"}, "size_hw": {}}
    # In the output's folder, so that the last step is a renaming.
    beside = plan.output.resolve().parent
    with named_when_unwritable(plan.output), staging_folder(beside) as folder:
        path = folder / "upscaler.onnx"
        example = {name: torch.from_numpy(array) for name, array in next(_inputs(plan)).items()}
        write_onnx(graph, example, ("sr",), path, axes)
        _describe(path, plan.upscaler)
        difference = check_graph("upscaler", graph, path, _inputs(plan))
        path.replace(plan.output)
    n_bytes = plan.output.stat().st_size
    plan.report(f"wrote {plan.output}: {n_bytes / 1e6:.1f} MB, largest difference from PyTorch {difference:.2g}")
    return difference


def _describe(path: Path, upscaler: Upscaler) -> None:
    """Write into the file which model it holds and the largest scale that the model was trained for."""
    model = onnx.load(str(path))
    text = json.dumps({**describe_upscaler(upscaler), "scale_max": upscaler.scale_max}, allow_nan=False)
    onnx.helper.set_model_props(model, {_METADATA_KEY: text})
    onnx.save(model, str(path))


def _inputs(plan: UpscalerPlan) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield inputs of the graph: random images of several sizes, then real ones."""
    rng = np.random.default_rng(0)
    for i, (lr_hw, size_hw) in enumerate(_CHECKED_SIZES_HW):
        # The first is the exporter's example too; a batch of one would be taken for a constant.
        lr = rng.integers(0, 256, (3 - i % 3, 3, *lr_hw), dtype=np.uint8)
        yield {"lr": _as_type(lr, plan.input_type), "size_hw": np.array(size_hw)}
    for path in plan.samples:
        rgb = Image.fromarray(read_image(path))
        rgb.thumbnail((_SAMPLE_SIDE_PX, _SAMPLE_SIDE_PX), Image.Resampling.BICUBIC)
        lr = np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1)[None])
        size_hw = np.array([round(_SAMPLE_SCALE * n) for n in lr.shape[2:]])
        yield {"lr": _as_type(lr, plan.input_type), "size_hw": size_hw}


def _as_type(lr: npt.NDArray[np.uint8], input_type: InputType) -> npt.NDArray[Any]:
    return lr if input_type == "uint8" else lr.astype(np.float32) / np.float32(255)
