"""LIIF against the outputs of the original implementation (provenance: README of the golden folder)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clipsr_training.liif import load_liif, reference
from tests.tolerances import FEATURES, RAW

# (checkpoint, case, pixels where the reference is float noise)
CASES = [
    ("small_all", 0, 0),
    ("small_all", 1, 51 + 69 - 1),  # x3: the last latent centre is hit in one row and one column
    ("small_all", 2, 40),  # 16 -> 48 rows is x3; 12 -> 40 columns hits no centre
    ("small_all", 3, 0),
    ("small_no_ensemble", 0, 0),
    ("small_no_ensemble", 1, 0),
    ("small_no_unfold", 0, 0),
    ("small_no_unfold", 1, 0),
    ("small_no_cell", 0, 0),
    ("small_no_cell", 1, 0),
    ("small_rdn", 0, 0),
    ("small_rdn", 1, 0),
    ("edsr_baseline_liif", 0, 0),
    ("edsr_baseline_liif", 1, 0),
    pytest.param("edsr_baseline_liif", 2, 0, marks=pytest.mark.slow),
]


def ill_defined(n_source: int, n_target: int) -> np.ndarray:
    """Which target samples fall exactly on the last latent centre: all four areas vanish there (design, section 4)."""
    numerator = (2 * np.arange(n_target) + 1) * n_source - n_target
    return numerator == 2 * n_target * (n_source - 1)


@pytest.mark.parametrize(("name", "case", "n_ill_defined"), CASES)
@torch.inference_mode()
def test_golden_outputs(golden_dir, name, case, n_ill_defined):
    folder = golden_dir / "liif"
    described = json.loads((folder / "manifest.json").read_text())[name]["cases"][case]
    arrays = np.load(folder / f"{name}.npz")
    model = load_liif(folder / f"{name}.pth")
    lr = torch.from_numpy(arrays[f"lr_{case}"])
    golden_feat, golden_raw = arrays[f"feat_{case}"], arrays[f"raw_{case}"]

    feat = model.features(lr[None])[0, : len(golden_feat)].numpy()
    assert np.abs(feat - golden_feat).max() <= FEATURES

    rows, columns = (ill_defined(n, m) for n, m in zip(described["lr_hw"], described["sr_hw"], strict=True))
    excluded = rows[:, None] | columns[None, :]
    if described["sr_hw"][0] % described["lr_hw"][0] and described["sr_hw"][1] % described["lr_hw"][1]:
        assert not excluded.any()
    # Where the local ensemble is off no area is divided by, and every pixel is defined.
    if not getattr(model, "local_ensemble", True):
        excluded[:] = False
    assert excluded.sum() == n_ill_defined
    sr_hw = tuple(described["sr_hw"])
    for method, sr in (
        ("exact", model.upscale(lr, sr_hw)),
        ("published", reference.upscale(model, lr[None], sr_hw)[0]),
    ):
        raw = (sr * 2 - 1).numpy()
        difference = np.abs(raw - golden_raw).max(axis=0)
        assert difference[~excluded].max() <= RAW, method


def test_a_changed_weight_is_noticed(golden_dir):
    """The comparison can fail: one weight off by 1 % leaves the tolerance."""
    folder = golden_dir / "liif"
    arrays = np.load(folder / "small_all.npz")
    model = load_liif(folder / "small_all.pth")
    with torch.inference_mode():
        model.imnet.layers[0].weight.mul_(1.01)
        raw = (model.upscale(torch.from_numpy(arrays["lr_0"]), (32, 32)) * 2 - 1).numpy()
    assert np.abs(raw - arrays["raw_0"]).max() > RAW
