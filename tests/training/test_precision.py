"""Which precision is chosen on which processor: nothing is emulated unless it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipsr_training._cli.fit_options import read_fit_options
from clipsr_training._cli.train import build_parser
from clipsr_training._fit import FitOptions
from clipsr_training._precision import autocast


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


def test_a_precision_that_was_asked_for_is_used(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = build_parser().parse_args(["liif", "--data", "photos", "--precision", "bf16-mixed"])
    assert read_fit_options(arguments).precision == "bf16-mixed"
