"""Drawings: strokes optimized by gradients through a CLIP model."""
