"""Labels and prompt templates: validation, expansion of template sets, the texts that are embedded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clipsr_serving.errors import InputError
from clipsr_serving.limits import DEFAULT_LIMITS, Limits

__all__ = [
    "PLACEHOLDER",
    "LabelSpace",
    "RawLabelSpace",
    "TextKey",
    "fill_template",
    "parse_label_space",
    "parse_templates",
]

PLACEHOLDER = "{}"

RawLabelSpace = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""Labels and templates of one row as they came, the key of whole label lists."""

TextKey = tuple[str, tuple[str, ...]]
"""A label and its expanded templates: what one text embedding is made from, and its key in every cache."""


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """Labels in the order of the caller, and the template strings, sets already replaced by their members."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def keys(self) -> Iterator[TextKey]:
        """One cache key a label, in order."""
        return ((label, self.templates) for label in self.labels)


def fill_template(template: str, label: str) -> str:
    """Put a label where the template's `{}` is; all other braces stay as they are."""
    return template.replace(PLACEHOLDER, label)


def parse_label_space(
    labels: Sequence[bytes],
    templates: Sequence[bytes],
    *,
    template_sets: Mapping[str, tuple[str, ...]],
    default_templates: str,
    noun: str = "label",
    unique: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> LabelSpace:
    """Check one request's labels and templates.

    Args:
        labels: UTF-8, in order.
        templates: UTF-8 template strings, or the name of one template set with `@`; empty: `default_templates`.
        template_sets: name without `@` to template strings.
        default_templates: a template string or a set's name with `@`.
        noun: what the caller calls them, `label` or `text`; goes into reasons and sentences.
        unique: refuse duplicates.
        limits: bounds.

    Raises:
        InputError: LABELS_EMPTY, TOO_MANY_LABELS, LABEL_EMPTY, LABEL_TOO_LONG, LABEL_NOT_UTF8, LABEL_DUPLICATE (the
            same with TEXT), TOO_MANY_TEXTS, or what `parse_templates` raises.
    """
    expanded = parse_templates(templates or [default_templates.encode()], template_sets=template_sets, limits=limits)
    parsed = _parse_labels(labels, noun, limits)
    if unique:
        _refuse_duplicates(parsed, noun)
    if len(parsed) * len(expanded) > limits.max_texts:
        raise InputError(
            "TOO_MANY_TEXTS",
            f"{len(parsed):,} {noun}s with {len(expanded)} templates make {len(parsed) * len(expanded):,} texts, more "
            f"than the {limits.max_texts:,} allowed; send fewer {noun}s or templates.",
        )
    return LabelSpace(labels=parsed, templates=expanded)


def _parse_labels(labels: Sequence[bytes], noun: str, limits: Limits) -> tuple[str, ...]:
    if not labels:
        raise InputError(f"{noun.upper()}S_EMPTY", f"No {noun}s came with the request; send at least one.")
    if len(labels) > limits.max_labels:
        raise InputError(
            f"TOO_MANY_{noun.upper()}S",
            f"{len(labels):,} {noun}s came with the request; send at most {limits.max_labels:,}.",
        )
    return tuple(_parse_label(value, f"{noun} {index}", noun, limits) for index, value in enumerate(labels))


def _parse_label(value: bytes, what: str, noun: str, limits: Limits) -> str:
    text = _decode(value, what, noun, limits)
    if not text.strip():
        raise InputError(f"{noun.upper()}_EMPTY", f"The {what} is empty; give it a name or leave it out.")
    return text


def _decode(value: bytes, what: str, noun: str, limits: Limits) -> str:
    if len(value) > limits.max_label_bytes:
        raise InputError(
            f"{noun.upper()}_TOO_LONG",
            f"The {what} has {len(value):,} bytes; send at most {limits.max_label_bytes:,}.",
        )
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{noun.upper()}_NOT_UTF8", f"The {what} is not valid UTF-8; encode it as UTF-8.") from error


def _refuse_duplicates(labels: Sequence[str], noun: str) -> None:
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        first = seen.setdefault(label, index)
        if first != index:
            raise InputError(
                f"{noun.upper()}_DUPLICATE",
                f"The {noun}s {first} and {index} are the same, {label[:60]!r}; send each {noun} once.",
            )


def parse_templates(
    templates: Sequence[bytes],
    *,
    template_sets: Mapping[str, tuple[str, ...]],
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[str, ...]:
    """Check templates; a single `@name` stands for that set's members.

    Raises:
        InputError: TEMPLATE_SET_UNKNOWN, TEMPLATE_WITHOUT_PLACEHOLDER, TEMPLATE_TOO_LONG, TEMPLATE_NOT_UTF8 or
            TOO_MANY_TEMPLATES.
    """
    if len(templates) > limits.max_templates:
        raise InputError(
            "TOO_MANY_TEMPLATES",
            f"{len(templates):,} templates came with the request; send at most {limits.max_templates}.",
        )
    decoded = tuple(_decode(value, f"template {index}", "template", limits) for index, value in enumerate(templates))
    if len(decoded) == 1 and decoded[0].startswith("@"):
        name = decoded[0][1:]
        if name in template_sets:
            return template_sets[name]
        if PLACEHOLDER not in name:
            known = ", ".join(f"@{known_name}" for known_name in sorted(template_sets)) or "none"
            raise InputError(
                "TEMPLATE_SET_UNKNOWN", f"There is no template set @{name[:60]}; this model knows {known}."
            )
    for template in decoded:
        if template.count(PLACEHOLDER) != 1:
            hint = " A set's name must stand alone." if template.startswith("@") else ""
            raise InputError(
                "TEMPLATE_WITHOUT_PLACEHOLDER",
                f"The template {template[:60]!r} must hold exactly one {{}} where the label goes, for example "
                f"'a photo of a {{}}.'.{hint}",
            )
    return decoded
