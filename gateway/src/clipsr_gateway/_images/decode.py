"""An image file becomes planes of pixels, nothing of it thrown away that the model could render."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsr_gateway._images.cpu_limit import DECODE_CPU_S, limit_cpu
from clipsr_gateway._images.file import ImageFileError, load_image, make_upright, to_eight_bits
from clipsr_gateway.errors import ImageRejectedError

# Pixels around what is visible that take on its colours. Interpolation reaches two pixels; the encoder looks further,
# but its result fades with distance.
_BLEED_PX = 8

_GREY_MODES = ("1", "L", "LA", "La")

# ICC.1:2022, section 7.2: the header of a profile, its signature, and the colour space of what it describes.
_PROFILE_HEADER_BYTES = 128
_PROFILE_SIGNATURE = slice(36, 40)
_PROFILE_COLOR_SPACE = slice(16, 20)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Decoded pixels.

    Attributes:
        color: UINT8 [3, H, W] RGB, or [1, H, W] grey; straight, not multiplied by alpha.
        alpha: UINT8 [1, H, W], 255 is opaque; None if the file has no transparency.
        icc_profile: the embedded colour profile, if it describes `color`.
    """

    color: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.uint8] | None
    icc_profile: bytes | None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.color.shape[1], self.color.shape[2]

    @property
    def is_grey(self) -> bool:
        """Whether `color` is one plane."""
        return self.color.shape[0] == 1

    @property
    def is_opaque(self) -> bool:
        """Whether nothing is lost without the alpha."""
        return self.alpha is None or bool((self.alpha == 255).all())


def decode(content: bytes) -> Picture:
    """Decode a file whose header `check_image` has accepted.

    The first frame of animations; EXIF orientation applied; 16-bit scaled to 8-bit; palettes and CMYK become RGB. The
    colours of pixels that cannot be seen at all, often black, give way to those of their visible neighbours: upscaled,
    they would show as a fringe.

    What takes more than DECODE_CPU_S of processor time ends the process.

    Raises:
        ImageRejectedError: IMAGE_TRUNCATED or IMAGE_UNRECOGNIZED.
    """
    with limit_cpu(DECODE_CPU_S):
        image = _load(content)
    try:
        profile = _find_profile(image)
        image = to_eight_bits(image) if image.mode.startswith("I") else image
        has_alpha, is_grey = image.has_transparency_data, image.mode in _GREY_MODES
        if image.mode == "F":
            raise ValueError("floating-point pixels have no defined range")
        planes = np.asarray(image.convert("RGBA" if has_alpha else "RGB"), dtype=np.uint8).transpose(2, 0, 1)
    except ValueError as cause:
        message = f"Pixels of the kind {image.mode!r} cannot be upscaled; save the image with 8 bits a channel."
        raise ImageRejectedError("IMAGE_UNRECOGNIZED", message) from cause
    color, alpha = planes[: 1 if is_grey else 3], planes[3:] if has_alpha else None
    if alpha is not None:
        color = _bleed(color, alpha[0])
    return Picture(color=color, alpha=alpha, icc_profile=profile)


def decode_on_white(content: bytes) -> npt.NDArray[np.uint8]:
    """Decode a small file to RGB [H, W, 3] as classification sees it: what is transparent is white.

    Raises:
        ImageRejectedError: IMAGE_TRUNCATED or IMAGE_UNRECOGNIZED.
    """
    image = _load(content)
    try:
        image = to_eight_bits(image) if image.mode.startswith("I") else image
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(image.convert("RGB"))
    except ValueError as cause:
        raise ImageRejectedError("IMAGE_UNRECOGNIZED", f"Pixels of the kind {image.mode!r} are unknown.") from cause


def _load(content: bytes) -> Image.Image:
    try:
        return make_upright(load_image(content, max_pixels=sys.maxsize))
    except ImageFileError as cause:
        raise ImageRejectedError(cause.reason, cause.message) from cause


def _find_profile(image: Image.Image) -> bytes | None:
    """Return the colour profile if it is sound and describes what the pixels become, grey or RGB."""
    profile: object = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or len(profile) <= _PROFILE_HEADER_BYTES:
        return None
    space = b"GRAY" if image.mode in _GREY_MODES or image.mode.startswith("I") else b"RGB "
    is_sound = profile[_PROFILE_SIGNATURE] == b"acsp"
    return profile if is_sound and profile[_PROFILE_COLOR_SPACE] == space else None


def _bleed(color: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give fully transparent pixels near visible ones the mean colour of their neighbours, ring by ring.

    Args:
        color: [C, H, W].
        alpha: [H, W].
    """
    known = alpha > 0
    if known.all() or not known.any():
        return color
    filled = color.copy()
    for _ in range(_BLEED_PX):
        count = _sum_of_neighbours(known.astype(np.uint8))
        ring = (count > 0) & ~known
        if not ring.any():
            break
        for plane in filled:
            total = _sum_of_neighbours(np.where(known, plane, 0).astype(np.uint16))
            plane[ring] = (total[ring] // count[ring]).astype(np.uint8)
        known |= ring
    return filled


def _sum_of_neighbours(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sum over the 3x3 neighbourhood, zero beyond the border, in the type of `plane`."""
    rows, columns = plane.shape
    padded = np.pad(plane, 1)
    shifts = [(row, column) for row in range(3) for column in range(3)]
    total = np.zeros_like(plane)
    for row, column in shifts:
        total += padded[row : row + rows, column : column + columns]
    return total
