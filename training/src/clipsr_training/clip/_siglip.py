"""SigLIP's image tower in any size, as a model of timm whose name says its sizes.

OpenCLIP builds the tower from a name that timm knows, and timm has names for the published sizes only, with one
activation each. A name like `clipsr_siglip_p16_w768_d12_h12_m3072_gelu_tanh` is understood here.
"""

from __future__ import annotations

import re
from typing import Any

from timm.models import is_model, register_model
from timm.models.vision_transformer import VisionTransformer

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
"""Names of `transformers` and of timm."""
_NAME = re.compile(r"clipsr_siglip_p(\d+)_i(\d+)_w(\d+)_d(\d+)_h(\d+)_m(\d+)_(gelu_tanh|gelu)")


def siglip_name(vision: dict[str, Any]) -> str:
    """Return the name of the tower that a `vision_config` of `transformers` describes."""
    sizes = {
        "p": "patch_size",
        "i": "image_size",
        "w": "hidden_size",
        "d": "num_hidden_layers",
        "h": "num_attention_heads",
        "m": "intermediate_size",
    }
    parts = [f"{letter}{int(vision[field])}" for letter, field in sizes.items()]
    return f"clipsr_siglip_{'_'.join(parts)}_{ACTIVATIONS[vision['hidden_act']]}"


def register_siglip(name: str) -> None:
    """Make timm know the tower of such a name; other names are left alone."""
    match = _NAME.fullmatch(name)
    if match is None or is_model(name):
        return
    patch, image, width, depth, heads, hidden = map(int, match.groups()[:6])

    def build(
        pretrained: bool = False, pretrained_cfg: object = None, pretrained_cfg_overlay: object = None, **options: Any
    ) -> VisionTransformer:
        options.pop("cache_dir", None)
        return VisionTransformer(
            **{
                "img_size": image,
                "patch_size": patch,
                "embed_dim": width,
                "depth": depth,
                "num_heads": heads,
                "mlp_ratio": mlp_ratio(hidden, width),
                "class_token": False,
                "act_layer": match[7],
                **options,
            }
        )

    build.__name__ = name
    register_model(build)


def mlp_ratio(hidden: int, width: int) -> float:
    """Return the ratio from which a tower computes `hidden` as int(width * ratio)."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
