"""What every call that returns a picture shares: its kind of file, what that cannot hold, and planes of grey."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsr.v1 import upscaler_pb2
from clipsr_gateway._images.decode import Picture, decode
from clipsr_gateway._images.encode import OUTPUT_FORMATS, OutputFormat, encode
from clipsr_gateway.errors import InvalidRequestError, Violation

CONTENT_FIELD = "image.content"
"""Path of the image's bytes in the request."""

# What the wire adds to the file: tags, lengths, sizes, kinds of damage, timing, a digest of 71 characters.
_RESPONSE_OVERHEAD_BYTES = 1024


def format_violation(number: int) -> Violation:
    """Return what is wrong with a format that is not written."""
    names = ", ".join(upscaler_pb2.ImageFormat.Name(known) for known in _known())
    return Violation(
        field="format", reason="FORMAT_UNKNOWN", message=f"Format {number} is unknown; use one of {names}."
    )


def check_sides(size_hw: tuple[int, int], output: OutputFormat) -> None:
    """Refuse a picture whose sides a format cannot hold.

    Raises:
        InvalidRequestError: FORMAT_SIDE_TOO_LONG.
    """
    if output.max_side_px is not None and max(size_hw) > output.max_side_px:
        others = " or ".join(each.title for each in _known().values() if each.max_side_px is None)
        message = (
            f"{output.title} holds at most {output.max_side_px:,} pixels a side, and the output would have "
            f"{size_hw[1]:,} x {size_hw[0]:,}; ask for {others}."
        )
        raise refuse("format", "FORMAT_SIDE_TOO_LONG", message)


def decode_for(content: bytes, output: OutputFormat) -> Picture:
    """Decode, and refuse transparency that a format cannot hold.

    Raises:
        ImageRejectedError: it cannot be decoded.
        InvalidRequestError: FORMAT_WITHOUT_ALPHA.
    """
    picture = decode(content)
    if not picture.is_opaque and not output.holds_alpha:
        others = " or ".join(each.title for each in _known().values() if each.holds_alpha)
        message = f"The image has transparent pixels, and {output.title} cannot hold them; ask for {others}."
        raise refuse("format", "FORMAT_WITHOUT_ALPHA", message)
    return picture


def encode_within(picture: Picture, output: OutputFormat, *, max_message_bytes: int, advice: str) -> bytes:
    """Write a file that fits a message.

    Args:
        picture: what to write.
        output: the kind of file.
        max_message_bytes: of the whole response.
        advice: what else than a more compact format would make it smaller.

    Raises:
        InvalidRequestError: RESPONSE_TOO_LARGE.
    """
    content = encode(picture, output)
    if len(content) + _RESPONSE_OVERHEAD_BYTES > max_message_bytes:
        message = (
            f"The output takes {len(content):,} bytes as {output.title}; a message holds "
            f"{max_message_bytes:,}. {advice}, or for a more compact format."
        )
        raise refuse("format", "RESPONSE_TOO_LARGE", message)
    return content


def as_rgb(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return [3, H, W] of [3, H, W], or of one plane three times; a view."""
    return np.broadcast_to(planes, (3, *planes.shape[1:]))


def grey_of(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return [1, H, W] of the three channels that a grey image was computed in; they differ by little."""
    return ((pixels.sum(axis=0, keepdims=True, dtype=np.uint16) + 1) // 3).astype(np.uint8)


def refuse(field: str, reason: str, message: str) -> InvalidRequestError:
    """Return the error of one wrong field."""
    return InvalidRequestError([Violation(field=field, reason=reason, message=message)])


def _known() -> dict[int, OutputFormat]:
    unspecified = upscaler_pb2.IMAGE_FORMAT_UNSPECIFIED
    return {number: output for number, output in OUTPUT_FORMATS.items() if number != unspecified}
