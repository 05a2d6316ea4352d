"""Labels and templates are compared as the text encoder receives them."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from clipsr_serving.errors import InputError
from clipsr_serving.text.distinct import require_distinct_labels, require_visible_labels
from clipsr_serving.text.prompts import LabelSpace

L = 16


def tokenize(texts):
    """One token a character, after the cleaning that CLIP does: Unicode forms, case and blanks."""
    ids = np.zeros((len(texts), L), np.int64)
    for row, text in zip(ids, texts, strict=True):
        cleaned = " ".join(unicodedata.normalize("NFC", text).lower().split())[:L]
        row[: len(cleaned)] = [ord(character) for character in cleaned]
    return ids


def check(*labels, templates=("a {}",)):
    require_distinct_labels(LabelSpace(labels=labels, templates=templates), tokenize)


@pytest.mark.parametrize(
    ("labels", "places"),
    [
        (("cat", "Cat"), r"0 \('cat'\) and 1 \('Cat'\)"),
        (("dog", "cat", "bird", " cat  "), r"1 \('cat'\) and 3 \(' cat  '\)"),
        (("caf\u00e9", "cafe\u0301"), "0 .* and 1 "),
        (("x" * 20 + "red", "x" * 20 + "blue"), "0 .* and 1 "),
        (("b", "B", "a", "A"), r"0 \('b'\) and 1 \('B'\)"),
    ],
)
def test_labels_with_equal_ids_are_refused_with_both_places(labels, places):
    with pytest.raises(InputError, match=f"clipsr:LABELS_INDISTINGUISHABLE: The labels {places}"):
        check(*labels)


def test_labels_that_one_template_tells_apart_pass():
    far, near = "x" * 12 + "{}", "{}"
    check("long red", "long blue", templates=(near,))
    check("long red", "long blue", templates=(far, near))
    with pytest.raises(InputError, match="LABELS_INDISTINGUISHABLE"):
        check("long red", "long blue", templates=(far,))


def test_many_different_labels_pass():
    check(*(f"label {index}" for index in range(3000)))


def test_a_template_must_leave_the_label_inside_the_context():
    require_visible_labels(("a photo of a {}", "x" * (L - 1) + "{}"), tokenize)
    with pytest.raises(InputError, match=rf"clipsr:TEMPLATE_TOO_LONG: The template 1, .* fills the {L} tokens"):
        require_visible_labels(("a {}", "x" * L + "{}"), tokenize)
