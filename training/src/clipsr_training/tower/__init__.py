"""An image tower learns, from labelled pictures as people have them, to answer beside a text tower that stays."""

from __future__ import annotations

from clipsr_training.tower._recipe import TowerRecipe
from clipsr_training.tower._train import train_tower

__all__ = ["TowerRecipe", "train_tower"]
