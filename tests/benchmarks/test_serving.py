"""The comparison of systems: what its tables and verdicts rest on. No timing is asserted."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import psutil
import pytest
from benchmarks.baselines.labels import make_labels
from benchmarks.load import Sample, Target, summarize
from benchmarks.load.generator import LoadResult
from benchmarks.load.processes import measure_usage
from benchmarks.serving import __main__ as bench
from benchmarks.serving import measure, report, systems, tables
from benchmarks.serving import parts as bench_parts
from benchmarks.serving.measure import Measurement, Range, Setting, bare_measurement, compare, ratio
from benchmarks.serving.parts import PARTS, Bench
from benchmarks.serving.plots import draw
from benchmarks.serving.prepare import hash_files
from benchmarks.serving.record import Record, RecordError
from benchmarks.serving.stages import between, parse_gateway, parse_image_path, parse_triton
from benchmarks.serving.systems import BareSystem, Folders, Server, StartError, openclip

from tests.waiting import wait_until

STATS = {
    "model_stats": [
        {
            "name": "image_encoder",
            "inference_count": 24,
            "execution_count": 4,
            "inference_stats": {
                "queue": {"count": 24, "ns": 48_000_000},
                "compute_infer": {"count": 24, "ns": 240_000_000},
            },
        }
    ]
}


def served(system: str, load: str, images_per_s: float, *, number: int = 0, p50_ms: float = 10.0) -> Measurement:
    latency = {"p50": p50_ms, "p90": p50_ms, "p99": 2 * p50_ms, "p99.9": 3 * p50_ms, "max": 3 * p50_ms}
    return Measurement(
        system=system,
        load=load,
        round=number,
        images_per_s=images_per_s,
        latency_ms=latency,
        measure_s=1.0,
        errors={},
        cpu_s=2.0,
        memory_mb=900.0,
        processes={},
        generator={},
    )


def test_ratios_are_taken_round_by_round():
    """Both systems slow down together in the second round; their ratio does not."""
    assert ratio([60.0, 30.0, 66.0], [20.0, 10.0, 20.0]) == Range(median=3.0, low=3.0, high=3.3)
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        Range.of([])


@pytest.fixture
def found() -> list[Measurement]:
    """Two rounds in which all promises about throughput are kept but that of LitServe."""
    rounds = []
    for i, speed in enumerate((1.0, 0.5)):
        rounds += [
            served("clipsr", "1 caller", 40 * speed, number=i, p50_ms=25 / speed),
            served("clipsr", "16 callers", 50 * speed, number=i),
            served("clipsr, native route", "1 caller", 40 * speed, number=i, p50_ms=22 / speed),
            served("infinity", "16 callers", 12 * speed, number=i),
            served("FastAPI + open_clip", "16 callers", 18 * speed, number=i),
            served("LitServe", "16 callers", 40 * speed, number=i),
            bare_measurement("bare openvino bf16", 8, {"images_per_s": 50 * speed, "cpu_ms": 38 / speed}, i),
            bare_measurement("bare openvino int8", 8, {"images_per_s": 60 * speed, "cpu_ms": 32 / speed}, i),
        ]
    return rounds


@pytest.fixture
def parts(found) -> dict[str, dict]:
    """A record with every part."""
    about = {
        "command": "make bench",
        "model": "ViT-B-32",
        "profile": "cpu",
        "setting": {"images": "made-up", "n_rounds": 2, "measure_s": 1.0},
        "environment": {"processor": "x", "cores": 2, "load_average_before": 0.0},
    }
    stages = {"decode": 1.0, "upscale": 4.0, "image_encoder": 16.0, "similarity": 0.1}
    ways = ("one image a call", "8 images a call")
    small = [served(f"small, {w}", "32 callers", r, number=i) for i, r in enumerate((390.0, 410.0)) for w in ways]
    offered = [served(f"clipsr, {w}", f"{r} images/s", r) for w in ("a", "b") for r in (10.0, 20.0)]
    sections = {
        "start": {"first_answer_s": [12.0]},
        "compare": {"measurements": [asdict(m) for m in found], "bare": "bare openvino bf16"},
        "latency": {
            "p50_ms": {"clipsr": [25.0, 50.0, 25.2], "clipsr, native route": [22.0, 22.0, 22.0]},
            "bare_stages_ms": [stages] * 3,
        },
        "sweep": {"measurements": [asdict(m) for m in found if m.round == 0 and m.latency_ms]},
        "stages": {"stages": {"1": between({}, parse_triton(json.dumps(STATS)))}},
        "labels": {
            "p50_ms": {"10": [20.0, 20.0], "1000": [20.5, 20.9]}, "n_new_labels": 1000,
            "new_labels_s": [2.0], "torch_text_s": [4.0],
        },
        "small": {"measurements": [asdict(m) for m in small]},
        "load": {"measurements": [asdict(replace(m, generator={"lag_ms": 0.2})) for m in offered]},
    }  # fmt: skip
    return {part: about | section for part, section in sections.items()}


def test_promises_are_kept_or_missed(parts):
    results = report.aims(parts)
    verdicts = {aim.name: aim.is_met for aim in results}
    assert verdicts == {
        "throughput, 16 callers: against infinity": True,
        "throughput, 16 callers: against FastAPI + open_clip": True,
        "throughput, 16 callers: against LitServe": False,
        "throughput, 16 callers: against bare openvino bf16, batch 8": None,
        "throughput, 16 callers: against bare openvino int8, batch 8": False,
        "processor time an image, 16 callers: against bare openvino int8, batch 8": True,  # 40 of 32 ms, 80 of 64
        "latency (p50), 1 caller, clipsr: over the bare stages": False,  # 3.9, 28.9 and 4.1 ms
        "latency (p50), 1 caller, clipsr, native route: over the bare encoder": False,
        "latency (p50), 1 caller, 1,000 cached labels: over 10": True,
        "1,000 new labels usable: time against PyTorch's for embedding them": True,
        "small model, images a second: one image a call, 32 callers": True,
        "small model, images a second: 8 images a call, 32 callers": False,
        "start to first answer, warm caches": False,
        "memory of all processes (PSS), 16 callers": True,
    }
    table = tables.aim_table(results, {part: f"make {part}" for part in parts})
    assert "| 1.25× (1.25× – 1.25×) | ≥ 2× | **missed** | `make compare` |" in table
    assert "| 12 s (12 s – 12 s) | ≤ 6 s | **missed** | `make start` |" in table


def test_a_promise_is_of_what_was_measured(parts):
    only = {"compare": parts["compare"] | {"bare": ""}}
    results = report.aims(only)
    assert {aim.name for aim in results if aim.limit is None} == {
        "throughput, 16 callers: against bare openvino bf16, batch 8"
    }
    assert not any("labels" in aim.name or "latency" in aim.name for aim in results)


def test_any_parts_make_a_page_with_plots(parts, tmp_path):
    for names in ([], *([name] for name in parts), list(parts)):
        some = {name: parts[name] for name in names}
        drawn = draw(some, tmp_path, "serving")
        text = tables.render(some, {part: plot.name for part, plot in drawn.items()})
        assert text.endswith("\n")
        assert all(plot.stat().st_size > 1000 for plot in drawn.values())
        assert text.count("](serving-") == len(drawn) == len({"sweep", "stages", "load"} & set(names))
    assert "| 10.0 images/s | 10.0 | 10.0 | 10.0 | 20.0 | 30.0 | 0 | 0 | 0.2 |" in text
    assert "1,000 new labels, seconds until the first answer: 2.0 (2.0 – 2.0); PyTorch embeds as many in 4.0" in text
    assert tables.headline({}) == "Not measured yet.\n"
    assert "38 images/s. That is 4.17× infinity, 2.78× FastAPI + open_clip" in tables.headline(some)
    some["compare"]["incomplete"] = "1 of 2 rounds"
    assert "`compare` is incomplete: 1 of 2 rounds." in tables.render(some, {})


def test_the_table_has_a_row_for_each_system_and_load(found):
    rows = tables.comparison_table(found).splitlines()[2:]
    assert len(rows) == 8
    assert rows[0].startswith("| clipsr | 1 caller | 30.0 (20.0 – 40.0) | 37.5 (25.0 – 50.0) |")
    assert rows[-1].startswith("| bare openvino int8 | batch 8 | 45.0 (30.0 – 60.0) | – | – | – | 48.0 |")


class TestRecord:
    ABOUT = {"model": "ViT-B-32", "cores": 2}  # noqa: RUF012 - never changed

    def test_parts_measured_apart_stand_beside_each_other(self, tmp_path):
        file = tmp_path / "results" / "serving.json"
        Record(file, self.ABOUT).put("small", {"measurements": [1]})
        Record(file, self.ABOUT).put("start", {"first_answer_s": [2.0]})
        Record(file, self.ABOUT).put("small", {"measurements": [3]})
        assert Record(file, self.ABOUT).parts == {"small": {"measurements": [3]}, "start": {"first_answer_s": [2.0]}}
        assert [path.name for path in file.parent.iterdir()] == ["serving.json"]

    def test_figures_of_something_else_stay_apart(self, tmp_path):
        file = tmp_path / "serving.json"
        Record(file, self.ABOUT).put("small", {})
        with pytest.raises(RecordError, match=r"for the cores 2, not 4; name another folder by --output"):
            Record(file, self.ABOUT | {"cores": 4})
        file.write_text("[]")
        with pytest.raises(RecordError, match="no record of this benchmark"):
            Record(file, self.ABOUT)


class TestParts:
    def bench(self, kept, folders, **changes) -> Bench:
        fields = {
            "folders": folders, "setting": Setting(images="made-up", n_rounds=2, callers=(1, 4)), "profile": "cpu",
            "baselines": {}, "engines": (), "small": folders, "keep": lambda part, found: kept.update({part: found}),
        }  # fmt: skip
        return Bench(**(fields | changes))

    @pytest.fixture
    def folders(self, tmp_path) -> Folders:
        (tmp_path / "manifest.json").write_text('{"name": "clipsr-small"}')
        return Folders(weights=tmp_path, repository=tmp_path, environments=tmp_path, serve_bin=tmp_path, logs=tmp_path)

    @pytest.fixture
    def asked(self, monkeypatch) -> list[tuple]:
        """Everything but the arithmetic is a stand-in."""
        asked = []

        class Bare(StandIn):
            def __init__(self, folders, engine) -> None:
                super().__init__([])

        @contextmanager
        def serve(folders, *, profile, name, max_concurrent):
            target = Target(kind="grpc", url="x", labels=("a", "b", "c"))
            yield Server(name=name, target=target, pids=(), can_pause=False, start_s=10.0)

        def run_load(plan, *, processes, watch):
            asked.append((plan.target.kind, plan.target.images_per_call, plan.loop, plan.connections))
            due_s = [0.01 * i for i in range(100)]
            samples = [Sample(d, d, d + 0.02, "OK") for d in due_s]
            summary = summarize(samples, begin_s=0.0, measure_s=1.0, images_per_call=plan.target.images_per_call)
            return LoadResult(summary=summary, samples=samples, begin_s=0.0, usage={}, generator_cpu_s=0.1)

        monkeypatch.setattr(systems, "clipsr", serve)
        monkeypatch.setattr(bench_parts, "BareSystem", Bare)
        monkeypatch.setattr(measure, "run_load", run_load)
        monkeypatch.setattr(measure, "read_stages", lambda pages: {})
        monkeypatch.setattr(measure, "first_answer_s", lambda server, setting: len(server.target.labels) / 10)
        monkeypatch.setattr(bench_parts, "first_answer_s", lambda server, setting: len(server.target.labels) / 10)
        return asked

    def test_every_part_alone_and_all_together(self, folders, asked):
        for wanted in (*([part] for part in PARTS), list(PARTS)):
            kept = {}
            bench = self.bench(kept, folders, engines=("stand-in",))
            bench.run(wanted)
            assert bench.failures == []
            assert sorted(kept) == sorted(wanted)
            about = {
                "command": "make bench", "model": "m", "profile": "cpu", "setting": asdict(Setting(images="made-up")),
                "environment": {"processor": "x", "cores": 2, "load_average_before": 0.0},
            }  # fmt: skip
            assert json.loads(json.dumps(kept, default=str)).keys() == kept.keys()
            assert tables.render({part: about | section for part, section in kept.items()}, {})

    def test_the_small_model_is_asked_in_every_way(self, folders, asked):
        kept = {}
        self.bench(kept, folders).run(["small"])
        once = [("grpc", 1, 8, 0), ("grpc", 8, 2, 0), ("grpc-stream", 1, 16, 1)]
        turned = [*once[1:], once[0]]
        assert [(kind, n, loop.callers, streams) for kind, n, loop, streams in asked] == [*once, *turned]
        assert kept["small"]["small_model"] == "clipsr-small"

    def test_rates_are_offered_in_calls(self, folders, asked):
        self.bench({}, folders).run(["load"])
        rates = {(kind, n): [loop.rate for _, m, loop, _ in asked if m == n and hasattr(loop, "rate")]
                 for kind, n, _, _ in asked}  # fmt: skip
        assert rates["grpc", 8][0] == pytest.approx(rates["grpc-stream", 1][0])  # 8 times the images, of 8 a call

    def test_a_start_ends_with_a_callers_answer(self, folders, asked):
        kept = {}
        self.bench(kept, folders).run(["start"])
        assert kept["start"] == {"first_answer_s": [pytest.approx(10.2)] * 2, "cold_s": pytest.approx(10.2)}

    def test_a_failure_takes_no_other_part_with_it(self, folders, asked, monkeypatch):
        def fail(*_: object) -> None:
            raise RuntimeError("no pages")

        @contextmanager
        def broken(folders):
            raise StartError("not installed")
            yield

        kept = {}
        monkeypatch.setattr(bench_parts, "stage_times", fail)
        bench = self.bench(kept, folders, baselines={"openclip": broken})
        bench.run(["compare", "stages", "small"])
        assert bench.failures == ["openclip: not installed", "stages: no pages"]
        assert sorted(kept) == ["compare", "small"]

    def test_rounds_that_were_finished_stay(self, folders, asked, monkeypatch):
        whole = measure.run_load

        def run_load(*args, **kwargs):
            if len(asked) >= 5:
                raise RuntimeError("gone")
            return whole(*args, **kwargs)

        kept = {}
        monkeypatch.setattr(measure, "run_load", run_load)
        bench = self.bench(kept, folders)
        bench.run(["compare"])
        assert bench.failures == ["compare: gone"]
        assert kept["compare"]["incomplete"] == "1 of 2 rounds"
        assert len(kept["compare"]["measurements"]) == 4


def test_the_command_of_a_part_has_what_was_changed():
    arguments = bench._read_arguments(["--rounds", "7", "--baselines", "", "--no-bare", "--work", "/tmp/x"])
    assert bench.make_command(arguments, "small") == (
        """make bench ARGS="--parts small --baselines '' --rounds 7 --no-bare\""""
    )
    assert bench.make_command(bench._read_arguments([]), "start") == 'make bench ARGS="--parts start"'
    gpu = bench._read_arguments(["--device", "cuda", "--model", "ViT-L-14"])
    assert bench.make_command(gpu, "load") == 'make bench-gpu ARGS="--parts load --model ViT-L-14"'


