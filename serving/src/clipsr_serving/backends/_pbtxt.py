"""Reads a config.pbtxt where there is no Triton: protobuf's text format, as far as model configurations use it.

Source: Text Format Language Specification of Protocol Buffers; the fields are those of Triton's model_config.proto.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from clipsr_serving.errors import ModelLoadError

_TOKEN = re.compile(r"""(["'])(?:(?!\1)[^\\\n]|\\.)*\1|[\w.+-]+|[][{}:,;]""")
_BETWEEN = re.compile(r"(?:\s|#[^\n]*)*")
_BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"[+-]?\d+")
_END = ""  # of the file

# The fields that `read_model_spec` and the readers of parameters look at; the rest is Triton's own.
_READ = (
    "name",
    "backend",
    "max_batch_size",
    "default_model_filename",
    "input",
    "output",
    "instance_group",
    "optimization",
    "parameters",
)
_REPEATED = (
    "input",
    "output",
    "dims",
    "instance_group",
    "gpus",
    "profile",
    "cpu_execution_accelerator",
    "gpu_execution_accelerator",
)
_MAP = "parameters"

_Message = dict[str, list[Any]]


def read_config(path: Path) -> dict[str, Any]:
    """Read what a backend looks at in a config.pbtxt, in the form of the JSON that Triton makes of it.

    Raises:
        ModelLoadError: the file is missing, or is not protobuf text.
    """
    try:
        message = _read_message(_split(path.read_text(encoding="utf-8")), _END)
        return {name: _to_json(name, message[name]) for name in _READ if name in message}
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read ({error.strerror}); it is part of the model repository") from error
    except (ValueError, SyntaxError, LookupError) as error:
        raise ModelLoadError(f"{path} is not a model configuration ({error})") from error


def _split(text: str) -> list[str]:
    """Return the tokens, the first one last, so that `pop` takes them in order."""
    tokens: list[str] = []
    position = _skip_blanks(text, 0)
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"line {text.count(chr(10), 0, position) + 1}: {text[position : position + 20]!r}")
        tokens.append(match.group())
        position = _skip_blanks(text, match.end())
    return [_END, *reversed(tokens)]


def _skip_blanks(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return position if match is None else match.end()


def _read_message(tokens: list[str], end: str) -> _Message:
    message: _Message = {}
    while (name := tokens.pop()) != end:
        if tokens[-1] == ":":
            tokens.pop()
        message.setdefault(name, []).extend(_read_values(tokens))
        if tokens[-1] in (",", ";"):
            tokens.pop()
    return message


def _read_values(tokens: list[str]) -> list[Any]:
    if tokens[-1] != "[":
        return [_read_value(tokens)]
    tokens.pop()
    values: list[Any] = []
    while tokens[-1] != "]":
        values.append(_read_value(tokens))
        if tokens[-1] == ",":
            tokens.pop()
    tokens.pop()
    return values


def _read_value(tokens: list[str]) -> Any:
    token = tokens.pop()
    if token == "{":
        return _read_message(tokens, "}")
    if token in (_END, *"]}:,;"):
        raise ValueError(f"a value is missing before {token or 'the end'!r}")
    if token[0] in "\"'":
        return ast.literal_eval(token)
    return int(token) if _INTEGER.fullmatch(token) else _BOOLEANS.get(token, token)


def _to_json(name: str, values: list[Any]) -> Any:
    plain = [
        {field: _to_json(field, held) for field, held in value.items()} if isinstance(value, dict) else value
        for value in values
    ]
    if name == _MAP:
        return {item["key"]: item["value"] for item in plain}
    return plain if name in _REPEATED else plain[-1]
