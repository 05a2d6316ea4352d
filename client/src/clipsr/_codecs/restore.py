"""RestoreRequest and RestoreResponse, to and from values; nothing here reads files or talks to anyone."""

from __future__ import annotations

from collections.abc import Sequence

from clipsr._codecs.arguments import as_count, as_flag, as_number, as_texts, invalid
from clipsr._codecs.classify import decode_degradations
from clipsr._codecs.formats import check_message_size, decode_format, encode_format
from clipsr._picture_types import RestoredImage, UpscaleFormat
from clipsr.v1 import restorer_pb2, types_pb2

_MAX_SEED = 2**64 - 1


def encode_restore(
    content: bytes,
    *,
    remove: Sequence[str],
    steps: int | None,
    seed: int,
    force: bool,
    output_format: UpscaleFormat,
    upscale: float | None,
) -> restorer_pb2.RestoreRequest:
    """Return the request for one image.

    Raises:
        InvalidRequestError: steps, seed or scale are out of range, the format is not known, or the image is larger than
            any request. Everything else is the service's to judge.
        TypeError: an argument is of another kind.
    """
    request = restorer_pb2.RestoreRequest(
        image=types_pb2.Image(content=content),
        remove=as_texts("remove", remove),
        steps=0 if steps is None else as_count("steps", steps, least=1, reason="STEPS_OUT_OF_RANGE"),
        seed=_check_seed(seed),
        force=as_flag("force", force),
        format=encode_format(output_format),
        upscale=0 if upscale is None else as_number("upscale", upscale, least=1, reason="SCALE_OUT_OF_RANGE"),
    )
    check_message_size(request, content)
    return request


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"seed is {seed!r}; give a whole number")
    if not 0 <= seed <= _MAX_SEED:
        raise invalid("seed", f"seed is {seed}; give a whole number from 0 to 2^64 - 1.", reason="SEED_OUT_OF_RANGE")
    return seed


def decode_restored(response: restorer_pb2.RestoreResponse) -> RestoredImage:
    """Return the restored image.

    Raises:
        ServiceError: the answer has a format that this version does not know.
    """
    return RestoredImage(
        content=response.content,
        format=decode_format(response.format),
        size_hw=(response.size.height, response.size.width),
        output_hw=(response.output_size.height, response.output_size.width),
        removed=tuple(response.removed),
        steps=response.steps,
        unchanged=response.unchanged,
        queue_ms=response.timing.queue_ms,
        inference_ms=response.timing.inference_ms,
        model_digest=response.model_digest,
        detected=decode_degradations(response.detected),
    )
