"""The manifest that export writes beside the models: what is served, and the sets known by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway._json_file import FieldError, parse_json
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest_document import Document
from clipsr_gateway._route_table import RouteTable
from clipsr_gateway._vocabulary import find_words
from clipsr_gateway.errors import ManifestError

MANIFEST_NAME = "manifest.json"

CLEAN = "clean"
"""Among kinds of damage: none."""


@dataclass(frozen=True, kw_only=True)
class UpscaleModel:
    """What renders pictures for people by one recipe.

    Attributes:
        name: of the model in the repository.
        receptive_field_px: pixels around a box that it sees; None where an older export does not say.
    """

    name: str
    receptive_field_px: int | None


@dataclass(frozen=True, kw_only=True)
class ServedRestorer:
    """What restores damaged pictures.

    Attributes:
        words: names of each kind of damage, the published one first, in the order of the contexts.
        default_steps: where a request gives none.
        max_steps: most that a request may ask for.
    """

    words: Mapping[str, tuple[str, ...]]
    default_steps: int
    max_steps: int


@dataclass(frozen=True, kw_only=True)
class DamageHead:
    """Says by an image's plain embedding whether it is to be embedded by the robust encoder.

    Attributes:
        weight: [D] float32.
        bias: added to the product; the image looks damaged where the sum is positive.
    """

    weight: npt.NDArray[np.float32]
    bias: float

    def is_damaged(self, embedding: npt.NDArray[np.float32]) -> bool:
        """Judge an embedding [D]."""
        return float(self.weight @ embedding) + self.bias > 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The parts of manifest.json that the gateway reads.

    Attributes:
        name: name of the exported model.
        digest: "sha256:…" over all artifacts.
        routes: which route images take by themselves.
        image_size_px: R, side of what `upscale` renders.
        embed_dim: D, width of an embedding.
        context_length: tokens that the text encoder reads.
        upscale_models: by the recipe's number on the wire.
        restorer: what restores damaged pictures; None where nothing does.
        degradation_kinds: what the robust encoder tells apart; empty where there is none.
        damage_head: chooses between the encoders; None where nothing does.
        none_threshold: probability of no label from which an image shows none; None where the model has no rule for it.
        taught_words: all that the model knows, those of its templates too; empty for an open vocabulary.
        default_templates: "@" and the name of a template set.
        label_sets: labels by name.
        template_sets: templates by name, each with one "{}".
        info: the message GetModelInfo answers with, without limits and version.
    """

    name: str
    digest: str
    routes: RouteTable
    image_size_px: int
    embed_dim: int
    context_length: int
    upscale_models: Mapping[types_pb2.UpscaleRecipe, UpscaleModel]
    restorer: ServedRestorer | None
    degradation_kinds: tuple[str, ...]
    damage_head: DamageHead | None
    none_threshold: float | None
    taught_words: frozenset[str]
    default_templates: str
    label_sets: Mapping[str, tuple[str, ...]]
    template_sets: Mapping[str, tuple[str, ...]]
    info: classifier_pb2.ModelInfo

    def model_info(self, *, limits: Limits, gateway_version: str) -> classifier_pb2.ModelInfo:
        """Return the complete description for callers."""
        info = classifier_pb2.ModelInfo()
        info.CopyFrom(self.info)
        info.limits.CopyFrom(limits.to_proto())
        info.gateway_version = gateway_version
        return info


def load_manifest(repository: Path, *, limits: Limits | None = None) -> Manifest:
    """Read and check `manifest.json` of a model repository.

    Args:
        repository: the model repository.
        limits: what a request may hold, and with it a published set; None for the defaults.

    Raises:
        ManifestError: the file is absent, is not JSON, a field is missing or wrong, or a set exceeds the limits.
    """
    path = repository / MANIFEST_NAME
    try:
        document = parse_json(path.read_bytes(), Document)
    except FileNotFoundError as cause:
        message = "no such file. Write it with `make export`, or name the model repository with --repository DIR."
        raise ManifestError(path, message) from cause
    except OSError as cause:
        raise ManifestError(path, f"cannot be read ({cause.strerror}).") from cause
    except FieldError as error:
        where = f"field {error.field!r}" if error.field else "the document"
        what = f"is not JSON ({error})" if error.kind == "json_invalid" else f"{where} {error}"
        raise ManifestError(path, f"{what}. Write it again with `make export`.") from error
    _check_sets(path, document, limits or Limits())
    return Manifest(
        name=document.name,
        digest=document.digest,
        routes=_route_table(document),
        image_size_px=document.image_encoder.image_size_px,
        embed_dim=document.image_encoder.embed_dim,
        context_length=document.text_encoder.context_length,
        upscale_models=_upscale_models(document),
        restorer=_served_restorer(document),
        degradation_kinds=_degradation_kinds(document),
        damage_head=_damage_head(path, document),
        none_threshold=None if document.none_of_these is None else document.none_of_these.threshold,
        taught_words=_taught_words(document),
        default_templates=document.default_templates,
        label_sets=document.label_sets,
        template_sets=document.template_sets,
        info=_model_info(document),
    )


