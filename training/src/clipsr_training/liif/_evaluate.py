"""Super-resolution quality by the published conventions: PSNR on Y, the border of `scale` pixels left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipsr_training.liif._data import IMAGE_SUFFIXES, read_image
from clipsr_training.liif._model import Upscaler

# Luma of ITU-R BT.601 in studio range, on RGB in [0, 1]; the result is in [16, 235].
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
_LUMA_OFFSET = 16.0


@dataclass(frozen=True, kw_only=True)
class SrScore:
    """Mean PSNR on Y of one method on one set at one scale, in dB."""

    scale: int
    n_images: int
    bicubic_psnr_db: float
    model_psnr_db: float


def luma(rgb: np.ndarray) -> np.ndarray:
    """Return Y in [16, 235] of RGB uint8 [H, W, 3], as float64 [H, W]."""
    return rgb.astype(np.float64) / 255 @ np.array(_LUMA_WEIGHTS) + _LUMA_OFFSET


def psnr_y(sr: np.ndarray, hr: np.ndarray, shave: int) -> float:
    """Return PSNR in dB on Y between two uint8 RGB images, `shave` pixels of every border left out.

    Raises:
        ValueError: the sizes differ, or nothing is left inside the border.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"sizes differ: {sr.shape} and {hr.shape}")
    if min(hr.shape[:2]) <= 2 * shave:
        raise ValueError(f"an image of {hr.shape[0]}x{hr.shape[1]} has nothing left inside a border of {shave}")
    inside = (slice(shave, -shave or None),) * 2
    mse = np.square(luma(sr)[inside] - luma(hr)[inside]).mean()
    return float(10 * np.log10(255**2 / mse)) if mse > 0 else float("inf")


def resize(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize uint8 RGB by cubic interpolation (a = -1/2), antialiased when it reduces, as MATLAB's imresize does."""
    return np.asarray(Image.fromarray(image).resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC))


@torch.inference_mode()
def upscale_uint8(model: Upscaler, lr: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Upscale uint8 RGB [H, W, 3] and round to uint8."""
    sr = model.upscale(torch.from_numpy(lr.transpose(2, 0, 1).copy()), size_hw)
    return (sr.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def evaluate_sr(model: Upscaler, folder: Path, scales: Sequence[int]) -> list[SrScore]:
    """Measure a model on a folder of high-resolution images.

    Each image is cut to a multiple of the scale, reduced by it, and upscaled back.

    Raises:
        FileNotFoundError: the folder holds no image.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"no images in {folder}")
    images = [read_image(path) for path in paths]
    return [_evaluate_scale(model, images, scale) for scale in scales]


def _evaluate_scale(model: Upscaler, images: Sequence[np.ndarray], scale: int) -> SrScore:
    psnr: Mapping[str, list[float]] = {"bicubic": [], "model": []}
    for image in images:
        height, width = (n // scale * scale for n in image.shape[:2])
        hr = image[:height, :width]
        lr = resize(hr, (height // scale, width // scale))
        psnr["bicubic"].append(psnr_y(resize(lr, (height, width)), hr, scale))
        psnr["model"].append(psnr_y(upscale_uint8(model, lr, (height, width)), hr, scale))
    return SrScore(
        scale=scale,
        n_images=len(images),
        bicubic_psnr_db=float(np.mean(psnr["bicubic"])),
        model_psnr_db=float(np.mean(psnr["model"])),
    )
