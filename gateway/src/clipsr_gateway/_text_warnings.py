"""Warns of labels, texts and queries that mean little to the model, or of which it does not see the end.

Gateway and serving are installed separately, so each has this file, byte for byte the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

# For programs; see Warning in types.proto.
_TEXT_CUT = "TEXT_CUT"

# Warnings one by one; a list with a mistake in it has thousands. All together stay below WARNINGS_BYTES of an answer.
_MAX_EACH = 16
# A label may be a kilobyte long; a message shows enough of it to be found.
_SHOWN_CHARACTERS = 40


class TextWarning(NamedTuple):
    """What is doubtful about a text, or about many.

    Attributes:
        reason: for programs; see Warning in types.proto.
        message: for people.
        field: path of the text, or of all, in the request.
    """

    reason: str
    message: str
    field: str


class Knowledge(Protocol):
    """What a model knows, see `Vocabulary`."""

    def knows(self, text: str) -> bool:
        """Say whether the model has a token for some part of a text."""
        ...

    def untaught(self, text: str) -> tuple[str, ...]:
        """Return the words of a text that the model was never taught."""
        ...


def quote(text: str) -> str:
    """Return enough of a label or text to find it, in quotes."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return f'"{shown}"'


def cut_warnings(
    texts: Sequence[str], is_cut: npt.NDArray[np.bool_], *, noun: str, field: str, context_length: int
) -> tuple[TextWarning, ...]:
    """Return a warning for each text that is cut, and one in the end for those that are too many to be named.

    Args:
        texts: [N] labels, texts or a single query.
        is_cut: [N], whether a text is longer, in the longest of its templates, than the text encoder reads.
        noun: what one is called, such as "label".
        field: path of one in the request, with {} for its place where there are several.
        context_length: tokens that the text encoder reads.
    """
    rest = f"more than the {context_length:,} tokens that the text encoder reads, and what is beyond does not count"
    return _name(
        texts,
        np.flatnonzero(is_cut).tolist(),
        reason=_TEXT_CUT,
        field=field,
        each=lambda place: f"The {noun} {quote(texts[place])} has, in its template, {rest}: shorten it.",
        every=f"All {len(texts):,} {noun}s have, in their templates, {rest}: shorten the templates or the {noun}s.",
        others=lambda count: f"{count:,} further {noun}s have, in their templates, {rest}: shorten them.",
    )


def unknown_warnings(texts: Sequence[str], vocabulary: Knowledge, *, noun: str, field: str) -> tuple[TextWarning, ...]:
    """Return a warning for each text that means nothing to the model, and one for those that are too many to be named.

    Either its vocabulary has no token of the text, or the text has words that it was never taught.

    Args:
        texts: [N] labels, texts or a single query.
        vocabulary: what the model knows.
        noun: what one is called, such as "label".
        field: path of one in the request, with {} for its place where there are several.
    """
    strange = [place for place, text in enumerate(texts) if not vocabulary.knows(text)]
    known = set(range(len(texts))).difference(strange)
    untaught = {place: words for place in sorted(known) if (words := vocabulary.untaught(texts[place]))}
    rest = "only the bytes that it is written with, so the answer means little"
    advice = "Write in English, or serve a multilingual checkpoint."
    little = "so what it says of that means little. Use names that it knows, or serve a model of an open vocabulary."
    return _name(
        texts,
        strange,
        reason=f"{noun.upper()}_WITHOUT_KNOWN_TOKEN",
        field=field,
        each=lambda place: f"The model's vocabulary has not a word of {quote(texts[place])}, {rest}. {advice}",
        every=f"The model's vocabulary has not a word of all {len(texts):,} {noun}s, {rest}. {advice}",
        others=lambda count: f"The model's vocabulary has not a word of {count:,} further {noun}s, {rest}. {advice}",
    ) + _name(
        texts,
        list(untaught),
        reason=f"{noun.upper()}_NOT_TAUGHT",
        field=field,
        each=lambda place: f"The model was never taught {', '.join(map(quote, untaught[place]))}, {little}",
        every=f"The model was never taught words of all {len(texts):,} {noun}s, {little}",
        others=lambda count: f"The model was never taught words of {count:,} further {noun}s, {little}",
    )


def _name(
    texts: Sequence[str],
    places: Sequence[int],
    *,
    reason: str,
    field: str,
    each: Callable[[int], str],
    every: str,
    others: Callable[[int], str],
) -> tuple[TextWarning, ...]:
    """Return a warning for each of these places, one for all texts, or one in the end for those that are too many."""
    whole = field.partition("[")[0]
    if 1 < len(texts) == len(places):
        return (TextWarning(reason=reason, message=every, field=whole),)
    warnings = [
        TextWarning(reason=reason, message=each(place), field=field.format(place)) for place in places[:_MAX_EACH]
    ]
    if count := len(places) - len(warnings):
        warnings.append(TextWarning(reason=reason, message=others(count), field=whole))
    return tuple(warnings)
