"""How many pods a load needs, what they cost, and what is used up first.

    python -m benchmarks.scaling --peak 500 --size 32 --labels 100 --cores 4 --price-hour 0.20
    python -m benchmarks.scaling --measure            # makes the figures that this rests on, a quarter of an hour
    python -m benchmarks.scaling --measure --parts instances    # that part anew; the record keeps the other

The first reads `benchmarks/results/scaling.json`, or another record (`--record`): your own figures count only if they
were measured on your kind of machine, with your model. The second writes that file and the tables in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.baselines.engines import MODEL
from benchmarks.load.generator import LoadError
from benchmarks.load.images import MADE_UP
from benchmarks.reporting.environment import describe_environment
from benchmarks.reporting.pages import insert, require_marks
from benchmarks.scaling.measure import Kind, check_two_instances, measure_point
from benchmarks.scaling.model import Instance, Load, ModelError, Point, choose_point, peak_load, size
from benchmarks.scaling.report import render, sizing_text
from benchmarks.serving.__main__ import ending_on_sigterm, require_gpu
from benchmarks.serving.measure import Setting, log
from benchmarks.serving.prepare import make_repository, make_weights
from benchmarks.serving.systems import Folders, StartError, clipsr

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("clipsr", "clipsr-serving", "clipsr-gateway", "onnxruntime", "openvino", "grpcio")
# Every canvas size and the native route; and how labels add up.
_KINDS = tuple(Kind(size_px=s, n_labels=n) for s, n in ((32, 10), (32, 100), (32, 1_000), (32, 10_000), (64, 100),
               (96, 100), (512, 100)))  # fmt: skip
_QUICK = {"measure_s": 3.0, "warm_up_s": 1.0, "callers": (1, 4), "n_rounds": 2}
_PARTS = ("points", "instances")
_FIELDS = {"points": "points", "instances": "two_instances"}
_MARK = "scaling"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure or compute: 0 done, 1 something is missing or failed."""
    arguments = _parser().parse_args(argv)
    try:
        return _measure(arguments) if arguments.measure else _compute(arguments)
    except (StartError, LoadError, ModelError, RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1


def _compute(arguments: argparse.Namespace) -> int:
    if not arguments.record.is_file():
        raise ModelError(
            f"there is no {arguments.record}: nothing was measured yet (python -m benchmarks.scaling --measure)"
        )
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    points = [Point.from_record(point) for point in record.get("points", [])]
    point = choose_point(points, size_px=arguments.size, n_labels=arguments.labels)
    if (arguments.peak is None) == (arguments.callers is None):
        raise ModelError("give either --peak or --callers: how many images a second, or who asks")
    peak = arguments.peak or peak_load(arguments.callers, point)
    instance = Instance(cores=arguments.cores, gpus=arguments.gpus, hour=arguments.price_hour)
    load = Load(peak=peak, use=arguments.use, spare=arguments.spare)
    print(sizing_text(point, instance, load, size(point, instance, load), callers=arguments.callers))
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    setting = Setting(images=MADE_UP, n_rounds=3)
    if arguments.quick:
        setting = replace(setting, **_QUICK)
        kinds, output, page = _KINDS[1:2], None, None
    else:
        kinds, output, page = arguments.points, arguments.record, arguments.page
        require_marks(page, _MARK)
    environment = {**describe_environment(_PACKAGES), "load_average_before": round(os.getloadavg()[0], 2)}
    with ending_on_sigterm():
        folders = _prepare(arguments)
        head = {
            "schema_version": 1,
            "command": "make bench-scaling",
            "setting": asdict(setting),
            "model": MODEL if arguments.repository is None else folders.repository.name,
            "profile": arguments.profile,
            "environment": environment,
        }
        record = head | (_earlier(output, head, arguments.parts) if output is not None else {})
        for part, found in _run(folders, arguments, kinds, setting):
            record[part] = found
            if output is not None:  # at once: what fails later takes nothing with it
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = render(record)
    print(text)
    if page is not None:
        insert(page, _MARK, text)
    return 0


def _prepare(arguments: argparse.Namespace) -> Folders:
    logs = (arguments.work / "logs" / time.strftime("scaling-%Y%m%d-%H%M%S")).resolve()
    logs.mkdir(parents=True, exist_ok=True)
    log(f"logs are in {logs}")
    own: Path | None = arguments.repository
    folders = Folders(
        weights=(arguments.work / MODEL / "weights").resolve(),
        repository=(own or arguments.work / MODEL / "repository").resolve(),
        environments=arguments.work,
        serve_bin=arguments.serve_bin.absolute(),
        logs=logs,
    )
    if arguments.profile.startswith("gpu-"):
        require_gpu()
    if own is not None and not (own / "manifest.json").is_file():
        raise StartError(f"{own} is no exported repository: it has no manifest.json")
    make_weights(folders)  # its labels, at least
    if own is None:
        make_repository(folders)
    return folders


def _earlier(output: Path, head: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """Return what the record has of the parts that are not measured now, if it is about the same thing."""
    if not output.is_file():
        return {}
    record = json.loads(output.read_text(encoding="utf-8"))
    alike = all(record.get(key) == head[key] for key in ("schema_version", "model", "profile"))
    where = [{key: r["environment"].get(key) for key in ("processor", "cores")} for r in (record, head)]
    if not alike or where[0] != where[1]:
        return {}
    return {_FIELDS[part]: record[_FIELDS[part]] for part in _PARTS if part not in parts and _FIELDS[part] in record}


def _run(
    folders: Folders, arguments: argparse.Namespace, kinds: Sequence[Kind], setting: Setting
) -> Iterator[tuple[str, Any]]:
    is_gpu = arguments.profile.startswith("gpu-")
    if "points" in arguments.parts:
        with clipsr(folders, profile=arguments.profile, route="auto") as server:
            points = [asdict(measure_point(server, kind, setting, is_gpu=is_gpu)) for kind in kinds]
        yield _FIELDS["points"], points
    if "instances" in arguments.parts and not is_gpu:
        yield _FIELDS["instances"], check_two_instances(folders, arguments.profile, setting)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="Say how many pods a load needs and what they cost."
    )
    parser.add_argument("--peak", type=float, metavar="R", help="images a second that are asked for at the most")
    parser.add_argument("--callers", type=int, metavar="N", help="instead: callers who ask one by one, without a pause")
    parser.add_argument("--size", type=int, default=32, metavar="PX", help="side of the images (%(default)s)")
    parser.add_argument("--labels", type=int, default=100, metavar="N", help="labels of a request (%(default)s)")
    parser.add_argument("--cores", type=float, default=2, metavar="N", help="of a pod (%(default)s)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="of a pod (%(default)s)")
    parser.add_argument("--price-hour", type=float, metavar="P", help="of a pod, in any currency")
    parser.add_argument("--use", type=float, default=0.7, help="how full pods may be at the peak (%(default)s)")
    parser.add_argument("--spare", type=int, default=1, metavar="N", help="pods for one that fails (%(default)s)")
    parser.add_argument(
        "--record", type=Path, default=_ROOT / "benchmarks" / "results" / "scaling.json", metavar="FILE",
        help="figures to read, or to write with --measure",
    )  # fmt: skip
    parser.add_argument("--measure", action="store_true", help="make the figures")
    parser.add_argument("--quick", action="store_true", help="with --measure: does it run? writes nothing")
    parser.add_argument("--parts", type=_words, default=_PARTS, help=f"of --measure, some of {','.join(_PARTS)}")
    parser.add_argument("--points", type=_kinds, default=_KINDS, metavar="PX:N,…", help="sizes and labels to measure")
    parser.add_argument("--profile", default="cpu", help="of clipsr-serve (%(default)s)")
    parser.add_argument("--repository", type=Path, metavar="DIR", help="an exported repository (ViT-B/32, random)")
    parser.add_argument("--work", type=Path, default=_ROOT / ".bench", help="folder of weights and repositories")
    parser.add_argument("--serve-bin", type=Path, default=_ROOT / ".venv-serve" / "bin", help="of clipsr-serve")
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "scaling.md", help="page of the tables")
    return parser


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(_PARTS):
        raise argparse.ArgumentTypeError(f"known are {', '.join(_PARTS)}")
    return words


def _kinds(text: str) -> tuple[Kind, ...]:
    try:
        pairs = [pair.split(":") for pair in text.split(",")]
        return tuple(Kind(size_px=int(size_px), n_labels=int(n_labels)) for size_px, n_labels in pairs)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not PX:N,PX:N, such as 32:100,64:1000") from error


if __name__ == "__main__":
    sys.exit(main())
