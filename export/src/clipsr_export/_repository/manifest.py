"""`manifest.json`: what an exported repository holds, as models; written, read, and its schema for other readers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from clipsr_export._errors import ExportError, RepositoryError

NAME = "manifest.json"
SCHEMA_NAME = "manifest.schema.json"

# What may differ between two manifests whose models answer alike: names for people, and how the files were made.
_NOT_DECIDING = {"digest", "name", "versions", "int8"}

Channels = tuple[float, float, float]
Text = Annotated[str, Field(min_length=1)]
Recipe = Literal["clean", "robust"]
Count = Annotated[int, Field(gt=0)]
NamedTexts = Annotated[dict[Text, Annotated[tuple[Text, ...], Field(min_length=1)]], Field(min_length=1)]


class _Model(BaseModel):
    """A part of the manifest; numbers are finite, nothing is accepted that has no field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ImageEncoder(_Model):
    """Sizes of the image tower, and how its images are prepared."""

    architecture: Text
    image_size_px: Count
    """R, side of the square input."""
    embed_dim: Count
    """D, width of an embedding."""
    mean: Channels
    std: Channels
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash", "longest"]
    """What of an image that is not square is seen: its central square, all of it stretched, or all with borders."""
    fill_color: int = Field(ge=0, le=255)
    """Grey level of the borders of `longest`."""


class TextEncoder(_Model):
    """Sizes of the text tower."""

    context_length: Count
    """L, tokens in a text."""
    vocab_size: Count
    pad_token_id: int = Field(ge=0)


class Upscaler(_Model):
    """The super-resolution model."""

    architecture: Text
    canvas_sizes_px: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Sides of the canvases that requests are padded to, ascending."""
    scale_max: float = Field(gt=0)
    """Largest trained scale."""
    receptive_field_px: int = Field(ge=0)
    """Pixels around a box that decide its content."""


class PictureUpscaler(_Model):
    """What renders pictures for people by one recipe."""

    model: Text
    """Name in the repository; `upscale` is the encoder's own."""
    architecture: Text
    scale_max: float = Field(gt=0)
    """Largest trained scale."""
    receptive_field_px: int = Field(ge=0)
    """Pixels around a box that decide its content."""


class DamageKind(_Model):
    """A kind of damage that the restorer removes, or `clean` for none."""

    name: Text
    words: tuple[Text, ...]
    """Other names that users may ask for it by."""


class Restorer(_Model):
    """What restores damaged pictures, in the models `denoise` and `restore`."""

    architecture: Text
    kinds: Annotated[tuple[DamageKind, ...], Field(min_length=1)]
    """In the order of the numbers in both contexts, which are their probabilities; all 0 where they are unknown."""
    default_steps: Count
    max_steps: Count


class DamageHead(_Model):
    """An image looks damaged where weight · image_embedding + bias > 0."""

    weight: Annotated[tuple[float, ...], Field(min_length=1)]
    """[D]"""
    bias: float


class RobustEncoder(_Model):
    """What embeds damaged images as undamaged ones, and says what is wrong with them."""

    kinds: Annotated[tuple[Text, ...], Field(min_length=1)]
    """What it tells apart, in the order of `degradation_cosine`; `clean` is an image with no damage."""
    head: DamageHead | None = None
    """Says by the embedding of `image_encoder` which images it is for; absent where nothing was trained to."""


class NoneOfThese(_Model):
    """When an image shows none of the labels: by comparison with names of other things, calibrated."""

    file: Text
    """Path of the names and their embeddings inside the repository."""
    name_count: Count
    max_label_cosine: float = Field(ge=-1, le=1)
    """A name whose text is nearer to a label's than this is left out."""
    temperature: float = Field(gt=0)
    """Divides the log-odds of the labels against the names."""
    bias: float
    """Added to them."""
    threshold: float = Field(ge=0, le=1)
    """Probability from which an image shows none of the labels."""
    false_refusals: float = Field(ge=0, le=1)
    """Share of validation images with one of the labels that this refuses."""
    auroc: float = Field(ge=0, le=1)
    """Area under the ROC curve, on the validation images."""
    expected_calibration_error: float = Field(ge=0, le=1)
    """On the validation images."""
    data: Text
    """Which images those are."""


class Scoring(_Model):
    """Probability = function(logit_scale * cosine + logit_bias)."""

    function: Literal["softmax", "sigmoid"]
    logit_scale: float = Field(gt=0)
    """The factor itself, not its logarithm."""
    logit_bias: float


class TextBank(_Model):
    """A file of embeddings of a label set, computed at export."""

    file: Text
    """Path inside the repository."""
    label_set: Text
    templates: Text
    """`@` and the name of a template set."""


