"""The formats of `classify` that programs read: JSON lines and CSV."""

from __future__ import annotations

import csv
import json
import struct
from typing import Protocol, TextIO

from clipsr import Classification, FailedImage

__all__ = ["CSV_HEADER", "CsvWriter", "JsonWriter", "ResultWriter", "shorten_float"]

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

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def begin(self) -> None:
        """JSON lines have no header."""

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Write one object with its line end."""
        # ensure_ascii off: labels stay readable; a path that is not UTF-8 is escaped by the stream.
        self._file.write(json.dumps(_to_object(path, outcome), ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self) -> None:
        """JSON lines have no footer."""


class CsvWriter:
    """A row a prediction, and a row with only path and error for an image that failed."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer = csv.writer(file, lineterminator="\n")

    def begin(self) -> None:
        """Write the header."""
        self._writer.writerow(CSV_HEADER)
        self._file.flush()

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Write the rows of one image; rank 1 is the best."""
        if isinstance(outcome, FailedImage):
            self._writer.writerow([path, "", "", "", "", "", f"{outcome.code}: {outcome.message}"])
        else:
            for rank, prediction in enumerate(outcome.predictions, start=1):
                cosine, probability = shorten_float(prediction.cosine), shorten_float(prediction.probability)
                self._writer.writerow([path, rank, prediction.label, cosine, probability, outcome.route, ""])
        self._file.flush()

    def finish(self) -> None:
        """CSV has no footer."""


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
