"""CLIP and SigLIP folders of `transformers`: `config.json` beside `model.safetensors`, in OpenCLIP's terms.

Names of tensors and fields are mapped; nothing is assumed that the files do not say, and what OpenCLIP's towers can't
express is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import INCEPTION_MEAN, INCEPTION_STD
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor

from clipsr_training.clip._errors import UnknownModelError, WeightsFormatError
from clipsr_training.clip._siglip import ACTIVATIONS, mlp_ratio, siglip_name
from clipsr_training.clip._weights import ClipWeights, read_weights

CONFIG_NAME = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MODEL_TYPES = ("clip", "siglip")
# What `config.json` leaves out, `transformers` knows: its defaults of both towers.
_CLIP_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP_TEXT = {
    **_CLIP_TEXT,
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_SIGLIP_VISION = {**_CLIP_VISION, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
_OBSOLETE = re.compile(r"(text|vision)_model\.embeddings\.position_ids")
# One block of either tower, under OpenCLIP's names.
_BLOCK = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
_TIMM_BLOCK = {
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
    "self_attn.out_proj.": "attn.proj.",
    "mlp.": "mlp.",
}
_QKV = re.compile(r"(.*\.layers\.\d+\.self_attn\.)q_proj\.(weight|bias)")
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.*)")


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a model in the layout of `transformers`, and none in OpenCLIP's."""
    return (folder / CONFIG_NAME).is_file() and any((folder / name).is_file() for name in _WEIGHTS)


def read_hugging_face(folder: Path) -> tuple[dict[str, Any], ClipWeights, Path]:
    """Read a folder of `transformers`.

    Returns:
        The content of an `open_clip_config.json`, the weights under OpenCLIP's names, and their file.

    Raises:
        UnknownModelError: a model of another kind, or one that OpenCLIP's towers can't express.
        WeightsFormatError: the weights can't be read.
    """
    config = _read_json(folder / CONFIG_NAME)
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES:
        raise UnknownModelError.of_folder(folder, f"is a {kind!r} of transformers; known are {', '.join(_MODEL_TYPES)}")
    path, state = _read_state(folder)
    state = {name: value for name, value in state.items() if not _OBSOLETE.fullmatch(name)}
    defaults = (_CLIP_TEXT, _CLIP_VISION) if kind == "clip" else (_SIGLIP_TEXT, _SIGLIP_VISION)
    text, vision = (
        {**default, **(config.get(name) or {})}
        for default, name in zip(defaults, ("text_config", "vision_config"), strict=True)
    )
    _require(folder, vision["num_channels"] == 3, "takes images that are not RGB")
    try:
        if kind == "clip":
            model_cfg, state = _clip_config(folder, config, text, vision), _clip_state(state)
        else:
            model_cfg, state = _siglip_config(folder, text, vision), _siglip_state(state)
    except (RuntimeError, KeyError) as error:
        raise WeightsFormatError(f"{path} does not fit {CONFIG_NAME} beside it: {error}") from error
    return {"model_cfg": model_cfg, "preprocess_cfg": _preprocess(folder, kind)}, _weights(state), path


def _weights(state: dict[str, Tensor]) -> ClipWeights:
    return ClipWeights(state=state, is_openai=False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise WeightsFormatError(f"{path} is not a JSON object")
    return document


def _read_state(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    path = next(folder / name for name in _WEIGHTS if (folder / name).is_file())
    if not path.name.endswith(".index.json"):
        return path, read_weights(path).state
    shards = dict.fromkeys(_read_json(path).get("weight_map", {}).values())
    return path, {name: value for shard in shards for name, value in read_weights(folder / shard).state.items()}


def _require(folder: Path, condition: bool, fault: str) -> None:
    if not condition:
        raise UnknownModelError.of_folder(folder, f"{fault}, which OpenCLIP's towers can't express")


def _clip_config(
    folder: Path, config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]
) -> dict[str, Any]:
    activations = {text["hidden_act"], vision["hidden_act"]}
    _require(folder, len(activations) == 1 and activations <= {"quick_gelu", "gelu"}, f"has activations {activations}")
    towers = [
        {
            "layers": tower["num_hidden_layers"],
            "width": tower["hidden_size"],
            "mlp_ratio": mlp_ratio(tower["intermediate_size"], tower["hidden_size"]),
            "norm_kwargs": {"eps": tower["layer_norm_eps"]},
        }
        for tower in (vision, text)
    ]
    # Before `transformers` 4.31 every config said 2, and the end token was the one with the largest id.
    end = text["eos_token_id"]
    pooling = {} if end in (2, text["vocab_size"] - 1) else {"pool_type": "eos", "eos_id": end}
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            **towers[0],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        },
        "text_cfg": {
            **towers[1],
            **pooling,
            "heads": text["num_attention_heads"],
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            # OpenCLIP has CLIP's own tokenizer; another vocabulary comes with its files.
            **({} if text["vocab_size"] == _CLIP_TEXT["vocab_size"] else {"hf_tokenizer_name": folder.name}),
        },
    }


