"""What upscaling costs: published LIIF, its exact rewrite, the upscaler that ships, and a CLIP image tower beside them.

    python -m benchmarks.liif

Every figure is of one image, exported as for serving, in one process, all subjects in turn in each round. Writes
`benchmarks/results/liif.json`, the tables between the markers in benchmarks/README.md and the sentence in README.md.
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
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.liif.graphs import (
    BicubicGraph,
    DecoderGraph,
    Engine,
    Graph,
    ModulatedDecoderGraph,
    ReferenceDecoderGraph,
    export_graph,
    has_bf16,
    image_tower,
    prepare,
)
from benchmarks.liif.timing import Spread, ratio, time_interleaved
from benchmarks.reporting.environment import describe_environment
from benchmarks.reporting.pages import insert
from clipsr_export._graphs.modules import UpscaleGraph
from clipsr_training.liif import LIIF, ModulatedLIIF, Upscaler, full_box, load_liif
from clipsr_training.liif._encoders import EDSR

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("clipsr-training", "clipsr-export", "torch", "onnx", "onnxruntime", "openvino", "open_clip_torch")
_MARK = "bench-liif"
_ONNX_FP32: Engine = "onnxruntime fp32"

Part = Literal["decoder", "stage"]
PUBLISHED, GATHERED = "LIIF as published", "LIIF as published, GridSample replaced by a gather"
EXACT, NEAREST = "exact rewrite", "exact rewrite without local ensemble"
SHIPPED, SHIPPED_DECODER, BICUBIC = "shipped", "shipped decoder", "cubic interpolation"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        canvas_px: side of the low-resolution image.
        image_size_px: R, side of the rendered image.
        n_rounds: rounds, at least 2.
        min_s: seconds that one subject is repeated for in a round.
        n_threads: threads of every engine.
    """

    canvas_px: int = 32
    image_size_px: int = 224
    n_rounds: int = 12
    min_s: float = 0.2
    n_threads: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One timed thing: a graph in an engine."""

    name: str
    part: Part
    engine: Engine
    graph: Graph

    @property
    def key(self) -> str:
        """A name of its own among all subjects."""
        return f"{self.name} / {self.part} / {self.engine}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The times of one subject, in milliseconds an image."""

    subject: Subject
    rounds_ms: list[float]

    @property
    def ms(self) -> Spread:
        """Median and quartiles."""
        return Spread.of(self.rounds_ms)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio of two times, with what it ought to be; `is_share` prints it in per cent and wants it small."""

    name: str
    value: Spread
    aim: float | None
    is_share: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the aim; None where there is none."""
        if self.aim is None:
            return None
        return self.value.median <= self.aim if self.is_share else self.value.median >= self.aim

    def cells(self) -> str:
        """Return the row of the Markdown table."""
        form: Callable[[float], str] = (lambda v: f"{v:.1%}") if self.is_share else (lambda v: f"{v:.3g}×")
        value = f"{form(self.value.median)} ({form(self.value.low)} – {form(self.value.high)})"
        sign = "≤" if self.is_share else "≥"
        aim = "–" if self.aim is None else f"{sign} {form(self.aim)}, {'met' if self.is_met else '**missed**'}"
        return f"| {self.name} | {value} | {aim} |"


