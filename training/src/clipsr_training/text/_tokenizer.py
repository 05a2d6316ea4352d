"""The text tower's tokenizer: a published multilingual vocabulary, cut to the pieces that training shows.

The vocabulary is that of XLM-R, which comes with the multilingual teacher: its pieces were found on a hundred
languages, so words that no list holds still fall into parts with a meaning of their own, which pieces learned from word
lists alone would not. Pieces that no phrase of training contains are cut; the room goes to English words, which XLM-R
has in parts that say little of them ("bu", "cket"). What is left without pieces, a script that was never shown, becomes
the unknown piece.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

START, PAD, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
_WORD_START = "▁"
# Of a whole word over its parts, in the logarithm of its likelihood.
_ADVANTAGE = 1.0
_SPECIAL = (START, PAD, END, UNKNOWN)


def cut_tokenizer(
    source: Tokenizer, texts: Iterable[str], vocab_size: int, words: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the pieces that some texts need, in lower case.

    Args:
        source: a unigram tokenizer with the special tokens of XLM-R.
        texts: everything that training shows.
        vocab_size: most pieces; the most frequent ones and all single characters are kept.
        words: to be pieces as wholes where there is room, the most important first.

    Raises:
        ValueError: the source is no unigram tokenizer, or the characters alone are more than `vocab_size`.
    """
    content: dict[str, Any] = json.loads(source.to_str())
    if content["model"]["type"] != "Unigram":
        raise ValueError(f"a tokenizer of type {content['model']['type']} can't be cut; expected Unigram")
    scores: dict[str, float] = dict(content["model"]["vocab"])
    lower = _lower_case(source)
    cased = Tokenizer(models.Unigram(list(scores.items()), list(scores).index(UNKNOWN)))
    cased.normalizer, cased.pre_tokenizer = lower, source.pre_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    counts = Counter(piece for encoding in cased.encode_batch(list(texts)) for piece in encoding.tokens)
    # Known pieces and characters only: an unknown stretch of text is reported as it stands.
    characters = {c for piece in counts for c in piece if c in scores}
    kept = [piece for piece, _ in counts.most_common() if piece in scores and piece not in characters]
    room = vocab_size - len(_SPECIAL) - len(characters)
    if room < 0:
        raise ValueError(f"{len(characters)} characters don't fit into a vocabulary of {vocab_size} pieces")
    chosen = characters | set(kept[:room])
    vocab = [(piece, 0.0) for piece in _SPECIAL]
    vocab += [(piece, score) for piece, score in scores.items() if piece in chosen and piece not in _SPECIAL]
    vocab += itertools.islice(_whole_words(source, scores, words, chosen), vocab_size - len(vocab))
    return _assemble(vocab, lower, source)


def read_pieces(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Return all pieces that are a text by themselves, by their ids; the mark of a word's start is no part of it."""
    vocabulary = sorted((i, piece) for piece, i in tokenizer.get_vocab().items() if piece not in _SPECIAL)
    return {i: text for i, piece in vocabulary if (text := piece.replace(_WORD_START, ""))}


def _whole_words(
    source: Tokenizer, scores: Mapping[str, float], words: Sequence[str], chosen: Set[str]
) -> Iterator[tuple[str, float]]:
    """Yield words that are no piece yet, as likely as their parts together and a little more, so that they win."""
    new = [word for word in dict.fromkeys(words) if _WORD_START + word not in chosen]
    for word, encoding in zip(new, source.encode_batch(new, add_special_tokens=False), strict=True):
        if all(part in scores for part in encoding.tokens):
            yield _WORD_START + word, sum(scores[part] for part in encoding.tokens) + _ADVANTAGE


def _lower_case(source: Tokenizer) -> normalizers.Normalizer:
    steps = [normalizers.Lowercase()]
    return normalizers.Sequence([source.normalizer, *steps] if source.normalizer is not None else steps)


def _assemble(
    vocab: list[tuple[str, float]], normalizer: normalizers.Normalizer, source: Tokenizer
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram(vocab, _SPECIAL.index(UNKNOWN)))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, source.pre_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = source.decoder  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{START} $A {END}",
        special_tokens=[(START, _SPECIAL.index(START)), (END, _SPECIAL.index(END))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, cls_token=START, eos_token=END, pad_token=PAD, unk_token=UNKNOWN
    )
