"""How an image that is not square meets the encoder's square input."""

from __future__ import annotations

from clipsr_serving.errors import InputError

CENTER_CROP = "center_crop"
SQUASH = "squash"
PAD = "pad"
FITS = (CENTER_CROP, SQUASH, PAD)

# OpenCLIP's names for what a checkpoint was trained with (open_clip.transform.PreprocessCfg).
FIT_OF_RESIZE_MODE = {"shortest": CENTER_CROP, "squash": SQUASH, "longest": PAD}


def parse_fit(value: bytes, *, default: str = CENTER_CROP) -> str:
    """Read the `fit` tensor's element.

    Args:
        value: UTF-8; empty means the default.
        default: the checkpoint's own fit.

    Raises:
        InputError: FIT_UNKNOWN.
    """
    fit = value.decode("utf-8", errors="replace") or default
    if fit not in FITS:
        choices = ", ".join(repr(name) for name in FITS)
        raise InputError("FIT_UNKNOWN", f"fit is {fit[:40]!r}; use one of {choices}, or none for the model's own.")
    return fit
