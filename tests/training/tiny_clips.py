"""Tiny CLIP models with every kind of image tower."""

from __future__ import annotations

import torch
from torch import nn

from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._checkpoint import build_clip

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TOWERS = {
    "vit": {"image_size": 16, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
    "vit-avg": {
        **{"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        **{"pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.5},
    },
    "resnet": {"image_size": 32, "layers": [2, 1, 1, 1], "width": 8, "patch_size": None},
    "efficientnet": {"image_size": 32, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg"},
    "convnext": {"image_size": 32, "timm_model_name": "convnext_atto", "timm_pool": "avg"},
    "timm-resnet": {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg"},
    "siglip": {
        **{"image_size": 16, "timm_model_name": "clipsr_siglip_p8_i16_w32_d2_h2_m64_gelu"},
        **{"timm_pool": "map", "timm_proj": "none"},
    },
}
# Blocks of each.
N_BLOCKS = {
    **{"vit": 3, "vit-avg": 2, "resnet": 5, "efficientnet": 16, "convnext": 12, "timm-resnet": 4, "siglip": 2},
}


def tiny_clip(name: str = "vit", seed: int = 0) -> ClipCheckpoint:
    """Return a model in evaluation mode whose weights and statistics are all random, none zero or one."""
    vision = TOWERS[name]
    if "timm_model_name" in vision:
        vision = {"timm_proj": "linear", "timm_model_pretrained": False, **vision}
    config = {
        "model_cfg": {
            "embed_dim": 32 if name == "siglip" else 16,
            "custom_text": "timm_model_name" in vision,
            "vision_cfg": vision,
            "text_cfg": TEXT,
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    torch.manual_seed(seed)
    checkpoint = build_clip(config)
    scatter(checkpoint.model)
    checkpoint.model.eval()
    return checkpoint


@torch.no_grad()
def scatter(module: nn.Module) -> None:
    """Move all weights and statistics, so that none is zero or one; texts get far apart."""
    for name, value in module.named_parameters():
        if name != "logit_scale":
            value.add_(0.05 * torch.randn_like(value))
        if name.startswith("visual.") or name.startswith("tower."):
            continue
        # Of a text's last token, which is the same in all, only what it sees of the others counts.
        if name.endswith("token_embedding.weight"):
            value.mul_(50)[-1].zero_()
        if name.endswith("positional_embedding"):
            value.mul_(0.01)
        if name.endswith("attn.out_proj.weight"):
            value.mul_(20)
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.add_(0.1 * torch.randn_like(value))
        if name.endswith("running_var"):
            value.mul_(0.5 + torch.rand_like(value))
