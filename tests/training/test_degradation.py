"""Reductions, degradations, files and chains: against PyTorch and Pillow, by their properties, and draw by draw."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from clipsr_training import degradation
from clipsr_training.degradation import (
    BEYOND,
    CLEAN,
    DEGRADATIONS,
    KERNELS,
    KINDS,
    SEVERITIES,
    Chain,
    FileFormat,
    Thumbnail,
    apply_chain,
    degrade,
    draw_thumbnail,
    generator,
    make_thumbnail,
    read_pixels,
    reduce,
    reduce_in_steps,
    save,
    strength_of,
    write_pixels,
)
from clipsr_training.degradation._pixels import convolve, line, path_kernel


def photo(size_hw: tuple[int, int] = (96, 128), seed: int = 0) -> np.ndarray:
    """Something between noise and a flat colour: smooth regions with edges."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC)
    pixels = np.array(smooth)
    pixels[size_hw[0] // 3 : size_hw[0] // 2, size_hw[1] // 4 : size_hw[1] // 2] = (220, 40, 60)
    return pixels


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = np.square(a.astype(float) - b.astype(float)).mean()
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


# Reductions


@pytest.mark.parametrize(("kernel", "mode"), [("aliased-bilinear", "bilinear"), ("aliased-bicubic", "bicubic")])
@pytest.mark.parametrize("size_hw", [(24, 24), (7, 31), (95, 127), (200, 150)])
def test_a_reduction_without_antialiasing_is_what_pytorch_does(kernel, mode, size_hw):
    pixels = photo()
    values = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = functional.interpolate(values, size_hw, mode=mode, align_corners=False, antialias=False)
    expected = expected[0].permute(1, 2, 0).clamp(0, 255).numpy()
    found = reduce(pixels, size_hw, kernel)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3  # rounding to levels


def test_nearest_takes_the_pixel_under_each_centre():
    pixels = photo()
    assert np.array_equal(reduce(pixels, (24, 32), "nearest"), pixels[2::4, 2::4])


def test_area_is_the_mean_of_the_pixels_below():
    pixels = photo()
    blocks = pixels.reshape(24, 4, 32, 4, 3).mean(axis=(1, 3))
    # Pillow rounds after the columns and after the rows.
    assert np.abs(reduce(pixels, (24, 32), "area") - blocks).max() <= 1 + 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_antialiasing_removes_what_a_small_picture_cannot_hold(kernel):
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    # Twice below the stripes' frequency and off any common divisor: what shows is aliasing.
    contrast = np.ptp(reduce(stripes, (19, 19), kernel)[9, 3:-3, 0].astype(float))
    is_antialiased = kernel in ("bicubic", "area", "lanczos", "bilinear")
    assert (contrast < 40) == is_antialiased, contrast


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_flat_image_stays_flat_at_any_size(kernel):
    flat = np.full((50, 70, 3), (10, 128, 250), dtype=np.uint8)
    for size_hw in ((1, 1), (8, 8), (33, 65), (50, 70), (80, 90)):
        assert (reduce(flat, size_hw, kernel) == (10, 128, 250)).all()
    assert reduce(flat, (50, 70), kernel) is flat
    with pytest.raises(ValueError, match="0x8 px"):
        reduce(flat, (0, 8), kernel)


def test_two_steps_are_two_reductions():
    pixels = photo()
    steps = (((48, 64), "area"), ((12, 16), "aliased-bilinear"))
    found = reduce_in_steps(pixels, steps)
    assert np.array_equal(found, reduce(reduce(pixels, (48, 64), "area"), (12, 16), "aliased-bilinear"))
    assert not np.array_equal(found, reduce(pixels, (12, 16), "aliased-bilinear"))


# The ten degradations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_hw", [(32, 32), (96, 128)])
def test_a_draw_is_a_function_of_seed_image_and_kind(kind, size_hw):
    pixels = photo(size_hw)
    kept = pixels.copy()
    for severity in (*SEVERITIES, BEYOND):
        strength = strength_of(severity)
        once, again = (degrade(pixels, kind, strength, generator(3, 17, kind)) for _ in range(2))
        assert once.dtype == np.uint8
        assert once.shape == pixels.shape
        assert np.array_equal(once, again)
    assert np.array_equal(pixels, kept), "the input is left alone"


@pytest.mark.parametrize("kind", [kind for kind in DEGRADATIONS if kind != "jpeg-compressed"])
def test_images_and_seeds_get_draws_of_their_own(kind):
    pixels, strength = photo(), strength_of(3)
    first = degrade(pixels, kind, strength, generator(0, 0, kind))
    assert not np.array_equal(first, degrade(pixels, kind, strength, generator(0, 1, kind)))
    assert not np.array_equal(first, degrade(pixels, kind, strength, generator(1, 0, kind)))


def test_kinds_are_drawn_independently():
    assert generator(0, 0, "noisy").random() != generator(0, 0, "rainy").random()


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_damage_grows_with_severity(kind):
    def mean_psnr(severity: int) -> float:
        draws = range(12)
        return np.mean(
            [psnr(p := photo(seed=i), degrade(p, kind, strength_of(severity), generator(0, i, kind))) for i in draws]
        ).item()

    quality = [mean_psnr(severity) for severity in (1, 3, 5, BEYOND)]
    assert quality == sorted(quality, reverse=True), quality
    assert quality[0] < 45, "severity 1 shows"
    assert quality[3] > 4, "something is left at severity 6"


def test_clean_is_what_nobody_calls_damaged():
    pixels = photo()
    found = [psnr(pixels, degrade(pixels, CLEAN, 0.5, generator(0, i, CLEAN))) for i in range(12)]
    assert min(found) > 34
    assert float("inf") in found, "some draws leave it alone"
    assert min(found) < float("inf"), "and some do not"


@pytest.mark.parametrize("kind", ["motion-blurry", "raindrop", "uncompleted", "shadowed", "snowy", "rainy"])
def test_lengths_are_relative_to_the_size(kind):
    """The same share of an image is damaged whatever its size."""
    changed = []
    for side in (48, 192):
        shares = []
        for i in range(16):
            pixels = photo((side, side), seed=i)
            damaged = degrade(pixels, kind, strength_of(3), generator(0, i, kind))
            shares.append(np.abs(damaged.astype(int) - pixels).mean())
        changed.append(np.mean(shares))
    assert changed[0] == pytest.approx(changed[1], rel=0.45), changed


def test_strengths_are_midpoints_of_fifths_and_one_beyond():
    assert [strength_of(severity) for severity in (1, 2, 3, 4, 5, 6)] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1.25])
    for severity in (0, 7):
        with pytest.raises(ValueError, match="severities are 1 to 6"):
            strength_of(severity)
    with pytest.raises(ValueError, match="strength"):
        degrade(photo(), "noisy", 2.0, generator(0, 0, "noisy"))


