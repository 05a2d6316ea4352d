"""What a model offers besides embeddings and upscaling, from the wire."""

from __future__ import annotations

from clipsr._feature_types import NoneOfTheseInfo, RestorerInfo
from clipsr.v1 import classifier_pb2


def decode_none_of_these(info: classifier_pb2.NoneOfTheseInfo) -> NoneOfTheseInfo:
    """Return the model's own rule for "none of these"."""
    return NoneOfTheseInfo(
        name_count=info.name_count,
        threshold=info.threshold,
        false_refusals=info.false_refusals,
        auroc=info.auroc,
        expected_calibration_error=info.expected_calibration_error,
    )


def decode_restorer(restorer: classifier_pb2.RestorerInfo) -> RestorerInfo:
    """Return what the service restores."""
    return RestorerInfo(
        architecture=restorer.architecture,
        kinds={kind.name: tuple(kind.words) for kind in restorer.kinds},
        default_steps=restorer.default_steps,
        max_steps=restorer.max_steps,
    )
