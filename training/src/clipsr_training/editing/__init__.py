"""Edits: photographic parameters moved along a direction in the space of a CLIP model."""
