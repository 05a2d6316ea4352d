"""The models as exported, in this process, with the calls and types of the client."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipsr import _images
from clipsr._codecs import classify as classify_codec
from clipsr._codecs import embed as embed_codec
from clipsr._codecs.arguments import invalid
from clipsr._embedding_types import ImageEmbedding, TextEmbedding
from clipsr._types import (
    AnswerWarning,
    Classification,
    ClassifyOptions,
    Encoder,
    FailedImage,
    Fit,
    ImageSource,
    Route,
    RouteTaken,
)
from clipsr.local._answers import (
    EmbeddedImage,
    LabelScores,
    describe,
    describe_failure,
    error_from_serving,
    rank_degradations,
)
from clipsr.local._options import FITS, ROUTES, LocalOptions, find_encoder, read_options
from clipsr.v1 import classifier_pb2
from clipsr_serving import ServingError
from clipsr_serving.pipeline import DecodedImage, Pipeline, RobustEmbedding

_Image = TypeVar("_Image")


class Classifier:
    """Classifies and embeds in this process what a service would, by the same code; made by `load`.

    Threads may share one; its models work for one of them at a time, on all cores that the process may use.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        if not isinstance(pipeline, Pipeline):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("a repository is opened by Classifier.load(path)")
        self._pipeline = pipeline

    @classmethod
    def load(
        cls, repository: str | os.PathLike[str], *, profile: str | None = None, threads: int | None = None
    ) -> Classifier:
        """Open the models of a repository, which takes seconds.

        Args:
            repository: a model repository that `clipsr-export` has filled.
            profile: how the models run, as `clipsr-serve up --profile`: "cpu-onnx" is fp32; None takes what suits this
                processor.
            threads: of each model; None takes all cores of this process.

        Raises:
            clipsr_serving.ServingError: the repository cannot be used, its models cannot be run here, or there is no
                such profile; the text says what to do.
        """
        return cls(Pipeline.load(Path(repository), profile=profile, threads=threads))

    def classify(
        self,
        images: Iterable[ImageSource | FailedImage],
        labels: Sequence[str] = (),
        *,
        options: ClassifyOptions | None = None,
        label_set: str = "",
        templates: Sequence[str] = (),
        top_k: int = 5,
        fit: Fit = "auto",
        route: Route = "auto",
        encoder: Encoder = "plain",
        min_cosine: float | None = None,
        min_probability: float | None = None,
        none_of_these: bool = False,
        return_embedding: bool = False,
        return_encoder_input: bool = False,
    ) -> list[Classification | FailedImage]:
        """Classify images with the caller's own labels, or with a set that the model publishes.

        ClassifyOptions describes the options from `label_set` on.

        Args:
            images: as Client.classify()'s; read and decoded a batch at a time. An image for which there is a
                FailedImage already comes back as it is.
            labels: what to choose from, each once; leave empty to use `label_set`.
            options: what is asked as one value, instead of the single arguments that follow.

        Returns:
            One outcome an image, in their order. An image that fails, or whose file cannot be read, does not fail its
            neighbours. `inference_ms` is the time of the batch that the image was in.

        Raises:
            InvalidRequestError: labels, templates or options are wrong, also what a service says with each image, such
                as LABELS_INDISTINGUISHABLE.
            ServiceError: a model failed on the labels.
            TypeError: an argument is of another kind.
        """
        asked = classify_codec.encode_given_options(
            options,
            ClassifyOptions(
                labels=labels,
                label_set=label_set,
                templates=templates,
                top_k=top_k,
                fit=fit,
                route=route,
                encoder=encoder,
                min_cosine=min_cosine,
                min_probability=min_probability,
                none_of_these=none_of_these,
                return_embedding=return_embedding,
                return_encoder_input=return_encoder_input,
            ),
        )
        known = self._read_options(asked)
        batches = _batches(_images.as_iterable(images), self._pipeline.batch_size)
        return [outcome for batch in batches for outcome in self._classify(batch, known)]

    def embed_images(
        self,
        images: Iterable[ImageSource],
        *,
        fit: Fit = "auto",
        route: Route = "auto",
        encoder: Encoder = "plain",
    ) -> list[ImageEmbedding | FailedImage]:
        """Embed images, for callers that search, cluster or compare by themselves.

        Args:
            images: as classify()'s.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            encoder: what embeds them.

        Returns:
            One outcome an image, in their order.

        Raises:
            InvalidRequestError, TypeError: as classify().
        """
        query = embed_codec.encode_embed_query(fit=fit, route=route, encoder=encoder)
        batches = _batches(_images.as_iterable(images), self._pipeline.batch_size)
        choices = (FITS[query.fit], ROUTES[query.route], find_encoder(query.encoder, self._encoders))
        return [outcome for batch in batches for outcome in self._embed_images(batch, *choices)]

    def embed_texts(self, texts: Sequence[str], *, templates: Sequence[str] = ()) -> list[TextEmbedding]:
        """Embed texts into the same space as images.

        Args:
            texts: what to embed; repetitions are allowed.
            templates: prompts with one "{}" where the text goes, or one published set with '@'; a text's embedding is
                then the mean over them. Empty takes the texts as they are.

        Returns:
            One embedding a text, in their order.

        Raises:
            InvalidRequestError, ServiceError, TypeError: as classify().
        """
        embeddings: list[TextEmbedding] = []
        for part in embed_codec.encode_texts(texts, templates=templates):
            try:
                found = self._pipeline.embed_texts(part.texts, part.templates or ("{}",))
            except ServingError as error:
                raise error_from_serving(error, "texts") from error
            warnings = self._warn_of(part.texts, found.is_cut, noun="text", field="texts[{}]")
            embeddings += [
                TextEmbedding(values=tuple(row), model_digest=self._digest, warnings=warnings)
                for row in found.values.tolist()
            ]
        return embeddings

    def _read_options(self, asked: classifier_pb2.ClassifyOptions) -> LocalOptions:
        rule = self._pipeline.manifest.none_of_these
        return read_options(
            asked,
            self._pipeline.manifest.label_sets,
            encoders=self._encoders,
            none_threshold=None if rule is None else rule.threshold,
        )

    def _classify(
        self, sources: Sequence[ImageSource | FailedImage], options: LocalOptions
    ) -> list[Classification | FailedImage]:
        begin = time.perf_counter()
        images = self._embed(sources, options.fit, options.route, options.encoder)
        sound = [image.embedding for image in images if isinstance(image, EmbeddedImage)]
        # Wrong labels are an error also where no image is sound.
        blank = np.zeros((1, self._pipeline.manifest.image_encoder.embed_dim), dtype=np.float32)
        try:
            found = self._pipeline.score(np.concatenate(sound or [blank]), options.labels, options.templates)
        except ServingError as error:
            raise error_from_serving(error, "label_space") from error
        inference_ms = 1e3 * (time.perf_counter() - begin)
        warnings = self._warn_of(options.labels, found.label_is_cut[0], noun="label", field="label_space.labels[{}]")
        if options.wants_none and np.isnan(found.none_probability).any():
            message = "Every name that the model could compare the labels with is one of them or near one; send fewer."
            raise invalid("label_space.labels", message, reason="NONE_BANK_EMPTY")
        none = found.none_probability.tolist() if options.wants_none else [None] * len(found.cosine)
        scores = map(LabelScores, found.cosine, found.probability, none)
        return [
            describe(
                image,
                next(scores),
                options,
                inference_ms=inference_ms,
                model_digest=self._digest,
                warnings=warnings,
            )
            if isinstance(image, EmbeddedImage)
            else image
            for image in images
        ]

    def _embed_images(
        self, sources: Sequence[ImageSource | FailedImage], fit: str, route: RouteTaken | None, encoder: Encoder
    ) -> list[ImageEmbedding | FailedImage]:
        begin = time.perf_counter()
        images = self._embed(sources, fit, route, encoder)
        inference_ms = 1e3 * (time.perf_counter() - begin)
        return [
            ImageEmbedding(
                values=image.values,
                input_hw=image.input_hw,
                route=image.route,
                queue_ms=0.0,
                inference_ms=inference_ms,
                model_digest=self._digest,
                encoder=image.encoder,
                degradations=image.degradations,
            )
            if isinstance(image, EmbeddedImage)
            else image
            for image in images
        ]

    def _embed(
        self, sources: Sequence[ImageSource | FailedImage], fit: str, route: RouteTaken | None, encoder: Encoder
    ) -> list[EmbeddedImage | FailedImage]:
        """Read and embed a batch; what cannot be read is not decoded, and what cannot be decoded not rendered."""
        contents = [_images.try_read_image(source) for source in sources]
        files = [content for content in contents if isinstance(content, bytes)]
        decoded = self._pipeline.decode(files, fit=fit, route=route)
        pixels = self._pipeline.render(decoded)
        outcomes = iter(
            [self._join(*steps) for steps in zip(decoded, pixels, self._encode(pixels, encoder), strict=True)]
        )
        return [content if isinstance(content, FailedImage) else next(outcomes) for content in contents]

    def _encode(
        self, pixels: Sequence[npt.NDArray[np.uint8] | Exception], encoder: Encoder
    ) -> list[npt.NDArray[np.float32] | RobustEmbedding | Exception]:
        """Embed each image by the encoder asked for; where it is to be chosen, the plain embedding decides."""
        if encoder == "robust":
            return list(self._pipeline.encode_robust(pixels))
        embeddings: list[npt.NDArray[np.float32] | RobustEmbedding | Exception] = list(self._pipeline.encode(pixels))
        if encoder == "auto":
            damaged = [
                place
                for place, embedding in enumerate(embeddings)
                if isinstance(embedding, np.ndarray) and self._pipeline.looks_damaged(embedding)
            ]
            for place, robust in zip(
                damaged, self._pipeline.encode_robust([pixels[place] for place in damaged]), strict=True
            ):
                embeddings[place] = robust
        return embeddings

    def _join(
        self,
        decoded: DecodedImage | Exception,
        pixels: npt.NDArray[np.uint8] | Exception,
        embedded: npt.NDArray[np.float32] | RobustEmbedding | Exception,
    ) -> EmbeddedImage | FailedImage:
        """Return one image after all steps; a failure in one is that of the steps behind it, too."""
        if isinstance(embedded, Exception) or isinstance(pixels, Exception) or isinstance(decoded, Exception):
            return describe_failure(next(step for step in (decoded, pixels, embedded) if isinstance(step, Exception)))
        image = EmbeddedImage(
            input_hw=decoded.size_hw,
            route=decoded.route,
            pixels=pixels,
            embedding=embedded.embedding if isinstance(embedded, RobustEmbedding) else embedded,
        )
        robust = self._pipeline.manifest.robust_encoder
        if robust is None or not isinstance(embedded, RobustEmbedding):
            return image
        degradations = rank_degradations(robust.kinds, embedded.degradation_cosine, embedded.degradation_probability)
        return replace(image, degradations=degradations)

    @property
    def _encoders(self) -> tuple[Encoder, ...]:
        robust = self._pipeline.manifest.robust_encoder
        if robust is None:
            return ("plain",)
        return ("plain", "robust") if robust.head is None else ("plain", "robust", "auto")

    @property
    def _digest(self) -> str:
        return self._pipeline.manifest.digest

    def _warn_of(
        self, texts: Sequence[str], is_cut: npt.NDArray[np.bool_], *, noun: str, field: str
    ) -> tuple[AnswerWarning, ...]:
        found = self._pipeline.warn_of(texts, is_cut, noun=noun, field=field)
        return tuple(AnswerWarning(**each._asdict()) for each in found)


def _batches(images: Iterable[_Image], size: int) -> Iterator[list[_Image]]:
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