def test_an_export_is_current_until_a_source_changes(tmp_path):
    (tmp_path / "a.py").write_text("1")
    first = hash_files([tmp_path / "a.py"], root=tmp_path)
    (tmp_path / "a.py").write_text("1")
    assert hash_files([tmp_path / "a.py"], root=tmp_path) == first
    (tmp_path / "a.py").write_text("2")
    assert hash_files([tmp_path / "a.py"], root=tmp_path) != first


def test_stage_times_are_differences():
    before = parse_triton(json.dumps(STATS))
    later = json.loads(json.dumps(STATS))
    later["model_stats"][0]["inference_stats"]["queue"] = {"count": 34, "ns": 58_000_000}
    later["model_stats"][0] |= {"inference_count": 34, "execution_count": 6}
    found = between(before, parse_triton(json.dumps(later)))
    assert found == {
        "image_encoder: queue": {"count": 10, "mean": 1.0},
        "image_encoder: batch size": {"count": 2, "mean": 5.0},
    }
    assert "| image_encoder: batch size | 5.00 images |" in tables.stage_table(found)


def test_the_gateways_times_are_read():
    page = (
        'clipsr_gateway_stage_seconds_bucket{le="0.1",stage="queue"} 4.0\n'
        'clipsr_gateway_stage_seconds_count{stage="queue"} 4.0\n'
        'clipsr_gateway_stage_seconds_sum{stage="queue"} 0.5\n'
    )
    assert parse_gateway(page) == {"gateway stage: queue": (4.0, 500.0)}


