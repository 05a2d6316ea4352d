"""Tiles, the noise of pixels, and the sampler over whole pictures."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from clipsr_serving.errors import ArtifactError
from clipsr_serving.restoration import SamplerSettings, Tiling, read_sampler, restore
from clipsr_serving.restoration._noise import pixel_noise
from clipsr_serving.restoration._tiles import map_tiles

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
    map_tiles(lambda tile: seen.append(tile) or np.zeros(1), (128, 128), TILING)
    assert seen == [(0, 128, 0, 128)]


@pytest.mark.parametrize("wrong", [(100, 32, 8), (128, 30, 8), (128, 128, 8), (128, 0, 8)])
def test_tilings_that_do_not_fit_are_refused(wrong):
    tile, overlap, multiple = wrong
    with pytest.raises(ValueError, match="tiles of"):
        Tiling(tile_px=tile, overlap_px=overlap, multiple_px=multiple)


# Three steps of the reverse ODE, of first order; a run of one step is the prediction itself.
LAST = {"time": 40.0, "state": 0.0, "clean": 1.0, "previous": 0.0, "lq": 0.0}
FIRST = {"time": 100.0, "state": 0.9, "clean": 0.4, "previous": 0.0, "lq": -0.3}
SECOND = {"time": 70.0, "state": 0.8, "clean": 0.5, "previous": -0.2, "lq": -0.1}
SETTINGS = SamplerSettings.model_validate(
    {
        **{"noise_level": 50 / 255, "multiple_px": 8, "tile_px": 128, "overlap_px": 32},
        "plans": ((LAST,), (FIRST, LAST), (FIRST, SECOND, LAST)),
    },
    strict=False,
)


def blur(reach):
    """A network that depends on `reach` pixels around each."""

    def predict(state, lq, time):
        assert state.shape == lq.shape
        assert state.shape[1] % 8 == state.shape[2] % 8 == 0
        return np.tanh(ndimage.uniform_filter(0.5 * state + lq * time / 100, (1, 2 * reach + 1, 2 * reach + 1)))

    return predict


def picture(size_hw):
    return np.random.default_rng(0).integers(0, 256, (3, *size_hw), dtype=np.uint8)


def whole(settings=SETTINGS):
    """The same sampler, with tiles larger than any picture of these tests."""
    return settings.model_copy(update={"tile_px": 1024})


@pytest.mark.parametrize("size_hw", [(512, 512), (301, 517)])
def test_tiles_are_the_whole_picture_where_a_network_depends_on_no_more_than_the_margin(size_hw):
    lq = picture(size_hw)
    tiled, at_once = (restore(lq, blur(2), settings, steps=3, seed=3) for settings in (SETTINGS, whole()))
    assert np.abs(tiled - at_once).max() < 0.05 / 255
    assert np.abs(at_once - lq / 255).max() > 0.1


def test_a_network_that_depends_on_more_is_noticed():
    """The comparison can fail: with a margin that is too narrow, tiles differ."""
    lq, narrow = picture((256, 256)), SETTINGS.model_copy(update={"overlap_px": 8})
    assert narrow.tiling.margin_px == 2
    tiled, at_once = (restore(lq, blur(5), settings, steps=1, seed=0) for settings in (narrow, whole()))
    assert np.abs(tiled - at_once).max() > 1e-4


def test_steps_are_weighted_sums():
    lq = picture((16, 24))
    damaged = lq / np.float32(255)
    state = damaged + np.float32(50 / 255) * pixel_noise(5, 0, (16, 24))
    first = blur(1)(state, damaged, 100.0)
    state = 0.9 * state + 0.4 * first - 0.3 * damaged
    second = blur(1)(state, damaged, 70.0)
    state = 0.8 * state + 0.5 * second - 0.2 * first - 0.1 * damaged
    expected = np.clip(blur(1)(state, damaged, 40.0), 0, 1)
    assert np.allclose(restore(lq, blur(1), SETTINGS, steps=3, seed=5), expected, atol=1e-6)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (17, 33), (130, 3)])
def test_pictures_of_any_size_are_restored_and_a_seed_repeats_a_run(size_hw):
    lq = picture(size_hw)
    runs = [restore(lq, blur(2), SETTINGS, steps=2, seed=seed) for seed in (2**64 - 1, 2**64 - 1, 6)]
    assert runs[0].shape == lq.shape
    assert runs[0].min() >= 0
    assert runs[0].max() <= 1
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "can't be read"),
        ("{", "Invalid JSON"),
        (SETTINGS.model_dump_json().replace('"tile_px":128', '"tile_px":100'), "must be multiples of 8 px"),
        (SETTINGS.model_dump_json().replace('"state":0.9', '"state":NaN'), "finite number"),
        (SETTINGS.model_dump_json().replace('"noise_level"', '"noise"'), "Field required"),
    ],
)
def test_a_sampler_that_is_none_is_refused(tmp_path, text, sentence):
    path = tmp_path / "sampler.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match=sentence):
        read_sampler(path)


def test_a_sampler_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "sampler.json"
    path.write_text(SETTINGS.model_dump_json())
    assert read_sampler(path) == SETTINGS


def test_draws_of_one_run_differ():
    draws = [pixel_noise(0, draw, (4, 4)) for draw in range(6)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(draws, 2))
