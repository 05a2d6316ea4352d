"""Arguments are checked where they come in, by their names: a wrong type is a TypeError, a wrong value the caller's."""

from __future__ import annotations

import math
import numbers
import operator
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from clipsr._errors import InvalidRequestError

_MAX_UINT32 = 2**32 - 1
_SHOWN = 80  # letters of a wrong value, which may be a whole file
_YEAR_S = 365 * 24 * 3600.0  # more is no deadline, and from a few centuries on no timer takes it


def invalid(field: str, message: str, *, reason: str = "") -> InvalidRequestError:
    """Return the error of one wrong field."""
    return InvalidRequestError(message, reason=reason, violations=((field, message),))


def show(value: object) -> str:
    """Return a wrong value as it is written in code, cut where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = _SHOWN
    return short.repr(value)


def as_flag(name: str, value: object) -> bool:
    """Return True or False as it is.

    Raises:
        TypeError: it is something else, such as a text, which would count as True whatever it says.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {show(value)}; give True or False")
    return value


def as_text(name: str, value: object) -> str:
    """Return a text as it is.

    Raises:
        TypeError: it is none, such as the NaN of an empty cell.
        InvalidRequestError: it cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {show(value)}, not text: leave it out, or give a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"{name} is not UTF-8: {show(value)}; give it in that encoding, or leave the character out."
        raise invalid(name, message) from error
    return value


def as_texts(name: str, values: object) -> tuple[str, ...]:
    """Return the texts of a sequence.

    Raises:
        TypeError: it is a single text, whose letters would pass for a sequence, or no sequence, or not all are texts.
        InvalidRequestError: one of them cannot be written as UTF-8.
    """
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} is one string; give a sequence of strings, such as [{show(values)}]")
    texts = cast("Iterable[object]", values)
    if isinstance(texts, Mapping) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{name} is {show(values)}; give a sequence of strings, such as ['cat', 'dog']")
    return tuple(as_text(f"{name}[{index}]", value) for index, value in enumerate(texts))


def as_count(name: str, value: Any, *, least: int = 0, advice: str = "", reason: str = "") -> int:
    """Return a whole number from `least` to the largest that a message holds.

    Raises:
        TypeError: it is no whole number.
        InvalidRequestError: it is out of range.
    """
    advice = advice or f"give a whole number of at least {least}"
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {show(value)}; {advice}") from None
    if not least <= count <= _MAX_UINT32:
        raise invalid(name, f"{name} is {count}; {advice}.", reason=reason)
    return count


def as_number(name: str, value: object, *, least: float, most: float = math.inf, reason: str = "") -> float:
    """Return a finite number in [least, most].

    Raises:
        TypeError: it is no number.
        InvalidRequestError: it is NaN, infinite, or out of range.
    """
    advice = f"give a number of at least {least:g}" if most == math.inf else f"give a number from {least:g} to {most:g}"
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {show(value)}; {advice}")
    number = float(value)
    if not (math.isfinite(number) and least <= number <= most):
        raise invalid(name, f"{name} is {number:g}; {advice}.", reason=reason)
    return number


def as_seconds(name: str, value: object) -> float:
    """Return a time that can be waited for.

    Raises:
        TypeError: it is no number.
        InvalidRequestError: it is NaN, infinite, not above 0, or longer than a year.
    """
    advice = "give seconds above 0, such as 30, and at most a year"
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {show(value)}; {advice}")
    seconds = float(value)
    if not 0 < seconds <= _YEAR_S:
        raise invalid(name, f"{name} is {seconds:g}; {advice}.")
    return seconds
