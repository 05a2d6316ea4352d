"""CLIP from OpenCLIP in PyTorch, with the embeddings of the labels computed once; of all baselines with labels."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

__all__ = ["Classifier", "load_from_environment"]

_TOP_K = 5
_TEMPLATE = "a photo of a {}."


class Classifier:
    """Images in, the best labels out.

    Args:
        model_name: OpenCLIP's name.
        weights: file of a state dict.
        labels: what to choose from.
        device: of PyTorch.
    """

    def __init__(self, model_name: str, weights: str, labels: Sequence[str], device: str = "cpu") -> None:
        open_clip = _import_open_clip()
        model, _, self.preprocess = open_clip.create_model_and_transforms(model_name, pretrained=weights)
        self.model = model.to(device).eval()
        self.device = device
        self.labels = list(labels)
        tokens = open_clip.get_tokenizer(model_name)([_TEMPLATE.format(label) for label in self.labels])
        with torch.inference_mode():
            self.text_features = self.model.encode_text(tokens.to(device), normalize=True)

    def decode(self, content: bytes) -> torch.Tensor:
        """Return a file as [3, R, R], normalized."""
        image: Any = self.preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        return image

    def classify(self, pixels: torch.Tensor) -> list[dict[str, float]]:
        """Return the best labels with their probabilities for each of [B, 3, R, R]."""
        with torch.inference_mode():
            return self.rank(self.model.encode_image(pixels.to(self.device)))

    def rank(self, features: torch.Tensor) -> list[dict[str, float]]:
        """Return the best labels with their probabilities for each of [B, D] that the image tower put out."""
        with torch.inference_mode():
            features = torch.nn.functional.normalize(features, dim=-1)
            logits = self.model.logit_scale.exp() * features @ self.text_features.T
            best = logits.softmax(dim=-1).topk(min(_TOP_K, len(self.labels)), dim=-1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{self.labels[i]: p for i, p in zip(indices, values, strict=True)} for indices, values in rows]


def load_from_environment() -> Classifier:
    """Load what BENCH_MODEL, BENCH_WEIGHTS, BENCH_LABELS (a JSON file) and BENCH_DEVICE name."""
    labels = json.loads(Path(os.environ["BENCH_LABELS"]).read_text(encoding="utf-8"))
    device = os.environ.get("BENCH_DEVICE", "cpu")
    return Classifier(os.environ["BENCH_MODEL"], os.environ["BENCH_WEIGHTS"], labels, device)


def _import_open_clip() -> Any:
    # PyPI's torchvision is a CUDA build; beside a CPU-only PyTorch its import asks for operators that are not there.
    # With torchvision from PyTorch's own index this does nothing.
    try:
        import open_clip
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        Classifier.library = library  # type: ignore[attr-defined]  # its operators go when it does
        import open_clip
    return open_clip
