"""The random weights in the forms of both libraries."""

from __future__ import annotations

import pytest
import torch
from benchmarks.baselines.weights import as_transformers


def test_weights_are_renamed_without_loss():
    state = {
        "logit_scale": torch.tensor(1.0),
        "visual.proj": torch.rand(4, 2),
        "visual.transformer.resblocks.3.attn.in_proj_weight": torch.rand(12, 4),
        "transformer.resblocks.0.mlp.c_fc.bias": torch.rand(8),
    }
    renamed = as_transformers({**state, "attn_mask": torch.zeros(1)})
    assert torch.equal(renamed["visual_projection.weight"], state["visual.proj"].T)
    attention = [renamed[f"vision_model.encoder.layers.3.self_attn.{p}_proj.weight"] for p in "qkv"]
    assert torch.equal(torch.cat(attention), state["visual.transformer.resblocks.3.attn.in_proj_weight"])
    assert "text_model.encoder.layers.0.mlp.fc1.bias" in renamed
    assert sum(v.numel() for v in renamed.values()) == sum(v.numel() for v in state.values())
    with pytest.raises(KeyError, match="unheard_of"):
        as_transformers({"visual.unheard_of": torch.zeros(1)})