def build_subjects(
    liif: LIIF, shipped: ModulatedLIIF, tower: tuple[str, nn.Module], setting: Setting, folder: Path
) -> list[Subject]:
    """Export everything that is timed.

    Args:
        liif: a LIIF with local ensemble; its weights make the first four rows.
        shipped: the upscaler that serves by default.
        tower: an `image_encoder` graph module by the name to print.
        setting: sizes.
        folder: for the ONNX files.
    """
    side, size = setting.canvas_px, setting.image_size_px
    canvas = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    box = full_box(1, (side, side)).contiguous()
    subjects: list[Subject] = []

    def add(name: str, part: Part, module: nn.Module, inputs: Mapping[str, Tensor], *engines: Engine) -> None:
        graph = export_graph(module.eval(), inputs, folder / f"{len(subjects)}.onnx")
        subjects.extend(Subject(name=name, part=part, engine=e, graph=graph) for e in engines or (_ONNX_FP32,))

    whole = {"canvas": canvas, "box": box}
    with torch.inference_mode():
        feat = {"feat": liif.features(canvas).clone()}
        encoded = {"encoded": shipped.encoder(shipped.normalize(canvas)).clone()}
    add(PUBLISHED, "decoder", ReferenceDecoderGraph(liif, size, method="grid_sample"), feat)
    add(GATHERED, "decoder", ReferenceDecoderGraph(liif, size, method="gather"), feat)
    add(EXACT, "decoder", DecoderGraph(liif, size), {**feat, "box": box})
    add(EXACT, "stage", UpscaleGraph(liif, size), whole)
    add(NEAREST, "decoder", DecoderGraph(_without_ensemble(liif), size), {**feat, "box": box})
    engines: tuple[Engine, ...] = (_ONNX_FP32, "openvino fp32")
    add(SHIPPED, "decoder", ModulatedDecoderGraph(shipped, size), {**encoded, **whole}, *engines)
    add(SHIPPED, "stage", UpscaleGraph(shipped, size), whole, *engines)
    add(BICUBIC, "stage", BicubicGraph(size), {"canvas": canvas})
    pixels = {"pixels": torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)}
    tower_engines: tuple[Engine, ...] = (*engines, "openvino bf16") if has_bf16() else engines
    add(tower[0], "stage", tower[1], pixels, *tower_engines)
    return subjects


def measure(subjects: Sequence[Subject], setting: Setting) -> list[Result]:
    """Load every subject into its engine and time all of them, interleaved."""
    calls = {s.key: prepare(s.graph, s.engine, setting.n_threads) for s in subjects}
    times = time_interleaved(
        calls,
        n_rounds=setting.n_rounds,
        min_s=setting.min_s,
        report=lambda i: print(f"round {i} of {setting.n_rounds}", file=sys.stderr, flush=True),
    )
    return [Result(subject=s, rounds_ms=times[s.key]) for s in subjects]


def compare(shipped: ModulatedLIIF, other: Upscaler, setting: Setting, folder: Path) -> str:
    """Time the `upscale` stages of two upscalers, interleaved, and return their ratios as a Markdown table."""
    side, size = setting.canvas_px, setting.image_size_px
    canvas = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    whole = {"canvas": canvas, "box": full_box(1, (side, side)).contiguous()}
    engines: tuple[Engine, ...] = (_ONNX_FP32, "openvino fp32")
    graphs = {
        name: export_graph(UpscaleGraph(model, size).eval(), whole, folder / f"{name}.onnx")
        for name, model in (("shipped", shipped), ("other", other))
    }
    subjects = [
        Subject(name=name, part="stage", engine=engine, graph=graph)
        for name, graph in graphs.items()
        for engine in engines
    ]
    times = {(r.subject.name, r.subject.engine): r.rounds_ms for r in measure(subjects, setting)}
    ratios = {engine: ratio(times["other", engine], times["shipped", engine]) for engine in engines}
    rows = [Target(name=engine, value=value, aim=1.02, is_share=True).cells() for engine, value in ratios.items()]
    return "\n".join(("| engine | time, of the shipped | aim |", "|---|---|---|", *rows))


