"""A small text tower for many languages, distilled from larger text models."""

from __future__ import annotations

from clipsr_training.text._train import train_text

__all__ = ["train_text"]
