"""Adaptation without labels: an upscaler, or a tower, learns to answer a damaged thumbnail as its photo is answered."""

from __future__ import annotations
