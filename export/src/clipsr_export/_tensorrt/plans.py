"""What TensorRT plans are made for: shapes, file names, and the record that the launcher checks. Needs no TensorRT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsr_export._errors import TemplateError
from clipsr_export._repository.manifest import Manifest, to_json

PROFILE = "gpu-tensorrt"
# At the top of the repository, as the manifest is; `clipsr-serve up` reads it.
PLANS_NAME = "tensorrt.json"
MODELS = ("upscale", "image_encoder", "text_encoder")
"""Of every repository."""
# Of a model: the rest keeps fp32. fp16 moves single pixels of `upscale`, whose coordinates need fp32; a text is encoded
# once and its embedding then used for every image.
HALF_MODELS = ("image_encoder",)
_MAX_BATCH_SIZE = re.compile(r"^max_batch_size:\s*(\d+)", re.MULTILINE)
_PLAN_LINE = re.compile(r'^default_model_filename: "[^"]*"(?=\s*# \[plan\])', re.MULTILINE)

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The range of one input in one optimization profile, the batch first; TensorRT is tuned for `best`."""

    least: Shape
    best: Shape
    most: Shape


OptimizationProfile = Mapping[str, Shapes]
"""Input to its range."""


def planned_models(manifest: Manifest) -> tuple[str, ...]:
    """Return the models of a repository that plans are built for, those for pictures last."""
    added = {recipe.model for recipe in (manifest.upscale_recipes or {}).values()}
    return (*MODELS, *sorted(added - set(MODELS)))


def optimization_profiles(model: str, manifest: Manifest, *, max_batch: int) -> Sequence[OptimizationProfile]:
    """Return a model's profiles, in the order that `instance_group.profile` of its configuration numbers.

    Upscalers have one for each canvas size, and a last one for the windows of any shape that upscaling to a file sends.

    Args:
        model: one of `planned_models`.
        manifest: gives the sizes.
        max_batch: `max_batch_size` of the configuration.
    """
    size_px = manifest.image_encoder.image_size_px
    if model == "image_encoder":
        return [{"pixels": _batches((3, size_px, size_px), max_batch)}]
    if model == "text_encoder":
        return [{"tokens": _batches((manifest.text_encoder.context_length,), max_batch)}]
    box = _batches((4,), max_batch)
    sides = manifest.upscaler.canvas_sizes_px
    canvases = [{"canvas": _batches((3, side, side), max_batch), "box": box} for side in sides]
    # A tile is R pixels of the output, at most R + 1 of the image, and needs the field around it: see clipsr_gateway.
    fields = {recipe.model: recipe.receptive_field_px for recipe in (manifest.upscale_recipes or {}).values()}
    field_px = fields.get(model, manifest.upscaler.receptive_field_px)
    widest = max(size_px + 1 + 2 * field_px, sides[-1])
    windows = Shapes(least=(1, 3, 1, 1), best=(max_batch, 3, sides[-1], sides[-1]), most=(max_batch, 3, widest, widest))
    return [*canvases, {"canvas": windows, "box": box}]


def _batches(shape: Shape, max_batch: int) -> Shapes:
    """From one row to the largest batch; tuned for that, as it decides the throughput."""
    return Shapes(least=(1, *shape), best=(max_batch, *shape), most=(max_batch, *shape))


def plan_name(model: str, *, tensorrt_version: str, compute_capability: tuple[int, int], is_half: bool) -> str:
    """Return a plan's file name. A plan runs with the TensorRT and the kind of GPU that it was built for, no other.

    Args:
        model: of the repository.
        tensorrt_version: such as "10.13.3.9"; plans of two builds of one release differ, too.
        compute_capability: of the GPU, such as (9, 0).
        is_half: whether it computes in fp16.
    """
    major, minor = compute_capability
    return f"{model}-trt{tensorrt_version}-sm{major}{minor}-{'fp16' if is_half else 'fp32'}.plan"


def read_configuration(repository: Path, model: str) -> tuple[Path, str]:
    """Return the path inside the repository and the text of a model's configuration for plans.

    Raises:
        TemplateError: it is missing, or was written before plans could be built.
    """
    name = Path(model) / "configs" / f"{PROFILE}.pbtxt"
    path = repository / name
    if not path.is_file():
        raise TemplateError(f"{path} is missing; export the model again, so that its configurations are those of today")
    text = path.read_text(encoding="utf-8")
    if not (_MAX_BATCH_SIZE.search(text) and _PLAN_LINE.search(text)):
        raise TemplateError(f"{path} needs a max_batch_size and a default_model_filename marked # [plan]")
    return name, text


def read_max_batch(configuration: str) -> int:
    """Return `max_batch_size` of a configuration."""
    found = _MAX_BATCH_SIZE.search(configuration)
    assert found is not None, "read_configuration has looked"
    return int(found[1])


def name_plan(configuration: str, file_name: str) -> str:
    """Return the configuration with the plan's file name in it."""
    return _PLAN_LINE.sub(f'default_model_filename: "{file_name}"', configuration)


def write_plans(repository: Path, record: Mapping[str, Any]) -> None:
    """Write the record that `clipsr-serve up` compares with the manifest."""
    path = repository / PLANS_NAME
    path.write_text(to_json(record), encoding="utf-8")