def _check_sets(path: Path, document: Document, limits: Limits) -> None:
    """Refuse a published set that no request could use: every image asked with it would fail in Triton.

    Raises:
        ManifestError: naming the set.
    """
    for field, sets, limit in (
        ("label_sets", document.label_sets, limits.max_labels),
        ("template_sets", document.template_sets, limits.max_templates),
    ):
        for name, members in sets.items():
            where = f"field '{field}.{name}'"
            if len(members) > limit:
                what = f"holds {len(members):,} entries; at most {limit:,} are served"
                raise ManifestError(path, f"{where} {what}. Export a smaller set.")
            longest = max(len(member.encode()) for member in members)
            if longest > limits.max_label_bytes:
                what = f"has an entry of {longest:,} bytes; at most {limits.max_label_bytes:,} are served"
                raise ManifestError(path, f"{where} {what}. Export a shorter one.")


def _upscale_models(document: Document) -> Mapping[types_pb2.UpscaleRecipe, UpscaleModel]:
    if document.upscale_recipes is None:
        model = UpscaleModel(name="upscale", receptive_field_px=document.upscaler.receptive_field_px)
        return {types_pb2.UPSCALE_RECIPE_CLEAN: model}
    numbers = {"clean": types_pb2.UPSCALE_RECIPE_CLEAN, "robust": types_pb2.UPSCALE_RECIPE_ROBUST}
    return {
        numbers[name]: UpscaleModel(name=entry.model, receptive_field_px=entry.receptive_field_px)
        for name, entry in document.upscale_recipes.items()
        if name in numbers
    }


def _served_restorer(document: Document) -> ServedRestorer | None:
    entry = document.restorer
    if entry is None:
        return None
    words = {kind.name: (kind.name, *kind.words) for kind in entry.kinds}
    return ServedRestorer(words=words, default_steps=entry.default_steps, max_steps=entry.max_steps)


def _restorer_info(document: Document) -> classifier_pb2.RestorerInfo | None:
    entry = document.restorer
    if entry is None:
        return None
    kinds = [classifier_pb2.DamageKind(name=k.name, words=k.words) for k in entry.kinds if k.name != CLEAN]
    return classifier_pb2.RestorerInfo(
        architecture=entry.architecture,
        kinds=kinds,
        default_steps=entry.default_steps,
        max_steps=entry.max_steps,
    )


def _degradation_kinds(document: Document) -> tuple[str, ...]:
    return () if document.robust_encoder is None else document.robust_encoder.kinds


def _damage_head(path: Path, document: Document) -> DamageHead | None:
    """Return the head.

    Raises:
        ManifestError: it is for embeddings of another width.
    """
    head = None if document.robust_encoder is None else document.robust_encoder.head
    if head is None:
        return None
    embed_dim = document.image_encoder.embed_dim
    if len(head.weight) != embed_dim:
        what = f"field 'robust_encoder.head.weight' has {len(head.weight)} numbers for embeddings of {embed_dim}"
        raise ManifestError(path, f"{what}. Write it again with `make export`.")
    return DamageHead(weight=np.array(head.weight, dtype=np.float32), bias=head.bias)


def _taught_words(document: Document) -> frozenset[str]:
    return find_words(document.taught_names, itertools.chain.from_iterable(document.template_sets.values()))


def _route_table(document: Document) -> RouteTable:
    return RouteTable.make(document.native_min_side_px, [rule.model_dump() for rule in document.route_rules])


def _route_rules(document: Document) -> Iterator[classifier_pb2.RouteRule]:
    routes = {"upscaled": types_pb2.ROUTE_UPSCALED, "native": types_pb2.ROUTE_NATIVE}
    for rule in _route_table(document).rules:
        yield classifier_pb2.RouteRule(
            max_side_px=rule.max_side_px,
            is_lossy=rule.is_lossy,
            max_noise=rule.max_noise,
            route=routes[rule.route],
            upscaled_agreement=rule.upscaled_agreement,
            native_agreement=rule.native_agreement,
            n_images=rule.n_images,
        )


def _model_info(document: Document) -> classifier_pb2.ModelInfo:
    return classifier_pb2.ModelInfo(
        name=document.name,
        digest=document.digest,
        image_architecture=document.image_encoder.architecture,
        image_size_px=document.image_encoder.image_size_px,
        embed_dim=document.image_encoder.embed_dim,
        upscaler_architecture=document.upscaler.architecture,
        canvas_sizes_px=sorted(document.upscaler.canvas_sizes_px),
        native_min_side_px=document.native_min_side_px,
        route_rules=_route_rules(document),
        upscale_recipes=sorted(_upscale_models(document)),
        restorer=_restorer_info(document),
        degradation_kinds=_degradation_kinds(document),
        has_auto_encoder=document.robust_encoder is not None and document.robust_encoder.head is not None,
        none_of_these=None
        if document.none_of_these is None
        else classifier_pb2.NoneOfTheseInfo(**document.none_of_these.model_dump()),
        logit_scale=document.scoring.logit_scale,
        logit_bias=document.scoring.logit_bias,
        scoring_function=document.scoring.function,
        context_length=document.text_encoder.context_length,
        default_templates=document.default_templates,
        label_sets=[classifier_pb2.NamedSet(name=name, values=values) for name, values in document.label_sets.items()],
        template_sets=[
            classifier_pb2.NamedSet(name=name, values=values) for name, values in document.template_sets.items()
        ],
        artifacts=[
            types_pb2.Artifact(path=name, sha256=artifact.sha256, size_bytes=artifact.bytes)
            for name, artifact in document.artifacts.items()
        ],
    )
