"""Checks labels, texts and templates, and resolves the sets they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from clipsr.v1 import types_pb2
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._manifest_document import PLACEHOLDER
from clipsr_gateway._text_warnings import quote
from clipsr_gateway.errors import InvalidRequestError, Violation

CHECKING_BYTES = 256
"""Checking and encoding one label or text takes about as long as parsing so many bytes; for `run_off_loop`."""


@dataclass(frozen=True, kw_only=True)
class LabelQuery:
    """Labels and templates as the models take them.

    Attributes:
        labels: unique, none empty, in the caller's order.
        templates: each with exactly one "{}"; a set's name is replaced by its templates.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    @cached_property
    def label_bytes(self) -> tuple[int, ...]:
        """[K] bytes of each label in UTF-8, the longest first."""
        return tuple(sorted((len(label.encode()) for label in self.labels), reverse=True))


@dataclass(frozen=True, kw_only=True)
class TextQuery:
    """Texts and templates as the models take them.

    Attributes:
        texts: none empty, in the caller's order; may repeat.
        templates: each with exactly one "{}".
    """

    texts: tuple[str, ...]
    templates: tuple[str, ...]


def resolve_label_space(space: types_pb2.LabelSpace, *, path: str, manifest: Manifest, limits: Limits) -> LabelQuery:
    """Check labels and templates and replace set names by what they hold.

    Args:
        space: as the caller wrote it.
        path: of `space` in the request, for violations.
        manifest: what is served.
        limits: what a request may hold.

    Raises:
        InvalidRequestError: with one violation for every field that is wrong.
    """
    labels, violations = _resolve_labels(space, path, manifest, limits)
    templates, template_violations = _resolve_templates(
        tuple(space.templates) or (manifest.default_templates,), f"{path}.templates", manifest, limits
    )
    violations += template_violations
    violations += _product_violations(len(labels), "labels", len(templates), path, limits) if not violations else []
    if violations:
        raise InvalidRequestError(violations)
    return LabelQuery(labels=labels, templates=templates)


def resolve_texts(texts: Sequence[str], templates: Sequence[str], *, manifest: Manifest, limits: Limits) -> TextQuery:
    """Check the texts and templates of an EmbedTextsRequest; without templates the texts stand for themselves.

    Raises:
        InvalidRequestError: with one violation for every field that is wrong.
    """
    violations: list[Violation] = []
    if not texts:
        message = "There are no texts; send at least one."
        violations.append(Violation(field="texts", reason="TEXTS_EMPTY", message=message))
    elif len(texts) > limits.max_embed_texts:
        message = f"{len(texts):,} texts are too many; at most {limits.max_embed_texts:,} are allowed in one request."
        violations.append(Violation(field="texts", reason="TOO_MANY_TEXTS", message=message))
    else:
        violations += _string_violations(texts, "texts", "text", limits)
    resolved, template_violations = _resolve_templates(
        tuple(templates) or (PLACEHOLDER,), "templates", manifest, limits
    )
    violations += template_violations
    violations += _product_violations(len(texts), "texts", len(resolved), "texts", limits) if not violations else []
    if violations:
        raise InvalidRequestError(violations)
    return TextQuery(texts=tuple(texts), templates=resolved)


def _product_violations(count: int, nouns: str, template_count: int, path: str, limits: Limits) -> list[Violation]:
    total = count * template_count
    if total <= limits.max_texts:
        return []
    message = (
        f"{count:,} {nouns} in {template_count:,} templates are {total:,} texts; at most {limits.max_texts:,} are "
        f"allowed. Send fewer {nouns}, or fewer templates."
    )
    return [Violation(field=path, reason="TOO_MANY_TEXTS", message=message)]


def _resolve_labels(
    space: types_pb2.LabelSpace, path: str, manifest: Manifest, limits: Limits
) -> tuple[tuple[str, ...], list[Violation]]:
    if space.label_set:
        return _resolve_label_set(space, path, manifest)
    labels, field = tuple(space.labels), f"{path}.labels"
    if not labels:
        message = "There are no labels to choose from; set labels, or label_set to the name of a published set."
        return (), [Violation(field=field, reason="LABELS_EMPTY", message=message)]
    if len(labels) > limits.max_labels:
        message = f"{len(labels):,} labels are too many; at most {limits.max_labels:,} are allowed in one request."
        return (), [Violation(field=field, reason="TOO_MANY_LABELS", message=message)]
    violations = [*_string_violations(labels, field, "label", limits), *_duplicate_violations(labels, field)]
    return labels, violations


