"""Which texts a model's tokenizer knows nothing of, for each kind of tokenizer that export writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPO_ROOT

from clipsr_gateway._vocabulary import Vocabulary, load_vocabulary

BYTE_LEVEL = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}}
# As byte-level vocabularies write "née", "日", the first two bytes of a Chinese character, and one Cyrillic letter.
CLIP = {"dog</w>": 0, "nÃ©e</w>": 1, "æĹ¥</w>": 2, "æĹ": 3, "Ð°": 4}


def vocabulary_of(folder: Path, model: dict[str, Any], **document: Any) -> Vocabulary:
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "tokenizer.json").write_text(json.dumps({"model": model} | document), encoding="utf-8")
    return load_vocabulary(folder)


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        ("a dog", True),
        ("x", True),
        ("", True),
        ("42", True),
        ("\U0001f436", True),
        ("née", True),
        ("NÉE", True),
        ("日", True),
        ("狗和日", True),
        ("狗", False),
        ("一只狗在草地上", False),
        ("狗 dog", True),
        ("собака", False),
        ("а", False),
    ],
)
def test_a_byte_level_vocabulary(tmp_path, text, is_known):
    vocabulary = vocabulary_of(tmp_path, {"type": "BPE", "vocab": CLIP, "end_of_word_suffix": "</w>"}, **BYTE_LEVEL)
    assert vocabulary.knows(text) == is_known


@pytest.mark.parametrize(
    "model",
    [
        {"type": "Unigram", "vocab": [["<unk>", 0.0], ["\u2581", -1.0], ["狗", -2.0], ["\u2581соба", -3.0]]},
        {"type": "WordPiece", "vocab": {"[UNK]": 0, "##狗": 1, "соба": 2}, "continuing_subword_prefix": "##"},
    ],
    ids=["Unigram", "WordPiece"],
)
def test_a_multilingual_vocabulary(tmp_path, model):
    vocabulary = vocabulary_of(tmp_path, model, pre_tokenizer={"type": "Metaspace"})
    assert vocabulary.knows("一只狗在草地上")
    assert vocabulary.knows("собака")
    assert not vocabulary.knows("猫")


def test_without_a_tokenizer_nothing_is_said(tmp_path):
    assert load_vocabulary(tmp_path).knows("猫")
    (tmp_path / "text_encoder").mkdir()
    for content in ("no JSON", "[]", '{"model": {}}', '{"model": {"vocab": 7}}'):
        (tmp_path / "text_encoder" / "tokenizer.json").write_text(content)
        assert load_vocabulary(tmp_path).knows("猫")


def test_the_tokenizer_that_ships():
    vocabulary = load_vocabulary(REPO_ROOT / "model_repository")
    if vocabulary.knows("一只狗"):
        pytest.skip("no model repository was exported; run `make export`")
    assert vocabulary.knows("a dog on grass")
    assert vocabulary.knows("fiancé")
    assert not vocabulary.knows("собака")


def test_words_that_were_never_taught():
    vocabulary = Vocabulary(taught_words=["a", "photo", "of", "Pickup", "truck", "bus", "Möwe"])
    assert vocabulary.untaught("A photo of 2 pickup-trucks, buses and giraffes") == ("giraffes",)
    assert vocabulary.untaught("möwe") == ()
    assert vocabulary.untaught("42!") == ()
    assert Vocabulary().untaught("giraffe") == ()
