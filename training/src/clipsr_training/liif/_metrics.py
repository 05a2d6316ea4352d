"""PSNR and SSIM between 8-bit images, by the conventions under which super-resolution is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

ConventionName = Literal["benchmark", "div2k"]

# Luma of ITU-R BT.601 in studio range, on RGB in [0, 1]; the result is in [16, 235].
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
_LUMA_OFFSET = 16.0
# Wang et al. 2004, section III-B and III-C: an 11x11 Gaussian window, K1 and K2, 8-bit dynamic range.
_SSIM_SIDE = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = (0.01 * 255) ** 2
_SSIM_C2 = (0.03 * 255) ** 2


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Which channels are compared, and how much of the border is left out.

    Attributes:
        name: "benchmark" (Set5, Set14, ...: Y, shave = scale) or "div2k" (RGB, shave = scale + 6).

    Source: Chen et al. 2021 (LIIF), section 4.2, after Lim et al. 2017 (EDSR).
    """

    name: ConventionName = "benchmark"

    def shave(self, scale: int) -> int:
        """Return how many pixels of every border are left out."""
        return scale if self.name == "benchmark" else scale + 6

    def channels(self, rgb: np.ndarray) -> np.ndarray:
        """Return what is compared of RGB uint8 [H, W, 3]: float64 [C, H, W] in 8-bit levels."""
        return luma(rgb)[None] if self.name == "benchmark" else rgb.transpose(2, 0, 1).astype(np.float64)

    def fits(self, size_hw: tuple[int, int], scale: int) -> bool:
        """Whether an image, cut to a multiple of the scale, leaves an SSIM window inside its border."""
        return min(n // scale * scale for n in size_hw) - 2 * self.shave(scale) >= _SSIM_SIDE

    def compare(self, sr: np.ndarray, hr: np.ndarray, scale: int) -> tuple[float, float]:
        """Return (PSNR in dB, SSIM) between two RGB uint8 images.

        Raises:
            ValueError: the sizes differ, or nothing is left to compare inside the border.
        """
        if sr.shape != hr.shape:
            raise ValueError(f"sizes differ: {sr.shape} and {hr.shape}")
        if not self.fits((hr.shape[0], hr.shape[1]), scale):
            raise ValueError(
                f"an image of {hr.shape[0]}x{hr.shape[1]} has less than {_SSIM_SIDE} px inside a border of "
                f"{self.shave(scale)}"
            )
        border = self.shave(scale)
        inside = slice(border, -border)
        a, b = (self.channels(image[inside, inside]) for image in (sr, hr))
        return psnr(a, b), ssim(a, b)


def luma(rgb: np.ndarray) -> np.ndarray:
    """Return Y in [16, 235] of RGB uint8 [H, W, 3], as float64 [H, W]."""
    return rgb.astype(np.float64) / 255 @ np.array(_LUMA_WEIGHTS) + _LUMA_OFFSET


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return PSNR in dB between two arrays in 8-bit levels; infinite where they are equal."""
    mse = np.square(a - b).mean()
    return float(10 * np.log10(255**2 / mse)) if mse > 0 else float("inf")


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean SSIM of two arrays [C, H, W] in 8-bit levels, over windows that lie wholly inside.

    Source: Wang et al. 2004, equation 13, with the weights of section III-C.
    """
    return float(np.mean([_ssim_channel(x, y) for x, y in zip(a, b, strict=True)]))


def _ssim_channel(a: np.ndarray, b: np.ndarray) -> float:
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    denominator = (mean_a**2 + mean_b**2 + _SSIM_C1) * (variance_a + variance_b + _SSIM_C2)
    return float((numerator / denominator).mean())


def _blur(channel: np.ndarray) -> np.ndarray:
    """Weigh by the Gaussian window, one axis after the other; [H, W] -> [H - 10, W - 10]."""
    offset = np.arange(_SSIM_SIDE) - _SSIM_SIDE // 2
    kernel = np.exp(-0.5 * (offset / _SSIM_SIGMA) ** 2)
    kernel /= kernel.sum()
    rows, columns = (n - _SSIM_SIDE + 1 for n in channel.shape)
    # Shifted sums, not a dense product of windows: memory stays that of a few images. A dense 11x11 convolution of 64
    # bits, as torchmetrics has it, takes 13 GB and 45 times as long on an image of DIV2K.
    tall = sum(weight * channel[i : i + rows] for i, weight in enumerate(kernel))
    assert isinstance(tall, np.ndarray)
    return np.asarray(sum(weight * tall[:, i : i + columns] for i, weight in enumerate(kernel)))
