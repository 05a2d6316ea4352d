"""Adaptation without labels: an upscaler, or a tower, learns to answer a damaged thumbnail as its photo is answered."""

from __future__ import annotations

from clipsr_training.adapt._nouns import read_nouns
from clipsr_training.adapt._routes import measure_routes
from clipsr_training.adapt._rules_file import RULES_NAME, OtherWeightsError, read_rules
from clipsr_training.data._route_table import RouteRule

__all__ = ["RULES_NAME", "OtherWeightsError", "RouteRule", "measure_routes", "read_nouns", "read_rules"]
