"""The options of a Classify or ClassifyStream call, checked before any image is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Encoder, Fit, Route
from clipsr_gateway._calls.response_size import check_classify_response
from clipsr_gateway._images.choice import encoder_violations, resolve_encoder
from clipsr_gateway._images.plan import FITS, ROUTES, count_violations, option_violations
from clipsr_gateway._texts.label_cache import KnownLabels
from clipsr_gateway._texts.labels import resolve_label_space
from clipsr_gateway._texts.warnings import unknown_warnings
from clipsr_gateway.errors import InvalidRequestError, NoneBankMissingError, Violation

# Where the options stand in a request and in the first message of a stream.
_PATH = "options."


@dataclass(frozen=True, kw_only=True)
class RejectionThreshold:
    """When an image shows none of the labels.

    Attributes:
        min_cosine: least cosine of the best label; None if it does not count.
        min_probability: least probability of the best label; None if it does not count.
        min_none_probability: that of no label from which the image shows none; None if it does not count.
    """

    min_cosine: float | None
    min_probability: float | None
    min_none_probability: float | None = None

    def applies(self, *, cosine: float, probability: float, none_probability: float | None = None) -> bool:
        """Say whether the best label stays below a threshold, or that of no label reaches its own."""
        is_far = self.min_cosine is not None and cosine < self.min_cosine
        is_unsure = self.min_probability is not None and probability < self.min_probability
        limit = self.min_none_probability
        return is_far or is_unsure or (limit is not None and none_probability is not None and none_probability >= limit)


@dataclass(frozen=True, kw_only=True)
class PreparedOptions:
    """ClassifyOptions, checked, with labels that can be sent with any number of images.

    Attributes:
        known: labels and templates, as the models and as the backend take them.
        fit: how images that are not square are fitted; empty for the checkpoint's own way.
        route: the route that the caller forces, or None.
        encoder: the image encoder that embeds the images.
        top_k: predictions to return for an image, between 1 and the number of labels.
        rejection_threshold: when an image shows none of the labels; None: never.
        wants_embedding: whether the image's embedding is returned.
        wants_encoder_input: whether what the encoder saw is returned.
        wants_none: whether the probability of no label is returned.
    """

    known: KnownLabels
    fit: Fit
    route: Route | None
    encoder: Encoder
    top_k: int
    rejection_threshold: RejectionThreshold | None
    wants_embedding: bool
    wants_encoder_input: bool
    wants_none: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """[K] labels."""
        return self.known.query.labels


def prepare_options(
    options: classifier_pb2.ClassifyOptions,
    *,
    images: Sequence[types_pb2.Image] | None,
    core: Core,
    known: KnownLabels | None,
) -> PreparedOptions:
    """Check everything of a request but its images, and encode labels that are not known.

    Takes milliseconds for thousands of labels that are not known, so call it outside of the event loop then.

    Args:
        options: of the request.
        images: the images of a single call, of which only the number is looked at; None for a stream.
        core: what is served, and its limits.
        known: what the label space was resolved to before.

    Raises:
        InvalidRequestError: the request as a whole is refused, with one violation for every wrong field.
        EncoderMissingError, NoneBankMissingError: the model lacks the encoder, or the rule, that is asked for.
    """
    violations = [] if images is None else count_violations(images, core.limits)
    violations += [
        *option_violations(options, _PATH),
        *encoder_violations(options.encoder, _PATH),
        *_threshold_violations(options),
    ]
    try:
        known = known or _encode_labels(options.label_space, core)
    except InvalidRequestError as error:
        violations += error.violations
    if violations or known is None:
        raise InvalidRequestError(violations)
    encoder = resolve_encoder(options.encoder, core.manifest)
    if options.none_of_these.calibrated and core.manifest.none_threshold is None:
        raise NoneBankMissingError
    count = len(known.query.labels)
    prepared = PreparedOptions(
        known=known,
        fit=FITS[options.fit],
        route=ROUTES[options.route],
        encoder=encoder,
        top_k=min(options.top_k or count, count),
        rejection_threshold=_rejection_threshold(options, core.manifest.none_threshold),
        wants_embedding=options.return_embedding,
        wants_encoder_input=options.return_encoder_input,
        wants_none=options.none_of_these.calibrated,
    )
    _check_response(prepared, 1 if images is None else len(images), core)
    return prepared


def _check_response(prepared: PreparedOptions, image_count: int, core: Core) -> None:
    """Refuse what would not fit one answer."""
    check_classify_response(
        label_bytes=prepared.known.query.label_bytes,
        top_k=prepared.top_k,
        embed_dim=core.manifest.embed_dim if prepared.wants_embedding else 0,
        encoder_side_px=core.manifest.image_size_px if prepared.wants_encoder_input else 0,
        kind_bytes=[len(kind.encode()) for kind in core.manifest.degradation_kinds if prepared.encoder != "plain"],
        image_count=image_count,
        field=f"{_PATH}top_k",
        limits=core.limits,
    )


def _encode_labels(space: types_pb2.LabelSpace, core: Core) -> KnownLabels:
    path = f"{_PATH}label_space"
    query = resolve_label_space(space, path=path, manifest=core.manifest, limits=core.limits)
    encoded = core.backend.encode_labels(labels=query.labels, templates=query.templates)
    field = f"{path}.label_set" if space.label_set else f"{path}.labels[{{}}]"
    unknown = unknown_warnings(query.labels, core.vocabulary, noun="label", field=field)
    return KnownLabels(query=query, encoded=encoded, wire_bytes=space.ByteSize(), field=field, unknown=unknown)


def _threshold_violations(options: classifier_pb2.ClassifyOptions) -> Iterator[Violation]:
    threshold, field = _rejection_threshold(options, None), f"{_PATH}none_of_these"
    if threshold is None:
        return
    is_empty = threshold.min_cosine is None and threshold.min_probability is None
    if is_empty and not options.none_of_these.calibrated:
        message = "none_of_these has no rule; set calibrated, min_cosine or min_probability, or leave it out."
        yield Violation(field=field, reason="THRESHOLD_MISSING", message=message)
    for name, least in (("min_cosine", -1), ("min_probability", 0)):
        value: float | None = getattr(threshold, name)
        if value is not None and not least <= value <= 1:  # nor is NaN
            message = f"{name} is {'not a number' if math.isnan(value) else f'{value:g}'}; it lies in [{least}, 1]."
            yield Violation(field=f"{field}.{name}", reason="THRESHOLD_OUT_OF_RANGE", message=message)


def _rejection_threshold(
    options: classifier_pb2.ClassifyOptions, calibrated: float | None
) -> RejectionThreshold | None:
    if not options.HasField("none_of_these"):
        return None
    message = options.none_of_these
    return RejectionThreshold(
        min_cosine=message.min_cosine if message.HasField("min_cosine") else None,
        min_probability=message.min_probability if message.HasField("min_probability") else None,
        min_none_probability=calibrated if message.calibrated else None,
    )
