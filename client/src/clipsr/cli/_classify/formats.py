"""The formats of `classify` that programs read: JSON lines and CSV."""

from __future__ import annotations

import csv
import json
import struct
from typing import Protocol, TextIO

from clipsr import Classification, FailedImage

CSV_HEADER = ("path", "rank", "label", "cosine", "probability", "route", "error")

_FLOAT32_DIGITS = range(6, 10)  # 6 digits survive decimal → float32 → decimal, 9 always survive the other way round


class ResultWriter(Protocol):
    """Writes outcomes as they arrive; each call leaves the output flushed."""

    def begin(self) -> None:
        """Write what comes before the first outcome."""
        ...

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Write one image's outcome."""
        ...

    def finish(self) -> None:
        """Write what comes after the last outcome."""
        ...


class JsonWriter:
    """One JSON object a line."""

    def __init__(self, file: TextIO, *, has_threshold: bool) -> None:
        self._file = file
        self._has_threshold = has_threshold

    def begin(self) -> None:
        """JSON lines have no header."""

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Write one object with its line end."""
        # ensure_ascii off: labels stay readable; a path that is not UTF-8 is escaped by the stream.
        content = _to_object(path, outcome)
        if self._has_threshold and isinstance(outcome, Classification):
            content["none_of_these"] = outcome.none_of_these
        self._file.write(json.dumps(content, ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self) -> None:
        """JSON lines have no footer."""


class CsvWriter:
    """A row a prediction, and a row with only path and error for an image that failed."""

    def __init__(self, file: TextIO, *, has_threshold: bool) -> None:
        self._file = file
        self._has_threshold = has_threshold
        self._writer = csv.writer(file, lineterminator="\n")

    def begin(self) -> None:
        """Write the header."""
        self._write_row(*CSV_HEADER, "none_of_these")
        self._file.flush()

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Write the rows of one image; rank 1 is the best."""
        if isinstance(outcome, FailedImage):
            self._write_row(path, "", "", "", "", "", f"{outcome.code}: {outcome.message}", "")
        else:
            none = "true" if outcome.none_of_these else "false"
            for rank, prediction in enumerate(outcome.predictions, start=1):
                cosine, probability = shorten_float(prediction.cosine), shorten_float(prediction.probability)
                self._write_row(path, rank, prediction.label, cosine, probability, outcome.route, "", none)
        self._file.flush()

    def finish(self) -> None:
        """CSV has no footer."""

    def _write_row(self, *cells: object) -> None:
        """Write a row, without its last cell where nobody asked for a threshold."""
        self._writer.writerow(cells if self._has_threshold else cells[:-1])


def shorten_float(value: float) -> float:
    """Return the number with the fewest digits that is the same single-precision number; the wire carries no more."""
    for digits in _FLOAT32_DIGITS:
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", value):
            return short
    return value


def _to_object(path: str, outcome: Classification | FailedImage) -> dict[str, object]:
    if isinstance(outcome, FailedImage):
        return {"path": path, "error": {"code": outcome.code, "message": outcome.message}}
    return {
        "path": path,
        "predictions": [
            {
                "label": prediction.label,
                "cosine": shorten_float(prediction.cosine),
                "probability": shorten_float(prediction.probability),
            }
            for prediction in outcome.predictions
        ],
        "route": outcome.route,
        "input_hw": list(outcome.input_hw),
        "model": outcome.model_digest,
    }
