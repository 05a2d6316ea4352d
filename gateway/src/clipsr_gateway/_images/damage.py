"""What is wrong with an image, as the robust encoder says."""

from __future__ import annotations

import numpy as np

from clipsr.v1 import types_pb2
from clipsr_gateway._backend.protocol import Damage


def describe_damage(damage: Damage | None, kinds: tuple[str, ...]) -> list[types_pb2.Degradation]:
    """Return the kinds of damage, most likely first, ties in their order; none where the plain encoder ran."""
    if damage is None:
        return []
    cosine: list[float] = damage.cosine.tolist()
    probability: list[float] = damage.probability.tolist()
    order: list[int] = np.argsort(-damage.cosine, kind="stable").tolist()
    return [types_pb2.Degradation(kind=kinds[i], cosine=cosine[i], probability=probability[i]) for i in order]
