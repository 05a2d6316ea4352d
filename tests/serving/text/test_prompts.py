"""Labels and templates as callers send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsr_serving.errors import InputError
from clipsr_serving.limits import Limits
from clipsr_serving.text.prompts import fill_template, parse_label_space, parse_templates

SETS = {"simple": ("a photo of a {}.",), "pair": ("a {}", "the {}")}


def parse(labels, templates=(), **options):
    return parse_label_space(labels, templates, template_sets=SETS, default_templates="@simple", **options)


@pytest.mark.parametrize(
    ("labels", "templates", "reason"),
    [
        ([], [], "LABELS_EMPTY"),
        ([b"cat", b""], [], "LABEL_EMPTY"),
        ([b"cat", b" \t"], [], "LABEL_EMPTY"),
        ([b"cat", b"dog", b"cat"], [], "LABEL_DUPLICATE"),
        ([b"x" * 21], [], "LABEL_TOO_LONG"),
        ([b"\xff\xfe"], [], "LABEL_NOT_UTF8"),
        ([b"a", b"b", b"c", b"d", b"e"], [], "TOO_MANY_LABELS"),
        ([b"cat"], [b"a photo"], "TEMPLATE_WITHOUT_PLACEHOLDER"),
        ([b"cat"], [b"{} and {}"], "TEMPLATE_WITHOUT_PLACEHOLDER"),
        ([b"cat"], [b"@imagenet"], "TEMPLATE_SET_UNKNOWN"),
        ([b"cat"], [b""], "TEMPLATE_WITHOUT_PLACEHOLDER"),
        ([b"cat"], [b"a {}", b"@pair"], "TEMPLATE_WITHOUT_PLACEHOLDER"),
        ([b"cat"], [b"@pair", b"@simple"], "TEMPLATE_WITHOUT_PLACEHOLDER"),
        ([b"cat"], [b"a {}", b"the {}", b"one {}", b"two {}"], "TOO_MANY_TEMPLATES"),
        ([b"a", b"b", b"c"], [b"the {}", b"a {}", b"a {}!"], "TOO_MANY_TEXTS"),
    ],
)
def test_what_is_refused(labels, templates, reason):
    limits = Limits(max_label_bytes=20, max_labels=4, max_templates=3, max_texts=8)
    with pytest.raises(InputError) as caught:
        parse(labels, templates, limits=limits)
    assert caught.value.reason == reason
    assert caught.value.message.endswith(".")


def test_labels_of_any_script_are_kept_as_they_are():
    space = parse(["猫".encode(), "🐕".encode(), b" cat "])
    assert space.labels == ("猫", "🐕", " cat ")
    assert space.templates == SETS["simple"]


def test_a_single_name_stands_for_its_set():
    assert parse_templates([b"@pair"], template_sets=SETS) == ("a {}", "the {}")
    assert parse_templates([b"@{}"], template_sets=SETS) == ("@{}",)
    with pytest.raises(InputError, match="A set's name must stand alone"):
        parse_templates([b"one {}", b"@pair"], template_sets=SETS)


def test_texts_may_repeat_and_have_their_own_reasons():
    assert parse([b"a", b"a"], noun="text", unique=False).labels == ("a", "a")
    with pytest.raises(InputError, match="clipsr:TEXTS_EMPTY: "):
        parse([], noun="text", unique=False)


@given(st.text(min_size=1), st.text(), st.text())
def test_only_the_placeholder_is_replaced(label, before, after):
    before, after = before.replace("{}", ""), after.replace("{}", "")
    template = f"{before}{{}}{after}"
    if template.count("{}") == 1:  # "{" + "{}" + "}" would hold a second one after replacement of nothing
        assert fill_template(template, label) == f"{before}{label}{after}"


label_lists = st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=6, unique=True)


@given(label_lists, label_lists, st.sampled_from(["@simple", "@pair"]), st.sampled_from(["@simple", "@pair"]))
def test_keys_agree_exactly_where_label_and_templates_agree(first, second, first_set, second_set):
    keys = [
        {*parse([label.encode() for label in labels], [templates.encode()]).keys}
        for labels, templates in ((first, first_set), (second, second_set))
    ]
    shared = {label for label in first if label in second} if first_set == second_set else set()
    assert {label for label, _ in keys[0] & keys[1]} == shared
