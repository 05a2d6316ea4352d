"""The service beside what people would otherwise run, on the same weights and images, in rounds.

    python -m benchmarks.serving            # everything, about an hour
    python -m benchmarks.serving --quick    # does it run? writes nothing into the project

Makes random weights, exports them, installs the baselines, starts all systems, measures, and writes
`benchmarks/results/serving.json`, plots beside it, and the tables between the markers in benchmarks/README.md. With
`--device cuda` the file is `serving-gpu.json` and the marker `bench-gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.baselines.bare import ONNX_CUDA, TORCH, TORCH_CUDA, best_engine
from benchmarks.baselines.weights import MODEL, make_weights
from benchmarks.environment import describe_environment
from benchmarks.load.generator import LoadError
from benchmarks.load.images import MADE_UP
from benchmarks.pages import insert
from benchmarks.serving import report, systems
from benchmarks.serving.measure import (
    Measurement,
    Setting,
    closed,
    compare,
    label_costs,
    offered_load,
    say,
    stage_times,
    sweep,
)
from benchmarks.serving.plots import plot_latency, plot_stages, plot_throughput
from benchmarks.serving.systems import BareSystem, Folders, Server

_ROOT = Path(__file__).resolve().parents[2]
_BASELINES = {"openclip": systems.openclip, "litserve": systems.litserve, "infinity": systems.infinity}
_PARTS = ("compare", "sweep", "load", "stages", "labels", "small", "start")
_PACKAGES = ("clipsr", "clipsr-serving", "torch", "onnxruntime", "openvino", "open_clip_torch", "grpcio", "aiohttp")
_QUICK = Setting(
    images=MADE_UP,
    n_rounds=2,
    measure_s=3.0,
    warm_up_s=1.0,
    callers=(1, 4),
    sweep_callers=(1, 4),
    load_shares=(0.5,),
    label_counts=(10, 50),
    n_new_labels=20,
)


def prepare(folders: Folders, baselines: Sequence[str]) -> None:
    """Make what is missing: weights, model repository, environments.

    Raises:
        StartError: a step failed.
    """
    make_weights(folders.weights, model_name=folders.model)
    if not (folders.repository / "manifest.json").is_file():
        say(f"exporting {folders.model} with random weights")
        export = [str(Path(sys.executable).with_name("clipsr-export")), "clip", "--model", folders.model]
        export += ["--weights", str(folders.weights / "open_clip.safetensors"), "--name", f"{folders.model}-random"]
        _run([*export, "--output", str(folders.repository)])
    for name in baselines:
        _run([str(_ROOT / "benchmarks" / "baselines" / "install.sh"), name, str(folders.environments / name)])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise systems.StartError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def measure(
    folders: Folders, arguments: argparse.Namespace, setting: Setting
) -> tuple[dict[str, Any], list[report.Aim], list[Measurement]]:
    """Carry out the wanted parts; returns the record, the promises and the measurements of the comparison."""
    record: dict[str, Any] = {}
    parts, is_gpu = arguments.parts, arguments.device == "cuda"
    engines = (ONNX_CUDA, TORCH_CUDA) if is_gpu else (best_engine(), "onnxruntime fp32", TORCH)
    engines = tuple(dict.fromkeys(engines)) if not arguments.no_bare else ()
    if "start" in parts:
        record["first_answer_s"] = [_start_s(folders, arguments.profile) for _ in range(max(setting.n_rounds, 2))][1:]
    found: list[Measurement] = []
    stages: list[dict[str, float]] = []
    with ExitStack() as running:
        own = running.enter_context(
            systems.clipsr(folders, profile=arguments.profile, max_concurrent=arguments.max_concurrent)
        )
        if arguments.stream:
            own = replace(own, target=replace(own.target, kind="grpc-stream"))
        native = replace(own, name=report.NATIVE, target=replace(own.target, route="native"))
        if "compare" in parts:
            others = [running.enter_context(_BASELINES[name](folders)) for name in arguments.baselines]
            bares = [BareSystem(folders, engine) for engine in engines]
            running.callback(lambda: [bare.close() for bare in bares])
            for server in others:
                server.pause()
            found, stages = compare([own, native, *others], bares, setting)
            record["comparison"] = [asdict(m) for m in found]
            record["bare_stages_ms"] = stages
            record["start_s"] = {server.name: server.start_s for server in (own, *others)}
            record["memory_mb"] = [m.memory_mb for m in found if m.system == own.name and m.load != "1 caller"]
            if "sweep" in parts:
                record["sweep"] = [asdict(m) for server in (own, native, *others) for m in sweep(server, setting)]
        _measure_own(own, folders, arguments, setting, record)
    if "small" in parts:
        record["small"] = _small(folders, arguments, setting)
    bare = f"bare {engines[0]}" if engines else ""
    results = report.aims(found, bare=bare, stages=stages, more=record) if found else []
    return record, results, found


def _measure_own(
    own: Server, folders: Folders, arguments: argparse.Namespace, setting: Setting, record: dict[str, Any]
) -> None:
    """The parts that only the service has."""
    busiest = setting.callers[-1]
    if "stages" in arguments.parts:
        record["stages"] = {str(n): stage_times(own, n, setting) for n in (1, busiest)}
    if "load" in arguments.parts:
        capacity = closed(own, busiest, setting).images_per_s
        record["offered_load"] = [asdict(m) for m in offered_load(own, capacity, setting)]
    if "labels" in arguments.parts:
        torch_bare = None if arguments.no_bare else BareSystem(folders, TORCH)
        record["labels"] = label_costs(own, torch_bare, setting)
        if torch_bare is not None:
            torch_bare.close()


def _start_s(folders: Folders, profile: str | None) -> float:
    # `clipsr-serve up --detach` returns after a real image went through both routes. The first start fills the caches.
    with systems.clipsr(folders, profile=profile, name="start") as server:
        return server.start_s


def _small(folders: Folders, arguments: argparse.Namespace, setting: Setting) -> list[float]:
    say("the small model")
    with systems.clipsr(folders, profile=arguments.profile, name="small", repository=arguments.small) as server:
        return [closed(server, 2 * setting.callers[-1], setting, i).images_per_s for i in range(setting.n_rounds)]


def render(record: dict[str, Any], results: Sequence[report.Aim], found: Sequence[Measurement]) -> str:
    """Return the tables as Markdown."""
    parts = [report.ratio_table(results), report.comparison_table(found)] if found else []
    if "labels" in record:
        parts.append(report.label_table(record["labels"]))
    for callers, stages in record.get("stages", {}).items():
        parts.append(f"Time by stage, callers at once: {callers}\n\n{report.stage_table(stages)}")
    return "\n".join(parts)


def write(arguments: argparse.Namespace, record: dict[str, Any], text: str, results: Sequence[report.Aim]) -> None:
    """Write the record, the plots and the tables."""
    name = "serving-gpu" if arguments.device == "cuda" else "serving"
    arguments.output.mkdir(parents=True, exist_ok=True)
    record["aims"] = [{**asdict(aim), "is_met": aim.is_met} for aim in results]
    content = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (arguments.output / f"{name}.json").write_text(content, encoding="utf-8")
    if "sweep" in record:
        plot_throughput([Measurement(**m) for m in record["sweep"]], arguments.output / f"{name}-throughput.png")
    if "offered_load" in record:
        plot_latency([Measurement(**m) for m in record["offered_load"]], arguments.output / f"{name}-latency.png")
    if "stages" in record:
        plot_stages(list(record["stages"].values())[-1], arguments.output / f"{name}-stages.png")
    if arguments.page is not None:
        insert(arguments.page, "bench-gpu" if arguments.device == "cuda" else "bench", text)


def require_gpu(folders: Folders, profile: str) -> None:
    """Say what is missing for a measurement on a GPU.

    Raises:
        StartError: there is no GPU, or no such profile.
    """
    if shutil.which("nvidia-smi") is None or subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode != 0:
        raise systems.StartError("there is no NVIDIA GPU here (nvidia-smi finds none); run `make bench` for the CPU")
    require_profile(_ROOT / "model_repository", profile)


def require_profile(repository: Path, profile: str) -> None:
    """Say that a profile is unknown, before minutes are spent.

    Raises:
        StartError: the image encoder has no such profile.
    """
    folder = repository / "image_encoder" / "configs"
    known = sorted({"cpu-onnx", *(path.stem for path in folder.glob("*.pbtxt"))})  # as clipsr-serve has them
    if profile not in known:
        raise systems.StartError(
            f"there is no profile {profile!r}; {folder} has: {', '.join(known)}. Choose by --profile"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark: 0 done, whatever the figures; 1 something is missing or failed."""
    arguments = _parser().parse_args(argv)
    images = arguments.images or MADE_UP
    setting = replace(_QUICK, images=images) if arguments.quick else Setting(images=images)
    for name in ("n_rounds", "measure_s", "callers", "processes"):
        if (value := getattr(arguments, name)) is not None:
            setting = replace(setting, **{name: value})
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        logs = arguments.logs or Path(temporary)
        if arguments.quick:  # no figures for a page
            arguments.output, arguments.page = arguments.output or Path(temporary) / "results", None
        elif arguments.output is None:
            arguments.output = _ROOT / "benchmarks" / "results"
            arguments.page = arguments.page or _ROOT / "benchmarks" / "README.md"
        logs.mkdir(parents=True, exist_ok=True)
        folders = Folders(
            weights=arguments.work / arguments.model / "weights",
            repository=arguments.work / arguments.model / "repository",
            environments=arguments.environments,
            serve_bin=arguments.serve_bin,
            logs=logs,
            model=arguments.model,
            device=arguments.device,
        )
        load_average = os.getloadavg()[0]
        try:
            arguments.profile = arguments.profile or ("gpu-onnx" if arguments.device == "cuda" else "cpu")
            if arguments.device == "cuda":
                require_gpu(folders, arguments.profile)
            require_profile(_ROOT / "model_repository", arguments.profile)
            prepare(folders, arguments.baselines if "compare" in arguments.parts else ())
            record, results, found = measure(folders, arguments, setting)
        except (systems.StartError, LoadError, RuntimeError, OSError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        text = render(record, results, found)
        head = {
            "schema_version": 1,
            "command": "make bench-gpu" if arguments.device == "cuda" else "make bench",
            "setting": asdict(setting),
            "model": arguments.model,
            "profile": arguments.profile,
            # Of the minute before: above about 0.5, something else was using the cores.
            "environment": {**_environment(arguments), "load_average_before": round(load_average, 2)},
        }
        text += _caption(setting, arguments, head["environment"])
        print(text)
        write(arguments, {**head, **record}, text, results)
    return 0


def _environment(arguments: argparse.Namespace) -> dict[str, Any]:
    described = describe_environment(_PACKAGES)
    folder = _ROOT / "benchmarks" / "baselines"
    baselines = {
        name: (folder / name / "requirements.txt").read_text(encoding="utf-8").splitlines()[1:]
        for name in arguments.baselines
        if (folder / name / "requirements.txt").is_file()
    }
    return {**described, "baselines": baselines}


def _caption(setting: Setting, arguments: argparse.Namespace, environment: Any) -> str:
    images = "made-up PNG images of 32×32" if setting.images == MADE_UP else "32×32 images of CIFAR"
    return (
        f"\n{arguments.model} with random weights, {images}, 100 cached labels, profile `{arguments.profile}`; "
        f"medians of {setting.n_rounds} interleaved rounds of {setting.measure_s:g} s with their range, "
        "ratios round by round.\n"
        f"Measured on {environment['processor']}, {environment['cores']} cores, callers included; load average "
        f"{environment['load_average_before']} before.\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure the service beside what people would otherwise run, in rounds."
    )
    parser.add_argument("--quick", action="store_true", help="seconds a load; prints, and writes only with --output")
    parser.add_argument("--parts", type=_words(_PARTS), default=_PARTS, help=f"some of {','.join(_PARTS)}")
    parser.add_argument("--baselines", type=_words(tuple(_BASELINES)), default=tuple(_BASELINES),
                        help=f"some of {','.join(_BASELINES)}, or nothing: ''")  # fmt: skip
    parser.add_argument("--no-bare", action="store_true", help="without the bare engines")
    parser.add_argument("--model", default=MODEL, help="OpenCLIP's name of a plain CLIP ViT (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--profile", help="of clipsr-serve (cpu; gpu-onnx with --device cuda)")
    parser.add_argument("--images", help="Parquet file or folder (made-up images)")
    parser.add_argument("--small", type=Path, default=_ROOT / "model_repository", help="repository of the small model")
    parser.add_argument("--rounds", dest="n_rounds", type=int, metavar="N", help="rounds of the comparison")
    parser.add_argument("--seconds", dest="measure_s", type=float, metavar="S", help="of each load")
    parser.add_argument("--callers", type=_numbers, metavar="N,N", help="of the comparison, fewest first")
    parser.add_argument("--stream", action="store_true", help="ask clipsr by ClassifyStream, a stream a caller")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="of the gateway (its default)")
    parser.add_argument("--processes", type=int, metavar="N", help="of the load generator")
    parser.add_argument("--work", type=Path, default=_ROOT / ".bench", help="folder of weights and repositories")
    parser.add_argument("--environments", type=Path, default=_ROOT / ".venv-bench", help="folder of the baselines'")
    parser.add_argument("--serve-bin", type=Path, default=_ROOT / ".venv-serve" / "bin", help="of clipsr-serve")
    parser.add_argument("--logs", type=Path, help="folder to keep the systems' logs in")
    parser.add_argument("--output", type=Path, help="folder of the record and the plots (benchmarks/results)")
    parser.add_argument("--page", type=Path, help="page of the tables (benchmarks/README.md, with --output none)")
    return parser


def _words(known: Sequence[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word for word in text.split(",") if word)
        if unknown := set(words) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; use {', '.join(known)}")
        return words

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(word) for word in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
