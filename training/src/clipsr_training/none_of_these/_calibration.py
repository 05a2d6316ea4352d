"""What is known of a model's rule for "none of these", as a file beside its weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from clipsr_training._files import to_json, write_atomically

CALIBRATION_NAME = "none_of_these.json"
_SHARES = ("threshold", "false_refusals", "auroc", "expected_calibration_error")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A bank of names, and how the comparison with them becomes a probability.

    Attributes:
        names: of things that an image may show instead of the labels.
        max_label_cosine: a name whose text is nearer to a label's than this is left out.
        temperature: divides the log-odds of the labels against the names.
        bias: added to them.
        threshold: probability from which an image is said to show none of the labels.
        false_refusals: share of validation images with one of the labels that this refuses.
        auroc: area under the ROC curve on the validation images.
        expected_calibration_error: on them.
        data: which images those are.
    """

    names: tuple[str, ...]
    max_label_cosine: float
    temperature: float
    bias: float
    threshold: float
    false_refusals: float
    auroc: float
    expected_calibration_error: float
    data: str

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not all(name.strip() for name in self.names):
            raise ValueError("names must be different, and none empty")
        if len(self.names) < 2:
            raise ValueError(f"a bank of {len(self.names)} names has nothing to compare labels with; name more things")
        if not 0 < self.temperature < math.inf or not math.isfinite(self.bias):
            raise ValueError(f"temperature must be above 0 and bias a number, got {self.temperature} and {self.bias}")
        if not -1 <= self.max_label_cosine <= 1:
            raise ValueError(f"max_label_cosine must be from -1 to 1, got {self.max_label_cosine}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file.

    Raises:
        OSError: it can't be written.
    """
    write_atomically(path, (to_json(asdict(calibration), indent=1) + "\n").encode())


def read_calibration(path: Path) -> Calibration:
    """Read the file.

    Raises:
        OSError: it can't be read.
        ValueError: it is not one of `clipsr-eval none-of-these`.
    """
    try:
        content = json.loads(path.read_bytes())
        return Calibration(**{**content, "names": tuple(content["names"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no calibration that clipsr-eval none-of-these wrote: {error}") from error
