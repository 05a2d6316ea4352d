"""Folders of `transformers` are exported as they are: CLIP with its own tokenizer, SigLIP with that of its folder."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from clipsr_export.cli import main
from clipsr_training.liif import save_liif
from tests.tolerances import COSINE
from tests.training.test_hugging_face import clip, features, siglip


@pytest.mark.parametrize("make", [clip, siglip])
def test_an_exported_folder_embeds_texts_as_transformers_does(tmp_path, repo_root, upscaler, make):
    model = make(tmp_path / "theirs")
    save_liif(upscaler, tmp_path / "liif.safetensors")
    options = ["--clip", tmp_path / "theirs", "--upscaler", tmp_path / "liif.safetensors", "--no-text-banks"]
    options += ["--template", repo_root / "model_repository", "--output", tmp_path / "out", "--samples", tmp_path]
    assert main([str(option) for option in options]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["scoring"]["function"] == ("softmax" if make is clip else "sigmoid")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "text_encoder" / "tokenizer.json"))
    tokens = np.array([encoding.ids for encoding in tokenizer.encode_batch(["a photo of a cat", "A dog!"])])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "text_encoder" / "1" / "model.onnx")
    (ours,) = session.run(None, {"tokens": tokens})
    with torch.inference_mode():
        theirs = features(model, "text", torch.from_numpy(tokens)).numpy()
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine == pytest.approx(1, abs=COSINE)
