"""The service beside what people would otherwise run, on the same weights and images, in rounds.

    python -m benchmarks.serving            # everything, about an hour
    python -m benchmarks.serving --quick    # does it run? writes nothing into the project
    python -m benchmarks.serving --parts small,start    # these anew; what the record has of the others stays
    python -m benchmarks.serving --parts ''             # nothing anew: tables and plots from the record

Makes random weights, exports them, installs the baselines, starts all systems, measures, and writes
`benchmarks/results/serving.json` after every part; at the end plots beside it, the tables between the markers in
benchmarks/README.md, and their headline into README.md. With `--device cuda` the file is `serving-gpu.json` and the
marker `bench-gpu`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.baselines.engines import MODEL, ONNX_CUDA, OPENVINO_INT8, TORCH, TORCH_CUDA, float_engine
from benchmarks.load.images import MADE_UP
from benchmarks.reporting.environment import describe_environment, machine, versions_in
from benchmarks.reporting.pages import insert, require_marks
from benchmarks.serving import systems
from benchmarks.serving.measure import Setting, log
from benchmarks.serving.parts import PARTS, Bench
from benchmarks.serving.plots import draw
from benchmarks.serving.prepare import prepare
from benchmarks.serving.record import Record, RecordError
from benchmarks.serving.systems import Folders
from benchmarks.serving.tables import headline, render
from clipsr_serving.errors import ServingError
from clipsr_serving.manifest import read_manifest
from clipsr_serving.profiles import choose_profile, known_profiles, read_cpu_flags

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "benchmarks" / "README.md"
# Of the engines of all systems. A shell that sets one would hold PyTorch back and not the service.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_BASELINES = {
    "openclip": systems.openclip,
    "onnx_int8": systems.onnx_int8,
    "fastembed": systems.fastembed,
    "litserve": systems.litserve,
    "infinity": systems.infinity,
}
_QUICK = Setting(
    images=MADE_UP,
    n_rounds=2,
    measure_s=3.0,
    warm_up_s=1.0,
    n_turns=3,
    turn_s=1.0,
    callers=(1, 4),
    sweep_callers=(1, 4),
    load_shares=(0.8,),
    label_counts=(10, 50),
    n_new_labels=20,
    n_new_rounds=2,
)
# Of the callers and the bare engines; where there is a GPU, onnxruntime has another name.
_PACKAGES = ("clipsr", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "open_clip_torch", "grpcio", "aiohttp")
_SERVICE_PACKAGES = (
    "clipsr", "clipsr-gateway", "clipsr-serving", "nvidia-pytriton", "onnxruntime", "onnxruntime-gpu", "openvino",
    "numpy", "grpcio", "pillow",
)  # fmt: skip
# Options that make the command of a part, as the tables name it; those of folders are left out.
_NAMED = ("model", "profile", "baselines", "n_rounds", "measure_s", "callers", "max_concurrent", "processes")
_FLAGS = {"n_rounds": "rounds", "measure_s": "seconds"}


def describe(serve_bin: Path, baselines: Sequence[str]) -> dict[str, Any]:
    """Return processor, memory, load average, and the versions of callers, service and baselines.

    The load average is that of the minute before: above about 0.5, something else was using the cores.
    """
    locks = {name: _ROOT / "benchmarks" / "baselines" / name / "requirements.txt" for name in baselines}
    return {
        **describe_environment(_PACKAGES),
        "load_average_before": round(os.getloadavg()[0], 2),
        "service": versions_in(serve_bin / "python", _SERVICE_PACKAGES),
        "baselines": {
            name: lock.read_text(encoding="utf-8").splitlines()[1:] for name, lock in locks.items() if lock.is_file()
        },
    }


def make_bench(folders: Folders, arguments: argparse.Namespace, setting: Setting, record: Record) -> Bench:
    """Return what carries out the parts, writing into the record."""
    is_gpu = arguments.device == "cuda"
    served_as = read_configuration(folders.repository, arguments.profile)
    is_int8 = served_as == "cpu-int8"
    engines = ()
    if not arguments.no_bare:
        on_cpu = (*((OPENVINO_INT8,) if is_int8 else ()), float_engine(), "onnxruntime fp32", TORCH)
        engines = (ONNX_CUDA, TORCH_CUDA) if is_gpu else on_cpu
    environment = describe(folders.serve_bin, arguments.baselines)
    images = setting.images if setting.images == MADE_UP else "/".join(Path(setting.images).parts[-2:])

    def keep(part: str, found: Any) -> None:
        common = {
            "command": make_command(arguments, part),
            "model": arguments.model,
            "profile": arguments.profile,
            "served_as": served_as,
            "setting": asdict(replace(setting, images=images)),
            "environment": environment,
        }
        record.put(part, {**common, **found})

    return Bench(
        folders=folders,
        setting=setting,
        profile=arguments.profile,
        other_profile="cpu-bf16" if is_int8 else None,
        baselines={name: _BASELINES[name] for name in arguments.baselines},
        engines=engines,
        small=replace(folders, repository=arguments.small.resolve()),
        keep=keep,
        max_concurrent=arguments.max_concurrent,
        is_stream=arguments.stream,
    )


def read_configuration(repository: Path, profile: str) -> str:
    """Return the name of the configurations that the profile means on this processor."""
    choice = choose_profile(profile, repository, read_manifest(repository), cpu_flags=read_cpu_flags())
    return choice.config_name or profile


def make_command(arguments: argparse.Namespace, part: str) -> str:
    """Return the command that measures a part as it was measured, but for folders."""
    words = ["--quick"] if arguments.quick else []
    words += ["--parts", part]
    for name in _NAMED:
        value = getattr(arguments, name)
        if value != arguments.defaults[name]:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{_FLAGS.get(name, name).replace('_', '-')}", text or "''"]
    words += [f"--{flag.replace('_', '-')}" for flag in ("no_bare", "stream") if getattr(arguments, flag)]
    return f'make {"bench-gpu" if arguments.device == "cuda" else "bench"} ARGS="{" ".join(words)}"'


def publish(arguments: argparse.Namespace, record: Record) -> None:
    """Write the plots, print the tables, and put them into the page if there is one."""
    plots = draw(record.parts, arguments.output, _name(arguments))
    print(render(record.parts, {}))
    if arguments.page is not None:
        folder = os.path.relpath(arguments.output, arguments.page.parent)
        addresses = {part: Path(folder, plot.name).as_posix() for part, plot in plots.items()}
        insert(arguments.page, _mark(arguments), render(record.parts, addresses))
        if arguments.device == "cpu" and arguments.page == _PAGE:
            insert(_ROOT / "README.md", "bench", headline(record.parts))


def _name(arguments: argparse.Namespace) -> str:
    return "serving-gpu" if arguments.device == "cuda" else "serving"


def _mark(arguments: argparse.Namespace) -> str:
    return "bench-gpu" if arguments.device == "cuda" else "bench"


def require_gpu() -> None:
    """Say that there is none.

    Raises:
        StartError: there is no GPU.
    """
    if shutil.which("nvidia-smi") is None or subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode != 0:
        raise systems.StartError("there is no NVIDIA GPU here (nvidia-smi finds none); run `make bench` for the CPU")


def require_profile(repository: Path, profile: str) -> None:
    """Say that a profile is unknown, before minutes are spent.

    Raises:
        StartError: no model has such a profile.
    """
    known = sorted(known_profiles(repository))
    if profile not in known:
        raise systems.StartError(
            f"there is no profile {profile!r}; {repository} has: {', '.join(known)}. Choose by --profile"
        )


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Make SIGTERM an exception, so that every system is stopped: stopped ones would stay for good otherwise."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark: 0 done, whatever the figures; 1 something is missing or a part failed."""
    arguments = _read_arguments(argv)
    images = arguments.images or MADE_UP
    setting = replace(_QUICK, images=images) if arguments.quick else Setting(images=images)
    for name in ("n_rounds", "measure_s", "callers", "processes"):
        if (value := getattr(arguments, name)) is not None:
            setting = replace(setting, **{name: value})
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, ending_on_sigterm():
        if arguments.quick:  # no figures for a page
            arguments.output, arguments.page = arguments.output or Path(temporary) / "results", None
        elif arguments.output is None:
            arguments.output = _ROOT / "benchmarks" / "results"
            arguments.page = arguments.page or _PAGE
        try:
            return _run(arguments, setting)
        except (systems.StartError, RecordError, ServingError, RuntimeError, OSError, ValueError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1


def _run(arguments: argparse.Namespace, setting: Setting) -> int:
    if arguments.device == "cuda":
        require_gpu()
    require_profile(_ROOT / "model_repository", arguments.profile)
    if arguments.page is not None:  # an hour later would be late
        require_marks(arguments.page, _mark(arguments))
        require_marks(_ROOT / "README.md", "bench")
    about = {"model": arguments.model, "profile": arguments.profile, "device": arguments.device}
    record = Record(arguments.output / f"{_name(arguments)}.json", about | machine())
    failures: list[str] = []
    for name in _THREAD_VARIABLES:
        if os.environ.pop(name, None) is not None:
            log(f"{name} is left out")
    if arguments.parts:
        folders = _make_folders(arguments)
        log(f"logs are in {folders.logs}")
        prepare(folders, arguments.baselines if {"compare", "sweep"} & set(arguments.parts) else ())
        bench = make_bench(folders, arguments, setting, record)
        began_s = time.monotonic()
        try:
            bench.run(arguments.parts)
        except (systems.StartError, OSError, subprocess.SubprocessError) as error:
            traceback.print_exc()
            bench.failures.append(str(error))
        failures = bench.failures
        log(f"measured for {(time.monotonic() - began_s) / 60:.1f} minutes")
    publish(arguments, record)
    for failure in failures:
        print(f"bench: failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _make_folders(arguments: argparse.Namespace) -> Folders:
    logs: Path = arguments.logs or arguments.work / "logs" / time.strftime("%Y%m%d-%H%M%S")
    logs.mkdir(parents=True, exist_ok=True)
    return Folders(
        weights=(arguments.work / arguments.model / "weights").resolve(),
        repository=(arguments.work / arguments.model / "repository").resolve(),
        environments=arguments.environments.absolute(),
        serve_bin=arguments.serve_bin.absolute(),
        logs=logs.resolve(),
        model=arguments.model,
        device=arguments.device,
    )


def _read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    arguments.defaults = {name: parser.get_default(name) for name in _NAMED}
    if arguments.profile is None:
        arguments.profile = arguments.defaults["profile"] = "gpu-onnx" if arguments.device == "cuda" else "cpu"
    if arguments.images is not None and arguments.images != MADE_UP:
        arguments.images = str(Path(arguments.images).resolve())  # the callers run in another folder
        if not Path(arguments.images).exists():
            parser.error(f"there are no images at {arguments.images}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure the service beside what people would otherwise run, in rounds."
    )
    parser.add_argument("--quick", action="store_true", help="seconds a load; prints, and writes only with --output")
    parser.add_argument("--parts", type=_words(PARTS), default=PARTS,
                        help=f"some of {','.join(PARTS)}; '' only makes tables and plots from the record")  # fmt: skip
    parser.add_argument("--baselines", type=_words(tuple(_BASELINES)), default=tuple(_BASELINES),
                        help=f"some of {','.join(_BASELINES)}, or nothing: ''")  # fmt: skip
    parser.add_argument("--no-bare", action="store_true", help="without the bare engines")
    parser.add_argument("--model", default=MODEL, help="OpenCLIP's name of a plain CLIP ViT (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--profile", help="of clipsr-serve (cpu; gpu-onnx with --device cuda)")
    parser.add_argument("--images", help="Parquet file or folder (made-up images)")
    parser.add_argument("--small", type=Path, default=_ROOT / "model_repository", help="repository of the small model")
    parser.add_argument("--rounds", dest="n_rounds", type=_positive(int), metavar="N", help="rounds of the comparison")
    parser.add_argument("--seconds", dest="measure_s", type=_positive(float), metavar="S", help="of each load")
    parser.add_argument("--callers", type=_numbers, metavar="N,N", help="of the comparison, fewest first")
    parser.add_argument("--stream", action="store_true", help="ask clipsr by ClassifyStream, a stream a caller")
    parser.add_argument("--max-concurrent", type=_positive(int), metavar="N", help="of the gateway (its default)")
    parser.add_argument("--processes", type=_positive(int), metavar="N", help="of the load generator")
    parser.add_argument("--work", type=Path, default=_ROOT / ".bench", help="folder of weights, repositories and logs")
    parser.add_argument("--environments", type=Path, default=_ROOT / ".venv-bench", help="folder of the baselines'")
    parser.add_argument("--serve-bin", type=Path, default=_ROOT / ".venv-serve" / "bin", help="of clipsr-serve")
    parser.add_argument("--logs", type=Path, help="folder of the systems' logs (logs in --work)")
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


def _positive(kind: Callable[[str], Any]) -> Any:
    def parse(text: str) -> Any:
        if not (value := kind(text)) > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(sorted(int(word) for word in text.split(",")))
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError("callers are 1 or more")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
