"""What a model is asked to tell apart where there are no labels."""

from __future__ import annotations

from pathlib import Path

from open_clip import IMAGENET_CLASSNAMES

from clipsr_training import prompts


def read_nouns(text: str | None) -> tuple[str, ...]:
    """Read the nouns of "a,b", "@set+@set", or a text file of one a line; None gives the 1,000 names of ImageNet.

    Raises:
        ValueError: there are fewer than two, or a set is unknown.
    """
    if text is None:
        return tuple(dict.fromkeys(IMAGENET_CLASSNAMES))
    if text.startswith("@"):
        nouns = [noun for name in text.split("+") for noun in _published(name)]
    elif Path(text).is_file():
        nouns = Path(text).read_text(encoding="utf-8").splitlines()
    else:
        nouns = text.split(",")
    distinct = tuple(dict.fromkeys(noun.strip() for noun in nouns if noun.strip()))
    if len(distinct) < 2:
        raise ValueError(f"anchors are nouns to tell apart: name two or more, got {text!r}")
    return distinct


def _published(name: str) -> list[str]:
    known = prompts.label_sets()
    if name.removeprefix("@") not in known:
        raise ValueError(f"no label set {name}; known: {', '.join(f'@{known_name}' for known_name in known)}")
    return known[name.removeprefix("@")]
