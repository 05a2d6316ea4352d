"""The question of a Classify or ClassifyStream call, checked before any image is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway._backend.protocol import Fit, Route
from clipsr_gateway._calls.response_size import check_classify_response
from clipsr_gateway._images.plan import FITS, ROUTES, count_violations, option_violations
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._texts.labels import LabelQuery, resolve_label_space
from clipsr_gateway.errors import InvalidRequestError, Violation

# Where the options stand in a request and in the first message of a stream.
_PATH = "options."


@dataclass(frozen=True, kw_only=True)
class RejectionThreshold:
    """When an image shows none of the labels.

    Attributes:
        min_cosine: least cosine of the best label; None if it does not count.
        min_probability: least probability of the best label; None if it does not count.
    """

    min_cosine: float | None
    min_probability: float | None

    def applies(self, *, cosine: float, probability: float) -> bool:
        """Say whether the best label stays below a threshold."""
        is_far = self.min_cosine is not None and cosine < self.min_cosine
        return is_far or (self.min_probability is not None and probability < self.min_probability)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about every image of a Classify or ClassifyStream call.

    Attributes:
        query: labels and templates.
        fit: how images that are not square are fitted; empty for the checkpoint's own way.
        route: the route that the caller forces, or None.
        top_k: predictions to return for an image, between 1 and the number of labels.
        rejection_threshold: when an image shows none of the labels; None: never.
        wants_embedding: whether the image's embedding is returned.
        wants_encoder_input: whether what the encoder saw is returned.
    """

    query: LabelQuery
    fit: Fit
    route: Route | None
    top_k: int
    rejection_threshold: RejectionThreshold | None
    wants_embedding: bool
    wants_encoder_input: bool


def plan_question(
    options: classifier_pb2.ClassifyOptions,
    *,
    images: Sequence[types_pb2.Image] | None,
    manifest: Manifest,
    limits: Limits,
    known: LabelQuery | None = None,
) -> Question:
    """Check everything of a request but its images.

    Takes milliseconds for thousands of labels that are not known, so call it outside of the event loop then.

    Args:
        options: what is asked.
        images: the images of a single call, of which only the number is looked at; None for a stream.
        manifest: what is served.
        limits: what a request may hold.
        known: what its label space was resolved to before.

    Raises:
        InvalidRequestError: the request as a whole is refused, with one violation for every wrong field.
    """
    violations = [] if images is None else count_violations(images, limits)
    violations += [*option_violations(options, _PATH), *_none_violations(options)]
    query = known or LabelQuery(labels=(), templates=())
    try:
        if known is None:
            label_path = f"{_PATH}label_space"
            query = resolve_label_space(options.label_space, path=label_path, manifest=manifest, limits=limits)
    except InvalidRequestError as error:
        violations += error.violations
    if violations:
        raise InvalidRequestError(violations)
    question = Question(
        query=query,
        fit=FITS[options.fit],
        route=ROUTES[options.route],
        top_k=min(options.top_k or len(query.labels), len(query.labels)),
        rejection_threshold=_rejection_threshold(options.none_of_these) if options.HasField("none_of_these") else None,
        wants_embedding=options.return_embedding,
        wants_encoder_input=options.return_encoder_input,
    )
    check_classify_response(
        label_bytes=query.label_bytes,
        top_k=question.top_k,
        embed_dim=manifest.embed_dim if question.wants_embedding else 0,
        encoder_side_px=manifest.image_size_px if question.wants_encoder_input else 0,
        image_count=1 if images is None else len(images),
        field=f"{_PATH}top_k",
        limits=limits,
    )
    return question


def _none_violations(options: classifier_pb2.ClassifyOptions) -> Iterator[Violation]:
    if not options.HasField("none_of_these"):
        return
    rule, field = _rejection_threshold(options.none_of_these), f"{_PATH}none_of_these"
    if rule.min_cosine is None and rule.min_probability is None:
        message = "none_of_these has no threshold; set min_cosine or min_probability, or leave none_of_these out."
        yield Violation(field=field, reason="THRESHOLD_MISSING", message=message)
    for name, value, least in (("min_cosine", rule.min_cosine, -1), ("min_probability", rule.min_probability, 0)):
        if value is not None and not least <= value <= 1:  # nor is NaN
            message = f"{name} is {'not a number' if math.isnan(value) else f'{value:g}'}; it lies in [{least}, 1]."
            yield Violation(field=f"{field}.{name}", reason="THRESHOLD_OUT_OF_RANGE", message=message)


def _rejection_threshold(message: classifier_pb2.NoneOfThese) -> RejectionThreshold:
    return RejectionThreshold(
        min_cosine=message.min_cosine if message.HasField("min_cosine") else None,
        min_probability=message.min_probability if message.HasField("min_probability") else None,
    )
