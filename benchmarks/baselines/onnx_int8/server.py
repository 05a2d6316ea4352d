"""FastAPI with the image tower in ONNX Runtime, int8: `uvicorn benchmarks.baselines.onnx_int8.server:app`.

OpenCLIP's tower by `torch.onnx.export`, its matrices quantized by `quantize_dynamic`, the session as it comes.
"""

# Runs in an environment of its own, which pyright does not look into.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import onnxruntime
import torch
from fastapi import FastAPI, File
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.baselines.openclip.model import Classifier, load_from_environment

# Those whose int8 kernels ONNX Runtime has on a CPU; the patch embedding stays a convolution in fp32.
_QUANTIZED = ["MatMul", "Gemm"]

app = FastAPI()
classifier = load_from_environment()


def _load(model: Classifier, folder: Path) -> onnxruntime.InferenceSession:
    whole, small = folder / "tower.onnx", folder / "tower.int8.onnx"
    side = model.decode(_BLANK).shape[-1]
    torch.onnx.export(
        model.model.visual,
        (torch.zeros(1, 3, side, side),),
        str(whole),
        input_names=["pixels"],
        output_names=["features"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    quantize_dynamic(whole, small, weight_type=QuantType.QInt8, op_types_to_quantize=_QUANTIZED)
    return onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])


# A GIF of one pixel: what the transform makes of it has the tower's size.
_BLANK = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")
with tempfile.TemporaryDirectory() as temporary:
    session = _load(classifier, Path(temporary))


@app.post("/classify")
def classify(file: Annotated[bytes, File()]) -> dict[str, float]:
    """Return the best labels of an image with their probabilities."""
    pixels = classifier.decode(file).unsqueeze(0).numpy()
    [features] = session.run(["features"], {"pixels": pixels})
    return classifier.rank(torch.from_numpy(features))[0]


@app.get("/health")
def health() -> str:
    """Say that the model is loaded."""
    return "ok"
