"""Images: file bytes in, the tensors of `decode` and `decode_native` out. No Triton in here."""

from __future__ import annotations

from clipsr_serving.images._canvas import Placement, make_canvas, pad_to_canvas, pick_canvas_size, place
from clipsr_serving.images._cpu_limit import DECODE_CPU_S, limit_cpu
from clipsr_serving.images._fit import CENTER_CROP, FIT_OF_RESIZE_MODE, FITS, PAD, SQUASH, parse_fit
from clipsr_serving.images._native import INTERPOLATIONS, make_native_pixels
from clipsr_serving.images._read import FORMATS, is_small, read_image

__all__ = [
    "CENTER_CROP",
    "DECODE_CPU_S",
    "FITS",
    "FIT_OF_RESIZE_MODE",
    "FORMATS",
    "INTERPOLATIONS",
    "PAD",
    "SQUASH",
    "Placement",
    "is_small",
    "limit_cpu",
    "make_canvas",
    "make_native_pixels",
    "pad_to_canvas",
    "parse_fit",
    "pick_canvas_size",
    "place",
    "read_image",
]
