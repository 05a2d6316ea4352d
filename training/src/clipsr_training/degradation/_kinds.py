"""The ten degradations of the literature (DA-CLIP, Luo et al. 2024) and `clean`, each with its range of strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from clipsr_training.degradation import _lens, _scene
from clipsr_training.degradation._files import FileFormat, save
from clipsr_training.degradation._pixels import FloatArray, lerp, shorter_side, to_float, to_uint8

# In the order in which they happen to a picture: scene, lens, sensor, file; what covers pixels comes last.
Kind = Literal[
    "shadowed",
    "low-light",
    "hazy",
    "rainy",
    "snowy",
    "raindrop",
    "motion-blurry",
    "noisy",
    "jpeg-compressed",
    "uncompleted",
    "clean",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLEAN: Kind = "clean"
DEGRADATIONS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != CLEAN)

# Midpoints of the fifths of the training range; then one beyond it.
SEVERITIES = (1, 2, 3, 4, 5)
BEYOND = 6
_BEYOND_STRENGTH = 1.25

# Up to this side, JPEG's 16-px blocks of chroma cover so much that its quality must be higher.
_SMALL_PX = 64
_LOWEST_QUALITY = 4


def strength_of(severity: int) -> float:
    """Return the strength of a test severity: 0 to 1 is the training range, severity 6 lies a quarter beyond it.

    Raises:
        ValueError: there is no such severity.
    """
    if severity == BEYOND:
        return _BEYOND_STRENGTH
    if severity not in SEVERITIES:
        raise ValueError(f"severities are 1 to {BEYOND}, got {severity}")
    return (severity - 0.5) / len(SEVERITIES)


def degrade(pixels: np.ndarray, kind: Kind, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Damage an image in one way.

    Args:
        pixels: RGB uint8 [H, W, 3].
        kind: which.
        strength: 0 (mild) to 1 (severe) is the training range; at most 1.25. Without effect on `clean`.
        rng: of the draw; see `generator`.

    Returns:
        RGB uint8 [H, W, 3].

    Raises:
        ValueError: the strength is out of range.
    """
    if not 0 <= strength <= _BEYOND_STRENGTH:
        raise ValueError(f"a strength is 0 to {_BEYOND_STRENGTH:g}, got {strength:g}")
    return to_uint8(_MODELS[kind](to_float(pixels), strength, rng))


def _noisy(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Add white Gaussian noise; in 20 of 100 draws grey or Poisson noise of the same deviation at half the range."""
    sigma = lerp(10, 50, strength) / 255
    form = rng.random()
    if form < 0.1:
        return values + sigma * rng.standard_normal((*values.shape[:2], 1), dtype=np.float32)
    if form < 0.2:
        peak = 0.5 / sigma**2
        return (rng.poisson(values * peak) / peak).astype(np.float32)
    return values + sigma * rng.standard_normal(values.shape, dtype=np.float32)


def _jpeg_compressed(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    del rng
    mild, severe = (40, 8) if shorter_side(values) <= _SMALL_PX else (30, 5)
    quality = max(_LOWEST_QUALITY, round(lerp(mild, severe, strength)))
    return to_float(save(to_uint8(values), [FileFormat(quality=quality)]))


def _uncompleted(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Paint white strokes until they cover 8 to 45 % of the image, as the free-form masks of RePaint."""
    side, target = shorter_side(values), lerp(0.08, 0.45, strength)
    height, width = values.shape[:2]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    covered = 0.0
    while covered < target:
        row, column = rng.random(2) * (height, width)
        thickness = max(1, round(rng.uniform(0.05, 0.12) * side))
        angle = rng.uniform(0, 2 * np.pi)
        for _ in range(rng.integers(2, 6)):
            angle += rng.uniform(-1.2, 1.2)
            length = rng.uniform(0.1, 0.35) * side
            end = (row + length * np.sin(angle), column + length * np.cos(angle))
            draw.line((column, row, end[1], end[0]), fill=255, width=thickness)
            reach = thickness / 2
            draw.ellipse((end[1] - reach, end[0] - reach, end[1] + reach, end[0] + reach), fill=255)
            row, column = end
            covered = float(np.asarray(mask).mean()) / 255
            if covered >= target:
                break
    return np.where(np.asarray(mask)[..., None] > 0, np.float32(1), values)


def _clean(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Leave the image alone, or write it to a file of a quality that nobody calls damaged."""
    del strength
    choice, quality = int(rng.integers(3)), int(rng.integers(90, 99))
    if choice == 0:
        return values
    form = FileFormat(codec="jpeg" if choice == 1 else "webp", quality=quality, subsampling="4:4:4")
    return to_float(save(to_uint8(values), [form]))


_MODELS: dict[Kind, Callable[[FloatArray, float, np.random.Generator], FloatArray]] = {
    "shadowed": _scene.shadowed,
    "low-light": _scene.low_light,
    "hazy": _scene.hazy,
    "rainy": _scene.rainy,
    "snowy": _scene.snowy,
    "raindrop": _lens.raindrop,
    "motion-blurry": _lens.motion_blurry,
    "noisy": _noisy,
    "jpeg-compressed": _jpeg_compressed,
    "uncompleted": _uncompleted,
    "clean": _clean,
}
