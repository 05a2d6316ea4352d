"""Properties of the upscalers, without golden files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsr_training.liif import LIIF, CheckpointFormatError, ModulatedLIIF, full_box, load_liif, reference, save_liif
from clipsr_training.liif._encoders import EDSR, RDN
from clipsr_training.liif._grid import interpolation_matrix, neighbours, source_coordinates
from tests.tolerances import REWRITE


def small_liif(**options: bool) -> LIIF:
    return LIIF(EDSR(n_resblocks=1, n_feats=8), hidden_list=(16, 16), **options).eval()


def small_modulated() -> ModulatedLIIF:
    return ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval()


FLAGS = st.tuples(st.booleans(), st.booleans(), st.booleans())
LR_HW = st.tuples(st.integers(3, 24), st.integers(3, 24))
SCALE = st.tuples(st.floats(1.1, 14), st.floats(1.1, 14))
UNIT = st.floats(0, 1)


@settings(max_examples=60)
@given(lr_hw=LR_HW, scale=SCALE, flags=FLAGS, batch=st.integers(1, 3))
@torch.inference_mode()
def test_exact_equals_reference(lr_hw, scale, flags, batch):
    model = seeded_liif(flags)
    sr_hw = tuple(max(1, round(n * s)) for n, s in zip(lr_hw, scale, strict=True))
    lr = torch.rand(batch, 3, *lr_hw)
    exact, published = model.upscale(lr, sr_hw), reference.upscale(model, lr, sr_hw)
    difference = (exact - published).abs().amax(dim=(0, 1))[defined_pixels(lr_hw, sr_hw, flags)]
    assert difference.numel() == 0 or float(difference.max()) <= REWRITE


@settings(max_examples=60)
@given(
    lr_hw=LR_HW,
    scale=SCALE,
    flags=FLAGS,
    extent=st.tuples(UNIT, UNIT),
    corners=st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=3),
)
@torch.inference_mode()
def test_boxes_equal_crops_of_the_reference(lr_hw, scale, flags, extent, corners):
    """A batch of boxes, each its own part of its own image, is what the reference has there.

    The reference knows whole images only, so each box covers some of its output pixels exactly; its sides and corners
    are fractions of a low-resolution pixel all the same.
    """
    model = seeded_liif(flags)
    sr_hw = tuple(round(n * s) for n, s in zip(lr_hw, scale, strict=True))
    size_hw = tuple(max(1, round(n * e)) for n, e in zip(sr_hw, extent, strict=True))
    places = [[round((n - m) * c) for n, m, c in zip(sr_hw, size_hw, corner, strict=True)] for corner in corners]
    lr = torch.rand(len(corners), 3, *lr_hw)
    # (top, left, height, width) in output pixels, then in low-resolution ones.
    box = torch.tensor([[*place, *size_hw] for place in places], dtype=torch.float64)
    box = (box * torch.tensor(2 * lr_hw) / torch.tensor(2 * sr_hw)).float()
    exact, published = model.render(model.features(lr), box, size_hw), reference.upscale(model, lr, sr_hw)
    defined = defined_pixels(lr_hw, sr_hw, flags)
    for i, (top, left) in enumerate(places):
        rows, columns = slice(top, top + size_hw[0]), slice(left, left + size_hw[1])
        difference = (exact[i] - published[i, :, rows, columns]).abs().amax(dim=0)[defined[rows, columns]]
        assert difference.numel() == 0 or float(difference.max()) <= REWRITE


@torch.inference_mode()
def test_a_box_elsewhere_is_noticed():
    """The comparison can fail: a box a quarter of a pixel away leaves the tolerance."""
    model, lr = seeded_liif((True, True, True)), torch.rand(1, 3, 8, 8)
    box = torch.tensor([[2.25, 2.0, 4.0, 4.0]])
    exact, published = model.render(model.features(lr), box, (10, 10)), reference.upscale(model, lr, (20, 20))
    assert float((exact - published[:, :, 5:15, 5:15]).abs().max()) > REWRITE


def seeded_liif(flags: tuple[bool, bool, bool]) -> LIIF:
    torch.manual_seed(0)
    return small_liif(local_ensemble=flags[0], feat_unfold=flags[1], cell_decode=flags[2])


def defined_pixels(lr_hw: tuple[int, int], sr_hw: tuple[int, int], flags: tuple[bool, bool, bool]) -> torch.Tensor:
    rows, columns = (_well_defined(n, m, local_ensemble=flags[0]) for n, m in zip(lr_hw, sr_hw, strict=True))
    return rows[:, None] & columns[None, :]


def _well_defined(n_source: int, n_target: int, *, local_ensemble: bool) -> torch.Tensor:
    """Leave out targets on a latent centre (areas vanish) or, without ensemble, half way between two (a tie)."""
    numerator = (2 * np.arange(n_target) + 1) * n_source - n_target
    on_centre = numerator % (2 * n_target) == 0
    tie = (numerator - n_target) % (2 * n_target) == 0
    return torch.from_numpy(~(on_centre if local_ensemble else tie))


@pytest.mark.parametrize("make", [small_liif, small_modulated])
@torch.inference_mode()
def test_boxes_tile_one_continuous_image(make):
    """Rendering by tiles gives what rendering at once gives: seams cannot appear."""
    model = make()
    feat = model.features(torch.rand(1, 3, 12, 10))
    whole = model.render(feat, full_box(1, (12, 10)), (48, 40))
    boxes = torch.tensor([[top, left, 6.0, 5.0] for top in (0.0, 6.0) for left in (0.0, 5.0)])
    tiles = model.render(feat.expand(4, -1, -1, -1), boxes, (24, 20))
    rows = [torch.cat((tiles[i], tiles[i + 1]), dim=2) for i in (0, 2)]
    assert torch.allclose(torch.cat(rows, dim=1), whole[0], atol=1e-5)


@pytest.mark.parametrize(("n_source", "n_target"), [(160, 560), (120, 420), (24, 61), (100, 250), (1000, 3500)])
def test_half_way_between_two_codes_is_exact(n_source, n_target):
    """The nearest code of a tie is then the upper one everywhere, not the one that round-off prefers."""
    u = source_coordinates(torch.zeros(1), torch.tensor([float(n_source)]), n_target)[0].numpy()
    numerator = (2 * np.arange(n_target) + 1) * n_source
    tie = numerator % (2 * n_target) == 0
    assert tie.any()
    assert (u[tie] + 0.5 == numerator[tie] // (2 * n_target)).all()


@pytest.mark.parametrize("make", [small_liif, small_modulated])
@torch.inference_mode()
def test_query_equals_render(make):
    """What training evaluates point by point is what serving renders on a grid."""
    model = make()
    feat = model.features(torch.rand(2, 3, 9, 7))
    whole = model.render(feat, full_box(2, (9, 7)), (20, 31))
    rows = source_coordinates(torch.zeros(2), torch.full((2,), 9.0), 20)
    columns = source_coordinates(torch.zeros(2), torch.full((2,), 7.0), 31)
    u = torch.stack(torch.broadcast_tensors(rows[:, :, None], columns[:, None, :]), dim=-1).reshape(2, -1, 2)
    points = model.query(feat, u, torch.tensor([[2 * 9 / 20, 2 * 7 / 31]]).expand(2, 2))
    assert torch.allclose(points.transpose(1, 2).reshape(whole.shape), whole, atol=1e-5)


@torch.inference_mode()
def test_batch_does_not_mix_images():
    model = small_modulated()
    lr = torch.rand(3, 3, 8, 8)
    together = model.upscale(lr, (20, 20))
    for i in range(3):
        assert torch.allclose(model.upscale(lr[i], (20, 20)), together[i], atol=1e-5)


@torch.inference_mode()
def test_uint8_and_float_inputs_agree():
    model = small_modulated()
    lr = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.allclose(model.upscale(lr, (16, 16)), model.upscale(lr.float() / 255, (16, 16)), atol=1e-5)


def test_interpolation_reproduces_a_line_and_its_samples():
    u = torch.linspace(2, 6, 33)[None]
    matrix = interpolation_matrix(u, 9)
    assert torch.allclose(matrix @ torch.arange(9.0), u, atol=1e-5)
    assert torch.allclose(interpolation_matrix(torch.arange(9.0)[None], 9)[0], torch.eye(9), atol=1e-6)


def test_weights_of_neighbours_sum_to_one_at_the_border_too():
    axis = neighbours(torch.tensor([[-0.4, 0.0, 3.0, 3.4]]), 4)
    assert torch.equal(axis.weight_low + axis.weight_high, torch.ones(1, 4))
    assert axis.weight_low[0, 2] == 0.5  # falls on the clamped border sample: the well-defined answer


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("encoder", [EDSR(n_resblocks=2, n_feats=8), RDN(configuration=(2, 3, 4), n_feats=8)])
def test_checkpoint_round_trip(tmp_path, suffix, encoder):
    model = LIIF(encoder, hidden_list=(8, 8), cell_decode=False).eval()
    path = tmp_path / f"model{suffix}"
    save_liif(model, path)
    loaded = load_liif(path)
    assert isinstance(loaded, LIIF)
    assert loaded.cell_decode is False
    lr = torch.rand(3, 6, 6)
    with torch.inference_mode():
        assert torch.equal(model.upscale(lr, (9, 11)), loaded.upscale(lr, (9, 11)))


def test_modulated_checkpoint_round_trip(tmp_path):
    model = small_modulated()
    save_liif(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="safetensors"):
        save_liif(model, tmp_path / "model.pth")
    lr = torch.rand(3, 6, 6)
    with torch.inference_mode():
        assert torch.equal(model.upscale(lr, (9, 9)), load_liif(tmp_path / "model.safetensors").upscale(lr, (9, 9)))


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_damaged_checkpoints_say_so(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=name):
        load_liif(path)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointFormatError, match=name):
        load_liif(path)


def test_checkpoint_of_another_kind_says_what_is_missing(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointFormatError, match="'sd'"):
        load_liif(path)


def test_bad_arguments_are_refused():
    model = small_modulated()
    with pytest.raises(ValueError, match="positive"):
        model.upscale(torch.rand(3, 4, 4), (0, 4))
    with pytest.raises(ValueError, match="batch"):
        model.features(torch.rand(1, 4, 4, 4))
