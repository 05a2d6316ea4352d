"""Structured log: one JSON object a line on standard error, never any content of an image or a label."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

LEVELS = ("debug", "info", "warning", "error")

_LOGGER = logging.getLogger("clipsr_gateway")

_encode = json.JSONEncoder(ensure_ascii=False).encode


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def configure_logging(level: str) -> None:
    """Send this package's log to standard error as JSON lines. For the command line only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(level.upper())
    _LOGGER.propagate = False


def log_event(
    event: str, fields: Mapping[str, object], *, level: int = logging.INFO, error: BaseException | None = None
) -> None:
    """Write one event with its fields, which must be of JSON's types; `error` adds its traceback."""
    if not _LOGGER.isEnabledFor(level):
        return
    # Not log(), which looks for its caller's file and line first: an event's name says where it comes from.
    cause = (type(error), error, error.__traceback__) if error is not None else None
    _LOGGER.handle(_LOGGER.makeRecord(_LOGGER.name, level, "", 0, event, (), cause, extra={"fields": fields}))
