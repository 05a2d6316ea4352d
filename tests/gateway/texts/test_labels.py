"""Label spaces of any content: accepted exactly when the rules say so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsr.v1 import types_pb2
from clipsr_gateway import InvalidRequestError, Limits, Manifest, load_manifest
from clipsr_gateway._calls.status import invalid_argument
from clipsr_gateway._texts.labels import resolve_label_space

LIMITS = Limits(max_labels=6, max_label_bytes=12, max_templates=4, max_texts=12)
METADATA_LIMIT_BYTES = 8192

texts = st.text(st.characters(codec="utf-8"), max_size=14)
labels_or_near = st.one_of(texts, st.sampled_from(["cat", "cat", " ", "", "🐶", "\u3000"]))
templates_or_near = st.one_of(texts, st.sampled_from(["{}", "a {}", "{} {}", "@cifar", "@nope", "{"]))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder: Path = tmp_path_factory.mktemp("repository")
    document: dict[str, Any] = {
        "schema_version": 1,
        "name": "m",
        "digest": "sha256:1",
        "image_encoder": {"architecture": "a", "image_size_px": 64, "embed_dim": 2},
        "text_encoder": {"context_length": 32},
        "upscaler": {"architecture": "u", "canvas_sizes_px": [32]},
        "scoring": {"function": "softmax", "logit_scale": 1, "logit_bias": 0},
        "native_min_side_px": 64,
        "default_templates": "@simple",
        "template_sets": {"simple": ["{}"], "cifar": ["a {}", "b {}"]},
        "label_sets": {"pets": ["cat", "dog"]},
        "artifacts": {},
    }
    (folder / "manifest.json").write_text(json.dumps(document))
    return load_manifest(folder)


def is_valid(labels: list[str], templates: list[str]) -> bool:
    """The rules, written a second time and plainly."""
    if not 1 <= len(labels) <= 6 or len(set(labels)) != len(labels) or len(templates) > 4:
        return False
    if any(label.strip() == "" or len(label.encode()) > 12 for label in labels):
        return False
    if templates == ["@cifar"]:
        return len(labels) * 2 <= 12
    if templates == ["@simple"] or not templates:
        return True
    if any(len(re.findall(r"\{\}", template)) != 1 or len(template.encode()) > 12 for template in templates):
        return False
    return len(labels) * len(templates) <= 12


@given(labels=st.lists(labels_or_near, max_size=8), templates=st.lists(templates_or_near, max_size=5))
def test_accepts_what_the_rules_allow_and_nothing_else(manifest, labels, templates):
    space = types_pb2.LabelSpace(labels=labels, templates=templates)
    try:
        query = resolve_label_space(space, path="label_space", manifest=manifest, limits=LIMITS)
    except InvalidRequestError as error:
        assert not is_valid(labels, templates)
        for violation in error.violations:
            assert re.fullmatch(r"label_space(\.(labels|templates)(\[\d+\])?)?", violation.field)
    else:
        assert is_valid(labels, templates)
        assert list(query.labels) == labels
        assert all(template.count("{}") == 1 for template in query.templates)


@given(labels=st.lists(st.text(st.characters(codec="utf-8"), max_size=2000), min_size=1, max_size=40))
def test_a_refusal_always_fits_the_trailing_metadata(manifest, labels):
    try:
        resolve_label_space(types_pb2.LabelSpace(labels=labels), path="label_space", manifest=manifest, limits=LIMITS)
    except InvalidRequestError as error:
        status = invalid_argument(error.violations)
        # The details travel base64-encoded, the message a second time percent-encoded.
        size = len(status.SerializeToString()) * 4 / 3 + len(status.message.encode()) * 3
        assert size < METADATA_LIMIT_BYTES


def test_sets_and_limits_meet_at_the_edges(manifest):
    six = [str(i) for i in range(6)]
    query = resolve_label_space(
        types_pb2.LabelSpace(labels=six, templates=["@cifar"]), path="label_space", manifest=manifest, limits=LIMITS
    )
    assert len(query.labels) * len(query.templates) == LIMITS.max_texts
    pets = resolve_label_space(
        types_pb2.LabelSpace(label_set="pets"), path="label_space", manifest=manifest, limits=LIMITS
    )
    assert (pets.labels, pets.templates) == (("cat", "dog"), ("{}",))


@pytest.mark.parametrize("name", ["max_images", "max_label_bytes", "max_message_bytes"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})
