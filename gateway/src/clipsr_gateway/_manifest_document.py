"""The fields of `manifest.json` that the gateway reads, and what each may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from clipsr_gateway._json_file import Strict

PLACEHOLDER = "{}"


def _check_unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        raise ValueError("must be a list without duplicates")
    return labels


def _check_template(template: str) -> str:
    if template.count(PLACEHOLDER) != 1:
        raise ValueError(f"must be a template with exactly one {PLACEHOLDER}")
    return template


_Text = Annotated[str, Field(pattern=r"\S")]
_Count = Annotated[int, Field(ge=1)]
_Labels = Annotated[tuple[_Text, ...], Field(min_length=1), AfterValidator(_check_unique)]
_Templates = Annotated[tuple[Annotated[str, AfterValidator(_check_template)], ...], Field(min_length=1)]


class _ImageEncoder(Strict):
    architecture: _Text
    image_size_px: _Count
    embed_dim: _Count


class _TextEncoder(Strict):
    context_length: _Count


class _Upscaler(Strict):
    architecture: _Text
    canvas_sizes_px: Annotated[tuple[_Count, ...], Field(min_length=1)]
    receptive_field_px: Annotated[int, Field(ge=0)] | None = None


class _PictureUpscaler(Strict):
    model: _Text
    receptive_field_px: Annotated[int, Field(ge=0)]


class _DamageKind(Strict):
    name: _Text
    words: tuple[_Text, ...]


class _Restorer(Strict):
    architecture: _Text
    kinds: Annotated[tuple[_DamageKind, ...], Field(min_length=1)]
    default_steps: _Count
    max_steps: _Count


class _DamageHead(Strict):
    weight: Annotated[tuple[float, ...], Field(min_length=1)]
    bias: float


class _RobustEncoder(Strict):
    kinds: Annotated[tuple[_Text, ...], Field(min_length=1)]
    head: _DamageHead | None = None


_Share = Annotated[float, Field(ge=0, le=1)]


class _NoneOfThese(Strict):
    name_count: _Count
    threshold: _Share
    false_refusals: _Share
    auroc: _Share
    expected_calibration_error: _Share


class _Scoring(Strict):
    function: Literal["softmax", "sigmoid"]
    logit_scale: float
    logit_bias: float


class _RouteRule(Strict):
    max_side_px: _Count
    is_lossy: bool
    max_noise: Annotated[float, Field(ge=0)] | None = None
    route: Literal["upscaled", "native"]
    upscaled_agreement: Annotated[float, Field(ge=0, le=1)]
    native_agreement: Annotated[float, Field(ge=0, le=1)]
    n_images: _Count


class _Artifact(Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Document(Strict):
    """The fields of manifest.json that the gateway reads."""

    schema_version: Literal[1]
    name: _Text
    digest: _Text
    native_min_side_px: _Count
    image_encoder: _ImageEncoder
    text_encoder: _TextEncoder
    upscaler: _Upscaler
    scoring: _Scoring
    label_sets: dict[str, _Labels]
    template_sets: dict[str, _Templates]
    default_templates: _Text
    artifacts: dict[str, _Artifact]
    route_rules: tuple[_RouteRule, ...] = ()
    upscale_recipes: dict[str, _PictureUpscaler] | None = None
    restorer: _Restorer | None = None
    robust_encoder: _RobustEncoder | None = None
    none_of_these: _NoneOfThese | None = None
    taught_names: tuple[_Text, ...] = ()

    @field_validator("default_templates")
    @classmethod
    def _check_default(cls, name: str, info: ValidationInfo) -> str:
        if not name.startswith("@") or name[1:] not in info.data.get("template_sets", {name[1:]: ()}):
            raise ValueError("must be '@' and the name of one of template_sets")
        return name
