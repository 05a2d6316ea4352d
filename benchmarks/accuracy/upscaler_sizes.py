"""How small the upscaler before an encoder may be: accuracy on small pictures against time, for several sizes.

    python -m benchmarks.accuracy.upscaler_sizes --model CLIP --data PHOTOS --tiny DIR --output DIR

Each size (residual blocks x features x width of the network that runs once an output pixel) is trained on photos by
`clipsr-train liif --recipe robust`, adapted to the model by `clipsr-train adapt`, and measured by LR-12; the first is
what the others are compared with. What is finished in the output folder is kept, and what was killed is resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.small_pictures import Correct, Measuring
from benchmarks.liif.graphs import Engine, export_graph, has_bf16, prepare
from benchmarks.liif.timing import Spread, ratio, time_interleaved
from clipsr_export._graphs.modules import ImageEncoderGraph, UpscaleGraph
from clipsr_training._cli.train import main as train
from clipsr_training._files import make_output_folder, write_atomically
from clipsr_training.clip import ClipCheckpoint, load_clip
from clipsr_training.data import open_set
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._drawing import new_figure
from clipsr_training.evaluation._low_resolution import LR12_REDUCTIONS, LR12_SIZES_PX, ReducedCondition
from clipsr_training.evaluation._statistics import Estimate, bootstrap_mean, points
from clipsr_training.liif import Upscaler, full_box, load_liif

_TEMPLATE = "a photo of a {}."
_CANVAS_PX = 32
_N_ROUNDS, _ROUND_S = 12, 0.2
_ENGINE: Engine = "openvino fp32"


@dataclass(frozen=True, order=True)
class Size:
    """Of a `fast` upscaler."""

    resblocks: int
    features: int
    hidden: int

    @classmethod
    def read(cls, text: str) -> Size:
        """Read RxFxH; raise ValueError for anything else."""
        parts = text.split("x")
        if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
            raise ValueError(f"{text!r} is not a size such as 8x32x16 (blocks, features, width)")
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.resblocks}x{self.features}x{self.hidden}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One size, measured.

    Attributes:
        size: as `Size` writes it.
        n_parameters: of the upscaler.
        gmacs: of one picture of 32 px.
        of_encoder: its time against the image encoder's, each round.
        lr12: mean top-1 over the twelve cells.
        difference: of LR-12 to the first size; None for that.
    """

    size: str
    n_parameters: int
    gmacs: float
    of_encoder: Spread
    lr12: Estimate
    difference: Estimate | None

    @property
    def cells(self) -> str:
        """A row of the table."""
        lost = "–" if self.difference is None else points(self.difference)
        low, high = (100 * bound for bound in (self.of_encoder.low, self.of_encoder.high))
        time = f"{100 * self.of_encoder.median:.0f} % ({low:.0f} – {high:.0f})"
        return f"| {self.size} | {self.n_parameters:,} | {self.gmacs:.3f} | {time} | {self.lr12.percent()} | {lost} |"


def make_upscaler(size: Size, folder: Path, arguments: argparse.Namespace) -> Upscaler:
    """Train and adapt an upscaler of a size; what is finished is read.

    Raises:
        RuntimeError: a training failed, and has said why.
    """
    common = ["--seed", str(arguments.seed), "--workers", str(arguments.workers)]
    shape = ["--resblocks", str(size.resblocks), "--features", str(size.features), "--hidden", str(size.hidden)]
    photos = [str(path) for path in arguments.data]
    pictures = [str(path) for path in arguments.pictures or arguments.data]
    steps = ["--recipe", "robust", *shape, "--steps", str(arguments.steps), "--data", *pictures]
    _train(["liif", *steps, *common], folder / "liif")
    start = folder / "liif" / "liif.safetensors"
    model = ["--model", str(arguments.model), "--upscaler", str(start), "--draws", str(arguments.draws)]
    _train(["adapt", *model, "--data", *photos, *common], folder / "adapted")
    return load_liif(folder / "adapted" / "liif.safetensors")


def _train(command: list[str], output: Path) -> None:
    if (output / "liif.safetensors").is_file():
        return
    resume = ["--resume"] if (output / "last.ckpt").is_file() else []
    if train([*command, "--output", str(output), *resume]):
        raise RuntimeError(f"clipsr-train {command[0]} failed for {output}")


def measure_times(upscalers: Mapping[Size, Upscaler], clip: ClipCheckpoint) -> dict[Size, tuple[int, Spread]]:
    """Return the products of each upscaler, and its time against the encoder's, on a picture of 32 px, in turn."""
    side, size = _CANVAS_PX, clip.image_size_px
    canvas = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    whole = {"canvas": canvas, "box": full_box(1, (side, side)).contiguous()}
    pixels = {"pixels": torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)}
    n_threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        tower = export_graph(ImageEncoderGraph(clip).eval(), pixels, Path(folder) / "tower.onnx")
        graphs = {
            each: export_graph(UpscaleGraph(model, size).eval(), whole, Path(folder) / f"{each}.onnx")
            for each, model in upscalers.items()
        }
        calls: dict[str, Callable[[], object]] = {
            str(each): prepare(graph, _ENGINE, n_threads) for each, graph in graphs.items()
        }
        calls["tower"] = prepare(tower, "openvino bf16" if has_bf16() else _ENGINE, n_threads)
        times = time_interleaved(calls, n_rounds=_N_ROUNDS, min_s=_ROUND_S)
    return {each: (graph.macs, ratio(times[str(each)], times["tower"])) for each, graph in graphs.items()}


