"""How outputs are divided into tiles, by arithmetic alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsr_gateway._images.tiles import AxisPlan, AxisTile, plan_axis, plan_tiles

sides = st.integers(1, 300)
# Quarters too: at 3.5 and 2.25, targets lie half way between two source pixels.
scales = st.integers(4, 56).map(lambda quarters: quarters / 4) | st.floats(1, 14)
reaches = st.none() | st.integers(0, 40)


def make_target(n_source: int, scale: float) -> int:
    return max(n_source, round(n_source * scale))


def source_interval(tile: AxisTile, n_source: int, n_target: int, tile_px: int) -> tuple[Fraction, Fraction]:
    """Where a tile begins and ends in the image, exactly."""
    start = Fraction(tile.target_start * n_source, n_target)
    return start, start + Fraction(tile_px * n_source, n_target)


@given(n_source=sides, scale=scales, tile_px=st.sampled_from([32, 64, 224]), halo_px=reaches)
def test_tiles_cover_the_output_and_lie_inside_it(n_source, scale, tile_px, halo_px):
    n_target = make_target(n_source, scale)
    plan = plan_axis(n_source, n_target, tile_px=tile_px, halo_px=halo_px)
    covered = np.zeros(n_target, dtype=int)
    for tile in plan.tiles:
        covered[tile.target_start : tile.target_start + tile_px] += 1
        assert n_target <= tile_px or tile.target_start + tile_px <= n_target
    assert covered.min() >= 1
    assert len(plan.tiles) == max(1, -(-n_target // tile_px))


@given(n_source=sides, scale=scales, tile_px=st.sampled_from([32, 64, 224]), halo_px=reaches)
def test_every_box_is_where_the_tile_is(n_source, scale, tile_px, halo_px):
    """Samples of one continuous image: all boxes have the same extent, and begin where their first target does."""
    n_target = make_target(n_source, scale)
    plan = plan_axis(n_source, n_target, tile_px=tile_px, halo_px=halo_px)
    for tile in plan.tiles:
        start, end = source_interval(tile, n_source, n_target, tile_px)
        assert plan.box_length == pytest.approx(float(end - start), rel=1e-12)
        shift = tile.window_start + tile.box_start - start
        assert 0 < shift <= plan.window_size * 2.0**-19


@given(n_source=sides, scale=scales, tile_px=st.sampled_from([32, 64, 224]), halo_px=st.integers(0, 40))
def test_a_window_shows_all_that_the_model_sees(n_source, scale, tile_px, halo_px):
    n_target = make_target(n_source, scale)
    plan = plan_axis(n_source, n_target, tile_px=tile_px, halo_px=halo_px)
    for tile in plan.tiles:
        start, end = source_interval(tile, n_source, n_target, tile_px)
        first, last = tile.window_start, tile.window_start + plan.window_size
        assert first >= 0
        assert last <= n_source
        assert first <= max(0, start // 1 - halo_px)
        assert last >= min(n_source, -(-end // 1) + halo_px)


@given(n_source=sides, scale=scales, tile_px=st.sampled_from([32, 64, 224]))
def test_a_target_half_way_between_two_pixels_belongs_to_the_upper_one(n_source, scale, tile_px):
    """In the graph's fp32: whatever tile renders it, and as floor(u + 1/2) says in exact arithmetic."""
    n_target = make_target(n_source, scale)
    plan = plan_axis(n_source, n_target, tile_px=tile_px, halo_px=19)
    for tile in plan.tiles:
        index = np.arange(min(tile_px, n_target))
        u = np.float32(tile.box_start) + (2 * index + 1).astype(np.float32) * np.float32(plan.box_length) / np.float32(
            2 * tile_px
        )
        u = u - np.float32(0.5)
        nearest = np.floor(u + np.float32(0.5)).astype(int) + tile.window_start
        exact = (2 * (tile.target_start + index) + 1) * n_source // (2 * n_target)
        assert (nearest == exact).all()


def test_by_hand():
    """160 -> 560 pixels: 3.5, tiles of 64 cover 128/7 source pixels; the last one ends with the image."""
    plan = plan_axis(160, 560, tile_px=64, halo_px=19)
    assert plan.window_size == 19 + 1 + 38
    assert plan.box_length == pytest.approx(64 / 3.5)
    assert [tile.target_start for tile in plan.tiles] == [0, 64, 128, 192, 256, 320, 384, 448, 496]
    assert [tile.window_start for tile in plan.tiles] == [0, 0, 17, 35, 54, 72, 90, 102, 102]


def test_an_output_smaller_than_a_tile_hangs_over():
    plan = plan_axis(10, 20, tile_px=64, halo_px=19)
    assert plan == AxisPlan(window_size=10, box_length=32.0, tiles=plan.tiles)
    assert len(plan.tiles) == 1


def test_without_a_reach_every_tile_sees_the_whole_axis():
    plan = plan_axis(1000, 4000, tile_px=64, halo_px=None)
    assert plan.window_size == 1000
    assert {tile.window_start for tile in plan.tiles} == {0}


def test_windows_boxes_and_pasting():
    plan = plan_tiles((40, 30), (130, 70), tile_px=64, halo_px=2)
    assert len(plan) == len(list(plan)) == 3 * 2
    source = np.arange(3 * 40 * 30, dtype=np.uint32).reshape(3, 40, 30).astype(np.uint8)
    target = np.zeros((3, 130, 70), np.uint8)
    for tile in plan:
        assert plan.window(source, tile).shape == (3, plan.rows.window_size, plan.columns.window_size)
        top, left, height, width = plan.box(tile)
        assert top >= 0
        assert top + height <= plan.rows.window_size + 1e-3
        assert left >= 0
        assert left + width <= plan.columns.window_size + 1e-3
        plan.paste(target, tile, np.full((3, 64, 64), 7, np.uint8))
    assert (target == 7).all()
