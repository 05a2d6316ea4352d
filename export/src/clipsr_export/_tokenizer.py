"""CLIP's byte-pair tokenizer as one `tokenizers` file.

Differs from OpenCLIP's in the cleaning before it: OpenCLIP repairs mojibake with ftfy and unescapes HTML entities; the
file normalizes to NFC, collapses white space and lower-cases, which is the same for clean text.
"""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

# Word pattern of CLIP's released tokenizer (Radford et al. 2021): contractions, letters, single digits, the rest.
_WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PAD_TOKEN_ID = 0


class ClipTokenizer(Protocol):
    """What is read from OpenCLIP's SimpleTokenizer."""

    encoder: dict[str, int]
    bpe_ranks: dict[tuple[str, str], int]
    all_special_ids: Sequence[int]
    decoder: dict[int, str]


def build_tokenizer(clip_tokenizer: Any, context_length: int) -> Tokenizer:
    """Return the same tokenization, truncated and padded to the context length.

    Args:
        clip_tokenizer: OpenCLIP's SimpleTokenizer.
        context_length: L; a longer text is cut so that its end token stays the last.
    """
    source: ClipTokenizer = clip_tokenizer
    start, end = (source.decoder[token_id] for token_id in source.all_special_ids[:2])
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(
        models.BPE(vocab=dict(source.encoder), merges=merges, end_of_word_suffix="</w>", fuse_unk=False)
    )
    tokenizer.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(start, special=True), AddedToken(end, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{start} $A {end}",
        special_tokens=[(start, source.encoder[start]), (end, source.encoder[end])],
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, pad_id=PAD_TOKEN_ID, pad_token=source.decoder[PAD_TOKEN_ID])
    return tokenizer