def test_the_steps_of_one_process_are_told_apart():
    page = """\
nv_inference_exec_count{model="classify",version="1"} 9
nv_inference_exec_count{model="image_path",version="1"} 4
clipsr_image_path_seconds_total{step="decode"} 0.5
clipsr_image_path_seconds_total{step="upscale"} 2
"""
    assert parse_image_path(page) == {
        "image_path: decode, an execution": (4.0, 500.0),
        "image_path: upscale, an execution": (4.0, 2000.0),
    }
    assert parse_image_path("") == {}


def test_labels_differ_and_those_of_a_series_are_its_own():
    labels = make_labels(10_000)
    assert len(set(labels)) == 10_000
    assert labels[:10] == make_labels(10)
    assert not set(make_labels(1_000, series="x")) & set(labels)


class StandIn(BareSystem):
    """A bare engine that notes when it was asked."""

    def __init__(self, turns: list[str]) -> None:
        self.name, self.turns = "bare stand-in", turns

    def ask(self, **order: object) -> dict[str, float]:
        self.turns.append("stages" if "stages" in order else self.name)
        stages = dict.fromkeys(("decode", "upscale", "image_encoder", "similarity"), 1.0)
        return stages if "stages" in order else {"images_per_s": 1.0, "cpu_ms": 1.0, "seconds": 1.0}

    def close(self) -> None:
        """There is no process."""


