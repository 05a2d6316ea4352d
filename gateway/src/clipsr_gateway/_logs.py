"""Structured log: one JSON object a line on standard error, never any content of an image or a label."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

LEVELS = ("debug", "info", "warning", "error")

_LOGGER = logging.getLogger("clipsr_gateway")

_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


class _JsonFormatter(logging.Formatter):
    """Writes every record as one line; those of other packages as the event `log`, with their logger's name."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
        message = record.getMessage()
        is_own = record.name == _LOGGER.name
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": message if is_own else "log",
            **(getattr(record, "fields", {}) if is_own else {"logger": record.name, "message": message}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = _encode(line)
        # NaN and Infinity are no JSON; parsed, they become strings.
        return _encode(json.loads(text, parse_constant=str)) if "NaN" in text or "Infinity" in text else text


def configure_logging(level: str) -> None:
    """Send everything that Python says in this process to standard error as JSON lines. For the command line only.

    That is this package's log, warnings and errors of other packages, Python's warnings, and the tracebacks of
    exceptions that nobody catches.
    """
    if (reconfigure := getattr(sys.stderr, "reconfigure", None)) is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")  # what JSON is, in every locale
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log that cannot be written would be told by a traceback in the log
    sys.excepthook = lambda _, error, __: _log_uncaught(error)
    threading.excepthook = lambda args: _log_uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _log_uncaught(args.exc_value)


def report_failure(message: str) -> None:
    """Say on standard error why the program ends: people get a sentence, a log file a line of its kind."""
    if sys.stderr.isatty():
        print(f"clipsr-gateway: {message}", file=sys.stderr)
    else:
        record = _make_record("failed", {"message": message}, level=logging.ERROR)
        print(_JsonFormatter().format(record), file=sys.stderr)


def _log_uncaught(error: BaseException | None) -> None:
    if not isinstance(error, KeyboardInterrupt):
        log_event("uncaught", {"message": str(error)}, level=logging.ERROR, error=error)


def log_event(
    event: str, fields: Mapping[str, object], *, level: int = logging.INFO, error: BaseException | None = None
) -> None:
    """Write one event with its fields, which must be of JSON's types; `error` adds its traceback."""
    if not _LOGGER.isEnabledFor(level):
        return
    _LOGGER.handle(_make_record(event, fields, level=level, error=error))


def _make_record(
    event: str, fields: Mapping[str, object], *, level: int, error: BaseException | None = None
) -> logging.LogRecord:
    # Not log(), which looks for its caller's file and line first: an event's name says where it comes from.
    cause = (type(error), error, error.__traceback__) if error is not None else None
    return _LOGGER.makeRecord(_LOGGER.name, level, "", 0, event, (), cause, extra={"fields": fields})