def _resolve_label_set(
    space: types_pb2.LabelSpace, path: str, manifest: Manifest
) -> tuple[tuple[str, ...], list[Violation]]:
    if space.labels:
        message = "Both labels and label_set are set; leave one of them empty."
        return (), [Violation(field=path, reason="LABEL_SPACE_AMBIGUOUS", message=message)]
    labels = manifest.label_sets.get(space.label_set)
    if labels is not None:
        return labels, []
    hint = " Write the name without '@'." if space.label_set.startswith("@") else ""
    message = f"There is no label set {quote(space.label_set)}; the model has {_names(manifest.label_sets)}.{hint}"
    return (), [Violation(field=f"{path}.label_set", reason="LABEL_SET_UNKNOWN", message=message)]


def _string_violations(values: Sequence[str], path: str, noun: str, limits: Limits) -> Iterator[Violation]:
    """Find labels or texts that are empty or too long."""
    for index, value in enumerate(values):
        field = f"{path}[{index}]"
        if not value.strip():
            message = f"{noun.capitalize()} {index} is empty or only white space; remove it."
            yield Violation(field=field, reason=f"{noun.upper()}_EMPTY", message=message)
        elif (size := len(value.encode())) > limits.max_label_bytes:
            message = (
                f"{noun.capitalize()} {index} ({quote(value)}) has {size:,} bytes; at most "
                f"{limits.max_label_bytes:,} are allowed."
            )
            yield Violation(field=field, reason=f"{noun.upper()}_TOO_LONG", message=message)


def _duplicate_violations(labels: Sequence[str], path: str) -> Iterator[Violation]:
    first_index: dict[str, int] = {}
    for index, label in enumerate(labels):
        first = first_index.setdefault(label, index)
        if first != index and label.strip():
            message = f"Label {index} ({quote(label)}) is the same as label {first}; labels must be unique."
            yield Violation(field=f"{path}[{index}]", reason="LABEL_DUPLICATE", message=message)


def _resolve_templates(
    templates: tuple[str, ...], path: str, manifest: Manifest, limits: Limits
) -> tuple[tuple[str, ...], list[Violation]]:
    if len(templates) > limits.max_templates:
        message = f"{len(templates):,} templates are too many; at most {limits.max_templates:,} are allowed."
        return (), [Violation(field=path, reason="TOO_MANY_TEMPLATES", message=message)]
    if len(templates) == 1 and templates[0].startswith("@"):
        members = manifest.template_sets.get(templates[0][1:])
        if members is not None:
            return members, []
        if PLACEHOLDER not in templates[0]:
            names = _names(manifest.template_sets, prefix="@")
            message = f"There is no template set {quote(templates[0])}; the model has {names}."
            return (), [Violation(field=f"{path}[0]", reason="TEMPLATE_SET_UNKNOWN", message=message)]
    return templates, list(_template_violations(templates, path, limits))


def _template_violations(templates: Sequence[str], path: str, limits: Limits) -> Iterator[Violation]:
    for index, template in enumerate(templates):
        field = f"{path}[{index}]"
        placeholders = template.count(PLACEHOLDER)
        if (size := len(template.encode())) > limits.max_label_bytes:
            message = f"Template {index} has {size:,} bytes; at most {limits.max_label_bytes:,} are allowed."
            yield Violation(field=field, reason="TEMPLATE_TOO_LONG", message=message)
        elif placeholders != 1:
            hint = " A set's name must stand alone." if template.startswith("@") else ""
            message = (
                f"Template {index} ({quote(template)}) has {placeholders} placeholders; write exactly one {{}} "
                f'where the label goes, as in "a photo of a {{}}.".{hint}'
            )
            yield Violation(field=field, reason="TEMPLATE_WITHOUT_PLACEHOLDER", message=message)


def _names(sets: Iterable[str], *, prefix: str = "") -> str:
    return ", ".join(prefix + name for name in sets) or "none"
