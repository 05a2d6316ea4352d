"""Refuses what no message could answer: found out after computing, it would be a bare RESOURCE_EXHAUSTED."""

from __future__ import annotations

from collections.abc import Sequence

from clipsr_gateway._limits import Limits
from clipsr_gateway.errors import InvalidRequestError, Violation

# Upper bounds of what the wire format adds: to one Prediction (two tags and lengths, two floats) and to one result
# (tags and lengths, index, size, route, timing, a digest of 71 characters).
_PREDICTION_OVERHEAD_BYTES = 20
_RESULT_OVERHEAD_BYTES = 192
_FLOAT_BYTES = 4

# More than what is doubtful about labels or texts takes in an answer, see _texts/warnings.py.
WARNINGS_BYTES = 8 * 1024


def check_classify_response(
    *,
    label_bytes: Sequence[int],
    top_k: int,
    embed_dim: int,
    encoder_side_px: int,
    kind_bytes: Sequence[int],
    image_count: int,
    field: str,
    limits: Limits,
) -> None:
    """Check the size of the predictions of `image_count` images.

    Args:
        label_bytes: of each label, the longest first.
        top_k: predictions an image.
        embed_dim: D where the embedding is returned, or 0.
        encoder_side_px: R where the encoder's input is returned, or 0.
        kind_bytes: of the names of the kinds of damage that are returned.
        image_count: images in one answer.
        field: path of `top_k` in the request.
        limits: what a message may hold.

    Raises:
        InvalidRequestError: the answer, with the longest labels first, would not fit one message.
    """
    label_total = sum(label_bytes[:top_k])
    image_bytes = _RESULT_OVERHEAD_BYTES + label_total + top_k * _PREDICTION_OVERHEAD_BYTES + embed_dim * _FLOAT_BYTES
    image_bytes += sum(kind_bytes) + len(kind_bytes) * _PREDICTION_OVERHEAD_BYTES
    if encoder_side_px:
        image_bytes += png_bytes_at_most(encoder_side_px)
    parts = [f"{top_k:,} predictions"]
    parts += ["an embedding"] if embed_dim else []
    parts += [f"a picture of {encoder_side_px} x {encoder_side_px} pixels"] if encoder_side_px else []
    which = f"each of {image_count:,} images" if image_count > 1 else "one image"
    hint = "Set a smaller top_k or send fewer images" if image_count > 1 else "Set a smaller top_k"
    total_bytes = image_count * image_bytes + WARNINGS_BYTES
    _check(total_bytes, f"{' and '.join(parts)} for {which}", hint, field, limits)


def check_embedding_response(*, count: int, embed_dim: int, field: str, limits: Limits) -> None:
    """Check the size of `count` embeddings.

    Raises:
        InvalidRequestError: they would not fit one message.
    """
    response_bytes = count * (_RESULT_OVERHEAD_BYTES + embed_dim * _FLOAT_BYTES) + WARNINGS_BYTES
    _check(response_bytes, f"{count:,} embeddings", f"Send fewer {field} in one request", field, limits)


def png_bytes_at_most(side_px: int) -> int:
    """Return more bytes than any PNG of a square RGB image takes.

    Deflate never needs more than 9 bits for a byte (its fixed code); what is left is for chunks and headers.
    """
    return side_px * (3 * side_px + 1) * 9 // 8 + side_px * side_px // 64 + 1024


def _check(response_bytes: int, what: str, hint: str, field: str, limits: Limits) -> None:
    if response_bytes > limits.max_message_bytes:
        message = f"{what} could take {response_bytes:,} bytes; a message holds {limits.max_message_bytes:,}. {hint}."
        raise InvalidRequestError([Violation(field=field, reason="RESPONSE_TOO_LARGE", message=message)])
