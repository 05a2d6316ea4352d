"""The models as served: a running clipsr service, through its client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsr_training.evaluation._backends.base import Classifier, Ranking, Scoring, require_finite, resolve_templates
from clipsr_training.evaluation._backends.pixels import Route

try:
    from clipsr import Classification, Client, ClipsrError, ModelInfo
except ModuleNotFoundError as missing:
    raise ImportError("the grpc back end needs the clipsr client: pip install 'clipsr-training[grpc]'") from missing

# A batch may wait for models that are busy with other callers; a service that hangs is still noticed.
_TIMEOUT_S = 300.0


class GrpcBackend:
    """See `Backend`.

    Args:
        url: HOST:PORT of the gateway.

    Raises:
        OSError: nobody answers there.
        ValueError: the URL is none.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self.client = Client(url, timeout_s=_TIMEOUT_S)
            self.info: ModelInfo = self.client.model_info(timeout_s=30)
        except ClipsrError as error:
            raise OSError(f"the service at {url} can't be asked: {error}") from error

    @property
    def image_size_px(self) -> int:
        """R."""
        return self.info.image_size_px

    @property
    def scoring(self) -> Scoring:
        """How cosines become probabilities."""
        return Scoring(
            function="sigmoid" if self.info.scoring_function == "sigmoid" else "softmax",
            logit_scale=self.info.logit_scale,
            logit_bias=self.info.logit_bias,
        )

    def describe(self) -> dict[str, object]:
        """See `Backend`."""
        return {
            "backend": "grpc",
            "model": self.info.name,
            "digest": self.info.digest,
            "gateway": self.info.gateway_version,
        }

    def classifier(self, labels: Sequence[str], templates: Sequence[str]) -> Classifier:
        """See `Backend`; labels that the service publishes as a set are asked for by its name."""
        resolve_templates(templates)
        published = [name for name, known in self.info.label_sets.items() if tuple(known) == tuple(labels)]
        return _ServedClassifier(
            backend=self,
            labels=tuple(labels),
            label_set=published[0] if published else "",
            templates=tuple(templates),
        )


@dataclass(frozen=True, kw_only=True)
class _ServedClassifier:
    backend: GrpcBackend
    labels: tuple[str, ...]
    label_set: str
    templates: tuple[str, ...]

    def rank(self, files: Sequence[bytes], names: Sequence[str], *, route: Route, k: int) -> Ranking:
        index = {label: i for i, label in enumerate(self.labels)}
        try:
            outcomes = self.backend.client.classify(
                files,
                () if self.label_set else self.labels,
                label_set=self.label_set,
                templates=self.templates,
                top_k=min(k, len(self.labels)),
                route=route,
            )
        except ClipsrError as error:
            raise OSError(f"the service failed: {error}") from error
        indices: list[list[int]] = []
        cosines: list[list[float]] = []
        for name, outcome in zip(names, outcomes, strict=True):
            if not isinstance(outcome, Classification):
                raise ValueError(f"the service refused {name}: {outcome.message}")
            indices.append([index[prediction.label] for prediction in outcome.predictions])
            cosines.append([prediction.cosine for prediction in outcome.predictions])
        answered = require_finite(np.array(cosines, dtype=np.float32), "cosines")
        return Ranking(indices=np.array(indices, dtype=np.int64), cosines=answered)
