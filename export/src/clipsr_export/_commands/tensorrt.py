"""`clipsr-export tensorrt`: plans for the GPU of this machine, from the graphs of an exported repository."""

# numpy ships partial types: what comes out of it is unknown to the checker.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from clipsr_export._commands.arguments import add_command, warn_of_service
from clipsr_export._errors import AgreementError
from clipsr_export._graphs.check import COSINE_TOLERANCE, PIXEL_TOLERANCE
from clipsr_export._graphs.half import write_half
from clipsr_export._repository.manifest import describe_file, graph_file, read_manifest, sha256
from clipsr_export._repository.replace import replaced, staging_folder
from clipsr_export._tensorrt.build import PlanBuilder, reference
from clipsr_export._tensorrt.plans import (
    HALF_MODELS,
    OptimizationProfile,
    name_plan,
    optimization_profiles,
    plan_name,
    planned_models,
    read_configuration,
    read_max_batch,
    write_plans,
)

if TYPE_CHECKING:
    from clipsr_export._commands.arguments import Commands

# 1 - cosine of an embedding in fp16 against fp32, on random pixels; fp16 keeps 11 bits.
_HALF_COSINE_TOLERANCE = 2e-3
# Rows of the comparison with onnxruntime: it runs on the processor.
_CHECKED_ROWS = 2


class Builder(Protocol):
    """What `PlanBuilder` does; tests have one that needs no GPU."""

    @property
    def version(self) -> str: ...
    @property
    def compute_capability(self) -> tuple[int, int]: ...
    @property
    def gpu(self) -> str: ...
    def build(self, graph: Path, target: Path, profiles: Sequence[OptimizationProfile]) -> None: ...
    def run(
        self, plan: Path, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, profile: int
    ) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True)
