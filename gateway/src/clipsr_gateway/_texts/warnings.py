"""Warns of labels, texts and queries of which the text encoder does not see the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway._texts.labels import quote

# For programs; see Warning in types.proto.
_TEXT_CUT = "TEXT_CUT"

# Warnings one by one; a list with a mistake in it has thousands. All together stay below WARNINGS_BYTES of an answer.
_MAX_EACH = 16


def cut_warnings(
    texts: Sequence[str], is_cut: npt.NDArray[np.bool_], *, noun: str, field: str, context_length: int
) -> tuple[types_pb2.Warning, ...]:
    """Return a warning for each text that is cut, and one in the end for those that are too many to be named.

    Args:
        texts: [N] labels, texts or a single query.
        is_cut: [N], whether a text is longer, in the longest of its templates, than the text encoder reads.
        noun: what one is called, such as "label".
        field: path of one in the request, with {} for its place where there are several.
        context_length: tokens that the text encoder reads.
    """
    places: list[int] = np.flatnonzero(is_cut).tolist()
    rest = f"more than the {context_length:,} tokens that the text encoder reads, and what is beyond does not count"
    if 1 < len(texts) == len(places):
        message = f"All {len(texts):,} {noun}s have, in their templates, {rest}: shorten the templates or the {noun}s."
        return (types_pb2.Warning(reason=_TEXT_CUT, message=message, field=field.partition("[")[0]),)
    warnings = [
        types_pb2.Warning(
            reason=_TEXT_CUT,
            message=f"The {noun} {quote(texts[place])} has, in its template, {rest}: shorten it.",
            field=field.format(place),
        )
        for place in places[:_MAX_EACH]
    ]
    if others := len(places) - len(warnings):
        message = f"{others:,} further {noun}s have, in their templates, {rest}: shorten them."
        warnings.append(types_pb2.Warning(reason=_TEXT_CUT, message=message, field=field.partition("[")[0]))
    return tuple(warnings)