def targets(results: Sequence[Result], tower: str) -> list[Target]:
    """Return the ratios that the project promises, and those beside them that put them in proportion."""
    times = {(r.subject.name, r.subject.part, r.subject.engine): r.rounds_ms for r in results}
    decoder = {name: ms for (name, part, engine), ms in times.items() if (part, engine) == ("decoder", _ONNX_FP32)}
    stage = {(name, engine): ms for (name, part, engine), ms in times.items() if part == "stage"}
    found = [
        Target(name=f"{name}: {label}", value=ratio(decoder[slow], decoder[fast]), aim=aim)
        for name, fast, aim in ((EXACT, EXACT, 1.7), (SHIPPED_DECODER, SHIPPED, 20))
        for slow, label in ((PUBLISHED, "against LIIF as published"), (GATHERED, "… GridSample replaced by a gather"))
    ]
    pairs: list[tuple[str, Engine, Engine]] = [
        (f"shipped `upscale` stage, of {tower}: both onnxruntime fp32 (`--profile cpu-onnx`)", _ONNX_FP32, _ONNX_FP32),
        ("… both openvino fp32", "openvino fp32", "openvino fp32"),
        ("… openvino fp32, of bf16", "openvino fp32", "openvino bf16"),
        ("… onnxruntime fp32, of openvino bf16", _ONNX_FP32, "openvino bf16"),
    ]
    for i, (name, own, other) in enumerate(pairs):
        if (tower, other) in stage:
            share = ratio(stage[SHIPPED, own], stage[tower, other])
            # The promise is about one engine; the others tell what a faster encoder makes of it.
            found.append(Target(name=name, value=share, aim=0.25 if i == 0 else None, is_share=True))
    return found


def tables(results: Sequence[Result], ratios: Sequence[Target], setting: Setting) -> str:
    """Return both tables and their caption as Markdown."""
    rows: dict[tuple[str, Engine], dict[Part, Result]] = {}
    for result in results:
        rows.setdefault((result.subject.name, result.subject.engine), {})[result.subject.part] = result
    lines = [
        "| | engine | decoder, GMACs | decoder, ms | whole stage, GMACs | whole stage, ms |",
        "|---|---|---|---|---|---|",
    ]
    for (name, engine), parts in rows.items():
        cells = " | ".join(_cells(parts.get(part)) for part in ("decoder", "stage"))
        lines.append(f"| {name} | {engine} | {cells} |")
    lines += ["", "| time against time | measured | aim |", "|---|---|---|", *(t.cells() for t in ratios)]
    side, size = setting.canvas_px, setting.image_size_px
    lines += [
        "",
        f"One image of {side}×{side} rendered at {size}×{size}, {setting.n_threads} threads; medians of "
        f"{setting.n_rounds} interleaved rounds",
        "with their quartiles; ratios are taken round by round.",
        "",
    ]
    return "\n".join(lines)


def headline(results: Sequence[Result], ratios: Sequence[Target], setting: Setting, tower: str) -> str:
    """Return the sentence for the README."""
    share = next(t for t in ratios if t.is_share)
    # The less flattering of the two.
    decoder = min((t for t in ratios if t.name.startswith(SHIPPED_DECODER)), key=lambda t: t.value.median)
    ms = next(r.ms.median for r in results if (r.subject.name, r.subject.part) == (SHIPPED, "stage"))
    side, size = setting.canvas_px, setting.image_size_px
    return (
        f"Rendering a {side}×{side} image at {size}×{size} takes {ms:.1f} ms on {setting.n_threads} CPU threads, "
        f"{share.value.median:.0%} of what a CLIP {tower} image\ntower takes on the result; the decoder that ships is "
        f"{decoder.value.median:.0f} times as fast as LIIF's published formulation. Measured\nby `make bench-liif`, "
        "all figures in [benchmarks/README.md](benchmarks/README.md).\n"
    )


