"""CLIP's tokenizer as one file: the ids that OpenCLIP gives, for any text that people send."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import ftfy
import open_clip
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from clipsr_export._errors import TokenizerError
from clipsr_export._tokenizer.build import build_tokenizer
from clipsr_training import prompts
from clipsr_training.clip import ClipCheckpoint

LENGTH = 77
# A hundred more than the 20,000 that are compared, as a few happen to look like text in a wrong encoding.
COUNTS = {"prompts": 4000, "words": 5000, "chinese": 4000, "emoji": 2500, "control": 2500, "mixed": 2090, "long": 10}
_WORDS = [
    "the",
    "cat's",
    "don't",
    "WE'LL",
    "I'm",
    "you're",
    "they've",
    "he'd",
    "O'Brien",
    "naïve",
    "café",
    "Zürich",
    "Ångström",
    "coöperate",
    "façade",
    "Straße",
    "ΣΊΣΥΦΟΣ",
    "İstanbul",
    "привет",
    "Москва",
    "שלום",
    "مرحبا",
    "नमस्ते",
    "สวัสดี",
    "안녕하세요",
    "日本語",
    "カタカナ",
    "ｶﾅ",
    "ＦＵＬＬ",
    "ﬁne",
    "ﬂow",
    "“quoted”",
    "‘single’",
    "…",
    "—",
    "–",
    "1234",
    "3.14",
    "10,000",
    "50%",
    "$9.99",
    "#tag",
    "@user",
    "C++",
    "a/b",
    "x=y",
    "e-mail",
    "http://example.com/a?b=c",
    "snake_case",
    "CamelCase",
    "<start_of_text>",
    "<END_OF_TEXT>",
    "½",
    "²",
    "™",
    "©",
    "€",
    "₿",
    "°",
    "×",
    "≤",
    "∞",
    "→",
    "★",
    "✓",
]
_EMOJI = [
    "😀",
    "🐈\u200d⬛",
    "👩🏽\u200d🚀",
    "🇨🇭",
    "❤️",
    "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
    "1️⃣",
    "🫠",
    "☕",
    "✈️",
    "👍🏿",
    "🧑\u200d🤝\u200d🧑",
]
_CONTROL = [
    *map(chr, range(0x20)),
    "\x7f",
    "\x1b[31m",
    "\x1b[0m",
    "\ufeff",
    "\u200b",
    "\u200d",
    "\u202e",
    "\u2028",
    "\u2029",
    "\xa0",
    "\u3000",
    "\u206a",
    "\ufffc",
    "\r\n",
]


def texts() -> Iterator[str]:
    rng = random.Random(0)
    known = [
        prompts.expand(t, x) for t in prompts.template_sets()["imagenet"] for x in prompts.label_sets()["cifar100"]
    ]
    for _ in range(COUNTS["long"]):
        yield " ".join(rng.choices(_WORDS, k=5000))
    yield from rng.sample(known, COUNTS["prompts"])
    for _ in range(COUNTS["words"]):
        yield rng.choice(["", " ", "  ", "\t"]).join(rng.choices(_WORDS, k=rng.randint(0, 12)))
    for _ in range(COUNTS["chinese"]):
        yield "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(1, 30))) + rng.choice(
            ["。", "！", "", " ok"]
        )
    for _ in range(COUNTS["emoji"]):
        yield rng.choice(["", " "]).join(rng.choices([*_EMOJI, *_WORDS[:8]], k=rng.randint(1, 8)))
    for _ in range(COUNTS["control"]):
        yield "".join(rng.choices([*_CONTROL, *_WORDS[:12]], k=rng.randint(1, 10)))
    for _ in range(COUNTS["mixed"]):
        yield " ".join(rng.choices([*_WORDS, *_EMOJI, *_CONTROL], k=rng.randint(1, 20)))


def is_decoded_well(text: str) -> bool:
    """Whether OpenCLIP leaves the text's encoding alone: the file can't repair it (docs/export.md)."""
    return ftfy.fix_text(text, unescape_html=False, fix_encoding=False) == ftfy.fix_text(text, unescape_html=False)


@pytest.fixture(scope="module")
def reference() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=LENGTH)


def file_of(tokenizer: open_clip.SimpleTokenizer, **text_cfg) -> Tokenizer:
    """The tokenizer after a round through its file."""
    config = {"model_cfg": {"text_cfg": {"context_length": LENGTH, **text_cfg}}}
    checkpoint = ClipCheckpoint(model=None, config=config, tokenizer=tokenizer)  # pyright: ignore[reportArgumentType]
    return Tokenizer.from_str(build_tokenizer(checkpoint).to_str())


@pytest.fixture(scope="module")
def tokenizer(reference) -> Tokenizer:
    return file_of(reference)


def test_twenty_thousand_strings_give_identical_ids(tokenizer, reference):
    strings = list(itertools.islice(filter(is_decoded_well, texts()), 20_000))
    assert len(strings) == 20_000
    ours = [encoding.ids for encoding in tokenizer.encode_batch(strings)]
    theirs = reference(strings).tolist()
    different = [text for text, a, b in zip(strings, ours, theirs, strict=True) if a != b]
    assert not different, (len(different), different[:5])


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0xFFFF), max_size=40))
def test_any_text_that_ftfy_leaves_alone_gives_identical_ids(tokenizer, reference, text):
    # Repairing a wrong decoding and HTML entities are what a file can't do (docs/export.md).
    text = text.replace("&", "and").replace("Σ", "")
    assume(is_decoded_well(text))
    assert tokenizer.encode(text).ids == reference([text])[0].tolist()


@pytest.mark.parametrize(("text", "repaired"), [("schÃ¶n", "schön"), ("&lt;b&gt;", "<b>")])
def test_what_a_file_cannot_do_is_what_the_page_says(tokenizer, reference, repo_root, text, repaired):
    page = (repo_root / "docs" / "export.md").read_text(encoding="utf-8")
    assert f"`{text}`" in page
    assert reference([text]).tolist() == reference([repaired]).tolist()
    assert tokenizer.encode(text).ids != reference([text])[0].tolist()
    assert tokenizer.encode(repaired).ids == reference([repaired])[0].tolist()


@pytest.mark.parametrize("kind", ["lower", "whitespace", "canonicalize"])
def test_every_cleaning_function(kind):
    tokenizer = open_clip.SimpleTokenizer(context_length=LENGTH, clean=kind)
    exported = file_of(tokenizer, tokenizer_kwargs={"clean": kind})
    for text in ("Tea_pot, a 'B'!  ", "ＡＢ\tc", "</s> <b>", "!\"#$%'()*+,-./:;<=>?@[\\]^_`{|}~"):
        assert exported.encode(text).ids == tokenizer([text])[0].tolist(), text


def test_what_no_file_can_express_is_refused(reference):
    with pytest.raises(TokenizerError, match="reduction_mask"):
        file_of(reference, tokenizer_kwargs={"reduction_mask": "syntax"})
    with pytest.raises(TokenizerError, match="'clips'"):
        file_of(reference, tokenizer_mode="clips")