def lr12(correct: Correct) -> np.ndarray:
    """Return each image's share [N] of right answers over the twelve cells."""
    cells = [ReducedCondition(size, reduction, "liif") for size in LR12_SIZES_PX for reduction in LR12_REDUCTIONS]
    return np.mean([correct[cell] for cell in cells], axis=0)


def report(rows: Sequence[Row], *, n_images: int, clip_name: str) -> str:
    """Return the page."""
    head = "| size | parameters | GMACs | time, of the encoder's | LR-12 | against the first, points |"
    note = (
        f"{clip_name}, {n_images:,} images; a picture of {_CANVAS_PX} px, {_ENGINE} beside the encoder in "
        f"{'bf16' if has_bf16() else 'fp32'}, median of {_N_ROUNDS} rounds with quartiles; 95 % intervals over images."
    )
    return "\n".join([head, "|---|---|---|---|---|---|", *(row.cells for row in rows), "", note, ""])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy against time."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for row in rows:
        x, y = 100 * row.of_encoder.median, 100 * row.lr12.value
        axes.plot(x, y, "o", color="tab:blue")
        axes.annotate(row.size, (x, y), textcoords="offset points", xytext=(6, 4))
    axes.set_xlabel("time of the upscaler, % of the encoder's")
    axes.set_ylabel("LR-12, %")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def run(arguments: argparse.Namespace) -> str:
    """Train, measure and write everything; returns the page."""
    make_output_folder(arguments.output)
    clip = load_clip(arguments.model)
    upscalers = {size: make_upscaler(size, arguments.output / str(size), arguments) for size in arguments.sizes}
    images = open_set(str(arguments.tiny / "val.csv")).sample(arguments.limit)
    measuring = Measuring(folder=arguments.output / "cells", templates=(_TEMPLATE,), resume=True)
    times = measure_times(upscalers, clip)
    shares: dict[Size, np.ndarray] = {}
    for size, upscaler in upscalers.items():
        backend = TorchBackend(clip, upscaler, name=str(size))
        cells = (LR12_SIZES_PX, LR12_REDUCTIONS)
        shares[size] = lr12(measuring.reduced(str(size), backend, images, cells, ("liif",)))
    first = shares[arguments.sizes[0]]
    rows = [
        Row(
            size=str(size),
            n_parameters=sum(parameter.numel() for parameter in upscaler.parameters()),
            gmacs=times[size][0] / 1e9,
            of_encoder=times[size][1],
            lr12=bootstrap_mean(shares[size]),
            difference=None if shares[size] is first else bootstrap_mean(shares[size] - first),
        )
        for size, upscaler in upscalers.items()
    ]
    page = report(rows, n_images=len(images), clip_name=arguments.model.name)
    write_atomically(arguments.output / "sizes.md", page.encode())
    write_atomically(arguments.output / "sizes.json", json.dumps([asdict(row) for row in rows], indent=2).encode())
    draw(rows, arguments.output / "sizes.png")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; returns the exit code (0 done, 1 data, checkpoints or a training are not usable)."""
    arguments = _parser().parse_args(argv)
    try:
        print(run(arguments))
    except (OSError, ValueError, RuntimeError) as error:
        print(f"upscaler-sizes: {error}", file=sys.stderr)
        return 1
    return 0


def _sizes(text: str) -> tuple[Size, ...]:
    try:
        sizes = tuple(map(Size.read, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if len(set(sizes)) < len(sizes):
        raise argparse.ArgumentTypeError(f"a size is named twice in {text!r}")
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upscaler-sizes",
        description="Train upscalers of several sizes for one encoder; accuracy on small pictures against time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the OpenCLIP model")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="photos to adapt on, without labels")
    parser.add_argument("--pictures", nargs="+", type=Path, help="folders to train on before; --data if absent")
    parser.add_argument("--tiny", type=Path, required=True, help="what python -m benchmarks.tiny_imagenet wrote")
    sizes = _sizes("8x32x16,4x32x16,4x16x16,4x16x8,2x16x8")
    parser.add_argument("--sizes", type=_sizes, default=sizes, help="the first is what others are compared with")
    parser.add_argument("--steps", type=int, default=1_500, help="of clipsr-train liif, each size")
    parser.add_argument("--draws", type=int, default=25_600, help="of clipsr-train adapt, each size")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--limit", type=int, help="only so many images of the test set")
    parser.add_argument("--output", type=Path, default=Path("runs/upscaler-sizes"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