def record(
    results: Sequence[Result], ratios: Sequence[Target], setting: Setting, environment: Mapping[str, object]
) -> dict[str, object]:
    """Return everything that was measured, for programs."""
    return {
        "schema_version": 1,
        "command": "make bench-liif",
        "setting": asdict(setting),
        "macs": "products in the convolutions and matrix multiplications of the exported graph, an image",
        "subjects": [
            {
                "name": r.subject.name,
                "part": r.subject.part,
                "engine": r.subject.engine,
                "macs": r.subject.graph.macs,
                "ms": asdict(r.ms),
                "rounds_ms": r.rounds_ms,
            }
            for r in results
        ],
        "ratios": [
            {"name": t.name, "value": asdict(t.value), "aim": t.aim, "is_share": t.is_share, "is_met": t.is_met}
            for t in ratios
        ],
        "environment": environment,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, which says nothing about the aims."""
    arguments = _parser().parse_args(argv)
    setting = Setting(
        canvas_px=arguments.canvas,
        image_size_px=arguments.image_size,
        n_rounds=arguments.rounds,
        min_s=arguments.min_s,
        n_threads=arguments.threads,
    )
    torch.manual_seed(0)  # LIIF and the tower have random weights: their values cost nothing and change nothing
    liif = load_liif(arguments.liif) if arguments.liif else LIIF(EDSR()).eval()
    if not isinstance(liif, LIIF) or not liif.local_ensemble:
        raise SystemExit("bench-liif: --liif needs a LIIF with local ensemble; the rows are variants of it")
    shipped = load_liif(arguments.upscaler)
    if not isinstance(shipped, ModulatedLIIF):
        raise SystemExit("bench-liif: --upscaler needs a latent-modulated LIIF, the kind that ships")
    tower_name = f"{arguments.tower} image tower"
    if arguments.compare is not None:
        with tempfile.TemporaryDirectory(prefix="bench-liif-") as folder:
            print(compare(shipped, load_liif(arguments.compare), setting, Path(folder)))
        return 0
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-liif-") as folder:
        tower = (tower_name, image_tower(arguments.tower))
        subjects = build_subjects(liif, shipped, tower, setting, Path(folder))
        del tower
        results = measure(subjects, setting)
    ratios = targets(results, tower_name)
    text = tables(results, ratios, setting)
    print(text)
    # Of the minute before: above about 0.5, something else was using the cores.
    environment = {**describe_environment(_PACKAGES), "load_average_before": round(load_average, 2)}
    content = json.dumps(record(results, ratios, setting, environment), indent=2, ensure_ascii=False) + "\n"
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "liif.json").write_text(content, encoding="utf-8")
    insert(arguments.page, _MARK, f"{text}{_describe_machine(environment)}\n")
    insert(arguments.readme, _MARK, headline(results, ratios, setting, arguments.tower))
    return 0


def _without_ensemble(liif: LIIF) -> LIIF:
    model = LIIF(
        liif.encoder,
        hidden_list=liif.hidden_list,
        local_ensemble=False,
        feat_unfold=liif.feat_unfold,
        cell_decode=liif.cell_decode,
    )
    model.load_state_dict(liif.state_dict())
    return model.eval()


def _cells(result: Result | None) -> str:
    if result is None:
        return "– | –"
    ms = result.ms
    return f"{result.subject.graph.macs / 1e9:.3g} | {ms.median:.1f} ({ms.low:.1f} – {ms.high:.1f})"


def _describe_machine(environment: Mapping[str, object]) -> str:
    versions = environment["versions"]
    assert isinstance(versions, dict)
    engines = ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "torch"))
    return (
        f"Measured on {environment['processor']}, {environment['cores']} cores, load average "
        f"{environment['load_average_before']} before; {engines}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench-liif",
        description="Time published LIIF, its exact rewrite and the shipped upscaler beside a CLIP image tower.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--upscaler",
        type=Path,
        default=_ROOT / "checkpoints" / "liif-fast" / "liif.safetensors",
        help="weights of the upscaler that ships",
    )
    parser.add_argument(
        "--compare", type=Path, help="another upscaler: time nothing but its stage beside that one's; writes nothing"
    )
    parser.add_argument("--liif", type=Path, help="a LIIF with local ensemble, instead of an untrained EDSR-baseline")
    parser.add_argument("--tower", default="ViT-B-32", help="OpenCLIP name of the image tower")
    parser.add_argument("--canvas", type=int, default=32, help="side of the low-resolution image")
    parser.add_argument("--image-size", type=int, default=224, help="side to render; the tower's input")
    parser.add_argument("--rounds", type=int, default=12, help="interleaved rounds, at least 2")
    parser.add_argument("--min-s", type=float, default=0.2, help="seconds to repeat one subject for in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every engine")
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks" / "results", help="folder of the JSON")
    parser.add_argument(
        "--page", type=Path, default=_ROOT / "benchmarks" / "README.md", help="page to put the tables into"
    )
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md", help="page to put the sentence into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