class Artifact(_Model):
    """A generated file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Agreement(_Model):
    """Cosines between the embeddings of the same images by two graphs."""

    n_images: Count
    mean: float
    p1: float
    """What 99 of 100 images exceed."""
    least: float
    same_kind: float | None = Field(default=None, ge=0, le=1)
    """Share of the images of which both graphs name the same kind of damage; absent where they name none."""


class Quantization(_Model):
    """How an int8 graph was made, and how far it agrees with the fp32 one."""

    calibration: str
    n_images: Count
    int8_share: float | None = Field(default=None, ge=0, le=1)
    """Of the work in layers that can be quantized; the rest keeps floating point."""
    cosine: Agreement
    """On images kept from calibration."""
    cosine_on_pictures: Agreement | None = None
    """On pictures that are made for the purpose, the same for every set."""
    onnxruntime: str
    openvino: str


class Int8(_Model):
    """The graphs in int8."""

    image_encoder: Quantization
    robust_encoder: Quantization | None = None
    """Absent where no controller was exported."""


class RouteRule(_Model):
    """The route of small images of one kind, and what it was chosen by."""

    max_side_px: Count
    """Applies up to this shorter side, above that of the rules before."""
    is_lossy: bool
    """Applies to JPEG, lossy WebP, AVIF and HEIC files; otherwise to all others."""
    max_noise: Annotated[float, Field(ge=0)] | None = None
    """Applies up to this standard deviation of the noise in the colours; to any where it is absent."""
    route: Literal["upscaled", "native"]
    upscaled_agreement: float = Field(ge=0, le=1)
    """How often super-resolution answers a damaged copy as the native route answers the photo."""
    native_agreement: float = Field(ge=0, le=1)
    """Likewise the native route."""
    n_images: Count


class Manifest(_Model):
    """What an exported model repository holds."""

    schema_version: Literal[1] = 1
    name: Text
    weights: Literal["random", "trained"]
    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    upscaler: Upscaler
    scoring: Scoring
    native_min_side_px: Count
    """Images of at least this shorter side skip super-resolution, where no route was measured."""
    route_rules: tuple[RouteRule, ...] | None = None
    """Which route small images take, as measured; those that no rule names skip super-resolution."""
    upscale_recipes: dict[Recipe, PictureUpscaler] | None = None
    """What renders pictures for people; absent where `upscale` does so and there is no other recipe than clean."""
    restorer: Restorer | None = None
    """Absent where no restoration is served."""
    robust_encoder: RobustEncoder | None = None
    """Absent where no controller was exported."""
    none_of_these: NoneOfThese | None = None
    """Absent where no calibration was exported."""
    taught_names: tuple[Text, ...] | None = None
    """All that the model was taught to tell apart; absent where that is an open vocabulary, or not known."""
    default_templates: Text
    """`@` and the name of a template set."""
    template_sets: NamedTexts
    label_sets: NamedTexts
    text_banks: tuple[TextBank, ...]
    artifacts: dict[Text, Artifact]
    """Generated files by their paths inside the repository."""
    versions: dict[Text, Text]
    """Packages that the export ran with."""
    int8: Int8 | None = None

    @computed_field
    @property
    def digest(self) -> str:
        """Identity of the model: "sha256:" and the digest of the manifest but for what decides no answer."""
        deciding = self.model_dump(mode="json", exclude=_NOT_DECIDING, exclude_none=True)
        text = json.dumps(deciding, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def make_manifest(fields: Mapping[str, Any]) -> Manifest:
    """Check the fields of a manifest.

    Raises:
        ExportError: one is missing or out of range, as a scale that is no number; the message names them.
    """
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise ExportError(f"the model can't be described: {_describe(error)}") from error


def read_manifest(repository: Path) -> Manifest:
    """Read the manifest of an exported repository.

    Raises:
        RepositoryError: there is none, or it can't be read.
    """
    path = repository / NAME
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        # Derived from the rest, and so never read.
        fields = {name: value for name, value in document.items() if name != "digest"}
        return Manifest.model_validate(fields)
    except FileNotFoundError as error:
        raise RepositoryError(f"{path} is missing; export a model into {repository} first") from error
    except ValidationError as error:
        raise RepositoryError(f"{path} is not what this release writes ({_describe(error)}); export again") from error
    except (ValueError, AttributeError) as error:
        raise RepositoryError(f"{path} is not a JSON object ({error}); export the model again") from error


def write_manifest(repository: Path, manifest: Manifest) -> None:
    """Write the manifest into a copy of a repository (`replaced`), with which it shares no file."""
    path = repository / NAME
    path.unlink(missing_ok=True)
    path.write_text(to_json(manifest.model_dump(mode="json", exclude_none=True)), encoding="utf-8")


def schema() -> str:
    """Return the JSON schema of the manifest, as `model_repository/manifest.schema.json` holds it."""
    return to_json(Manifest.model_json_schema(mode="serialization"))


def to_json(document: Mapping[str, Any]) -> str:
    """Return the text of a JSON file.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def add_artifact(repository: Path, manifest: Manifest, file: str, **changes: Any) -> Manifest:
    """Return the manifest with a file of the repository among its artifacts; the digest changes with it.

    Args:
        repository: the model repository.
        manifest: what it is before.
        file: path inside the repository.
        changes: fields that change besides.
    """
    artifacts = {**manifest.artifacts, file: describe_file(repository / file)}
    return manifest.model_copy(update={"artifacts": dict(sorted(artifacts.items())), **changes})


def drop_artifact(manifest: Manifest, file: str) -> Manifest:
    """Return the manifest without a file among its artifacts, if it had it."""
    return manifest.model_copy(update={"artifacts": {f: a for f, a in manifest.artifacts.items() if f != file}})


def graph_file(repository: Path, manifest: Manifest, model: str) -> Path:
    """Return the graph of a model.

    Raises:
        RepositoryError: it is missing, or not what the manifest describes.
    """
    name = f"{model}/1/model.onnx"
    path = repository / name
    if not path.is_file() or name not in manifest.artifacts or sha256(path) != manifest.artifacts[name].sha256:
        raise RepositoryError(f"{path} is missing or not what the manifest describes; export the model again")
    return path


def describe_file(path: Path) -> Artifact:
    """Return digest and size."""
    return Artifact(sha256=sha256(path), bytes=path.stat().st_size)


def sha256(path: Path) -> str:
    """Return the digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _describe(error: ValidationError) -> str:
    """Return each fault in one line, by the name of its field."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
