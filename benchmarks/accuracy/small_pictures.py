"""The report of the experiment on small pictures, from finished checkpoints.

    python -m benchmarks.accuracy.small_pictures --runs RUNS --stand-in FOLDER --tiny DIR --cifar10 FILE --output DIR

`small_pictures.json` says what is measured and was fixed before. RUNS holds the adapted upscalers as
`r2-POOL-sSEED/liif.safetensors`, DIR what `python -m benchmarks.tiny_imagenet` writes. Arms that are not finished are
named and left out. Everything is kept in `cells.jsonl` files below the output folder, and `--resume` measures the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.small_pictures_tables import AsServed, Comparison, Row, report_json, report_markdown
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder, write_atomically
from clipsr_training.clip import load_clip
from clipsr_training.data import ImageSet, open_set
from clipsr_training.evaluation._backends.manifest import read_routes
from clipsr_training.evaluation._backends.pixels import Rendering, Route
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._cells import measure_cells
from clipsr_training.evaluation._degraded import DamagedCondition, DegradedPlan, Way
from clipsr_training.evaluation._low_resolution import (
    LR12_REDUCTIONS,
    LR12_SIZES_PX,
    LowResolutionPlan,
    ReducedCondition,
    Reduction,
)
from clipsr_training.liif import load_liif

_ROOT = Path(__file__).resolve().parents[2]
_CONFIGURATION = Path(__file__).with_name("small_pictures.json")
_OWN_SIZE_PX = 64
_BATCH = 64
_RENDERINGS: tuple[Rendering, ...] = ("liif", "bicubic", "auto")

Correct = Mapping[ReducedCondition, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Where measurements are kept.

    Attributes:
        folder: of all of them.
        templates: prompts.
        resume: keep what is there.
    """

    folder: Path
    templates: tuple[str, ...]
    resume: bool

    def reduced(
        self,
        name: str,
        backend: TorchBackend,
        images: ImageSet,
        cells: tuple[Sequence[int], Sequence[Reduction]],
        renderings: tuple[Rendering, ...],
    ) -> Correct:
        """Classify reduced images.

        Args:
            name: of the folder.
            backend: the model.
            images: the set.
            cells: sizes in pixels and reductions, crossed.
            renderings: of the reduced images.

        Returns:
            For each cell [N] whether each image is classified right.
        """
        plan = LowResolutionPlan(
            backend=backend,
            sets=(images,),
            templates=self.templates,
            sizes_px=tuple(cells[0]),
            reductions=tuple(cells[1]),
            renderings=renderings,
            batch_size=_BATCH,
        )
        return plan.curves(self._measure(name, plan))[0].correct

    def as_they_are(self, name: str, backend: TorchBackend, images: ImageSet) -> dict[str, np.ndarray]:
        """Classify the files of a set by every route: by `liif`, `bicubic` and `auto` [N]."""
        plan = DegradedPlan(
            backend=backend,
            sets=(images,),
            templates=self.templates,
            kinds=(),
            severities=(),
            routes=("upscaled", "native", "auto"),
            seed=0,
            batch_size=_BATCH,
        )
        correct = plan.results(self._measure(name, plan))[0].correct
        routes: tuple[tuple[Rendering, Route], ...] = (("liif", "upscaled"), ("bicubic", "native"), ("auto", "auto"))
        return {rendering: correct[DamagedCondition(None, None, Way(route))] for rendering, route in routes}

    def _measure(self, name: str, plan: LowResolutionPlan | DegradedPlan) -> Any:
        folder = self.folder / name
        make_output_folder(folder)
        cells = plan.cells()
        with progress_bar() as progress:
            task = progress.add_task(name, total=sum(len(cell.images) for cell in cells))
            resume = self.resume and (folder / "cells.jsonl").is_file()
            return measure_cells(
                plan.measurement(), cells, folder, resume=resume, on_images=lambda n: progress.advance(task, n)
            )


