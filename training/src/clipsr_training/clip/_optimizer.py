"""Which weights of a CLIP model change, and how fast."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.optim import muon as timm_muon
from torch import nn

from clipsr_training._precision import has_bf16
from clipsr_training.clip._recipes import ClipRecipe

_orthogonalize = timm_muon.zeropower_via_newtonschulz


def lock_towers(model: Any, recipe: ClipRecipe) -> None:
    """Lock what the recipe locks, by OpenCLIP's own grouping of layers (LiT, arXiv 2111.07991).

    Raises:
        ValueError: the tower can't be locked in part.
    """
    try:
        if recipe.unlocked_image_groups is not None:
            model.lock_image_tower(unlocked_groups=recipe.unlocked_image_groups)
        if recipe.unlocked_text_layers is not None:
            model.lock_text_tower(unlocked_layers=recipe.unlocked_text_layers)
    except AssertionError as error:
        raise ValueError(f"this model's tower can't be locked in part ({error}); lock all of it or none") from error


def build_optimizer(model: Any, recipe: ClipRecipe) -> torch.optim.Optimizer:
    """Return the optimizer over all unlocked weights, without decay on gains, biases and scales."""
    visual = {id(p) for p in model.visual.parameters()}
    shared = {id(p) for name in ("logit_scale", "logit_bias") if (p := getattr(model, name, None)) is not None}
    rates = {"image": recipe.image_lr, "text": recipe.text_lr, "shared": None}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    convolutions: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if recipe.optimizer == "muon" and id(parameter) in visual and parameter.ndim == 4:
            convolutions.append(parameter)
            continue
        tower = "image" if id(parameter) in visual else "shared" if id(parameter) in shared else "text"
        groups.setdefault((tower, parameter.ndim >= 2), []).append(parameter)
    adamw: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": recipe.lr if rates[tower] is None else rates[tower],
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "betas": (0.9, 0.98),
            "eps": 1e-6,
        }
        for (tower, decays), parameters in groups.items()
    ]
    if not convolutions:
        return torch.optim.AdamW(adamw, fused=True)
    # On images this small Muon is ahead of AdamW from the first epoch on: `--optimizer adamw` shows it. The
    # attention pool stays with AdamW, since its wide square matrices are the costly ones to orthogonalize.
    muon = {"params": convolutions, "weight_decay": recipe.weight_decay, "nesterov": True}
    by_adamw = [{**group, "use_fallback": True, "nesterov": False} for group in adamw]
    # timm multiplies in bf16 and has no option for another type.
    dtype = torch.bfloat16 if has_bf16(convolutions[0].device.type) else torch.float32
    timm_muon.zeropower_via_newtonschulz = partial(_orthogonalize, dtype=dtype)
    return timm_muon.Muon([*by_adamw, muon], lr=recipe.muon_lr, momentum=0.95, ns_coefficients="original")
