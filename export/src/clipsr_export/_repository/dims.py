"""Fills the checkpoint's sizes into the model configurations.

A line of a `config.pbtxt` whose dims depend on the checkpoint ends in a comment that names them, for example
`dims: [ 3, 64, 64 ]  # [3, R, R]`. The comment is the truth; the numbers are rewritten from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipsr_export._errors import TemplateError

_LINE = re.compile(r"(?P<head>.*\bdims:\s*)\[[^\]]*\](?P<gap>\s*)#\s*\[(?P<symbols>[^\]]*)\]")
# Varies from request to request: stays free.
_FREE_SYMBOLS = frozenset({"S", "K", "T"})


def fill_dims(pbtxt: str, sizes: Mapping[str, int]) -> str:
    """Rewrite every symbolic dims line.

    Args:
        pbtxt: text of a model configuration.
        sizes: numbers for the symbols, for example {"R": 224, "D": 512, "L": 77}.

    Raises:
        TemplateError: a comment names a symbol that has no size.
    """
    return _LINE.sub(lambda match: _filled(match, sizes), pbtxt)


def _filled(match: re.Match[str], sizes: Mapping[str, int]) -> str:
    symbols = [symbol.strip() for symbol in match["symbols"].split(",")]
    numbers: list[str] = []
    for symbol in symbols:
        if symbol.lstrip("-").isdigit():
            numbers.append(symbol)
        elif symbol in _FREE_SYMBOLS:
            numbers.append("-1")
        elif symbol in sizes:
            numbers.append(str(sizes[symbol]))
        else:
            raise TemplateError(f"unknown size {symbol!r} in {match[0].strip()!r}; known: {', '.join(sorted(sizes))}")
    return f"{match['head']}[ {', '.join(numbers)} ]{match['gap']}# [{', '.join(symbols)}]"
