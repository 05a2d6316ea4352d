"""Finds the one line of a log that says why a process ended."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Callable

_LOAD_FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.+)")
# Triton puts its code's name, and Python the exception's, before the sentence that counts.
_PREFIX = re.compile(r"^(?:(?:Internal|Invalid argument|Unavailable|Not found|Unsupported): )?(?:\w+Error: )?")
# What follows is a Python traceback, its line breaks escaped by Triton's log.
_TRACEBACK = re.compile(r"(?:\\n|\s)+At:.*")
_FATAL = (
    re.compile(r"^docker: .+", re.MULTILINE),
    re.compile(r"Poll failed for model directory '[^']+': [^\n\"]+"),
    re.compile(r"error while loading shared libraries: .+"),
    re.compile(r"Socket '[^']+' already in use.*"),
    re.compile(r"Address already in use"),
    re.compile(r"failed to start (?:HTTP|GRPC|Metrics) service.*", re.IGNORECASE),
    re.compile(r"[Uu]nexpected argument.*|unrecognized option.*"),
    re.compile(r"error: creating server: .+"),
)
_MAX_LENGTH = 500


def explain_end(exit_code: int, log: str, explain_log: Callable[[str], str]) -> str:
    """How a process ended, as the end of a sentence.

    Args:
        exit_code: negative for a signal, as `subprocess` has it.
        log: all that it wrote.
        explain_log: finds the reason in the log.
    """
    if exit_code == -signal.SIGKILL:  # it had no chance to say why
        return "was killed by SIGKILL (by somebody, or by the kernel for lack of memory)"
    if exit_code < 0:
        return f"was ended by {_name_signal(-exit_code)}: {explain_log(log)}"
    return f"ended with code {exit_code}: {explain_log(log)}"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def explain_triton_log(text: str) -> str:
    """Return the reason: a model that failed to load first, else the last line that looks fatal."""
    failures = {match["model"]: match["reason"] for match in _LOAD_FAILURE.finditer(text)}
    if failures:
        model, reason = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        return _tidy(f"{_TRACEBACK.sub('', _PREFIX.sub('', reason))}{more}", model)
    for pattern in _FATAL:
        found = pattern.search(text)
        if found:
            return _cut(found.group())
    return _last_line(text)


def _tidy(reason: str, model: str) -> str:
    reason = reason.replace("\\n", " ").strip().strip('"')
    return _cut(reason if f"'{model}'" in reason else f"model '{model}': {reason}")


def explain_gateway_log(text: str) -> str:
    """Return what the last line says: the gateway ends with one sentence, or Python with the exception."""
    line = _last_line(text)
    with contextlib.suppress(ValueError, AttributeError, IndexError):
        entry = json.loads(text.splitlines()[-1])
        if said := entry.get("exception") or entry.get("message"):
            return _cut(str(said).strip().splitlines()[-1])
    return line


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _cut(lines[-1]) if lines else "it wrote nothing to its log"


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]}…"
