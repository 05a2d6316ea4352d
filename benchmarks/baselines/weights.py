"""One set of random weights for all systems: OpenCLIP's file, and the same as folders that others load offline.

    python -m benchmarks.baselines.weights FOLDER

Writes FOLDER/open_clip.safetensors, FOLDER/transformers/ (a CLIP model of Hugging Face transformers, for infinity),
FOLDER/labels.json and FOLDER/fastembed/ (the image tower in ONNX, and embeddings of the labels). Speed does not depend
on the values; that all systems have the same ones makes their answers comparable, and `--check` compares the forms.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import clipsr_training.clip  # noqa: F401 - prepares torchvision for open_clip
from benchmarks.baselines.engines import MODEL
from benchmarks.baselines.labels import make_labels

__all__ = ["as_transformers", "make_weights"]

_OPEN_CLIP, _TRANSFORMERS, _LABELS = "open_clip.safetensors", "transformers", "labels.json"
_FASTEMBED, _LABEL_ROWS = "fastembed", "labels.npy"
_TEMPLATE = "a photo of a {}."
_PREPROCESSOR = "preprocessor_config.json"
# As transformers names the parts of a block; the attention's one matrix becomes three.
_BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}


def as_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an OpenCLIP ViT as transformers' CLIPModel has them.

    Raises:
        KeyError: there is a weight that a plain CLIP ViT does not have.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "attn_mask":  # a constant
            continue
        if name in _WHOLE:
            renamed[_WHOLE[name]] = value
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = value.T
        else:
            renamed |= _block_weight(name, value)
    return {name: value.contiguous().clone() for name, value in renamed.items()}


def _block_weight(name: str, value: Tensor) -> dict[str, Tensor]:
    before, _, rest = name.partition("transformer.resblocks.")
    if not rest:
        raise KeyError(name)
    layer, _, rest = rest.partition(".")
    tower = "vision_model" if before == "visual." else "text_model"
    block = f"{tower}.encoder.layers.{layer}"
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        parts = value.chunk(3)
        return {f"{block}.self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", parts, strict=True)}
    part, _, kind = rest.rpartition(".")
    return {f"{block}.{_BLOCK_PARTS[part]}.{kind}": value}


def make_weights(folder: Path, *, model_name: str = MODEL, n_labels: int = 100) -> None:
    """Write the weights in all forms, and the labels; what is there already stays.

    Raises:
        ValueError: OpenCLIP knows no such model.
    """
    if not ((folder / _LABELS).is_file() and (folder / _TRANSFORMERS / "model.safetensors").is_file()):
        _write_weights(folder, model_name, n_labels)
    if not (folder / _FASTEMBED / _LABEL_ROWS).is_file():
        _write_fastembed(folder, model_name)


def _write_weights(folder: Path, model_name: str, n_labels: int) -> None:
    import open_clip

    config = open_clip.get_model_config(model_name)
    if config is None:
        raise ValueError(f"OpenCLIP knows no model {model_name!r}")
    torch.manual_seed(0)
    state = open_clip.create_model(model_name, pretrained=None).state_dict()
    target = folder / _TRANSFORMERS
    target.mkdir(parents=True, exist_ok=True)
    # safetensors does not store one memory under two names.
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / _OPEN_CLIP)
    save_file(as_transformers(state), target / "model.safetensors", metadata={"format": "pt"})
    for name, document in _documents(config, open_clip).items():
        (target / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _write_tokenizer(target, open_clip)
    (folder / _LABELS).write_text(json.dumps(make_labels(n_labels)) + "\n", encoding="utf-8")


def _write_fastembed(folder: Path, model_name: str) -> None:
    """Write what FastEmbed downloads elsewhere, and the embeddings of the labels, for which it has another model."""
    import open_clip

    target = folder / _FASTEMBED
    target.mkdir(exist_ok=True)
    model: Any = open_clip.create_model(model_name, pretrained=str(folder / _OPEN_CLIP)).eval()
    pixels = torch.zeros(1, 3, *open_clip.get_model_preprocess_cfg(model)["size"])
    torch.onnx.export(
        *(model.visual, (pixels,), str(target / "model.onnx")),
        input_names=["pixel_values"],
        output_names=["image_embeds"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    document = (folder / _TRANSFORMERS / _PREPROCESSOR).read_text(encoding="utf-8")
    (target / _PREPROCESSOR).write_text(document, encoding="utf-8")
    labels = json.loads((folder / _LABELS).read_text(encoding="utf-8"))
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(model_name)([_TEMPLATE.format(label) for label in labels])
        np.save(target / _LABEL_ROWS, model.encode_text(tokens, normalize=True).numpy())


def _documents(config: Mapping[str, Any], open_clip: Any) -> dict[str, Any]:
    vision, text, width = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    side = vision["image_size"]
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return {
        "config.json": {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": width,
            "text_config": {
                **_tower(text["width"], text["layers"], text["heads"], width, activation),
                "model_type": "clip_text_model",
                "max_position_embeddings": text["context_length"],
                "vocab_size": text["vocab_size"],
                "bos_token_id": text["vocab_size"] - 2,
                "eos_token_id": text["vocab_size"] - 1,
                "pad_token_id": 1,
            },
            "vision_config": {
                **_tower(vision["width"], vision["layers"], vision["width"] // 64, width, activation),
                "model_type": "clip_vision_model",
                "image_size": side,
                "patch_size": vision["patch_size"],
            },
        },
        _PREPROCESSOR: {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "CLIPProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": 3,  # bicubic
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": list(open_clip.OPENAI_DATASET_MEAN),
            "image_std": list(open_clip.OPENAI_DATASET_STD),
        },
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "processor_class": "CLIPProcessor",
            "model_max_length": text["context_length"],
            "bos_token": _START,
            "eos_token": _END,
            "unk_token": _END,
            "pad_token": _END,
        },
    }


_START, _END = "<|startoftext|>", "<|endoftext|>"


def _tower(width: int, layers: int, heads: int, projection: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": projection,
        "hidden_act": activation,
    }


def _write_tokenizer(folder: Path, open_clip: Any) -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    vocabulary = dict(tokenizer.encoder)
    for name, number in zip((_START, _END), sorted(vocabulary.values())[-2:], strict=True):
        vocabulary = {key: value for key, value in vocabulary.items() if value != number} | {name: number}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check(folder: Path, *, model_name: str = MODEL) -> float:
    """Return the least cosine between the image embeddings of OpenCLIP and of another form, on random pixels."""
    import onnxruntime
    import open_clip
    from transformers import CLIPModel

    ours: Any = open_clip.create_model(model_name, pretrained=str(folder / _OPEN_CLIP)).eval()
    size = json.loads((folder / _TRANSFORMERS / "config.json").read_text())["vision_config"]["image_size"]
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32))
    theirs: Any = CLIPModel.from_pretrained(folder / _TRANSFORMERS).eval()
    with torch.inference_mode():
        expected = ours.encode_image(pixels, normalize=True)
        found = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
    session = onnxruntime.InferenceSession(folder / _FASTEMBED / "model.onnx")
    rows = [torch.from_numpy(session.run(None, {"pixel_values": row[None].numpy()})[0]) for row in pixels]
    return float(min(torch.cosine_similarity(expected, each).min() for each in (found, torch.cat(rows))))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the weights; with --check, compare them: 1 if they differ."""
    parser = argparse.ArgumentParser(prog="weights", description="Write random weights for all systems.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=MODEL, help="OpenCLIP's name of a plain CLIP ViT (%(default)s)")
    parser.add_argument("--labels", type=int, default=100, help="how many labels (%(default)s)")
    parser.add_argument("--check", action="store_true", help="compare the embeddings of both forms")
    arguments = parser.parse_args(argv)
    make_weights(arguments.folder, model_name=arguments.model, n_labels=arguments.labels)
    if not arguments.check:
        return 0
    cosine = check(arguments.folder, model_name=arguments.model)
    print(f"least cosine between OpenCLIP and transformers, and FastEmbed: {cosine:.7f}")
    return 0 if cosine > 1 - 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
