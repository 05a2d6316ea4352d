"""What the command lines of this package share: how they print their help, and how they read what is typed."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from clipsr_training import prompts

PREPROCESS_HELP = (
    "tag of the published weights that the file of --weights descends from, where those of the model differ in "
    "activation or in how images are prepared"
)
_T = TypeVar("_T", int, float)
_Word = TypeVar("_Word", bound=str)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: not that a flag is off, or that an option is absent."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


@contextmanager
def plain_warnings(command: str) -> Iterator[None]:
    """Print warnings as sentences, without the line of the code that they come from."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"{command}: WARNING: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def describe(error: Exception) -> str:
    """Return what an error says: where Python puts a number before the system's reason, the file instead."""
    if isinstance(error, OSError) and error.strerror is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def parse_labels(text: str) -> tuple[str, ...]:
    """Read the labels of "a,b,c", or of "@name" for a published set; ValueError for anything else."""
    if text.startswith("@"):
        known = prompts.label_sets()
        if text[1:] not in known:
            names = ", ".join(f"@{name}" for name in known)
            raise ValueError(f"no label set {text}; known: {names}")
        return tuple(known[text[1:]])
    labels = tuple(label.strip() for label in text.split(",") if label.strip())
    if len(set(labels)) != len(labels) or not labels:
        raise ValueError(f"labels must be named, with commas between them, each once; got {text!r}")
    return labels


def parse_chosen(text: str, known: Sequence[_Word], name: str) -> tuple[_Word, ...]:
    """Read a choice "a,b" of known words, in their order; ArgumentTypeError for others."""
    asked = text.split(",")
    unknown = [word for word in asked if word not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {name} {unknown[0]!r}; choose from {', '.join(known)}")
    return tuple(word for word in known if word in asked)


def whole(*, at_least: int, at_most: int | None = None) -> Callable[[str], int]:
    """Return what reads a whole number within bounds from the command line."""
    return _number(int, "a whole number", at_least, at_most)


def real(*, at_least: float, at_most: float | None = None) -> Callable[[str], float]:
    """Return what reads a finite number within bounds from the command line."""
    return _number(float, "a number", at_least, at_most)


def _number(read: Callable[[str], _T], kind: str, at_least: _T, at_most: _T | None) -> Callable[[str], _T]:
    bounds = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"

    def parse(text: str) -> _T:
        try:
            value = read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {kind} {bounds}, not {text!r}") from error
        # NaN is in no order with the bounds.
        if not at_least <= value <= (math.inf if at_most is None else at_most) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"expected {kind} {bounds}, not {text}")
        return value

    return parse


positive = whole(at_least=1)
share = real(at_least=0, at_most=1)
rate = real(at_least=0)
# What numpy and PyTorch both take.
seed = whole(at_least=0, at_most=2**32 - 1)


def devices(text: str) -> str:
    """Read a number of devices, or "auto"."""
    return text if text == "auto" else str(positive(text))