def test_noise_has_the_deviation_of_its_range():
    grey = np.full((128, 128, 3), 128, dtype=np.uint8)
    # Among these draws are the grey and the Poisson form as well.
    for i in range(20):
        noise = degrade(grey, "noisy", 0.5, generator(0, i, "noisy")).astype(float) - 128
        assert noise.std() == pytest.approx(30, rel=0.05)


def test_strokes_cover_their_share():
    black = np.zeros((128, 128, 3), dtype=np.uint8)
    for strength, share in ((0.0, 0.08), (1.0, 0.45)):
        covered = np.mean(
            [(degrade(black, "uncompleted", strength, generator(0, i, "u")) == 255).mean() for i in range(9)]
        )
        # The last stroke may reach beyond the share.
        assert share <= covered <= share + 0.04


def test_haze_is_koschmieders_model_between_scene_and_air():
    pixels = photo()
    hazed = degrade(pixels, "hazy", 1.0, generator(0, 0, "hazy")).astype(float)
    assert hazed.std() < 0.7 * pixels.std()
    assert hazed[:20].std() < hazed[-20:].std(), "farther away towards the top"
    assert hazed.mean() > pixels.mean()


def test_a_motion_kernel_is_as_long_as_asked_and_moves_nothing():
    for angle in (0.0, 0.4, np.pi / 2, 2.5):
        kernel = path_kernel(line(9.0, angle))
        rows, columns = (np.arange(n) - n // 2 for n in kernel.shape)
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        assert kernel.sum(axis=1) @ rows == pytest.approx(0, abs=1e-4)
        assert kernel.sum(axis=0) @ columns == pytest.approx(0, abs=1e-4)
        variance = kernel.sum(axis=1) @ rows**2 + kernel.sum(axis=0) @ columns**2
        # A uniform line of length L has L² / 12; bilinear splatting adds at most a quarter of a pixel an axis.
        assert 9**2 / 12 - 0.5 < variance < 9**2 / 12 + 1.2


def test_convolution_is_the_direct_sum_with_edges_repeated():
    rng = np.random.default_rng(0)
    values, kernel = rng.random((11, 13, 3), dtype=np.float32), rng.random((5, 3), dtype=np.float32)
    padded = np.pad(values, ((2, 2), (1, 1), (0, 0)), mode="edge")
    expected = sum(kernel[::-1, ::-1][i, j] * padded[i : i + 11, j : j + 13] for i in range(5) for j in range(3))
    assert np.abs(convolve(values, kernel) - expected).max() < 1e-4


# Files and chains


def test_files_are_what_they_say():
    pixels = photo()
    for form, magic in ((FileFormat(quality=75), b"\xff\xd8"), (FileFormat(codec="webp", quality=75), b"RIFF")):
        content = write_pixels(pixels, form)
        assert content.startswith(magic)
        assert np.array_equal(save(pixels, [form]), read_pixels(content))
    assert np.array_equal(save(pixels, []), pixels)
    with pytest.raises(ValueError, match="1 to 100"):
        FileFormat(quality=0)


def test_subsampling_costs_chroma_alone():
    pixels = photo()
    colour = np.zeros_like(pixels)
    colour[:, ::2, 0] = 255
    full, half = (save(colour, [FileFormat(quality=95, subsampling=s)]) for s in ("4:4:4", "4:2:0"))
    assert psnr(colour, full) > psnr(colour, half) + 3


def test_every_further_file_costs():
    pixels = photo(seed=2)
    once = save(pixels, [FileFormat(quality=60)])
    twice = save(pixels, [FileFormat(quality=60), FileFormat(codec="webp", quality=50)])
    assert psnr(pixels, twice) < psnr(pixels, once)


def test_a_chain_happens_in_its_physical_order():
    pixels = photo()
    thumbnail = Thumbnail(size_hw=(24, 32), kernel="aliased-bilinear", files=(FileFormat(quality=75),))
    chain = Chain(damages=(("rainy", 0.5), ("uncompleted", 0.5)), thumbnail=thumbnail)
    rained = degrade(pixels, "rainy", 0.5, generator(5, 2, "rainy"))
    small = make_thumbnail(rained, thumbnail, generator(5, 2, "thumbnail"))
    expected = degrade(small, "uncompleted", 0.5, generator(5, 2, "uncompleted"))
    assert np.array_equal(apply_chain(pixels, chain, 5, 2), expected)
    with pytest.raises(ValueError, match="in the order shadowed"):
        Chain(damages=(("noisy", 0.5), ("rainy", 0.5)))
    with pytest.raises(ValueError, match="at most once"):
        Chain(damages=(("rainy", 0.5), ("rainy", 0.5)))


def test_drawn_thumbnails_cover_what_thumbnails_meet():
    drawn = [draw_thumbnail(generator(0, i, "thumbnail"), (16, 16), (256, 256)) for i in range(2000)]
    assert drawn[:50] == [draw_thumbnail(generator(0, i, "thumbnail"), (16, 16), (256, 256)) for i in range(50)]
    shares = {kernel: np.mean([t.kernel == kernel for t in drawn]) for kernel in KERNELS}
    assert min(shares.values()) > 0.05
    assert sum(shares[k] for k in ("aliased-bilinear", "aliased-bicubic", "nearest")) == pytest.approx(0.26, abs=0.04)
    jpeg = [t for t in drawn if t.files and t.files[0].codec == "jpeg"]
    assert len(jpeg) / len(drawn) == pytest.approx(0.45, abs=0.04)
    assert {form.subsampling for t in jpeg for form in t.files} == {"4:2:0", "4:4:4"}
    assert any(len(t.files) == 2 for t in drawn)
    assert any(t.via for t in drawn)
    is_clean = [t == Thumbnail(size_hw=(16, 16)) for t in drawn]
    assert np.mean(is_clean) > 0.25


def test_noise_and_blur_of_a_thumbnail():
    pixels = photo()
    plain, blurred, noisy = (
        make_thumbnail(pixels, Thumbnail(size_hw=(48, 64), **more), generator(0, 0, "thumbnail"))
        for more in ({}, {"blur_px": 1.2}, {"noise": 6.0})
    )
    gradient = [np.abs(np.diff(image.astype(float), axis=1)).mean() for image in (blurred, plain, noisy)]
    assert gradient == sorted(gradient)


def _brightness(pixels: np.ndarray) -> float:
    return float(pixels.mean())


def _dark_channel(pixels: np.ndarray) -> float:
    """Near zero without haze (He et al. 2009)."""
    return float(np.quantile(pixels.min(axis=2), 0.1))


def _gradient(pixels: np.ndarray) -> float:
    return float(np.abs(np.diff(pixels[:128, :128].astype(float), axis=1)).mean())


def _white(pixels: np.ndarray) -> float:
    return float((pixels.min(axis=2) >= 250).mean())


@pytest.mark.parametrize(
    ("name", "kind", "statistic"),
    [
        ("179.png", "low-light", _brightness),
        ("0048_0.9_0.2.jpg", "hazy", _dark_channel),
        ("21077.png", "noisy", _gradient),
        ("00006.jpg", "uncompleted", _white),
    ],
)
def test_a_photo_damaged_by_the_world_lies_within_the_range(name, kind, statistic, data_dir):
    real = np.asarray(Image.open(data_dir / "degraded" / name).convert("RGB"))
    clean = [
        np.asarray(Image.open(path).convert("RGB").resize((160, 128), Image.Resampling.LANCZOS))
        for path in sorted((data_dir / "photos").rglob("*.jpg"))[:12]
    ]
    made = [
        [statistic(degrade(p, kind, strength_of(severity), generator(0, i, kind))) for i, p in enumerate(clean)]
        for severity in (1, BEYOND)
    ]
    mild, severe = (np.array(values) for values in made)
    assert min(mild.min(), severe.min()) <= statistic(real) <= max(mild.max(), severe.max())
    # And it is damaged: undamaged photos lie on the mild side of it.
    direction = np.sign(severe.mean() - mild.mean())
    assert direction * (statistic(real) - np.median([statistic(p) for p in clean])) > 0


def test_the_room_needs_numpy_scipy_and_pillow_alone():
    """Loaders run it in many processes: what it imports, each of them pays for."""
    imported: set[str] = set()
    for path in Path(degradation.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    roots = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert roots == {"numpy", "scipy", "PIL", "clipsr_training"}
    own = {name for name in imported if name.startswith("clipsr_training")}
    assert all(name.startswith("clipsr_training.degradation") for name in own)