@pytest.fixture
def turns(monkeypatch) -> list[str]:
    """Which server works and which rests, in order; none is asked anything."""
    turns: list[str] = []

    @contextmanager
    def working(self):
        turns.append(f"{self.name} begins")
        yield
        turns.append(f"{self.name} rests")

    monkeypatch.setattr(Server, "working", working)
    monkeypatch.setattr(
        measure, "closed", lambda server, callers, setting, i: served(server.name, f"{callers} callers", 1.0, p50_ms=i)
    )
    return turns


def test_systems_take_turns_and_only_one_works(turns):
    server = Server(name="a", target=Target(kind="grpc", url="x"), pids=(), can_pause=False, start_s=0.0)
    setting = Setting(images="made-up", n_rounds=3, batches=(1,))
    rounds = list(compare([server, replace(server, name="b")], [StandIn(turns)], setting))
    a, b, bare = ["a begins", "a rests"], ["b begins", "b rests"], ["bare stand-in"]
    assert turns == [*a, *b, *bare, *b, *bare, *a, *bare, *a, *b]
    assert [len(found) for found in rounds] == [5] * 3


def test_one_caller_and_the_bare_stages_take_short_turns(turns):
    server = Server(name="a", target=Target(kind="grpc", url="x"), pids=(), can_pause=False, start_s=0.0)
    setting = Setting(images="made-up", n_turns=3)
    found = measure.latency_alone([server, replace(server, name="b")], StandIn(turns), setting)
    assert turns == ["stages", "a begins", "a rests", "b begins", "b rests"] * 3
    assert found["p50_ms"] == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert [sum(stages.values()) for stages in found["bare_stages_ms"]] == [4.0] * 3


