"""Names of about 2,400 concrete things in six languages, and the things that a model is to be tested on untaught.

`names.tsv`: the 1,000 classes of ImageNet (Tiny-ImageNet's 200 among them) under their WordNet ids, with an everyday
name each, then those of CIFAR-10 and CIFAR-100, then other things that can be pictured, under an id made of their
English name. All names were written for this file. `held_out.json`: see its own `source`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "zh", "de", "fr", "es", "ja")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A concrete thing with its name in each language.

    Attributes:
        id: the WordNet id ("n02129604") of a class of ImageNet, else the English name with hyphens.
        names: singular nouns by language code, see `LANGUAGES`.
    """

    id: str
    names: Mapping[str, str]


@cache
def read_things() -> tuple[Thing, ...]:
    """Return all things: ImageNet's classes in the order of their published indices, then the others."""
    text = files("clipsr_training.prompts").joinpath("names.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(Thing(id=row["id"], names={code: row[code] for code in LANGUAGES}) for row in rows)


@cache
def held_out_things() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the held-out classes of each tier by their id, each with all its words: names, synonyms, hyponyms."""
    tiers: dict[str, dict[str, list[str]]] = _held_out()["tiers"]
    return {tier: {key: tuple(words) for key, words in own.items()} for tier, own in tiers.items()}


def is_name_of_tier(name: str, tier: str) -> bool:
    """Whether a label is, as a whole, a held-out class of a tier or a word of one; KeyError for another tier."""
    classes = held_out_things()[tier]
    return name.casefold() in {word.casefold() for key, words in classes.items() for word in (key, *words)}


def is_held_out(text: str) -> bool:
    """Whether a text names something held out: by a word of it in English, or by its name in another language.

    A word counts wherever it stands in a longer text, in singular or plural, so that no hyponym ("lion cub") and no
    definition gets through; phrases that contain one by accident ("rose hip") are listed with the words.
    """
    folded = text.casefold()
    return bool(_pattern().search(_accidents().sub(" ", folded))) or folded.strip() in _translations()


@cache
def _held_out() -> dict[str, Any]:
    return json.loads(files("clipsr_training.prompts").joinpath("held_out.json").read_text(encoding="utf-8"))


@cache
def _pattern() -> re.Pattern[str]:
    return _any_of(word for tier in held_out_things().values() for words in tier.values() for word in words)


@cache
def _accidents() -> re.Pattern[str]:
    return _any_of(_held_out()["accidents"])


def _any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted({phrase.casefold() for phrase in phrases}, key=lambda phrase: (-len(phrase), phrase))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?:e?s)?(?!\w)")


@cache
def _translations() -> frozenset[str]:
    """Names in other languages, compared as a whole: words of one language within another would hide too much."""
    held = [thing for thing in read_things() if _pattern().search(_accidents().sub(" ", thing.names["en"].casefold()))]
    return frozenset(name.casefold() for thing in held for code, name in thing.names.items() if code != "en")
