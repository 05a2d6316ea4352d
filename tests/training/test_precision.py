"""Which precision is chosen on which processor: nothing is emulated unless it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipsr_training._cli.fit_options import read_fit_options
from clipsr_training._cli.train import build_parser
from clipsr_training._fit import FitOptions
from clipsr_training._precision import autocast
from clipsr_training.clip import _optimizer
from clipsr_training.clip._recipes import RECIPES
from tests.training.tiny_clips import tiny_clip


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "32-true"),
        ({"avx2": True, "avx512_bf16": False}, "32-true"),
        ({"avx512_f": True, "avx512_bf16": True}, "bf16-mixed"),
        ({"neon": True, "bf16": True}, "bf16-mixed"),
    ],
)
def test_the_processor_chooses_the_precision(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["liif", "--data", "photos"]
    assert FitOptions(output=Path("run")).precision == expected
    assert read_fit_options(build_parser().parse_args(command)).precision == expected
    with autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if expected == "bf16-mixed" else torch.float32)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_muon_multiplies_in_what_the_processor_has(has_bf16, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    used = set()

    def record(update, *arguments, **options):
        used.add(options["dtype"])
        return orthogonalize(update, *arguments, **options)

    orthogonalize = _optimizer._orthogonalize
    monkeypatch.setattr(_optimizer, "_orthogonalize", record)
    monkeypatch.setattr(_optimizer.timm_muon, "zeropower_via_newtonschulz", orthogonalize)
    model = tiny_clip("resnet", 0).model
    optimizer = _optimizer.build_optimizer(model, RECIPES["scratch"])
    before = model.visual.conv1.weight.detach().clone()
    model.encode_image(torch.rand(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert used == {dtype}
    assert not torch.equal(model.visual.conv1.weight, before)


def test_a_precision_that_was_asked_for_is_used(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = build_parser().parse_args(["liif", "--data", "photos", "--precision", "bf16-mixed"])
    assert read_fit_options(arguments).precision == "bf16-mixed"
