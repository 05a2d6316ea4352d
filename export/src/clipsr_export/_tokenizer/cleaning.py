"""The cleaning that OpenCLIP does before tokenizing, as normalizers of a `tokenizers` file.

OpenCLIP calls ftfy, unescapes HTML entities, and then one of three functions of its own. ftfy's tables are taken over
as they are: ligatures, full-width and half-width forms, curly quotes, control characters, terminal escapes, NFC. What
can't be written as a normalizer stays out, and docs/export.md says so: repairing text that was decoded with the wrong
encoding, and HTML entities.
"""

# torch, onnx, onnxruntime, Pillow, ftfy and tokenizers ship partial types: what comes out of them is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import re
import string

from ftfy import chardata
from ftfy.fixes import fix_c1_controls
from tokenizers import Regex, normalizers
from tokenizers.normalizers import Normalizer

# "C1" control characters, which ftfy reads as Windows-1252.
_C1_CONTROLS = range(0x80, 0xA0)
# In lower case, a capital sigma becomes a final one at the end of a word; letter by letter it would not.
# Marks, apostrophes and the like do not end a word (Unicode 3.13, Final_Sigma).
_FINAL_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{Lt}])Σ(?![\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:·]*[\p{Lu}\p{Ll}\p{Lt}])"


def cleaning(kind: str) -> list[Normalizer]:
    """Return the steps of one of OpenCLIP's cleaning functions.

    Args:
        kind: "lower", "whitespace" or "canonicalize", as in `tokenizer_kwargs` of a model's configuration.

    Raises:
        KeyError: OpenCLIP has no such function.
    """
    spaces = [_replace(r"\s+", " "), normalizers.Strip()]
    lower = [_replace(_FINAL_SIGMA, "ς"), normalizers.Lowercase()]
    without_punctuation = [
        normalizers.Replace("_", " "),
        _replace(f"[{re.escape(string.punctuation)}]", ""),
    ]
    steps = {
        "whitespace": spaces,
        "lower": [*spaces, *lower],
        "canonicalize": [*without_punctuation, *lower, *spaces],
    }
    return [*_ftfy(), *steps[kind]]


def _ftfy() -> list[Normalizer]:
    """Ftfy's fixes that look at characters, in its order."""
    steps: list[Normalizer] = []
    steps += [normalizers.Replace(chr(c), fix_c1_controls(chr(c))) for c in _C1_CONTROLS if _is_changed(c)]
    steps += [normalizers.Replace(chr(c), text) for c, text in chardata.LIGATURES.items()]
    steps += [normalizers.Replace(chr(c), text) for c, text in chardata.WIDTH_MAP.items()]
    steps += [_replace(chardata.DOUBLE_QUOTE_RE.pattern, '"'), _replace(chardata.SINGLE_QUOTE_RE.pattern, "'")]
    # ESC [ numbers letter: colours of a terminal.
    steps.append(_replace(r"\x{1B}\[[0-9;]*[a-zA-Z]", ""))
    control = "".join(rf"\x{{{c:X}}}" for c in sorted(chardata.CONTROL_CHARS))
    steps.append(_replace(f"[{control}]", ""))
    steps.append(normalizers.NFC())
    return steps


def _is_changed(codepoint: int) -> bool:
    return fix_c1_controls(chr(codepoint)) != chr(codepoint)


def _replace(pattern: str, content: str) -> Normalizer:
    return normalizers.Replace(Regex(pattern), content)
