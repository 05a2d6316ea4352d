"""Any model that OpenCLIP knows by name, with weights from a file, a hub, or none at all.

Sizes come from the tensors, QuickGELU of OpenAI's archives from who made them; what else a file does not say, see
`_published`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn

from clipsr_training.clip._errors import (
    HubError,
    UnknownModelError,
    WeightsNotFoundError,
)
from clipsr_training.clip._siglip import register_siglip
from clipsr_training.clip._weights import ClipWeights

RANDOM_WEIGHTS = "random"
_RANDOM_SEED = 0
_DEFAULT_CONTEXT_LENGTH = 77  # open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH
_RESNET_DOWNSAMPLING = 32  # from pixels to the grid of a ModifiedResNet's attention pooling

Report = Callable[[str], None]


def model_config(model_name: str) -> tuple[str, dict[str, Any]]:
    """Return OpenCLIP's own name of a model and its configuration.

    Raises:
        UnknownModelError: there is none of that name.
    """
    # OpenAI writes "ViT-L/14@336px", OpenCLIP "ViT-L-14-336".
    name = model_name.replace("/", "-").replace("@", "-").removesuffix("px")
    # OpenCLIP takes a name with a scheme ("hf-hub:") for a place to download from.
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        by_lower_case = {known.lower(): known for known in open_clip.list_models()}
        near = difflib.get_close_matches(name.lower(), by_lower_case, n=3)
        raise UnknownModelError(model_name, [by_lower_case[match] for match in near])
    config["text_cfg"].setdefault("context_length", _DEFAULT_CONTEXT_LENGTH)
    return name, config


def find_weights(model_name: str, weights: str) -> tuple[Path, str | None]:
    """Find the file of some weights, downloading it where they are a published tag.

    Returns:
        The file, and the tag or None.

    Raises:
        WeightsNotFoundError: no such file, no such tag.
        HubError: the tag's file can't be downloaded.
    """
    if Path(weights).is_file():
        return Path(weights), None
    published = get_pretrained_cfg(model_name, weights)
    if not published:
        raise WeightsNotFoundError(model_name, weights, list_pretrained_tags_by_model(model_name))
    try:
        return Path(download_pretrained(published)), weights
    # Two hubs, each with its own hierarchy of errors; whatever it is, the file is not here.
    except Exception as error:
        source = published.get("hf_hub") or published.get("url")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubError(
            f"the weights {weights} of {model_name} can't be downloaded ({reason}); where there is no network, fetch "
            f"{source} elsewhere and name the file"
        ) from error


def adapt_config(config: dict[str, Any], weights: ClipWeights, report: Report) -> dict[str, Any]:
    """Return the configuration with what the weights themselves say: sizes, activation, kind of loss."""
    config = deepcopy(config)
    if weights.is_openai and not config.get("quick_gelu"):
        config["quick_gelu"] = True
        report("QuickGELU, as in every model that OpenAI published")
    side = _image_side(config["vision_cfg"], weights.state)
    if side is not None and side != config["vision_cfg"].get("image_size"):
        report(f"image side {side} px, from the weights ({config['vision_cfg'].get('image_size')} in the named model)")
        config["vision_cfg"]["image_size"] = side
    length = _context_length(config["text_cfg"], weights.state)
    if length is not None and length != config["text_cfg"]["context_length"]:
        report(f"context length {length}, from the weights ({config['text_cfg']['context_length']} in the named model)")
        config["text_cfg"]["context_length"] = length
    has_bias = "logit_bias" in weights.state
    if has_bias != (config.get("init_logit_bias") is not None):
        report(
            "sigmoid, as the weights have a logit bias" if has_bias else "softmax, as the weights have no logit bias"
        )
        config["init_logit_bias"] = 0.0 if has_bias else None
    return config


def _image_side(vision_cfg: Mapping[str, Any], state: Mapping[str, Tensor]) -> int | None:
    """R from the number of positions of the image tower; None for towers that are not OpenCLIP's own."""
    if "timm_model_name" in vision_cfg:
        return None
    for name, unit in (
        ("visual.positional_embedding", int(vision_cfg.get("patch_size") or 0)),
        ("visual.attnpool.positional_embedding", _RESNET_DOWNSAMPLING),
    ):
        if name in state and state[name].ndim == 2:
            grid = math.isqrt(state[name].shape[0] - 1)
            return grid * unit if grid * grid == state[name].shape[0] - 1 and unit else None
    return None


def _context_length(text_cfg: Mapping[str, Any], state: Mapping[str, Tensor]) -> int | None:
    """L from the number of positions of the text tower; None for towers of `transformers`, which allow for more."""
    for name in ("positional_embedding", "text.positional_embedding"):
        if name in state and "hf_model_name" not in text_cfg:
            return state[name].shape[0] - bool(text_cfg.get("embed_cls"))
    return None


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Build an untrained model in fp32; nothing is downloaded but the text tower's configuration of `hf_model_name`.

    Args:
        config: content of `model_cfg` in an `open_clip_config.json`.

    Raises:
        HubError: the configuration of a text tower of `transformers` can't be fetched.
    """
    arguments: dict[str, Any] = deepcopy(dict(config))
    hf_name = arguments["text_cfg"].get("hf_model_name")
    is_custom = arguments.pop("custom_text", False) or hf_name is not None
    if "timm_model_name" in arguments["vision_cfg"]:
        arguments["vision_cfg"]["timm_model_pretrained"] = False
        register_siglip(arguments["vision_cfg"]["timm_model_name"])
    if hf_name is not None:
        arguments["text_cfg"]["hf_model_pretrained"] = False
    kind = (
        open_clip.CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
    )
    try:
        return kind(**arguments)
    except OSError as error:
        # What `transformers` raises where a configuration is neither in its cache nor on the hub.
        raise _hub_error(f"the configuration of the text tower {hf_name}", error) from error


def load_tokenizer(config: Mapping[str, Any], folder: Path | None) -> Any:
    """Return OpenCLIP's tokenizer of a model: maps texts to token ids int64 [B, L].

    Args:
        config: content of `model_cfg` in an `open_clip_config.json`.
        folder: holds the tokenizer's files, as the hub does; None takes them from the hub or its cache.

    Raises:
        HubError: they are not in the folder, or the hub can't be reached.
    """
    text_cfg = config["text_cfg"]
    options: dict[str, Any] = dict(text_cfg.get("tokenizer_kwargs") or {})
    length = text_cfg.get("context_length", _DEFAULT_CONTEXT_LENGTH)
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        return open_clip.SimpleTokenizer(context_length=length, **options)
    mode = text_cfg.get("tokenizer_mode")
    if folder is not None and not holds_tokenizer(folder):
        # Else the folder's name would be looked for on the hub.
        raise _hub_error(f"the tokenizer {folder}", FileNotFoundError("no tokenizer.json there"))
    try:
        return HFTokenizer(str(folder or name), context_length=length, tokenizer_mode=mode, **options)
    # `transformers` raises OSError, ValueError and others for files that are absent or not understood.
    except Exception as error:
        raise _hub_error(f"the tokenizer {folder or name}", error) from error


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer of `transformers`."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))


def _hub_error(what: str, error: Exception) -> HubError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return HubError(
        f"{what} can't be loaded ({reason}); where the hub is out of reach, name a folder with its files: "
        "tokenizer.json, tokenizer_config.json and, for a text tower of transformers, config.json"
    )


def build_random_model(config: Mapping[str, Any]) -> nn.Module:
    """Build an untrained model whose weights are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        return build_model(config)
