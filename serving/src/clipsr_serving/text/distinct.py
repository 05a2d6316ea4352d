"""Refuses labels that the text encoder cannot tell apart: what it receives is compared, not what was sent."""

from __future__ import annotations

from collections.abc import Sequence

from clipsr_serving.errors import InputError
from clipsr_serving.text.embedder import Tokenize
from clipsr_serving.text.prompts import LabelSpace, fill_template

__all__ = ["require_distinct_labels", "require_visible_labels"]

_PROBES = ("cat", "dog")
_MAX_SHOWN = 60


def require_visible_labels(templates: Sequence[str], tokenize: Tokenize) -> None:
    """Make sure that the label is inside the context, which ends long texts.

    Raises:
        InputError: TEMPLATE_TOO_LONG.
    """
    first, second = (tokenize([fill_template(template, probe) for template in templates]) for probe in _PROBES)
    for index, template in enumerate(templates):
        if (first[index] == second[index]).all():
            raise InputError(
                "TEMPLATE_TOO_LONG",
                f"The template {index}, {_quote(template)}, fills the {first.shape[1]} tokens of the text encoder "
                "before its {}, so that no label reaches the model; shorten what stands before the {}.",
            )


def require_distinct_labels(space: LabelSpace, tokenize: Tokenize) -> None:
    """Compare the token ids of the labels, after cleaning and cutting, in all templates.

    Two labels with equal ids in every template have one embedding, and would share their probability.

    Raises:
        InputError: LABELS_INDISTINGUISHABLE, naming the first two that are equal.
    """
    groups = [list(range(len(space.labels)))]
    for template in space.templates:
        groups = [part for group in groups for part in _split(group, space.labels, template, tokenize)]
        if not groups:
            return
    first, second = min(group[:2] for group in groups)
    raise InputError(
        "LABELS_INDISTINGUISHABLE",
        f"The labels {first} ({_quote(space.labels[first])}) and {second} ({_quote(space.labels[second])}) are the "
        "same to the text encoder, after its cleaning (case, blanks, Unicode forms) and within its context; leave one "
        "out, or let them differ early in the text.",
    )


def _split(group: list[int], labels: Sequence[str], template: str, tokenize: Tokenize) -> list[list[int]]:
    """Split labels by their ids in one template; labels that are alone are done."""
    parts: dict[bytes, list[int]] = {}
    for index, ids in zip(group, tokenize([fill_template(template, labels[index]) for index in group]), strict=True):
        parts.setdefault(ids.tobytes(), []).append(index)
    return [part for part in parts.values() if len(part) > 1]


def _quote(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
