"""What answers in a worker: a service, or an exported model repository in the worker's own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from clipsr._errors import ClipsrError
from clipsr._sync.client import Client
from clipsr._types import Classification, ClassifyOptions, FailedImage

if TYPE_CHECKING:
    from clipsr.local import Classifier

Outcome = Classification | FailedImage
Image = bytes | FailedImage

# About half a minute: what a restart of the service takes.
_RETRIES = 12
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What is known of a model before it works.

    Attributes:
        digest: of all that decides an answer.
        max_image_bytes: size of the largest file that it takes.
    """

    digest: str
    max_image_bytes: int


class OpenModels(Protocol):
    """Models that are ready."""

    def classify(self, images: Sequence[Image], options: ClassifyOptions) -> list[Outcome]:
        """Return one outcome an image, in their order; a failure comes back as it is.

        Raises:
            ClipsrError: the images could not be asked about at all.
        """
        ...


class Models(Protocol):
    """Where the answers come from; sent to every worker, which opens it once."""

    def describe(self) -> ModelFacts:
        """Say what will answer, without loading it.

        Raises:
            ClipsrError: the service does not answer, or the repository cannot be used.
        """
        ...

    def open(self) -> OpenModels:
        """Make it ready; raise as describe()."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A running service, or several behind one name. The attributes are Client's."""

    url: str
    timeout_s: float = _TIMEOUT_S
    retries: int = _RETRIES
    tls: bool | str = False
    cert_file: str | None = None
    key_file: str | None = None
    api_key: str | None = field(default=None, repr=False)
    allow_insecure_key: bool = False

    def describe(self) -> ModelFacts:
        """See `Models`."""
        with self._connect() as client:
            info = client.model_info()
        return ModelFacts(digest=info.digest, max_image_bytes=info.limits.max_image_bytes)

    def open(self) -> OpenModels:
        """See `Models`."""
        return _Calls(self._connect())

    def _connect(self) -> Client:
        return Client(
            self.url,
            timeout_s=self.timeout_s,
            retries=self.retries,
            tls=self.tls,
            cert_file=self.cert_file,
            key_file=self.key_file,
            api_key=self.api_key,
            allow_insecure_key=self.allow_insecure_key,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModels:
    """A model repository that each worker loads, by the extra `clipsr[local]`. The attributes are Classifier.load's."""

    repository: str
    profile: str | None = None
    threads: int | None = None

    def describe(self) -> ModelFacts:
        """See `Models`."""
        from clipsr_serving import ServingError, read_manifest
        from clipsr_serving.limits import DEFAULT_LIMITS

        try:
            manifest = read_manifest(Path(self.repository))
        except ServingError as error:
            raise ClipsrError(str(error)) from error
        return ModelFacts(digest=manifest.digest, max_image_bytes=DEFAULT_LIMITS.max_image_bytes)

    def open(self) -> OpenModels:
        """See `Models`."""
        from clipsr.local import Classifier
        from clipsr_serving import ServingError

        try:
            return _InProcess(Classifier.load(self.repository, profile=self.profile, threads=self.threads))
        except ServingError as error:
            raise ClipsrError(str(error)) from error


@dataclass(frozen=True)
class _Calls:
    client: Client

    def classify(self, images: Sequence[Image], options: ClassifyOptions) -> list[Outcome]:
        return [outcome for _, outcome in sorted(self.client.classify_stream(images, options=options), key=_place)]


@dataclass(frozen=True)
class _InProcess:
    classifier: Classifier

    def classify(self, images: Sequence[Image], options: ClassifyOptions) -> list[Outcome]:
        return list(self.classifier.classify(images, options=options))


def _place(answer: tuple[int, Outcome]) -> int:
    return answer[0]