class PlanJob:
    """What is built.

    Attributes:
        repository: an exported model repository; the plans go beside the graphs.
        is_half: the image encoder in fp16.
        report: called with one line about every step.
    """

    repository: Path
    is_half: bool = True
    report: Callable[[str], None] = lambda _: None


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "tensorrt",
        help_line="build TensorRT plans from an exported repository, on the machine that will serve them",
        description="Build TensorRT plans for the GPU of this machine from the graphs of an exported repository, and "
        "compare each with its graph. `clipsr-serve up --profile gpu-tensorrt` serves them. Takes minutes; the timing "
        "cache makes the next build shorter.",
    )
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="an exported repository"
    )
    parser.add_argument(
        "--precision", choices=("fp16", "fp32"), default="fp16", help="of the image encoder; the others keep fp32"
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        default=Path(".tensorrt-timing.cache"),
        metavar="FILE",
        help="kernels measured on this kind of GPU",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    warn_of_service(arguments.repository)
    job = PlanJob(
        repository=arguments.repository,
        is_half=arguments.precision == "fp16",
        report=lambda line: print(line, flush=True),
    )
    build_plans(job, PlanBuilder(arguments.timing_cache))


def build_plans(job: PlanJob, builder: Builder) -> None:
    """Build a plan for each graph, compare it, then put all of them in place in one step.

    Raises:
        RepositoryError: nothing was exported into the repository.
        TemplateError: its configurations know no plans.
        PlanError: TensorRT can't build or run one.
        AgreementError: a plan differs too much from its graph; the repository is as it was.
    """
    manifest = read_manifest(job.repository)
    models = planned_models(manifest)
    configurations = {model: read_configuration(job.repository, model) for model in models}
    plans: dict[str, Any] = {}
    with staging_folder(job.repository.resolve().parent) as folder:
        staged: dict[str, Path] = {}
        for model in models:
            source = graph_file(job.repository, manifest, model)
            max_batch = read_max_batch(configurations[model][1])
            profiles = optimization_profiles(model, manifest, max_batch=max_batch)
            is_half = job.is_half and model in HALF_MODELS
            name = plan_name(
                model,
                tensorrt_version=builder.version,
                compute_capability=builder.compute_capability,
                is_half=is_half,
            )
            staged[model] = folder / name
            builder.build(_typed(source, folder, is_half=is_half), staged[model], profiles)
            difference = _compare(builder, model, source, staged[model], profiles, is_half=is_half)
            file = f"{model}/1/{name}"
            plans[f"{model}/1/{source.name}"] = {
                "file": file,
                "onnx_sha256": sha256(source),
                "precision": "fp16" if is_half else "fp32",
                "difference": difference,
                **describe_file(staged[model]).model_dump(),
            }
            job.report(f"{file}: {len(profiles)} optimization profiles, difference from onnxruntime {difference:.2g}")
        major, minor = builder.compute_capability
        head = {"tensorrt": builder.version, "gpu": builder.gpu, "compute_capability": f"{major}.{minor}"}
        with replaced(job.repository) as repository:
            _put_in_place(repository, staged, configurations)
            write_plans(repository, {**head, "plans": plans})
    job.report(f"built for {builder.gpu}, TensorRT {builder.version}; serve them with --profile gpu-tensorrt")


def _typed(source: Path, folder: Path, *, is_half: bool) -> Path:
    """Return a graph whose types are those that the plan is to have."""
    if not is_half:
        return source
    target = folder / f"half-{source.name}"
    write_half(source, target)
    return target


def _compare(
    builder: Builder,
    model: str,
    source: Path,
    plan: Path,
    profiles: Sequence[OptimizationProfile],
    *,
    is_half: bool,
) -> float:
    """Return the largest difference from onnxruntime over all profiles; AgreementError if one is too large."""
    worst = 0.0
    for number, ranges in enumerate(profiles):
        inputs = _random_inputs(ranges)
        expected = reference(source, inputs)
        actual = builder.run(plan, inputs, _OUTPUTS.get(model, "pixels"), profile=number)
        if expected.dtype == np.uint8:
            difference = float(np.abs(actual.astype(np.int16) - expected.astype(np.int16)).max())
            tolerance = PIXEL_TOLERANCE
        else:
            difference = float((1 - (actual * expected).sum(axis=-1)).max())
            tolerance = _HALF_COSINE_TOLERANCE if is_half else COSINE_TOLERANCE
        if not difference <= tolerance:
            raise AgreementError(
                f"the plan of {model} differs from its graph by {difference:.3g} (allowed is {tolerance:.3g}) in "
                f"optimization profile {number}; build it with --precision fp32, or with another TensorRT",
                measured=difference,
                bound=tolerance,
            )
        worst = max(worst, difference)
    return worst


# Of those that are no upscalers.
_OUTPUTS = {"image_encoder": "image_embedding", "text_encoder": "text_embedding"}


def _random_inputs(ranges: OptimizationProfile) -> dict[str, npt.NDArray[Any]]:
    """Return inputs of the shape that a profile is tuned for, with few rows."""
    rng = np.random.default_rng(0)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for name, shapes in ranges.items():
        shape = (min(_CHECKED_ROWS, shapes.best[0]), *shapes.best[1:])
        if name == "box":
            side = ranges["canvas"].best[-1]
            inputs[name] = np.tile(np.array([0, 0, side, side], dtype=np.float32), (shape[0], 1))
        elif name == "tokens":
            inputs[name] = rng.integers(0, 256, shape)
        else:
            inputs[name] = rng.integers(0, 256, shape, dtype=np.uint8)
    return inputs


def _put_in_place(repository: Path, staged: Mapping[str, Path], configurations: Mapping[str, tuple[Path, str]]) -> None:
    for model, plan in staged.items():
        for stale in (repository / model / "1").glob("*.plan"):
            stale.unlink()
        plan.replace(repository / model / "1" / plan.name)
        path, text = configurations[model]
        (repository / path).write_text(name_plan(text, plan.name), encoding="utf-8")