def test_a_paused_server_uses_no_processor_time():
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    server = Server(name="busy", target=Target(kind="grpc", url="x"), pids=(process.pid,), can_pause=True, start_s=0.0)
    try:
        with server.working():
            pass
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        now_s = time.monotonic()
        usages = measure_usage([process.pid], begin_s=now_s, end_s=now_s + 0.2)
        assert [usage.cpu_s for usage in usages.values()] == [0.0]
    finally:
        process.kill()  # also ends what is stopped
        process.wait()


def test_a_baseline_that_is_not_installed_says_how(tmp_path):
    folders = Folders(weights=tmp_path, repository=tmp_path, environments=tmp_path, serve_bin=tmp_path, logs=tmp_path)
    with pytest.raises(StartError, match=r"install\.sh openclip"), openclip(folders):
        pass


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    assert bench.main(["--device", "cuda", "--quick", "--logs", str(tmp_path)]) == 1
    assert "no NVIDIA GPU" in capsys.readouterr().err


def test_an_unknown_profile_is_refused_before_anything_starts(capsys, tmp_path):
    assert bench.main(["--profile", "nope", "--quick", "--logs", str(tmp_path)]) == 1
    assert "there is no profile 'nope'" in capsys.readouterr().err


def test_the_record_becomes_a_page(parts, monkeypatch, tmp_path, capsys):
    """Everything around the measuring: what is there already, what is found, tables, plots, exit status."""
    page = tmp_path / "README.md"
    page.write_text("# Page\n<!-- bench:begin -->\n<!-- bench:end -->\n")
    output = tmp_path / "results"
    monkeypatch.setattr(bench, "prepare", lambda folders, baselines: None)
    monkeypatch.setattr(bench, "describe", lambda serve_bin, baselines: parts["small"]["environment"])
    monkeypatch.setattr(bench, "float_engine", lambda: "openvino fp32")
    monkeypatch.setattr(bench, "read_configuration", lambda repository, profile: "cpu-int8")

    def run(self, wanted):
        for part in wanted:
            self._keep(part, {key: parts[part][key] for key in parts[part].keys() - parts[part]["environment"].keys()})
        self.failures.append("infinity: not installed")

    monkeypatch.setattr(Bench, "run", run)
    folders = ["--work", str(tmp_path / "work"), "--output", str(output), "--page", str(page)]
    assert bench.main([*folders, "--parts", "small,start"]) == 1
    assert "bench: failed: infinity: not installed" in capsys.readouterr().err
    monkeypatch.setattr(Bench, "run", lambda self, wanted: None)
    assert bench.main([*folders, "--parts", ""]) == 0
    assert "start to first answer, warm caches" in page.read_text()
    assert [path.name for path in output.iterdir()] == ["serving.json"]
    assert bench.main([*folders, "--parts", "", "--model", "ViT-L-14"]) == 1
    assert "holds figures for the model 'ViT-B-32', not 'ViT-L-14'" in capsys.readouterr().err
    page.write_text("# Page without marks\n")
    assert bench.main([*folders, "--parts", "small"]) == 1
    assert "needs the marks" in capsys.readouterr().err


def test_a_folder_of_images_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--quick", "--images", "/nowhere/at/all"])
    assert "there are no images at /nowhere/at/all" in capsys.readouterr().err
