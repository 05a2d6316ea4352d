"""Route rules as a file beside the weights that they were measured for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from clipsr_training._files import to_json, write_atomically
from clipsr_training._identity import digest_modules
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.data._route_table import RouteRule
from clipsr_training.liif import Upscaler

RULES_NAME = "route_rules.json"


class OtherWeightsError(ValueError):
    """The rules were measured for another model or upscaler."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRules:
    """What `measure_routes` found.

    Attributes:
        rules: see there.
        model_digest: of the model and the upscaler that were measured.
        photos: which photos, for people.
    """

    rules: tuple[RouteRule, ...]
    model_digest: str
    photos: str


def model_digest(checkpoint: ClipCheckpoint, upscaler: Upscaler) -> str:
    """Return what tells a model with its upscaler from others: SHA-256 over both weights."""
    return digest_modules(checkpoint.model, upscaler)


def write_rules(measured: MeasuredRules, path: Path) -> None:
    """Write the file.

    Raises:
        OSError: it can't be written.
    """
    write_atomically(path, (to_json(asdict(measured), indent=1) + "\n").encode())


def read_rules(path: Path, checkpoint: ClipCheckpoint, upscaler: Upscaler) -> tuple[RouteRule, ...]:
    """Read the rules for a model and an upscaler.

    Raises:
        OSError: the file can't be read.
        OtherWeightsError: it was measured for others.
        ValueError: it is not one of `clipsr-eval routes`.
    """
    try:
        content = json.loads(path.read_bytes())
        measured = MeasuredRules(**{**content, "rules": tuple(RouteRule(**rule) for rule in content["rules"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no rules that clipsr-eval routes wrote: {error}") from error
    if measured.model_digest != model_digest(checkpoint, upscaler):
        raise OtherWeightsError(
            f"{path} was measured for another model or upscaler; measure again with clipsr-eval routes, or leave it out"
        )
    return measured.rules