def _siglip_config(folder: Path, text: Mapping[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    for tower in (text, vision):
        _require(folder, tower["hidden_act"] in ACTIVATIONS, f"has the activation {tower['hidden_act']}")
        _require(folder, tower["layer_norm_eps"] == 1e-6, f"has a layer_norm_eps of {tower['layer_norm_eps']}")
    _require(folder, vision.get("vision_use_head", True), "has an image tower without a head")
    is_tanh = text["hidden_act"] == "gelu_pytorch_tanh"
    return {
        "embed_dim": vision["hidden_size"],
        "init_logit_bias": 0.0,
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": siglip_name(vision),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "hf_tokenizer_name": folder.name,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": mlp_ratio(text["intermediate_size"], text["hidden_size"]),
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            **({"act_kwargs": {"approximate": "tanh"}} if is_tanh else {}),
        },
    }


def _join_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with q, k and v of every block in one tensor, `qkv.weight` and `qkv.bias`."""
    joined = dict(state)
    for name in state:
        if (match := _QKV.fullmatch(name)) is not None:
            parts = [f"{match[1]}{letter}_proj.{match[2]}" for letter in "qkv"]
            if all(part in state for part in parts):
                joined[f"{match[1]}qkv.{match[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def _rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the state under other names, by the first prefix that fits; unknown names stay, for the error."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        renamed[names.get(prefix, "") + name.removeprefix(prefix)] = value
    return renamed


def _blocks(state: Mapping[str, Tensor], tower: str, target: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the state with the blocks of a tower under `target`.

    Args:
        state: by names of `transformers`, attention joined.
        tower: "text" or "vision".
        target: prefix of the blocks.
        names: prefixes inside a block.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        match = _LAYER.fullmatch(name)
        if match is None or match[1] != tower:
            renamed[name] = value
        else:
            ((inner, _),) = _rename({match[3]: value}, names).items()
            renamed[f"{target}.{match[2]}.{inner}"] = value
    return renamed


_OPEN_CLIP_BLOCK = {**_BLOCK, "self_attn.qkv.": "attn.in_proj_"}


def _clip_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = _join_attention(state)
    state = _blocks(state, "vision", "visual.transformer.resblocks", _OPEN_CLIP_BLOCK)
    state = _blocks(state, "text", "transformer.resblocks", _OPEN_CLIP_BLOCK)
    names = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.": "visual.conv1.",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm.": "visual.ln_pre.",  # as it is written there
        "vision_model.post_layernorm.": "visual.ln_post.",
        "visual_projection.weight": "visual.proj",
        "text_model.embeddings.token_embedding.": "token_embedding.",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.": "ln_final.",
        "text_projection.weight": "text_projection",
    }
    renamed = _rename(state, names)
    # Linear layers there, factors on the right here.
    transposed = {name: renamed[name].T for name in ("visual.proj", "text_projection") if name in renamed}
    return {**renamed, **transposed}


def _siglip_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = _join_attention(state)
    state = _blocks(state, "vision", "visual.trunk.blocks", {**_TIMM_BLOCK, "self_attn.qkv.": "attn.qkv."})
    state = _blocks(state, "text", "text.transformer.resblocks", _OPEN_CLIP_BLOCK)
    head = "vision_model.head."
    for kind in ("weight", "bias"):
        if (joined := state.pop(f"{head}attention.in_proj_{kind}", None)) is not None:
            query, *key_value = joined.chunk(3)
            state[f"visual.trunk.attn_pool.q.{kind}"] = query
            state[f"visual.trunk.attn_pool.kv.{kind}"] = torch.cat(key_value)
    names = {
        "vision_model.embeddings.patch_embedding.": "visual.trunk.patch_embed.proj.",
        "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
        "vision_model.post_layernorm.": "visual.trunk.norm.",
        f"{head}probe": "visual.trunk.attn_pool.latent",
        f"{head}attention.out_proj.": "visual.trunk.attn_pool.proj.",
        f"{head}layernorm.": "visual.trunk.attn_pool.norm.",
        f"{head}mlp.": "visual.trunk.attn_pool.mlp.",
        "text_model.embeddings.token_embedding.": "text.token_embedding.",
        "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
        "text_model.final_layer_norm.": "text.ln_final.",
        "text_model.head.": "text.text_projection.",
    }
    renamed = _rename(state, names)
    positions = "visual.trunk.pos_embed"
    return {**renamed, **({positions: renamed[positions][None]} if positions in renamed else {})}


def _preprocess(folder: Path, kind: str) -> dict[str, Any]:
    """Return `preprocess_cfg` from the folder's own file, else as `transformers` has it for the kind."""
    default = {} if kind == "clip" else {"mean": INCEPTION_MEAN, "std": INCEPTION_STD, "resize_mode": "squash"}
    own: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            own = _read_json(folder / name)
            own = own.get("image_processor", own)
            break
    said: dict[str, Any] = {}
    if "image_mean" in own:
        said = {"mean": tuple(own["image_mean"]), "std": tuple(own["image_std"])}
    if own.get("resample") in _RESAMPLING:
        said["interpolation"] = _RESAMPLING[own["resample"]]
    if isinstance(size := own.get("size"), dict):
        said["resize_mode"] = "shortest" if "shortest_edge" in size else "squash"
    return merge_preprocess_dict(merge_preprocess_dict(asdict(PreprocessCfg()), default), said)
