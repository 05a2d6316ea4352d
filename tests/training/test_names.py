"""The names of things in six languages, and what is held out to test untaught names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from benchmarks.tiny_imagenet import class_names

from clipsr_training import prompts
from clipsr_training.text._phrases import IMAGENET_CLASSNAMES, TEMPLATES, ImageNetInfo, read_phrases, translate

HERE = Path(__file__).parent
# Published with the data set, in its order.
TINY_IMAGENET = (HERE / "tiny_imagenet_wnids.txt").read_text("utf-8").split()
# One word for two things of the list, as people say it.
HOMONYMS = {"de": {"Straße"}}
# What names are made of; Latin letters occur in Chinese and Japanese ones ("CDプレーヤー").
LATIN = r"[A-Za-zÀ-ÖØ-öø-ÿĀ-ſ]"
HAN = r"[㐀-鿿々䴕]"
KANA = r"[぀-ヿ]"
TIERS = {"tier1": 40, "tier2": 20}


def names(language: str) -> list[str]:
    return [thing.names[language] for thing in prompts.read_things()]


def test_the_list_is_as_long_as_it_says():
    assert len(prompts.read_things()) > 2400
    assert len({thing.id for thing in prompts.read_things()}) == len(prompts.read_things())


def test_every_class_of_imagenet_has_its_names_in_order():
    wnids = ImageNetInfo().label_names()
    assert [thing.id for thing in prompts.read_things()[:1000]] == wnids
    assert not [thing.id for thing in prompts.read_things()[1000:] if re.fullmatch(r"n\d{8}", thing.id)]


def test_imagenets_names_share_words_with_the_published_ones():
    """A shift by one line would break nearly all; some everyday names are other words than those published."""
    words = [set(re.findall(r"\w{3,}", f"{a} {b}".casefold())) for a, b in published()]
    own = [set(re.findall(r"\w{3,}", thing.names["en"].casefold())) for thing in prompts.read_things()[:1000]]
    unlike = [i for i, (ours, theirs) in enumerate(zip(own, words, strict=True)) if not ours & theirs]
    assert len(unlike) < 25, [(i, prompts.read_things()[i].names["en"]) for i in unlike]


def published() -> list[tuple[str, str]]:
    return list(zip(ImageNetInfo().label_descriptions(), IMAGENET_CLASSNAMES, strict=True))


def test_tiny_imagenet_and_cifar_are_among_them():
    assert len(TINY_IMAGENET) == 200
    assert set(TINY_IMAGENET) <= {thing.id for thing in prompts.read_things()}
    assert set(prompts.label_sets()["cifar"]) <= set(names("en"))


@pytest.mark.parametrize("language", prompts.LANGUAGES)
def test_no_name_is_blank_or_padded_and_all_are_composed(language):
    for name in names(language):
        assert name
        assert name == " ".join(name.split())
        assert name == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("language", prompts.LANGUAGES)
def test_no_name_stands_for_two_things(language):
    things: dict[str, list[str]] = defaultdict(list)
    for thing in prompts.read_things():
        things[thing.names[language].casefold()].append(thing.id)
    doubled = {name for name, ids in things.items() if len(ids) > 1}
    assert doubled == {name.casefold() for name in HOMONYMS.get(language, set())}


@pytest.mark.parametrize("language", prompts.LANGUAGES)
def test_names_are_written_in_the_script_of_their_language(language):
    pattern = {
        "zh": rf"(?=.*{HAN})(?:{HAN}|[A-Za-z])+",
        "ja": rf"(?=.*(?:{HAN}|{KANA}))(?:{HAN}|{KANA}|[A-Za-zー])+",
    }.get(language, rf"(?:{LATIN}|[ '.-])+")
    assert [name for name in names(language) if not re.fullmatch(pattern, name)] == []


def test_templates_have_one_place_each():
    assert set(TEMPLATES) == set(prompts.LANGUAGES)
    assert {template.count("{}") for own in TEMPLATES.values() for template in own} == {1}


def test_held_out_classes_are_those_of_the_draw_fixed_before_training():
    rng = np.random.default_rng(20261128)
    others = sorted(set(ImageNetInfo().label_names()) - set(TINY_IMAGENET))
    drawn = [*rng.choice(sorted(TINY_IMAGENET), 20, replace=False), *rng.choice(others, 20, replace=False)]
    assert sorted(prompts.held_out_things()["tier1"]) == sorted(drawn)


def test_held_out_classes_of_cifar_are_those_of_the_protocol():
    assert set(prompts.held_out_things()["tier2"]) == {
        *("baby", "boy", "girl", "man", "woman", "cloud", "plain", "forest", "road", "rose", "tulip", "poppy"),
        *("sunflower", "skyscraper", "maple tree", "palm tree", "willow tree", "caterpillar", "raccoon", "possum"),
    }


def test_a_label_is_of_a_tier_as_a_whole():
    of_tiny = [name for name in class_names(TINY_IMAGENET).values() if prompts.is_name_of_tier(name, "tier1")]
    assert len(of_tiny) == 20
    assert {"bathtub", "chimpanzee", "volleyball"} <= set(of_tiny)
    of_cifar = {name for name in prompts.label_sets()["cifar100"] if prompts.is_name_of_tier(name, "tier2")}
    assert of_cifar == set(prompts.held_out_things()["tier2"])
    assert prompts.is_name_of_tier("Sunflower", "tier2")
    assert not prompts.is_name_of_tier("sunflower seed", "tier2")
    with pytest.raises(KeyError):
        prompts.is_name_of_tier("rose", "tier3")


@pytest.mark.parametrize("tier", TIERS)
def test_every_name_of_a_held_out_class_is_held_out(tier):
    ids = prompts.held_out_things()[tier]
    assert len(ids) == TIERS[tier]
    by_id = {thing.id: thing for thing in prompts.read_things()} | {
        thing.names["en"]: thing for thing in prompts.read_things()
    }
    for key in ids:
        for name in by_id[key].names.values():
            assert prompts.is_held_out(name), name
    known = dict(zip(ImageNetInfo().label_names(), published(), strict=True))
    for wnid in (key for key in ids if key in known):
        lemmas, name = known[wnid]
        for word in (*lemmas.split(", "), name):
            assert prompts.is_held_out(word), word


def test_words_are_found_in_longer_texts_and_not_in_longer_words():
    assert prompts.is_held_out("a photo of two Raccoons")
    assert prompts.is_held_out("a young woman's hat")
    assert not prompts.is_held_out("a mandolin on a roadster")
    assert not prompts.is_held_out("primrose")
    assert not prompts.is_held_out("rose hip")
    assert prompts.is_held_out("a rose hip beside a rose")


def test_nothing_held_out_is_among_the_phrases_of_a_twin_run():
    all_phrases, phrases = read_phrases(hold_out=False), read_phrases(hold_out=True)
    assert 0.8 * len(all_phrases) < len(phrases) < len(all_phrases)
    held = [p.text for p in phrases if prompts.is_held_out(p.text) or prompts.is_held_out(p.target)]
    assert held == []
    words = {word for tier in prompts.held_out_things().values() for own in tier.values() for word in own}
    assert words & {p.text.casefold() for p in phrases} == set()


def test_names_are_translated_by_either_english_name():
    """Classes of ImageNet have OpenCLIP's name and an everyday one."""
    assert translate("cat", "zh") == translate("Cat", "zh") == "猫"
    assert translate("kite (bird of prey)", "de") == "Milan"
    assert translate("kite (bird of prey)", "en") == "kite (bird of prey)"
    assert translate("flux capacitor", "fr") == "flux capacitor"
    assert all(translate(name, "ja") != name for name in (*IMAGENET_CLASSNAMES, *prompts.label_sets()["cifar100"]))
