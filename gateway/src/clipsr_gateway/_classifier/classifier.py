"""Classification of one image, the same for single calls and streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr.v1 import classifier_pb2, types_pb2, upscaler_pb2
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import InferenceBackend, PreparedLabels, Similarities
from clipsr_gateway._calls.call import Call
from clipsr_gateway._classifier.question import Question, plan_question
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.encode import OUTPUT_FORMATS, encode
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._images.run import ROUTE_NUMBERS, ImageResult, infer_image, size_message
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway._texts.label_cache import KnownLabels, LabelCache
from clipsr_gateway._texts.labels import CHECKING_BYTES
from clipsr_gateway._texts.warming import LabelWarmer
from clipsr_gateway.errors import BackendFaultError, BackendUnavailableError, Violation


@dataclass(frozen=True, kw_only=True)
class PreparedOptions:
    """A question whose labels are ready to be sent with any number of images."""

    question: Question
    labels: PreparedLabels


class ImageClassifier:
    """Asks a backend what is in an image.

    Args:
        backend: what computes.
        manifest: what is served.
        limits: what a request may hold.
        slots: places for requests in the backend, over all calls.
    """

    def __init__(self, *, backend: InferenceBackend, manifest: Manifest, limits: Limits, slots: FairSlots) -> None:
        self._backend = backend
        self._manifest = manifest
        self._limits = limits
        self._slots = slots
        self._label_cache = LabelCache()
        self._warmer = LabelWarmer(backend=backend, embed_dim=manifest.embed_dim, slots=slots)

    async def prepare(
        self, options: classifier_pb2.ClassifyOptions, call: Call, *, images: Sequence[types_pb2.Image] | None = None
    ) -> PreparedOptions:
        """Check what is asked and encode the labels, if they are not known; make the backend know many labels.

        Raises:
            InvalidRequestError: with one violation for every wrong field.
            BackendUnavailableError, DeadlineExceededError: the whole call fails.
        """
        serialized = options.label_space.SerializeToString(deterministic=True)
        known = self._label_cache.get(serialized)
        size_bytes = 0 if known else len(serialized) + len(options.label_space.labels) * CHECKING_BYTES
        prepared = await run_off_loop(size_bytes, self._prepare, options, images, known)
        if known is None:
            query = prepared.question.query
            self._label_cache.put(serialized, KnownLabels(query=query, prepared=prepared.labels))
        call.fields["labels"] = len(prepared.question.query.labels)
        call.fields["templates"] = len(prepared.question.query.templates)
        await self._warmer.warm(prepared.question.query, call)
        return prepared

    async def classify(
        self, image: PlannedImage | Violation, prepared: PreparedOptions, call: Call
    ) -> classifier_pb2.ClassifyResult:
        """Return the outcome for one image.

        Raises:
            BackendUnavailableError, DeadlineExceededError: the whole call fails.
        """
        question = prepared.question

        async def ask(image: PlannedImage, timeout_s: float | None) -> Similarities:
            scores = await prepared.labels.classify(
                image.content,
                fit=question.fit,
                route=image.route,
                request_id=call.request_id,
                timeout_s=timeout_s,
                size_hw=image.size_hw,
                wants_embedding=question.wants_embedding,
                wants_pixels=question.wants_encoder_input,
            )
            fault = scores.validate(
                label_count=len(question.query.labels),
                embed_dim=self._manifest.embed_dim if question.wants_embedding else None,
                side_px=self._manifest.image_size_px if question.wants_encoder_input else None,
            )
            if fault:
                raise BackendFaultError(fault)
            return scores

        try:
            answered = await infer_image(image, ask, slots=self._slots, call=call, labels=len(question.query.labels))
        except BackendUnavailableError:
            self._warmer.forget()
            raise
        if not isinstance(answered, ImageResult):
            return classifier_pb2.ClassifyResult(error=answered)
        return classifier_pb2.ClassifyResult(classification=await self._describe(answered, question))

    def _prepare(
        self,
        options: classifier_pb2.ClassifyOptions,
        images: Sequence[types_pb2.Image] | None,
        known: KnownLabels | None,
    ) -> PreparedOptions:
        query = known.query if known else None
        question = plan_question(options, images=images, manifest=self._manifest, limits=self._limits, known=query)
        if known:
            return PreparedOptions(question=question, labels=known.prepared)
        labels = self._backend.prepare(labels=question.query.labels, templates=question.query.templates)
        return PreparedOptions(question=question, labels=labels)

    async def _describe(self, answered: ImageResult[Similarities], question: Question) -> classifier_pb2.Classification:
        scores = answered.answer
        predictions = rank(scores, question.query.labels, question.top_k)
        best, rule = predictions[0], question.rejection_threshold
        classification = classifier_pb2.Classification(
            predictions=predictions,
            input_size=size_message(answered.image.size_hw),
            route=ROUTE_NUMBERS[answered.image.route],
            timing=answered.timing,
            model_digest=self._manifest.digest,
            none_of_these=rule is not None and rule.applies(cosine=best.cosine, probability=best.probability),
        )
        if question.wants_embedding and scores.image_embedding is not None:
            classification.embedding.extend(scores.image_embedding.tolist())
        if question.wants_encoder_input and scores.pixels is not None:
            classification.encoder_input = await asyncio.to_thread(encoder_input_png, scores.pixels)
        return classification


def rank(scores: Similarities, labels: tuple[str, ...], top_k: int) -> list[types_pb2.Prediction]:
    """Return the `top_k` best labels, best first, ties in the order of the labels.

    Ranks by cosine: probability is monotone in it, but in float32 the small ones all become 0.
    """
    order: list[int] = _best(scores.cosine, top_k).tolist()
    cosine: list[float] = scores.cosine[order].tolist()
    probability: list[float] = scores.probability[order].tolist()
    return [
        types_pb2.Prediction(label=labels[index], cosine=cosine[place], probability=probability[place])
        for place, index in enumerate(order)
    ]


def _best(cosine: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.intp]:
    """Return the places of the `top_k` greatest values; only those are sorted, as labels may be thousands."""
    if top_k < len(cosine):
        least = np.partition(cosine, -top_k)[-top_k]
        candidates = np.flatnonzero(cosine >= least)  # more than top_k where values tie
    else:
        candidates = np.arange(len(cosine))
    return candidates[np.argsort(-cosine[candidates], kind="stable")][:top_k]


def encoder_input_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return [3, R, R] RGB as a PNG file."""
    picture = Picture(color=pixels, alpha=None, icc_profile=None)
    return encode(picture, OUTPUT_FORMATS[upscaler_pb2.IMAGE_FORMAT_PNG])
