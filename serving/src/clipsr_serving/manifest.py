"""Reads `model_repository/manifest.json`, which export writes: every size and constant of the served checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator
from pydantic import model_validator as _model_validator
from pydantic_core import ErrorDetails

from clipsr_serving.errors import ArtifactError, InputError
from clipsr_serving.route_table import RouteTable, RouteTaken
from clipsr_serving.text.prompts import parse_label_space, parse_templates

__all__ = [
    "MANIFEST_NAME",
    "Artifact",
    "ImageEncoder",
    "Manifest",
    "NoneOfThese",
    "RouteRule",
    "Scoring",
    "TextBankEntry",
    "TextEncoder",
    "Upscaler",
    "read_manifest",
]

MANIFEST_NAME = "manifest.json"
_MAX_SHOWN = 60


class _Part(BaseModel):
    """A JSON object of which only the fields that serving uses are read; types are not converted."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class ImageEncoder(_Part):
    """R (`image_size_px`), D (`embed_dim`) and how the checkpoint's images were resized.

    `resize_mode` has OpenCLIP's names; `fill_color` is the grey level of the borders of `longest`. Manifests of earlier
    releases lack both.
    """

    architecture: str
    image_size_px: PositiveInt
    embed_dim: PositiveInt
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash", "longest"] = "shortest"
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


class TextEncoder(_Part):
    """What `text_encoder` reads: `context_length` (L) token ids below `vocab_size`."""

    context_length: PositiveInt
    vocab_size: PositiveInt
    pad_token_id: NonNegativeInt


class Upscaler(_Part):
    """The super-resolution model and the sides of its canvases, ascending."""

    architecture: str
    canvas_sizes_px: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

    @field_validator("canvas_sizes_px")
    @classmethod
    def _check_order(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError("the sizes must ascend")
        return sizes


class Scoring(_Part):
    """probability = function(logit_scale * cosine + logit_bias); `logit_scale` is the factor itself."""

    function: Literal["softmax", "sigmoid"]
    logit_scale: Annotated[float, Field(gt=0)]
    logit_bias: float


class RouteRule(_Part):
    """A rule of `routes`, checked."""

    max_side_px: PositiveInt
    is_lossy: bool
    max_noise: Annotated[float, Field(ge=0)] | None = None
    route: RouteTaken
    upscaled_agreement: Annotated[float, Field(ge=0, le=1)]
    native_agreement: Annotated[float, Field(ge=0, le=1)]
    n_images: PositiveInt


class TextBankEntry(_Part):
    """A file of precomputed text embeddings, its path inside the model repository."""

    file: str
    label_set: str
    templates: str


class NoneOfThese(_Part):
    """When an image shows none of the labels, calibrated: see `compute_none_probability`.

    `file` is a text bank of other names. One that has a cosine above `max_label_cosine` with a label is left out. From
    the probability `threshold` on, an image shows none of the labels.
    """

    file: str
    temperature: Annotated[float, Field(gt=0)]
    bias: float
    threshold: Annotated[float, Field(ge=0, le=1)]
    max_label_cosine: Annotated[float, Field(ge=-1, le=1)]


class DamageHead(_Part):
    """An image looks damaged where `weight` · its plain embedding + `bias` is positive."""

    weight: tuple[float, ...]
    bias: float


class RobustEncoder(_Part):
    """What the robust encoder tells apart, and, where one was trained, what chooses between it and the plain one."""

    kinds: Annotated[tuple[str, ...], Field(min_length=1)]
    head: DamageHead | None = None


class Artifact(_Part):
    """A generated file: digest and size."""

    sha256: str
    size_bytes: Annotated[NonNegativeInt, Field(alias="bytes")]


class Manifest(_Part):
    """What is served."""

    schema_version: Literal[1]
    name: str
    digest: str
    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    upscaler: Upscaler
    scoring: Scoring
    native_min_side_px: PositiveInt
    route_rules: tuple[RouteRule, ...] = ()
    default_templates: str
    template_sets: dict[str, tuple[str, ...]]
    label_sets: dict[str, tuple[str, ...]]
    taught_names: tuple[str, ...] = ()
    text_banks: tuple[TextBankEntry, ...]
    robust_encoder: RobustEncoder | None = None
    none_of_these: NoneOfThese | None = None
    artifacts: dict[str, Artifact]

    @_model_validator(mode="after")
    def _check_sets(self) -> Manifest:
        """Refuse sets that would be refused in every request, by the same checks."""
        sets, where = self.template_sets, ""
        try:
            for name, templates in sets.items():
                where = f"template_sets.{name}"
                parse_templates([template.encode() for template in templates], template_sets={})
            where = "default_templates"
            default = parse_templates([self.default_templates.encode()], template_sets=sets)
            for name, labels in self.label_sets.items():
                where = f"label_sets.{name}"
                expanded = [template.encode() for template in default]
                parse_label_space(
                    [label.encode() for label in labels], expanded, template_sets={}, default_templates=""
                )
        except InputError as error:
            raise ValueError(f"{where}: {error.message.rstrip('.')}") from error
        return self

    @property
    def routes(self) -> RouteTable:
        """What decides the route of an image for which the caller names none."""
        return RouteTable.make(self.native_min_side_px, [rule.model_dump() for rule in self.route_rules])


def read_manifest(repository: Path) -> Manifest:
    """Read and check the manifest of a model repository.

    Args:
        repository: folder that holds `manifest.json`.

    Raises:
        ArtifactError: it is missing, not JSON, a field is missing or out of range, or a label or template set is beyond
            the limits of a request; the message names the field.
    """
    path = repository / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; run `make export` to write the model artifacts") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); run `make export` to write it again") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_describe(error.errors()[0])}; run `make export` to write it again") from error


def _describe(error: ErrorDetails) -> str:
    """Name the field and what is wrong with it."""
    keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"])
    field = "".join(keys).removeprefix(".")
    if error["type"] == "missing":
        return f"{field} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "json_invalid" or not field:
        return message
    value = repr(error["input"])
    return f"{field}: {message}, not {value if len(value) <= _MAX_SHOWN else f'{value[:_MAX_SHOWN]}…'}"
