"""Reads `model_repository/manifest.json`, which export writes: every size and constant of the served checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clipsr_serving.errors import ArtifactError

__all__ = [
    "MANIFEST_NAME",
    "Artifact",
    "ImageEncoder",
    "Manifest",
    "Scoring",
    "TextBankEntry",
    "TextEncoder",
    "Upscaler",
    "read_manifest",
]

MANIFEST_NAME = "manifest.json"
_SCHEMA_VERSION = 1
_SCORING_FUNCTIONS = ("softmax", "sigmoid")
_INTERPOLATIONS = ("bicubic", "bilinear")
_RESIZE_MODES = ("shortest", "squash", "longest")
_MAX_GREY = 255

T = TypeVar("T")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """R (`image_size_px`), D (`embed_dim`) and how the checkpoint's images were resized.

    `resize_mode` has OpenCLIP's names; `fill_color` is the grey level of the borders of `longest`.
    """

    architecture: str
    image_size_px: int
    embed_dim: int
    interpolation: str
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        _require(self.image_size_px > 0, f"image_encoder.image_size_px must be positive, not {self.image_size_px}")
        _require(self.embed_dim > 0, f"image_encoder.embed_dim must be positive, not {self.embed_dim}")
        _require(
            self.interpolation in _INTERPOLATIONS,
            f"image_encoder.interpolation must be one of {', '.join(_INTERPOLATIONS)}, not {self.interpolation!r}",
        )
        _require(
            self.resize_mode in _RESIZE_MODES,
            f"image_encoder.resize_mode must be one of {', '.join(_RESIZE_MODES)}, not {self.resize_mode!r}",
        )
        _require(0 <= self.fill_color <= _MAX_GREY, f"image_encoder.fill_color must be in 0-255, not {self.fill_color}")


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """What `text_encoder` reads: `context_length` (L) token ids below `vocab_size`."""

    context_length: int
    vocab_size: int
    pad_token_id: int

    def __post_init__(self) -> None:
        _require(self.context_length > 0, f"text_encoder.context_length must be positive, not {self.context_length}")
        _require(self.vocab_size > 0, f"text_encoder.vocab_size must be positive, not {self.vocab_size}")


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    """The super-resolution model and the sides of its canvases, ascending."""

    architecture: str
    canvas_sizes_px: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = self.canvas_sizes_px
        _require(bool(sizes) and min(sizes) > 0, "upscaler.canvas_sizes_px must list positive sizes")
        _require(list(sizes) == sorted(set(sizes)), f"upscaler.canvas_sizes_px must ascend, not {list(sizes)}")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """probability = function(logit_scale * cosine + logit_bias); `logit_scale` is the factor itself."""

    function: str
    logit_scale: float
    logit_bias: float

    def __post_init__(self) -> None:
        _require(
            self.function in _SCORING_FUNCTIONS,
            f"scoring.function must be one of {', '.join(_SCORING_FUNCTIONS)}, not {self.function!r}",
        )
        _require(self.logit_scale > 0, f"scoring.logit_scale must be positive, not {self.logit_scale}")


@dataclass(frozen=True, kw_only=True)
class TextBankEntry:
    """A file of precomputed text embeddings, its path inside the model repository."""

    file: str
    label_set: str
    templates: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A generated file: digest and size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is served."""

    name: str
    digest: str
    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    upscaler: Upscaler
    scoring: Scoring
    default_templates: str
    template_sets: Mapping[str, tuple[str, ...]]
    label_sets: Mapping[str, tuple[str, ...]]
    text_banks: tuple[TextBankEntry, ...]
    artifacts: Mapping[str, Artifact]

    def __post_init__(self) -> None:
        default = self.default_templates
        known = not default.startswith("@") or default[1:] in self.template_sets
        _require(known, f"default_templates names {default!r}, which template_sets lacks")


class _Node:
    """A JSON object that knows its path, so that an error names the field."""

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{path or 'the document'} must be an object")
        self._value = value
        self._path = path

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def get(self, key: str, kind: type[T]) -> T:
        if key not in self._value:
            raise ValueError(f"{self._name(key)} is missing")
        value: Any = self._value[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self._name(key)} must be a {kind.__name__}, not {value!r}")
        return value

    def get_or(self, key: str, default: T) -> T:
        """Return a field that manifests of earlier releases lack."""
        return self.get(key, type(default)) if key in self._value else default

    def child(self, key: str) -> _Node:
        return _Node(self.get(key, dict), self._name(key))

    def children(self, key: str) -> list[_Node]:
        return [_Node(item, f"{self._name(key)}[{index}]") for index, item in enumerate(self.get(key, list))]

    def items_of(self, key: str, kind: type[T]) -> tuple[T, ...]:
        values = self.get(key, list)
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{self._name(key)} must hold only {kind.__name__} values, not {value!r}")
        return tuple(values)

    def named_lists(self, key: str) -> dict[str, tuple[str, ...]]:
        node = self.child(key)
        return {name: node.items_of(name, str) for name in node._value}

    def named_children(self, key: str) -> dict[str, _Node]:
        node = self.child(key)
        return {name: node.child(name) for name in node._value}


def read_manifest(repository: Path) -> Manifest:
    """Read and check the manifest of a model repository.

    Args:
        repository: folder that holds `manifest.json`.

    Raises:
        ArtifactError: it is missing, not JSON, or a field is missing or out of range; the text names the field.
    """
    path = repository / MANIFEST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; run `make export` to write the model artifacts") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); run `make export` to write it again") from error
    try:
        return _parse(_Node(document))
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}; run `make export` to write it again") from error


def _parse(root: _Node) -> Manifest:
    version = root.get("schema_version", int)
    if version != _SCHEMA_VERSION:
        raise ValueError(f"schema_version is {version}, but this release reads {_SCHEMA_VERSION}")
    image, text, upscaler, scoring = (
        root.child(key) for key in ("image_encoder", "text_encoder", "upscaler", "scoring")
    )
    return Manifest(
        name=root.get("name", str),
        digest=root.get("digest", str),
        image_encoder=ImageEncoder(
            architecture=image.get("architecture", str),
            image_size_px=image.get("image_size_px", int),
            embed_dim=image.get("embed_dim", int),
            interpolation=image.get("interpolation", str),
            resize_mode=image.get_or("resize_mode", "shortest"),
            fill_color=image.get_or("fill_color", 0),
        ),
        text_encoder=TextEncoder(
            context_length=text.get("context_length", int),
            vocab_size=text.get("vocab_size", int),
            pad_token_id=text.get("pad_token_id", int),
        ),
        upscaler=Upscaler(
            architecture=upscaler.get("architecture", str),
            canvas_sizes_px=upscaler.items_of("canvas_sizes_px", int),
        ),
        scoring=Scoring(
            function=scoring.get("function", str),
            logit_scale=scoring.get("logit_scale", float),
            logit_bias=scoring.get("logit_bias", float),
        ),
        default_templates=root.get("default_templates", str),
        template_sets=root.named_lists("template_sets"),
        label_sets=root.named_lists("label_sets"),
        text_banks=tuple(_parse_bank(node) for node in root.children("text_banks")),
        artifacts={name: _parse_artifact(node) for name, node in root.named_children("artifacts").items()},
    )


def _parse_bank(node: _Node) -> TextBankEntry:
    return TextBankEntry(
        file=node.get("file", str), label_set=node.get("label_set", str), templates=node.get("templates", str)
    )


def _parse_artifact(node: _Node) -> Artifact:
    return Artifact(sha256=node.get("sha256", str), size_bytes=node.get("bytes", int))
