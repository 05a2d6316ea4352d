"""Tiles, the noise of pixels, and restoring whole pictures."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from clipsr_training.restoration import (
    SAMPLERS,
    ConditionalUNet,
    RestoreOptions,
    Restorer,
    Schedule,
    Tiling,
    UNetConfig,
    pixel_noise,
    restore,
)
from clipsr_training.restoration._tiles import map_tiles

TILING = Tiling(tile_px=128, overlap_px=32, multiple_px=8)
NOISE_DIGEST = "f3a77edfe49632ca"


def test_noise_belongs_to_a_seed_a_draw_and_a_place():
    whole = pixel_noise(7, 3, (40, 50))
    assert whole.shape == (3, 40, 50)
    assert whole.dtype == np.float32
    assert np.array_equal(pixel_noise(7, 3, (11, 13), (20, 30)), whole[:, 20:31, 30:43])
    others = [pixel_noise(8, 3, (40, 50)), pixel_noise(7, 4, (40, 50)), pixel_noise(7, 3, (40, 50), (1, 0))]
    assert not any(np.isclose(other, whole).mean() > 0.01 for other in others)
    # What a run is repeated by, here and wherever else the same noise is computed.
    digest = hashlib.sha256(np.round(pixel_noise(1, 2, (5, 6), (3, 4)), 3).tobytes()).hexdigest()
    assert digest.startswith(NOISE_DIGEST)


def test_noise_is_standard_normal_and_independent():
    noise = pixel_noise(0, 0, (256, 256)).astype(np.float64)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    shifted = [
        noise[:, 1:],
        noise[:, :, 1:],
        np.roll(noise, 1, axis=0),
        pixel_noise(0, 1, (256, 256)),
        pixel_noise(1, 0, (256, 256)),
    ]
    for other in shifted:
        own = noise[tuple(slice(n) for n in other.shape)]
        assert abs(np.corrcoef(own.ravel(), other.ravel())[0, 1]) < 5 / 440


@given(rows=st.integers(1, 700), columns=st.integers(1, 700), tile=st.integers(2, 12), overlap=st.integers(1, 5))
def test_tiles_cover_every_pixel_and_weigh_as_much_everywhere(rows, columns, tile, overlap):
    if overlap >= tile:
        return
    tiling = Tiling(tile_px=8 * tile, overlap_px=8 * overlap, multiple_px=8)
    weight = np.zeros((rows, columns))
    for own in tiling.tiles((rows, columns)):
        assert own.top % 8 == own.left % 8 == 0
        assert 0 < own.bottom - own.top <= 8 * tile
        assert 0 < own.right - own.left <= 8 * tile
        weight[own.top : own.bottom, own.left : own.right] += tiling.weights(own, (rows, columns))
    assert weight.min() > 0.01


def test_a_picture_that_fits_is_one_tile():
    assert len(TILING.tiles((128, 1))) == 1
    assert len(TILING.tiles((129, 1))) == 2
    seen = []
    map_tiles(lambda tile: seen.append(tile) or torch.zeros(1), (128, 128), TILING)
    assert seen == [(0, 128, 0, 128)]


@pytest.mark.parametrize("wrong", [(100, 32, 8), (128, 30, 8), (128, 128, 8), (128, 0, 8)])
def test_tilings_that_do_not_fit_are_refused(wrong):
    tile, overlap, multiple = wrong
    with pytest.raises(ValueError, match="tiles of"):
        Tiling(tile_px=tile, overlap_px=overlap, multiple_px=multiple)


class _Local(nn.Module):
    """A network that looks `reach` pixels far and at half the size as well, as the levels of a U-Net do."""

    def __init__(self) -> None:
        super().__init__()
        self.config = UNetConfig(width=32, multipliers=(1, 1), context_dim=None)
        self.down = nn.Conv2d(6, 6, 4, 2, 1)
        self.up = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, state: Tensor, lq: Tensor, time: Tensor, content: None, degradation: None) -> Tensor:
        rows, columns = lq.shape[2:]
        x = torch.cat((state - lq, lq), dim=1)
        x = nn.functional.pad(x, (0, -columns % 8, 0, -rows % 8), mode="replicate")
        x = torch.tanh(self.down(x))
        x = self.up(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
        return x[..., :rows, :columns] * (time / 100)


@pytest.fixture
def local() -> Restorer:
    return Restorer(_Local(), Schedule(), "residual", None)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def small() -> Restorer:
    network = ConditionalUNet(UNetConfig(width=32, multipliers=(1, 1), context_dim=5, has_bottom_transformer=False))
    return Restorer(network, Schedule(), "residual", "kinds").eval()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size_hw", [(512, 512), (301, 517)])
def test_tiles_are_the_whole_picture_where_a_network_looks_no_further_than_the_margin(local, sampler, size_hw):
    lq = torch.rand(1, 3, *size_hw)
    options = {"steps": 5, "sampler": sampler, "seed": 3}
    whole = restore(local, lq, None, RestoreOptions(**options))
    tiled = restore(local, lq, None, RestoreOptions(**options, tiling=TILING))
    assert (whole - tiled).abs().max() < 0.05 / 255


def test_a_network_that_looks_further_is_noticed(local):
    """The comparison can fail: with a margin that is too narrow, tiles differ."""
    lq = torch.rand(1, 3, 256, 256)
    local.network.down.weight.data.mul_(4)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    narrow = Tiling(tile_px=128, overlap_px=8, multiple_px=8)
    assert narrow.margin_px == 2
    whole = restore(local, lq, None, RestoreOptions(steps=1))
    tiled = restore(local, lq, None, RestoreOptions(steps=1, tiling=narrow))
    assert (whole - tiled).abs().max() > 1e-4


def test_tiles_share_one_pair_of_contexts(small, monkeypatch):
    contexts, seen = (torch.rand(1, 5), torch.rand(1, 5)), []
    predict = small.predict

    def look(state, lq, time, given):
        seen.append(given)
        return predict(state, lq, time, given)

    monkeypatch.setattr(small, "predict", look)
    restore(small, torch.rand(1, 3, 140, 40), contexts, RestoreOptions(steps=2, tiling=TILING))
    assert len(seen) == 4
    assert all(given is contexts for given in seen)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (17, 33), (130, 3)])
def test_pictures_of_any_size_are_restored_and_a_seed_repeats_a_run(small, size_hw):
    lq, contexts = torch.rand(2, 3, *size_hw), (torch.rand(2, 5), torch.rand(2, 5))
    runs = [
        restore(small, lq, contexts, RestoreOptions(steps=3, sampler="posterior", seed=seed, tiling=TILING))
        for seed in (5, 5, 6)
    ]
    assert runs[0].shape == lq.shape
    assert runs[0].min() >= 0
    assert runs[0].max() <= 1
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_options_out_of_range_are_refused():
    for wrong, sentence in (
        ({"steps": 0}, "1 step or more"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"seed": -1}, "must not be negative"),
    ):
        with pytest.raises(ValueError, match=sentence):
            RestoreOptions(**wrong)


def test_draws_of_one_run_differ():
    draws = [pixel_noise(0, draw, (4, 4)) for draw in range(6)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(draws, 2))
