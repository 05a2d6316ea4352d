"""Folders of `transformers` are exported as they are: CLIP with its own tokenizer, SigLIP with that of its folder."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from clipsr_export._graphs.modules import ImageEncoderGraph
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._tokenizer.build import build_tokenizer
from clipsr_training.clip import load_clip
from tests.tolerances import COSINE
from tests.training.test_hugging_face import clip, features, siglip


@pytest.mark.parametrize("make", [clip, siglip])
def test_an_exported_folder_computes_what_transformers_does(tmp_path, make):
    model = make(tmp_path / "theirs")
    checkpoint = load_clip(tmp_path / "theirs")
    texts = ["a photo of a cat", "A dog!", "x " * 40]
    ids = [encoding.ids for encoding in build_tokenizer(checkpoint).encode_batch(texts)]
    assert ids == checkpoint.tokenizer(texts).tolist()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    example = {"pixels": torch.from_numpy(pixels)}
    path = tmp_path / "model.onnx"
    write_onnx(ImageEncoderGraph(checkpoint), example, ("image_embedding",), path, {"pixels": {0: "batch"}})
    (ours,) = onnxruntime.InferenceSession(path).run(None, {"pixels": pixels})
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    with torch.inference_mode():
        theirs = features(model, "image", (example["pixels"] / 255 - mean) / std).numpy()
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine == pytest.approx(1, abs=COSINE)
