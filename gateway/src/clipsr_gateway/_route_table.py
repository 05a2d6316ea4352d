"""Which route an image takes by itself: the table that a manifest holds, and what it asks of an image.

Gateway, serving and evaluation have a copy each, as each is installed by itself; a test holds the copies together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

RouteTaken = Literal["upscaled", "native"]

# Noise is looked for in the middle of an image, and not at all in one that takes longer to decode than to classify.
_NOISE_SIDE_PX = 32
_MOST_DECODED_PIXELS = 128 * 128
# The median of the absolute value of a normal variable, in standard deviations.
_MEDIAN_OF_NORMAL = 0.6745
# Brands of HEIC and AVIF files, all of which are lossy in practice, follow this.
_ISO_MEDIA = slice(4, 8)


@dataclass(frozen=True, kw_only=True)
class RouteRule:
    """The route of small images of one kind, and what it was chosen by.

    Attributes:
        max_side_px: applies up to this shorter side, above that of the rules before.
        is_lossy: applies to JPEG, lossy WebP, AVIF and HEIC files; otherwise to all others.
        max_noise: applies up to this noise in the colours as `estimate_noise` finds it, above that of the rule before;
            None to any.
        route: the one that answers more thumbnails as the native route answers their photos.
        upscaled_agreement: share of equal answers by super-resolution.
        native_agreement: share of equal answers by the native route.
        n_images: thumbnails that both answered.
    """

    max_side_px: int
    is_lossy: bool
    max_noise: float | None = None
    route: RouteTaken
    upscaled_agreement: float
    native_agreement: float
    n_images: int


@dataclass(frozen=True, kw_only=True)
class RouteTable:
    """What decides the route of an image for which the caller names none.

    Attributes:
        native_min_side_px: shorter side from which images take the native route, where there are no rules.
        rules: ascending by size, then by noise; what none names takes the native route.
    """

    native_min_side_px: int
    rules: tuple[RouteRule, ...] = ()

    @classmethod
    def make(cls, native_min_side_px: int, rules: Iterable[Mapping[str, Any]]) -> RouteTable:
        """Make a table of the fields of a manifest.

        Raises:
            TypeError: a rule lacks a field, or has another.
        """
        made = [RouteRule(**rule) for rule in rules]
        made.sort(key=lambda rule: (rule.max_side_px, float("inf") if rule.max_noise is None else rule.max_noise))
        return cls(native_min_side_px=native_min_side_px, rules=tuple(made))

    def choose(
        self, content: bytes, size_hw: tuple[int, int], read_pixels: Callable[[], npt.NDArray[np.uint8]]
    ) -> RouteTaken:
        """Return the route of an image.

        Args:
            content: the file.
            size_hw: its rows and columns.
            read_pixels: decodes it to RGB [H, W, 3]; called only where the noise decides.
        """
        side_px = min(size_hw)
        if not self.rules:
            return "native" if side_px >= self.native_min_side_px else "upscaled"
        lossy = is_lossy(content)
        fitting = [rule for rule in self.rules if rule.is_lossy == lossy and side_px <= rule.max_side_px]
        nearest = [rule for rule in fitting if rule.max_side_px == fitting[0].max_side_px]
        noise = 0.0
        if len({rule.route for rule in nearest}) > 1 and size_hw[0] * size_hw[1] <= _MOST_DECODED_PIXELS:
            noise = estimate_noise(read_pixels())
        rule = next((rule for rule in nearest if rule.max_noise is None or noise <= rule.max_noise), None)
        return "native" if rule is None else rule.route


def is_lossy(content: bytes) -> bool:
    """Say whether a file's format loses something: JPEG, WebP's codec "VP8 " (RFC 9649), AVIF or HEIC."""
    if content.startswith(b"\xff\xd8"):
        return True
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return b"VP8 " in content[12:64]
    return content[_ISO_MEDIA] == b"ftyp"


def estimate_noise(pixels: npt.NDArray[np.uint8]) -> float:
    """Estimate the standard deviation of white noise in each colour channel, in levels of 255.

    Measured where photos have least: the diagonal detail of the differences between channels, whose median absolute
    value edges don't move. Noise that is equal in all channels, or that chroma subsampling removed, is not seen.

    Args:
        pixels: RGB [H, W, 3].

    Source: Donoho and Johnstone 1994, section 4 (the median of the finest wavelet coefficients), on Haar's.
    """
    rows, columns = (min(n, _NOISE_SIDE_PX) // 2 * 2 for n in pixels.shape[:2])
    if not rows or not columns:
        return 0.0
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    middle = pixels[top : top + rows, left : left + columns].astype(np.int16)
    difference = middle[..., :2] - middle[..., 1:]
    lines = difference[::2] - difference[1::2]
    size = np.abs(lines[:, ::2] - lines[:, 1::2]).ravel()
    # The sum of eight samples of noise: four pixels of two channels. numpy's median takes three times as long.
    return float(np.partition(size, size.size // 2)[size.size // 2]) / (_MEDIAN_OF_NORMAL * 8**0.5)
