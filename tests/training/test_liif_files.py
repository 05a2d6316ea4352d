"""Files of upscalers as people have them."""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn

from clipsr_training.liif import LIIF, CheckpointFormatError, describe_upscaler, load_liif
from clipsr_training.liif._encoders import EDSR


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_names_of_wrapped_models(tmp_path, prefix):
    model = LIIF(EDSR(n_resblocks=1, n_feats=8), hidden_list=(16, 16)).eval()
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    content = {"model": {**describe_upscaler(model), "sd": state}, "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "liif.pth")
    read = load_liif(tmp_path / "liif.pth").state_dict()
    assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


def test_a_refusal_does_not_advise_to_run_the_file(tmp_path):
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "liif.pth")
    with pytest.raises(CheckpointFormatError, match=r"liif\.pth .*it holds code \(torch\.nn") as caught:
        load_liif(tmp_path / "liif.pth")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
