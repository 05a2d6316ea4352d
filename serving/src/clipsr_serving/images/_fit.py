"""How an image that is not square meets the encoder's square input."""

from __future__ import annotations

from clipsr_serving.errors import InputError

__all__ = ["CENTER_CROP", "FITS", "SQUASH", "parse_fit"]

CENTER_CROP = "center_crop"
SQUASH = "squash"
FITS = (CENTER_CROP, SQUASH)


def parse_fit(value: bytes) -> str:
    """Read the ``fit`` tensor's element; empty means ``center_crop``.

    Raises:
        InputError: FIT_UNKNOWN.
    """
    fit = value.decode("utf-8", errors="replace") or CENTER_CROP
    if fit not in FITS:
        raise InputError("FIT_UNKNOWN", f"fit is {fit[:40]!r}; use 'center_crop' or 'squash'.")
    return fit
