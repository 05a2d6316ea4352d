"""Checks a LabelSpace and resolves the sets it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from clipsr.v1 import types_pb2
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import PLACEHOLDER, Manifest
from clipsr_gateway.errors import InvalidRequestError, Violation

__all__ = ["LabelQuery", "resolve_label_space"]

# A label may be a kilobyte long; a message shows enough of it to be found.
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class LabelQuery:
    """Labels and templates as the models take them.

    Attributes:
        labels: unique, none empty, in the caller's order.
        templates: each with exactly one "{}"; a set's name is replaced by its templates.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]


def resolve_label_space(space: types_pb2.LabelSpace, *, manifest: Manifest, limits: Limits) -> LabelQuery:
    """Checks labels and templates and replaces set names by what they hold.

    Raises:
        InvalidRequestError: with one violation for every field that is wrong.
    """
    labels, violations = _resolve_labels(space, manifest, limits)
    templates, template_violations = _resolve_templates(space.templates, manifest, limits)
    violations += template_violations
    texts = len(labels) * len(templates)
    if not violations and texts > limits.max_texts:
        violations.append(
            Violation(
                field="label_space",
                reason="TOO_MANY_TEXTS",
                sentence=f"{len(labels):,} labels in {len(templates):,} templates are {texts:,} texts; at most "
                f"{limits.max_texts:,} are allowed. Send fewer labels, or fewer templates.",
            )
        )
    if violations:
        raise InvalidRequestError(violations)
    return LabelQuery(labels=labels, templates=templates)


def _resolve_labels(
    space: types_pb2.LabelSpace, manifest: Manifest, limits: Limits
) -> tuple[tuple[str, ...], list[Violation]]:
    if space.label_set:
        return _resolve_label_set(space, manifest)
    labels = tuple(space.labels)
    if not labels:
        sentence = "There are no labels to choose from; set labels, or label_set to the name of a published set."
        return (), [Violation(field="label_space.labels", reason="LABELS_EMPTY", sentence=sentence)]
    if len(labels) > limits.max_labels:
        sentence = f"{len(labels):,} labels are too many; at most {limits.max_labels:,} are allowed in one request."
        return (), [Violation(field="label_space.labels", reason="TOO_MANY_LABELS", sentence=sentence)]
    return labels, list(_label_violations(labels, limits))


def _resolve_label_set(space: types_pb2.LabelSpace, manifest: Manifest) -> tuple[tuple[str, ...], list[Violation]]:
    if space.labels:
        sentence = "Both labels and label_set are set; leave one of them empty."
        return (), [Violation(field="label_space", reason="LABEL_SPACE_AMBIGUOUS", sentence=sentence)]
    labels = manifest.label_sets.get(space.label_set)
    if labels is not None:
        return labels, []
    hint = " Write the name without '@'." if space.label_set.startswith("@") else ""
    sentence = f"There is no label set {_quote(space.label_set)}; the model has {_names(manifest.label_sets)}.{hint}"
    return (), [Violation(field="label_space.label_set", reason="LABEL_SET_UNKNOWN", sentence=sentence)]


def _label_violations(labels: Sequence[str], limits: Limits) -> Iterator[Violation]:
    first_index: dict[str, int] = {}
    for index, label in enumerate(labels):
        field = f"label_space.labels[{index}]"
        if not label.strip():
            sentence = f"Label {index} is empty or only white space; remove it."
            yield Violation(field=field, reason="LABEL_EMPTY", sentence=sentence)
        elif (size := len(label.encode())) > limits.max_label_bytes:
            sentence = (
                f"Label {index} ({_quote(label)}) has {size:,} bytes; at most {limits.max_label_bytes:,} are allowed."
            )
            yield Violation(field=field, reason="LABEL_TOO_LONG", sentence=sentence)
        elif (first := first_index.setdefault(label, index)) != index:
            sentence = f"Label {index} ({_quote(label)}) is the same as label {first}; labels must be unique."
            yield Violation(field=field, reason="LABEL_DUPLICATE", sentence=sentence)


def _resolve_templates(
    templates: Sequence[str], manifest: Manifest, limits: Limits
) -> tuple[tuple[str, ...], list[Violation]]:
    templates = tuple(templates) or (manifest.default_templates,)
    if len(templates) > limits.max_templates:
        sentence = f"{len(templates):,} templates are too many; at most {limits.max_templates:,} are allowed."
        return (), [Violation(field="label_space.templates", reason="TOO_MANY_TEMPLATES", sentence=sentence)]
    if len(templates) == 1 and templates[0].startswith("@"):
        members = manifest.template_sets.get(templates[0][1:])
        if members is not None:
            return members, []
        if PLACEHOLDER not in templates[0]:
            names = _names(manifest.template_sets, prefix="@")
            sentence = f"There is no template set {_quote(templates[0])}; the model has {names}."
            field = "label_space.templates[0]"
            return (), [Violation(field=field, reason="TEMPLATE_SET_UNKNOWN", sentence=sentence)]
    return templates, list(_template_violations(templates, limits))


def _template_violations(templates: Sequence[str], limits: Limits) -> Iterator[Violation]:
    for index, template in enumerate(templates):
        field = f"label_space.templates[{index}]"
        placeholders = template.count(PLACEHOLDER)
        if (size := len(template.encode())) > limits.max_label_bytes:
            sentence = f"Template {index} has {size:,} bytes; at most {limits.max_label_bytes:,} are allowed."
            yield Violation(field=field, reason="TEMPLATE_TOO_LONG", sentence=sentence)
        elif placeholders != 1:
            hint = " A set's name must stand alone." if template.startswith("@") else ""
            sentence = (
                f"Template {index} ({_quote(template)}) has {placeholders} placeholders; write exactly one {{}} "
                f'where the label goes, as in "a photo of a {{}}.".{hint}'
            )
            yield Violation(field=field, reason="TEMPLATE_WITHOUT_PLACEHOLDER", sentence=sentence)


def _quote(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return f'"{shown}"'


def _names(sets: Iterable[str], *, prefix: str = "") -> str:
    return ", ".join(prefix + name for name in sets) or "none"
