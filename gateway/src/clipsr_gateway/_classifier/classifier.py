"""Classification of one image, the same for single calls and streams."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsr.v1 import classifier_pb2, types_pb2, upscaler_pb2
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Similarities
from clipsr_gateway._calls.call import Call
from clipsr_gateway._classifier.options import PreparedOptions, prepare_options
from clipsr_gateway._images.choice import ENCODER_NUMBERS, infer_by_choice
from clipsr_gateway._images.damage import describe_damage
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.encode import OUTPUT_FORMATS, encode
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._images.turn import (
    IMAGE_ERRORS,
    ROUTE_NUMBERS,
    ImageTurn,
    image_turn,
    size_message,
)
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway._texts.label_cache import LabelCache
from clipsr_gateway._texts.labels import CHECKING_BYTES
from clipsr_gateway._texts.warming import LabelWarmer
from clipsr_gateway._texts.warnings import cut_warnings
from clipsr_gateway.errors import BackendFaultError, BackendUnavailableError, InvalidRequestError, Violation


class ImageClassifier:
    """Classifies images, with labels that are resolved and encoded once for many calls."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._label_cache = LabelCache()
        self._warmer = LabelWarmer(core)

    async def resolve_options(
        self, options: classifier_pb2.ClassifyOptions, call: Call, *, images: Sequence[types_pb2.Image] | None = None
    ) -> PreparedOptions:
        """Check the options and encode the labels, if they are not known; make the backend know many labels.

        Raises:
            InvalidRequestError: with one violation for every wrong field.
            BackendUnavailableError, DeadlineExceededError: fails the whole call.
        """
        serialized = options.label_space.SerializeToString(deterministic=True)
        known = self._label_cache.get(serialized)
        size_bytes = 0 if known else len(serialized) + len(options.label_space.labels) * CHECKING_BYTES
        prepared = await run_off_loop(size_bytes, prepare_options, options, images=images, core=self._core, known=known)
        if known is None:
            self._label_cache.put(serialized, prepared.known)
        call.fields["labels"] = len(prepared.labels)
        call.fields["templates"] = len(prepared.known.query.templates)
        await self._warmer.warm(prepared.known, call)
        return prepared

    async def classify(
        self, image: PlannedImage | Violation, options: PreparedOptions, call: Call, *, number: int
    ) -> classifier_pb2.ClassifyResult:
        """Return the result of one image, which may be its error.

        Args:
            image: as planned.
            options: of the call.
            call: whose turn it takes.
            number: the image's, for the log.

        Raises:
            BackendUnavailableError, DeadlineExceededError: fails the whole call.
        """
        try:
            held, similarities = await infer_by_choice(
                image,
                lambda planned: self._infer(planned, options, call),
                lambda similarities: similarities.image_embedding,
                head=self._core.manifest.damage_head,
                call=call,
                labels=len(options.labels),
            )
        except IMAGE_ERRORS as error:
            return classifier_pb2.ClassifyResult(error=call.status_from_error(error, image=number))
        except BackendUnavailableError:
            self._warmer.forget()
            raise
        return classifier_pb2.ClassifyResult(classification=await self._describe(held, similarities, options))

    async def _infer(
        self, image: PlannedImage | Violation, options: PreparedOptions, call: Call
    ) -> tuple[ImageTurn, Similarities]:
        """Run one inference in its turn."""
        async with image_turn(image, call, labels=len(options.labels)) as held:
            return held, await self._compare(held, options, call)

    async def _compare(self, held: ImageTurn, options: PreparedOptions, call: Call) -> Similarities:
        known, is_auto = options.known, held.image.encoder == "auto"
        request = known.encoded.classify(
            held.image.content,
            fit=options.fit,
            route=held.image.route,
            request_id=call.request_id,
            timeout_s=held.turn.timeout_s,
            size_hw=held.image.size_hw,
            encoder=held.image.encoder,
            wants_embedding=options.wants_embedding,
            wants_pixels=options.wants_encoder_input,
            wants_cut=known.warnings is None,
            wants_none=options.wants_none,
        )
        similarities = await held.turn.infer(request)
        fault = similarities.validate(
            label_count=len(options.labels),
            embed_dim=self._core.manifest.embed_dim if options.wants_embedding or is_auto else None,
            side_px=self._core.manifest.image_size_px if options.wants_encoder_input else None,
            kind_count=len(self._core.manifest.degradation_kinds) if held.image.encoder == "robust" else None,
        )
        if fault:
            raise BackendFaultError(fault)
        if options.wants_none:
            _require_alternatives(similarities, known.field)
        if known.warnings is None and similarities.label_is_cut is not None:
            known.warnings = known.unknown + cut_warnings(
                options.labels,
                similarities.label_is_cut,
                noun="label",
                field=known.field,
                context_length=self._core.manifest.context_length,
            )
        return similarities

    async def _describe(
        self, held: ImageTurn, similarities: Similarities, options: PreparedOptions
    ) -> classifier_pb2.Classification:
        predictions = rank(similarities, options.labels, options.top_k)
        best, threshold = predictions[0], options.rejection_threshold
        classification = classifier_pb2.Classification(
            predictions=predictions,
            input_size=size_message(held.image.size_hw),
            route=ROUTE_NUMBERS[held.image.route],
            timing=held.turn.timing,
            model_digest=self._core.manifest.digest,
            none_of_these=threshold is not None
            and threshold.applies(
                cosine=best.cosine, probability=best.probability, none_probability=similarities.none_probability
            ),
            none_probability=similarities.none_probability,
            encoder=ENCODER_NUMBERS[held.image.encoder],
            degradations=describe_damage(similarities.damage, self._core.manifest.degradation_kinds),
        )
        if options.wants_embedding and similarities.image_embedding is not None:
            classification.embedding.extend(similarities.image_embedding.tolist())
        if options.wants_encoder_input and similarities.pixels is not None:
            classification.encoder_input = await asyncio.to_thread(encoder_input_png, similarities.pixels)
        return classification


def _require_alternatives(similarities: Similarities, field: str) -> None:
    """Refuse a request for which the bank has no other name left; of a backend that answers without one, say so."""
    if similarities.none_probability is None:
        raise BackendFaultError("none_probability was asked for and did not come")
    if math.isnan(similarities.none_probability):
        message = "Every name that the model could compare the labels with is one of them or near one; send fewer."
        violation = Violation(field=field.partition("[")[0], reason="NONE_BANK_EMPTY", message=message)
        raise InvalidRequestError([violation])


def rank(similarities: Similarities, labels: tuple[str, ...], top_k: int) -> list[types_pb2.Prediction]:
    """Return the `top_k` best labels, best first, ties in the order of the labels.

    Ranks by cosine: probability is monotone in it, but in float32 the small ones all become 0.
    """
    order: list[int] = _best(similarities.cosine, top_k).tolist()
    cosine: list[float] = similarities.cosine[order].tolist()
    probability: list[float] = similarities.probability[order].tolist()
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
