"""Every tokenizer of OpenCLIP as one `tokenizers` file, which cleans, cuts and pads by itself."""

# torch, onnx, onnxruntime, Pillow and tokenizers ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from clipsr_export._errors import TokenizerError
from clipsr_export._tokenizer.cleaning import cleaning
from clipsr_training.clip import ClipCheckpoint

# Word pattern of CLIP's released tokenizer (Radford et al. 2021): contractions, letters, single digits, the rest.
# It ignores case, and so takes the long s for an s.
_WORD_PATTERN = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PAD_TOKEN_ID = 0  # CLIP pads with zeros (open_clip.tokenizer.SimpleTokenizer)
_SIMPLE_CLEANING, _HF_CLEANING = "lower", "whitespace"  # defaults of OpenCLIP's two classes


class _ByteTokenizer(Protocol):
    """What is read from OpenCLIP's SimpleTokenizer."""

    encoder: dict[str, int]
    bpe_ranks: dict[tuple[str, str], int]
    all_special_ids: Sequence[int]
    decoder: dict[int, str]


def build_tokenizer(checkpoint: ClipCheckpoint) -> Tokenizer:
    """Return the checkpoint's tokenization: cleaned, cut to L with its end token kept, padded to L.

    Raises:
        TokenizerError: one file can't express it.
    """
    text_cfg: Mapping[str, Any] = checkpoint.config["model_cfg"]["text_cfg"]
    options: Mapping[str, Any] = text_cfg.get("tokenizer_kwargs") or {}
    for option in ("reduction_mask", "additional_special_tokens", "language"):
        if options.get(option):
            raise TokenizerError(f"the tokenizer's option {option} can't be written into a tokenizers file")
    if text_cfg.get("tokenizer_mode"):
        raise TokenizerError(f"the tokenizer's mode {text_cfg['tokenizer_mode']!r} can't be written into a file")
    if hasattr(checkpoint.tokenizer, "bpe_ranks"):
        kind = options.get("clean", _SIMPLE_CLEANING)
        return _from_byte_pairs(checkpoint.tokenizer, checkpoint.context_length, kind)
    kind = options.get("clean", _HF_CLEANING)
    tokenizer = _from_transformers(checkpoint.tokenizer.tokenizer, checkpoint.context_length, kind)
    return _without_end(tokenizer, checkpoint.tokenizer.tokenizer) if options.get("strip_sep_token") else tokenizer


def pad_token_id(tokenizer: Tokenizer) -> int:
    """Return the token that fills texts up to L."""
    padding: Any = tokenizer.padding
    return int(padding["pad_id"])


def _from_byte_pairs(source: _ByteTokenizer, context_length: int, kind: str) -> Tokenizer:
    start, end = (source.decoder[token_id] for token_id in source.all_special_ids[:2])
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(
        models.BPE(vocab=dict(source.encoder), merges=merges, end_of_word_suffix="</w>", fuse_unk=False)
    )
    # CLIP's pattern takes "!<" for one word, so that a special token after punctuation is none; a space hides it.
    specials = "|".join((start, end))
    hidden = Regex(rf"(?<=[^\s\p{{L}}\p{{N}}])(?<!{start})(?<!{end})<(?=(?:{specials.replace('<', '')}))")
    # Twice: one that follows a hidden one was not after punctuation before.
    steps = [*cleaning(kind), *[normalizers.Replace(hidden, "< ") for _ in range(2)]]
    tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    # Normalized: OpenCLIP looks for them in the cleaned text.
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in (start, end)])
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{start} $A {end}",
        special_tokens=[(start, source.encoder[start]), (end, source.encoder[end])],
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, pad_id=_PAD_TOKEN_ID, pad_token=source.decoder[_PAD_TOKEN_ID])
    return tokenizer


def _from_transformers(source: Any, context_length: int, kind: str) -> Tokenizer:
    """Take over the `tokenizers` object inside a fast tokenizer of `transformers`."""
    backend = getattr(source, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TokenizerError(
            f"{type(source).__name__} has no `tokenizers` form; put its tokenizer.json into the folder that you name"
        )
    document = json.loads(backend.to_str())
    if kind == "canonicalize":
        # Cleaning takes the brackets of "</s>" away before OpenCLIP's tokenizer could take it for a special token.
        document["added_tokens"] = _not_in_vocabulary(document)
    tokenizer = Tokenizer.from_str(json.dumps(document, allow_nan=False))
    own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([*cleaning(kind), *own])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.enable_truncation(context_length, direction=source.truncation_side)
    tokenizer.enable_padding(
        length=context_length, pad_id=source.pad_token_id, pad_token=source.pad_token, direction=source.padding_side
    )
    return tokenizer


def _not_in_vocabulary(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens that the model itself does not know: without them their ids would be lost."""
    bare = Tokenizer.from_str(json.dumps({**document, "added_tokens": []}, allow_nan=False))
    return [token for token in document["added_tokens"] if bare.token_to_id(token["content"]) != token["id"]]


def _without_end(tokenizer: Tokenizer, source: Any) -> Tokenizer:
    """Put a zero in place of the end token, as OpenCLIP does for CLIPA (`strip_sep_token`)."""
    document = json.loads(tokenizer.to_str())
    processor = document["post_processor"] or {}
    if processor.get("type") == "TemplateProcessing" and source.sep_token in processor["special_tokens"]:
        processor["special_tokens"][source.sep_token]["ids"] = [0]
    elif processor.get("type") == "BertProcessing":
        processor["sep"][1] = 0
    else:
        raise TokenizerError("the tokenizer's end token can't be taken away in a tokenizers file")
    return Tokenizer.from_str(json.dumps(document, allow_nan=False))
