"""What the text tower reads in training, and which text the teachers are asked instead.

Names and nouns are put into templates of their language. The teachers always read the same English prompt with the
English name, so a thing has one target in every language and template. The nouns of ImageNet-21k and their definitions
are those of WordNet 3.0 (its license permits any use), as timm ships them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from open_clip import IMAGENET_CLASSNAMES
from timm.data.imagenet_info import ImageNetInfo

from clipsr_training import prompts
from clipsr_training._draws import NumberedDraws
from clipsr_training.degradation import generator

Kind = Literal["name", "noun", "definition"]
# How often each kind is drawn: names most often, since they are what is asked in other languages.
KIND_SHARES: dict[Kind, float] = {"name": 0.5, "noun": 0.4, "definition": 0.1}
# Longer definitions would be cut by a tower of 24 tokens.
_MAX_DEFINITION_WORDS = 14
TARGET_PROMPT = "a photo of a {}"
BARE = "{}"
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a picture of a {}",
        "a small photo of a {}.",
        "a blurry photo of a {}.",
        "a low resolution photo of a {}.",
        "a close-up photo of a {}.",
        "an image of a {}",
        "the {}",
        "a {}",
    ),
    "zh": ("一张{}的照片", "{}的照片", "一张{}的图片。", "{}的图像", "一张模糊的{}照片", "这是{}"),
    "de": ("ein Foto von {}", "ein Foto: {}", "ein Bild von {}.", "{} auf einem Foto", "ein unscharfes Foto von {}"),
    "fr": ("une photo de {}", "une photo : {}", "une image de {}.", "{} sur une photo", "une photo floue de {}"),
    "es": ("una foto de {}", "una foto: {}", "una imagen de {}.", "{} en una foto", "una foto borrosa de {}"),
    "ja": ("{}の写真", "{}の画像", "{}が写っている写真", "ぼやけた{}の写真", "これは{}です"),
}


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One thing to read.

    Attributes:
        text: a name or noun, or a definition, which no template takes.
        target: the text whose embedding by the teachers is the target.
        kind: where it comes from.
        language: code of its language.
        stands_alone: its text without a template means this and nothing else ("pie" is a foot in Spanish).
    """

    text: str
    target: str
    kind: Kind
    language: str = "en"
    stands_alone: bool = True

    def expand(self, choice: int) -> str:
        """Return the text in one of its templates; every second choice is the text itself where it stands alone."""
        if self.kind == "definition" or (self.stands_alone and choice % 2 == 0):
            return self.text
        own = TEMPLATES[self.language]
        return prompts.expand(own[choice // 2 % len(own)], self.text)


def translate(name: str, language: str) -> str:
    """Return an English name in a language of `prompts.LANGUAGES`; what no thing is called comes back as it is."""
    return name if language == "en" else _names_of_things().get(name.casefold(), {}).get(language, name)


@cache
def _names_of_things() -> dict[str, Mapping[str, str]]:
    """Return names by language under a thing's English name and, of classes of ImageNet, under OpenCLIP's."""
    things = prompts.read_things()
    published = zip(IMAGENET_CLASSNAMES, things, strict=False)
    return {
        **{name.casefold(): thing.names for name, thing in published},
        **{thing.names["en"].casefold(): thing.names for thing in things},
    }


def read_phrases(*, hold_out: bool) -> tuple[Phrase, ...]:
    """Return everything that there is to read, each text of a language once.

    Args:
        hold_out: leave out what is held out.
    """
    phrases = [*_names(), *_nouns(), *_definitions()]
    if hold_out:
        phrases = [p for p in phrases if not prompts.is_held_out(p.text) and not prompts.is_held_out(p.target)]
    return tuple(_distinct(phrases))


def _names() -> Iterator[Phrase]:
    """Yield English names first, since they win where another language has the same word."""
    for thing in prompts.read_things():
        yield Phrase(text=thing.names["en"], target=_prompt(thing.names["en"]), kind="name")
    for label, words in prompts.synonyms().items():
        for word in (label, *words):
            yield Phrase(text=word, target=_prompt(word), kind="name")
    for name in IMAGENET_CLASSNAMES:
        yield Phrase(text=name, target=_prompt(name), kind="name")
    for thing in prompts.read_things():
        for language, name in thing.names.items():
            yield Phrase(text=name, target=_prompt(thing.names["en"]), kind="name", language=language)


def _nouns() -> Iterator[Phrase]:
    for lemmas in ImageNetInfo("imagenet-21k-goog").label_descriptions():
        for noun in lemmas.split(", "):
            yield Phrase(text=noun, target=_prompt(noun), kind="noun")


def _definitions() -> Iterator[Phrase]:
    info = ImageNetInfo("imagenet-21k-goog")
    for wnid in info.label_names():
        lemmas = info.label_name_to_description(wnid)
        definition = info.label_name_to_description(wnid, detailed=True).removeprefix(f"{lemmas}: ")
        if len(definition.split()) <= _MAX_DEFINITION_WORDS:
            yield Phrase(text=definition, target=definition, kind="definition")


def _prompt(name: str) -> str:
    return prompts.expand(TARGET_PROMPT, name)


def _distinct(phrases: Iterable[Phrase]) -> Iterator[Phrase]:
    """Keep the first of equal texts of a language; of equal texts of several, only the first's meaning stands alone."""
    seen: set[tuple[str, str]] = set()
    meaning: dict[str, str] = {}
    for phrase in phrases:
        key = phrase.language, phrase.text
        if key in seen or not phrase.text:
            continue
        seen.add(key)
        stands_alone = meaning.setdefault(phrase.text.casefold(), phrase.target) == phrase.target
        yield Phrase(
            text=phrase.text,
            target=phrase.target,
            kind=phrase.kind,
            language=phrase.language,
            stands_alone=stands_alone,
        )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which phrases are drawn, and which only measured.

    Attributes:
        train: indices of phrases by kind.
        kept_off: indices of nouns that no drawn phrase has as its text or its target.
    """

    train: dict[Kind, np.ndarray]
    kept_off: np.ndarray


def split_phrases(phrases: Sequence[Phrase], share: float, at_most: int, seed: int) -> Split:
    """Keep some nouns off training, with every phrase of the same text or target.

    Raises:
        ValueError: there is no noun to keep off, or nothing is left of a kind.
    """
    names = {key for p in phrases if p.kind == "name" for key in (p.text.casefold(), p.target.casefold())}
    free = [
        i for i, p in enumerate(phrases) if p.kind == "noun" and not {p.text.casefold(), p.target.casefold()} & names
    ]
    n = min(at_most, int(len(free) * share))
    if n < 1:
        raise ValueError(f"of {len(free)} nouns that are no names, a part of {share} is none to keep off")
    kept = np.sort(np.random.default_rng(seed).permutation(free)[:n])
    hidden = {phrases[i].target.casefold() for i in kept}
    train: dict[Kind, np.ndarray] = {
        kind: np.array([i for i, p in enumerate(phrases) if p.kind == kind and p.target.casefold() not in hidden])
        for kind in KIND_SHARES
    }
    return Split(train=train, kept_off=kept)


class PhraseDraws(NumberedDraws[tuple[str, int]]):
    """Drawn phrases: the text in a template, and the index of its phrase.

    Args:
        phrases: what to draw from.
        split: which of them.
        seed: of all draws.
        n_draws: length.
        first: number of the first draw.
    """

    def __init__(self, phrases: Sequence[Phrase], split: Split, *, seed: int, n_draws: int, first: int) -> None:
        super().__init__(n_draws, first)
        self.phrases = phrases
        self.seed = seed
        self._pools = [own for kind in KIND_SHARES if len(own := split.train[kind])]
        shares = np.array([share for kind, share in KIND_SHARES.items() if len(split.train[kind])])
        self._bounds = np.cumsum(shares / shares.sum())[:-1]

    def draw(self, number: int) -> tuple[str, int]:
        """Return the draw of a number."""
        rng = generator(self.seed, number, "phrase")
        pool = self._pools[int(np.searchsorted(self._bounds, rng.random(), side="right"))]
        index = int(pool[rng.integers(len(pool))])
        return self.phrases[index].expand(int(rng.integers(1 << 30))), index
