"""Small models of every kind that OpenCLIP has, registered under own names, and tokenizers made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
_VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
# Each differs from the others in what export must get right: kind of towers, pooling, masks, bias, tokenizer.
MODELS: dict[str, dict[str, Any]] = {
    "tiny-resnet": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": _TEXT,
    },
    "tiny-vit": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "tiny-siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,  # timm's test_vit is made for it
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 256,
            "hf_tokenizer_name": "nobody/has-this",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 64,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "tiny-mobileclip": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "fastvit_t8",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": None,
            "timm_drop": 0.0,
            "timm_drop_path": 0.0,
            "image_size": 64,
        },
        "text_cfg": {**_TEXT, "no_causal_mask": True},
    },
    "tiny-xlm-roberta": {
        "embed_dim": 48,
        "vision_cfg": _VIT,
        "text_cfg": {
            "context_length": 16,
            "hf_model_name": "nobody/has-this",
            "hf_tokenizer_name": "nobody/has-this",
            "hf_pooler_type": "mean_pooler",
        },
    },
}
# Models whose tokenizer is not CLIP's own.
HUB_MODELS = frozenset({"tiny-siglip", "tiny-xlm-roberta"})
_CORPUS = (
    "a photo of a cat",
    "a blurry photo of the big dog, isn't it?",
    "una foto di un gatto molto piccolo",
    "一只猫的照片",
    "写真の中の犬",
    "The Quick Brown Fox jumps over 12 lazy dogs!",
    "tea_pot and </s>",
)


def register(folder: Path, configs: Mapping[str, dict[str, Any]] = MODELS) -> None:
    """Make OpenCLIP know small models by their names."""
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def write_tokenizer(folder: Path, name: str, *, vocab_size: int = 256, corpus: Sequence[str] = _CORPUS) -> Path:
    """Write the files of a tokenizer for the texts of a corpus, and of the text tower where it has some, as a hub does.

    "tiny-siglip" gets one like T5's: lower case, an end token, which also pads. "tiny-xlm-roberta" gets one like
    XLM-RoBERTa's: start, end and padding tokens of their own.
    """
    is_siglip = name == "tiny-siglip"
    special = ["<pad>", "</s>", "<unk>"] if is_siglip else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        unk_token="<unk>",
        show_progress=False,
        special_tokens=[AddedToken(token, lstrip=token == "<mask>", special=True) for token in special],
    )
    tokenizer.train_from_iterator([*corpus] * 20, trainer)
    start = "" if is_siglip else "<s> "
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A </s>", special_tokens=[(token, special.index(token)) for token in special]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None if is_siglip else "<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>" if is_siglip else "<pad>",
    )
    fast.save_pretrained(folder)
    if not is_siglip:
        config = XLMRobertaConfig(
            vocab_size=256,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
            type_vocab_size=1,
            pad_token_id=special.index("<pad>"),
            bos_token_id=special.index("<s>"),
            eos_token_id=special.index("</s>"),
        )
        config.save_pretrained(folder)
    return folder
