"""Hyperparameters of the text tower and of its distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipsr_training._bounds import LARGEST, check_bounds, check_draws, check_part

# The loss compares the phrases of a batch; a text has a start and an end.
_BOUNDS = (
    (("batch_size", "context_length"), 2, LARGEST),
    (("draws", "vocab_size", "embed_dim", "width", "heads", "layers", "max_kept_off"), 1, LARGEST),
    (("lr", "weight_decay", "relation_weight"), 0, LARGEST),
    # A temperature of 0 divides by it.
    (("temperature",), 1e-6, LARGEST),
)


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How the text tower is built and trained.

    Attributes:
        draws: phrases of the whole run.
        batch_size: phrases a step.
        lr: peak learning rate of AdamW.
        weight_decay: on weights of two and more dimensions.
        relation_weight: weight of the divergence between the similarities within a batch, against 1 - cosine.
        temperature: of those similarities.
        vocab_size: most pieces of the tokenizer.
        embed_dim: D, width of the embedding, and of the teachers' after the principal component analysis.
        width: of the transformer.
        heads: of its attention.
        layers: of it.
        context_length: L, tokens in a text.
        kept_off: part of the English nouns that is never drawn, to measure agreement with the teachers by.
        max_kept_off: at most so many nouns.
        hold_out: never draw what `prompts.is_held_out` says is held out, in any language, either.
    """

    draws: int = 3_000_000
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    relation_weight: float = 1.0
    temperature: float = 0.05
    vocab_size: int = 32_000
    embed_dim: int = 256
    width: int = 192
    heads: int = 6
    layers: int = 6
    context_length: int = 24
    kept_off: float = 0.03
    max_kept_off: int = 1000
    hold_out: bool = False

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        check_draws(self.draws, self.batch_size)
        check_part("kept_off", self.kept_off)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} can't be shared among {self.heads} heads")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.draws // self.batch_size

    def text_cfg(self, vocab_size: int) -> dict[str, Any]:
        """Return the `text_cfg` of an OpenCLIP configuration with this tower.

        Args:
            vocab_size: pieces of the tokenizer at hand.
        """
        return {
            "context_length": self.context_length,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "clipsr-pieces",
            "width": self.width,
            "heads": self.heads,
            "layers": self.layers,
            "no_causal_mask": True,
            "pool_type": "first",
        }
