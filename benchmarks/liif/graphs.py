"""The graphs that the LIIF benchmark times: exported as for serving, counted, and run by the engines that serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipsr_export._graphs.modules import ImageEncoderGraph
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._graphs.work import count_macs
from clipsr_training.clip._checkpoint import build_clip
from clipsr_training.liif import LIIF, ModulatedLIIF, Upscaler, reference

Engine = Literal["onnxruntime fp32", "openvino fp32", "openvino bf16"]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An exported graph with inputs to run it on.

    Attributes:
        path: ONNX file.
        inputs: one batch.
        macs: products in convolutions and matrix multiplications, an image.
    """

    path: Path
    inputs: Mapping[str, np.ndarray]
    macs: int


class DecoderGraph(nn.Module):
    """The `upscale` graph without its encoder: features to pixels UINT8."""

    def __init__(self, upscaler: Upscaler, image_size_px: int) -> None:
        super().__init__()
        self.upscaler = upscaler
        self.image_size_px = image_size_px

    def forward(self, feat: Tensor, box: Tensor) -> Tensor:
        """Map features FP32 [N, C, S, S] and box FP32 [N, 4] to pixels UINT8 [N, 3, R, R]."""
        sr = self.upscaler.render(feat, box, (self.image_size_px, self.image_size_px))
        return _to_levels(sr)


class ModulatedDecoderGraph(nn.Module):
    """The same for a modulated LIIF, whose `features` hold the first half of its decoder already."""

    def __init__(self, upscaler: ModulatedLIIF, image_size_px: int) -> None:
        super().__init__()
        self.upscaler = upscaler
        self.image_size_px = image_size_px

    def forward(self, encoded: Tensor, canvas: Tensor, box: Tensor) -> Tensor:
        """Map the encoder's result [N, C, S, S], canvas UINT8 [N, 3, S, S] and box [N, 4] to pixels [N, 3, R, R]."""
        feat = torch.cat((self.upscaler.modulation(encoded), self.upscaler.normalize(canvas)), dim=1)
        return _to_levels(self.upscaler.render(feat, box, (self.image_size_px, self.image_size_px)))


class ReferenceDecoderGraph(nn.Module):
    """LIIF's published formulation on the whole canvas; `method` says how the nearest latent code is fetched.

    Args:
        liif: the model.
        image_size_px: R.
        method: "grid_sample" as published; "gather" by computed indices, which ONNX Runtime runs faster.
    """

    def __init__(self, liif: LIIF, image_size_px: int, *, method: Literal["grid_sample", "gather"]) -> None:
        super().__init__()
        self.liif = liif
        self.image_size_px = image_size_px
        self.method = method

    def forward(self, feat: Tensor) -> Tensor:
        """Map features FP32 [N, C, S, S] to pixels UINT8 [N, 3, R, R]."""
        size_hw = (self.image_size_px, self.image_size_px)
        sample = reference.sample_nearest if self.method == "grid_sample" else _sample_nearest_by_gather
        sr = reference.render(self.liif, feat, size_hw, sample=sample)
        return _to_levels(sr * 0.5 + 0.5)


class BicubicGraph(nn.Module):
    """The runtime's own cubic interpolation, for scale."""

    def __init__(self, image_size_px: int) -> None:
        super().__init__()
        self.image_size_px = image_size_px

    def forward(self, canvas: Tensor) -> Tensor:
        """Map canvas UINT8 [N, 3, S, S] to pixels UINT8 [N, 3, R, R]."""
        size_hw = (self.image_size_px, self.image_size_px)
        return functional.interpolate(canvas.float(), size_hw, mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def _to_levels(sr: Tensor) -> Tensor:
    return (sr.clamp(0, 1) * 255).round().to(torch.uint8)


def _sample_nearest_by_gather(values: Tensor, coord: Tensor) -> Tensor:
    """As `reference.sample_nearest`: [B, C, H, W] at coord [1 or B, Q, 2] in [-1, 1] gives [B, Q, C]."""
    size = torch.tensor(values.shape[-2:])
    index = ((coord + 1) * size / 2 - 0.5).round().long()
    flat = (index[0, :, 0] * values.shape[-1] + index[0, :, 1]).clamp(0, values.shape[-2] * values.shape[-1] - 1)
    return values.flatten(2).transpose(1, 2).index_select(1, flat)


def export_graph(module: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> Graph:
    """Write a module as ONNX with these inputs' sizes, and count its products.

    Fixed sizes: what serving leaves free (batch, canvas) costs nothing at run time, and the count needs numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_onnx(module, inputs, ("result",), path, {name: {} for name in inputs})
    n_images = next(iter(inputs.values())).shape[0]
    macs = sum(count for _, count in count_macs(onnx.load(str(path)))) // n_images
    return Graph(path=path, inputs={name: value.numpy() for name, value in inputs.items()}, macs=macs)


def image_tower(name: str) -> ImageEncoderGraph:
    """Return an OpenCLIP image tower by name with random weights, as export makes it an `image_encoder`."""
    import open_clip  # imports torchvision, which clipsr_training must have prepared: its import stands above

    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        raise SystemExit(f"bench-liif: OpenCLIP knows no model {name!r}")
    preprocess_cfg = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    checkpoint = build_clip({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg})
    checkpoint.model.eval()
    return ImageEncoderGraph(checkpoint)


def prepare(graph: Graph, engine: Engine, n_threads: int) -> Callable[[], object]:
    """Load a graph into an engine with the settings that serving uses; the result runs it once."""
    if engine == "onnxruntime fp32":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # As served: idle threads would spin on the cores of whatever runs next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, dict(graph.inputs))
    core = openvino.Core()
    precision = "bf16" if engine == "openvino bf16" else "f32"
    properties = {"INFERENCE_NUM_THREADS": n_threads, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(core.read_model(str(graph.path)), "CPU", properties).create_infer_request()
    return lambda: request.infer(dict(graph.inputs), share_inputs=True, share_outputs=True)


def has_bf16() -> bool:
    """Whether this processor multiplies bf16; openvino would emulate it otherwise, slower than fp32."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
