"""FastAPI with Qdrant's FastEmbed: `uvicorn benchmarks.baselines.fastembed.server:app`.

`ImageEmbedding` as its guide uses it, with the model that it calls Qdrant/clip-ViT-B-32-vision: ONNX Runtime in fp32.
It takes a folder in place of the download; `benchmarks.baselines.weights` writes one.
"""

# Runs in an environment of its own, which pyright does not look into.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import FastAPI, File
from fastembed import ImageEmbedding
from PIL import Image

_TOP_K = 5
_LOGIT_SCALE = 100.0  # where CLIP's ends; the answers of random weights mean nothing in any case

app = FastAPI()
folder = Path(os.environ["BENCH_WEIGHTS"]).parent / "fastembed"
labels: list[str] = json.loads(Path(os.environ["BENCH_LABELS"]).read_text(encoding="utf-8"))
texts = np.load(folder / "labels.npy")
model = ImageEmbedding(model_name="Qdrant/clip-ViT-B-32-vision", specific_model_path=str(folder))


@app.post("/classify")
def classify(file: Annotated[bytes, File()]) -> dict[str, float]:
    """Return the best labels of an image with their probabilities."""
    [embedding] = model.embed([Image.open(io.BytesIO(file))])
    logits = _LOGIT_SCALE * texts @ embedding
    odds = np.exp(logits - logits.max())
    best = np.argsort(-odds)[:_TOP_K]
    return {labels[i]: float(odds[i] / odds.sum()) for i in best}


@app.get("/health")
def health() -> str:
    """Say that the model is loaded."""
    return "ok"
