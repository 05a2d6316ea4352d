"""Label sets, prompt templates and synonyms: data files with their source, read by training and by export.

Export writes label and template sets into the manifest, from which serving and the gateway take them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from clipsr_training.prompts._names import LANGUAGES, Thing, held_out_things, is_held_out, is_name_of_tier, read_things

__all__ = [
    "LANGUAGES",
    "Thing",
    "expand",
    "held_out_things",
    "is_held_out",
    "is_name_of_tier",
    "label_sets",
    "read_things",
    "synonyms",
    "template_sets",
]


def label_sets() -> dict[str, list[str]]:
    """Return the named label sets, each in its published order."""
    return dict(_read("labels.json")["sets"])


def template_sets() -> dict[str, list[str]]:
    """Return the named sets of prompt templates; every template has one `{}`."""
    return dict(_read("templates.json")["sets"])


def synonyms() -> dict[str, list[str]]:
    """Return everyday words for the labels that have some; a label is not among its own synonyms."""
    return dict(_read("synonyms.json")["synonyms"])


def expand(template: str, label: str) -> str:
    """Put a label into a template, literally: braces in the label stay what they are."""
    return template.replace("{}", label)


@cache
def _read(name: str) -> dict[str, Any]:
    return json.loads(files(__name__).joinpath(name).read_text(encoding="utf-8"))
