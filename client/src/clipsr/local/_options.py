"""What is asked about every image, as the models take it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from clipsr._codecs.arguments import invalid
from clipsr._types import Encoder
from clipsr.v1 import classifier_pb2, types_pb2

LabelSets = Mapping[str, tuple[str, ...]]

FITS: Mapping[int, str] = {
    types_pb2.FIT_UNSPECIFIED: "",  # the checkpoint's own
    types_pb2.FIT_CENTER_CROP: "center_crop",
    types_pb2.FIT_SQUASH: "squash",
}
ROUTES: Mapping[int, Literal["upscaled", "native"] | None] = {
    types_pb2.ROUTE_UNSPECIFIED: None,
    types_pb2.ROUTE_UPSCALED: "upscaled",
    types_pb2.ROUTE_NATIVE: "native",
}
ENCODERS: Mapping[int, Encoder] = {
    types_pb2.ENCODER_UNSPECIFIED: "plain",
    types_pb2.ENCODER_PLAIN: "plain",
    types_pb2.ENCODER_ROBUST: "robust",
    types_pb2.ENCODER_AUTO: "auto",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalOptions:
    """ClassifyOptions with the labels of a published set put in.

    Attributes:
        labels: what to choose from.
        templates: as they came.
        fit: empty for the checkpoint's own.
        route: the route that the caller forces, or None.
        encoder: what embeds the images.
        top_k: predictions of an image; 0 for all labels.
        min_cosine: an image whose best label has a smaller cosine shows none of them; None: never.
        min_probability: likewise by probability.
        min_none_probability: likewise from this probability of no label on.
        wants_embedding: whether the image's embedding is returned.
        wants_encoder_input: whether what the encoder saw is returned.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    fit: str
    route: Literal["upscaled", "native"] | None
    encoder: Encoder
    top_k: int
    min_cosine: float | None
    min_probability: float | None
    min_none_probability: float | None
    wants_embedding: bool
    wants_encoder_input: bool

    @property
    def wants_none(self) -> bool:
        """Whether the probability of no label is returned."""
        return self.min_none_probability is not None

    def is_none_of_these(self, *, cosine: float, probability: float, none_probability: float | None) -> bool:
        """Say whether the best label stays below a threshold, or that of no label reaches its own."""
        is_far = self.min_cosine is not None and cosine < self.min_cosine
        is_unsure = self.min_probability is not None and probability < self.min_probability
        limit = self.min_none_probability
        return is_far or is_unsure or (limit is not None and none_probability is not None and none_probability >= limit)


def read_options(
    asked: classifier_pb2.ClassifyOptions,
    label_sets: LabelSets,
    *,
    encoders: Collection[Encoder],
    none_threshold: float | None,
) -> LocalOptions:
    """Read options that the client would send.

    They come as the message, whose numbers are those that a service compares with.

    Raises:
        InvalidRequestError: labels and a set's name are given at once, there is no such set, or an encoder or a rule
            for "none of these" is asked for that the model lacks.
    """
    threshold = asked.none_of_these
    if threshold.calibrated and none_threshold is None:
        message = "This model has no calibrated rule for none of these; export it with one, or set min_cosine instead."
        raise invalid("none_of_these", message, reason="NONE_BANK_MISSING")
    return LocalOptions(
        labels=_find_labels(asked.label_space, label_sets),
        templates=tuple(asked.label_space.templates),
        fit=FITS[asked.fit],
        route=ROUTES[asked.route],
        encoder=find_encoder(asked.encoder, encoders),
        top_k=asked.top_k,
        min_cosine=threshold.min_cosine if threshold.HasField("min_cosine") else None,
        min_probability=threshold.min_probability if threshold.HasField("min_probability") else None,
        min_none_probability=none_threshold if threshold.calibrated else None,
        wants_embedding=asked.return_embedding,
        wants_encoder_input=asked.return_encoder_input,
    )


def find_encoder(number: types_pb2.Encoder, encoders: Collection[Encoder]) -> Encoder:
    """Return what is to embed images.

    Raises:
        InvalidRequestError: the model does not have it.
    """
    encoder = ENCODERS[number]
    if encoder not in encoders:
        lacks, otherwise = "no encoder for damaged images", "leave encoder out"
        if "robust" in encoders:
            lacks, otherwise = "nothing that tells when its encoder for damaged images is needed", "ask for robust"
        message = (
            f"This model has {lacks}. Train a controller for it (clipsr-train controller) and export both "
            f"(clipsr-export --controller FOLDER), or {otherwise}."
        )
        raise invalid("encoder", message, reason="ENCODER_MISSING")
    return encoder


def _find_labels(space: types_pb2.LabelSpace, label_sets: LabelSets) -> tuple[str, ...]:
    if not space.label_set:
        return tuple(space.labels)
    if space.labels:
        message = "Both labels and label_set are set; leave one of them empty."
        raise invalid("label_space", message, reason="LABEL_SPACE_AMBIGUOUS")
    if space.label_set not in label_sets:
        known = ", ".join(label_sets) or "none"
        hint = " Write the name without '@'." if space.label_set.startswith("@") else ""
        message = f'There is no label set "{space.label_set[:40]}"; the model has {known}.{hint}'
        raise invalid("label_space.label_set", message, reason="LABEL_SET_UNKNOWN")
    return label_sets[space.label_set]
