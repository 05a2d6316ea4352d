"""The manifest that export writes beside the models: what is served, and the sets known by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway._limits import Limits
from clipsr_gateway.errors import ManifestError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
PLACEHOLDER = "{}"

_SHA256_HEX_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The parts of manifest.json that the gateway reads.

    Attributes:
        name: name of the exported model.
        digest: "sha256:…" over all artifacts.
        native_min_side_px: images whose shorter side is at least this take the native route.
        image_size_px: R, side of what `upscale` renders.
        embed_dim: D, width of an embedding.
        receptive_field_px: pixels around a box that `upscale` sees; None where an older export does not say.
        default_templates: "@" and the name of a template set.
        label_sets: labels by name.
        template_sets: templates by name, each with one "{}".
        info: the message GetModelInfo answers with, without limits and version.
    """

    name: str
    digest: str
    native_min_side_px: int
    image_size_px: int
    embed_dim: int
    receptive_field_px: int | None
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


def load_manifest(repository: Path) -> Manifest:
    """Read and check `manifest.json` of a model repository.

    Raises:
        ManifestError: the file is absent, is not JSON, or a field is missing or wrong.
    """
    path = repository / MANIFEST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        message = "no such file. Write it with `make export`, or name the model repository with --repository DIR."
        raise ManifestError(path, message) from cause
    except OSError as cause:
        raise ManifestError(path, f"cannot be read ({cause.strerror}).") from cause
    except ValueError as cause:
        raise ManifestError(path, f"is not JSON ({cause}). Write it again with `make export`.") from cause
    return _parse(_Node(path=path, name="", value=document))


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A value inside the manifest that knows its name, so that an error can say where."""

    path: Path
    name: str
    value: Any

    def wrong(self, expectation: str) -> ManifestError:
        where = f"field {self.name!r}" if self.name else "the document"
        return ManifestError(self.path, f"{where} must be {expectation}. Write it again with `make export`.")

    def child(self, key: str) -> _Node:
        name = f"{self.name}.{key}" if self.name else key
        mapping = self.mapping()
        if key not in mapping:
            raise ManifestError(self.path, f"field {name!r} is missing. Write it again with `make export`.")
        return _Node(path=self.path, name=name, value=mapping[key])

    def mapping(self) -> dict[str, Any]:
        value = self.value
        if not isinstance(value, dict):
            raise self.wrong("an object")
        return cast("dict[str, Any]", value)

    def children(self) -> dict[str, _Node]:
        return {key: self.child(key) for key in self.mapping()}

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong("a string that is not empty")
        return self.value

    def count(self, *, minimum: int = 1) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < minimum:
            raise self.wrong(f"an integer of at least {minimum}")
        return self.value

    def number(self) -> float:
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool) or not math.isfinite(self.value):
            raise self.wrong("a finite number")
        return float(self.value)

    def items(self) -> list[_Node]:
        value = self.value
        if not isinstance(value, list) or not value:
            raise self.wrong("a list that is not empty")
        values = cast("list[Any]", value)
        return [_Node(path=self.path, name=f"{self.name}[{i}]", value=value) for i, value in enumerate(values)]

    def texts(self) -> tuple[str, ...]:
        return tuple(item.text() for item in self.items())


def _parse(root: _Node) -> Manifest:
    schema = root.child("schema_version")
    if schema.value != SCHEMA_VERSION:
        raise schema.wrong(f"{SCHEMA_VERSION}: this gateway reads no other schema")
    label_sets = _label_sets(root.child("label_sets"))
    template_sets = _template_sets(root.child("template_sets"))
    default_templates = root.child("default_templates")
    if default_templates.text().removeprefix("@") not in template_sets or not default_templates.text().startswith("@"):
        raise default_templates.wrong("'@' and the name of one of template_sets")
    return Manifest(
        name=root.child("name").text(),
        digest=root.child("digest").text(),
        native_min_side_px=root.child("native_min_side_px").count(),
        image_size_px=root.child("image_encoder").child("image_size_px").count(),
        embed_dim=root.child("image_encoder").child("embed_dim").count(),
        receptive_field_px=_receptive_field_px(root.child("upscaler")),
        default_templates=default_templates.text(),
        label_sets=label_sets,
        template_sets=template_sets,
        info=_model_info(root, label_sets, template_sets),
    )


def _receptive_field_px(upscaler: _Node) -> int | None:
    name = "receptive_field_px"
    return upscaler.child(name).count(minimum=0) if name in upscaler.mapping() else None


def _label_sets(node: _Node) -> dict[str, tuple[str, ...]]:
    sets: dict[str, tuple[str, ...]] = {}
    for name, labels in node.children().items():
        sets[name] = labels.texts()
        if len(set(sets[name])) != len(sets[name]):
            raise labels.wrong("a list without duplicates")
    return sets


def _template_sets(node: _Node) -> dict[str, tuple[str, ...]]:
    sets: dict[str, tuple[str, ...]] = {}
    for name, templates in node.children().items():
        sets[name] = templates.texts()
        for template in templates.items():
            if template.text().count(PLACEHOLDER) != 1:
                raise template.wrong(f"a template with exactly one {PLACEHOLDER}")
    return sets


def _model_info(
    root: _Node, label_sets: Mapping[str, tuple[str, ...]], template_sets: Mapping[str, tuple[str, ...]]
) -> classifier_pb2.ModelInfo:
    image_encoder, upscaler, scoring = root.child("image_encoder"), root.child("upscaler"), root.child("scoring")
    function = scoring.child("function")
    if function.value not in ("softmax", "sigmoid"):
        raise function.wrong("'softmax' or 'sigmoid'")
    return classifier_pb2.ModelInfo(
        name=root.child("name").text(),
        digest=root.child("digest").text(),
        image_architecture=image_encoder.child("architecture").text(),
        image_size_px=image_encoder.child("image_size_px").count(),
        embed_dim=image_encoder.child("embed_dim").count(),
        upscaler_architecture=upscaler.child("architecture").text(),
        canvas_sizes_px=sorted(size.count() for size in upscaler.child("canvas_sizes_px").items()),
        native_min_side_px=root.child("native_min_side_px").count(),
        logit_scale=scoring.child("logit_scale").number(),
        logit_bias=scoring.child("logit_bias").number(),
        scoring_function=function.text(),
        context_length=root.child("text_encoder").child("context_length").count(),
        default_templates=root.child("default_templates").text(),
        label_sets=[classifier_pb2.NamedSet(name=name, values=values) for name, values in label_sets.items()],
        template_sets=[classifier_pb2.NamedSet(name=name, values=values) for name, values in template_sets.items()],
        artifacts=[_artifact(name, node) for name, node in root.child("artifacts").children().items()],
    )


def _artifact(name: str, node: _Node) -> types_pb2.Artifact:
    sha256 = node.child("sha256")
    if len(sha256.text()) != _SHA256_HEX_DIGITS:
        raise sha256.wrong("a SHA-256 in hexadecimal")
    return types_pb2.Artifact(path=name, sha256=sha256.text(), size_bytes=node.child("bytes").count(minimum=0))