def find_runs(runs: Path, configuration: Mapping[str, Any]) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Return the finished checkpoints by pool and seed, and the names of those that are not."""
    found: dict[str, dict[int, Path]] = {}
    missing: list[str] = []
    for pool in configuration["pools"]:
        for seed in configuration["seeds"]:
            path = runs / f"r2-{pool}-s{seed}" / "liif.safetensors"
            if path.is_file():
                found.setdefault(pool, {})[seed] = path
            else:
                missing.append(f"{pool}, seed {seed}")
    return found, missing


def compare_arms(
    arguments: argparse.Namespace, measuring: Measuring, configuration: Mapping[str, Any]
) -> tuple[Comparison, list[str]]:
    """Measure all arms on the stand-in; also returns what is not finished."""
    found, missing = find_runs(arguments.runs, configuration)
    if not found:
        raise FileNotFoundError(f"no finished arm in {arguments.runs}: no r2-POOL-sSEED/liif.safetensors")
    images = open_set(str(arguments.tiny / "val.csv")).sample(arguments.limit)
    cells = ((*LR12_SIZES_PX, _OWN_SIZE_PX), LR12_REDUCTIONS)

    def measure(name: str, upscaler: Path, *renderings: Rendering) -> Correct:
        backend = TorchBackend(load_clip(arguments.stand_in), load_liif(upscaler), name=name)
        return measuring.reduced(name, backend, images, cells, renderings)

    before = measure("r0-r1", arguments.before, "bicubic", "liif")
    adapted = {
        pool: {seed: measure(f"r2-{pool}-s{seed}", path, "liif") for seed, path in seeds.items()}
        for pool, seeds in found.items()
    }
    return Comparison(before=before, adapted=adapted, n_images=len(images)), missing


def measure_as_served(arguments: argparse.Namespace, measuring: Measuring) -> AsServed:
    """Measure the bundled model with an adapted upscaler, on the sets of the first table of docs/low-resolution.md."""
    backend = TorchBackend(
        load_clip(arguments.small),
        load_liif(arguments.small_upscaler),
        name=arguments.small.name,
        routes=read_routes(arguments.repository),
    )
    cifar = open_set(str(arguments.cifar10)).sample(arguments.limit)
    tiny = open_set(str(arguments.tiny / "cifar_names.csv")).sample(arguments.limit)
    made: Sequence[tuple[str, ImageSet, int, Reduction]] = (
        ("CIFAR-10, noise of σ 8", cifar, 32, Reduction(noise=8)),
        ("CIFAR-10, noise of σ 16", cifar, 32, Reduction(noise=16)),
        ("Tiny-ImageNet, 32 px", tiny, 32, Reduction()),
        ("Tiny-ImageNet, 32 px, JPEG 75", tiny, 32, Reduction(jpeg_quality=75)),
        ("Tiny-ImageNet, 24 px, not antialiased", tiny, 24, Reduction(kernel="aliased-bilinear")),
    )
    rows = [Row("CIFAR-10 as it is", measuring.as_they_are("small-cifar10", backend, cifar))]
    for i, (title, images, size_px, reduction) in enumerate(made):
        correct = measuring.reduced(f"small-{i}", backend, images, ((size_px,), (reduction,)), _RENDERINGS)
        rows.append(Row(title, {condition.rendering: own for condition, own in correct.items()}))
    rows.append(Row("Tiny-ImageNet as it is, 64 px", measuring.as_they_are("small-tiny", backend, tiny)))
    return AsServed(model=backend.describe(), rows=tuple(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the report; returns the exit code (0 done, 1 data or checkpoints are not usable)."""
    arguments = _parser().parse_args(argv)
    content = _CONFIGURATION.read_bytes()
    configuration = json.loads(content)
    measuring = Measuring(
        folder=arguments.output, templates=(configuration["test"]["templates"],), resume=arguments.resume
    )
    try:
        comparison, missing = compare_arms(arguments, measuring, configuration)
        served = None if arguments.small_upscaler is None else measure_as_served(arguments, measuring)
    except (OSError, ValueError) as error:
        print(f"small-pictures: {error}", file=sys.stderr)
        return 1
    digest = hashlib.sha256(content).hexdigest()
    notes = [f"Configuration: `benchmarks/accuracy/{_CONFIGURATION.name}`, SHA-256 {digest}."]
    if missing:
        notes.append(f"Not finished, and left out: {'; '.join(missing)}.")
    if arguments.limit is not None:
        notes.append(f"Only {arguments.limit:,} images of each set: a look, not the experiment.")
    page = report_markdown(comparison, served, configuration, notes)
    write_atomically(arguments.output / "report.json", report_json(comparison, served, notes).encode())
    write_atomically(arguments.output / "report.md", page.encode())
    print(page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="small-pictures",
        description="Report on the experiment on small pictures, from finished checkpoints.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    checkpoints = _ROOT / "checkpoints"
    parser.add_argument("--runs", type=Path, required=True, help="folder of r2-POOL-sSEED/liif.safetensors")
    parser.add_argument("--stand-in", type=Path, required=True, help="what clipsr-train import-lite0 wrote")
    parser.add_argument("--tiny", type=Path, required=True, help="what python -m benchmarks.tiny_imagenet wrote")
    parser.add_argument("--before", type=Path, default=checkpoints / "liif-fast/liif.safetensors", help="arm R1")
    parser.add_argument("--small", type=Path, default=checkpoints / "clipsr-small", help="the bundled CLIP model")
    parser.add_argument("--small-upscaler", type=Path, help="adapted to it; absent: its table is left out")
    cifar10 = _ROOT / "../shared/data/cifar10/test.parquet"
    parser.add_argument("--cifar10", type=Path, default=cifar10, help="its test set")
    parser.add_argument(
        "--repository", type=Path, default=_ROOT / "model_repository", help="whose manifest decides the route auto"
    )
    parser.add_argument("--limit", type=int, help="only so many images of each set")
    parser.add_argument("--output", type=Path, default=Path("runs/small-pictures"), help="gets report.md, report.json")
    parser.add_argument("--resume", action="store_true", help="keep what is measured in the output folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
