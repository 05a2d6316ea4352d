"""What every service works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipsr_gateway._backend.protocol import InferenceBackend
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._vocabulary import Vocabulary

MAX_STREAM_AGE_S = 9 * 60.0
"""How long a stream is read from. A connection is closed ten minutes after its age is reached (`_server/gateway.py`),
whatever still runs on it; a stream that ends before loses nothing."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """What every service works with.

    Attributes:
        backend: runs the models.
        manifest: what is served.
        limits: what a request may hold.
        max_stream_age_s: how long a stream is read from.
        vocabulary: what the model knows of texts.
    """

    backend: InferenceBackend
    manifest: Manifest
    limits: Limits
    max_stream_age_s: float = MAX_STREAM_AGE_S
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
