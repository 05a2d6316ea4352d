"""The cost model: its arithmetic, and what it reads from a measurement. No timing is asserted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from benchmarks.load import Target
from benchmarks.load.images import read_images
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling import measure
from benchmarks.scaling.measure import find_part, gpu_times, predict_two, to_demands
from benchmarks.scaling.model import (
    Demand,
    Instance,
    Load,
    ModelError,
    Point,
    choose_point,
    limits,
    peak_load,
    size,
)
from benchmarks.scaling.report import render
from benchmarks.serving.measure import Measurement, Setting
from benchmarks.serving.systems import Server
from hypothesis import given
from hypothesis import strategies as st

DEMANDS = (
    Demand(part="gateway", cpu_ms=2.0, most_cores=1),
    Demand(part="decode", cpu_ms=1.0, most_cores=2),
    Demand(part="image_encoder", cpu_ms=16.0),
    Demand(part="Triton", cpu_ms=1.0),
)
POINT = Point(size_px=32, n_labels=100, alone_ms=25.0, utilization=0.9, images_per_s=80.0, demands=DEMANDS)


def measured(images_per_s: float = 100.0, cpu_s: float = 8.0, **changes: object) -> Measurement:
    processes = {
        "python3 clipsr-gateway (7)": {"cpu_s": 2.0},
        "python3 clipsr-serve (1)": {"cpu_s": 0.0},
        "tritonserver (2)": {"cpu_s": 1.0},
        "decode_0_0 (3)": {"cpu_s": 0.4},
        "decode_0_1 (4)": {"cpu_s": 0.6},
        "image_encoder_0_0 (5)": {"cpu_s": 4.0},
    }
    latency = {"p50": 20.0, "p90": 30.0, "p99": 40.0, "p99.9": 50.0, "max": 60.0}
    generator = {"lag_ms": 0.1, "cpu_s": 2.0}
    return Measurement(
        **dict(
            system="clipsr", load="16 callers", round=0, images_per_s=images_per_s, latency_ms=latency, measure_s=10.0,
            errors={}, cpu_s=cpu_s, processes=processes, generator=generator,
        ) | changes
    )  # fmt: skip


class TestModel:
    def test_few_cores_are_used_up_together_and_many_leave_the_gateway_behind(self):
        few, many = limits(POINT, Instance(cores=2)), limits(POINT, Instance(cores=32))
        assert next(iter(few.items())) == ("all cores", pytest.approx(2 * 0.9 * 1000 / 20))
        assert next(iter(many.items())) == ("gateway", 500.0)
        assert many["decode"] == 2000.0

    def test_a_program_uses_no_more_cores_than_there_are(self):
        assert limits(POINT, Instance(cores=1))["decode"] == 1000.0

    def test_pods_and_money(self):
        sizing = size(POINT, Instance(cores=2, hour=0.1), Load(peak=500, use=0.7, spare=1))
        assert sizing.capacity == pytest.approx(90)
        assert sizing.instances == math.ceil(500 / 63) + 1 == 9
        assert sizing.hour == pytest.approx(0.9)
        assert sizing.million == pytest.approx(0.9 / (3600 * 500) * 1e6)
        assert size(POINT, Instance(cores=2), Load(peak=1)).hour is None

    @given(st.floats(0.1, 1e5), st.integers(1, 128))
    def test_more_load_never_takes_fewer_pods_and_more_cores_never_more(self, peak, cores):
        def pods(peak: float, cores: int) -> int:
            return size(POINT, Instance(cores=cores), Load(peak=peak)).instances

        assert pods(2 * peak, cores) >= pods(peak, cores)
        assert pods(peak, cores + 1) <= pods(peak, cores)

    def test_a_gpu_is_a_resource_of_its_own(self):
        encoder = Demand(part="image_encoder", cpu_ms=0.5, gpu_ms=4.0)
        point = replace(POINT, demands=(*DEMANDS[:2], encoder))
        assert limits(point, Instance(cores=32, gpus=1))["GPU"] == 250.0
        assert next(iter(limits(point, Instance(cores=32, gpus=4)))) == "gateway"
        with pytest.raises(ModelError, match="give --gpus"):
            limits(point, Instance(cores=32))

    def test_the_next_larger_kind_answers(self):
        points = [replace(POINT, size_px=s, n_labels=n) for s, n in ((32, 10), (32, 1000), (64, 100), (512, 100))]
        assert choose_point(points, size_px=20, n_labels=10) == points[0]
        assert choose_point(points, size_px=32, n_labels=11) == points[1]
        assert choose_point(points, size_px=33, n_labels=100) == points[2]
        with pytest.raises(ModelError, match=r"nothing as large as 64 px with 1,000 labels .* --points SIZE:LABELS"):
            choose_point(points, size_px=64, n_labels=1000)

    @pytest.mark.parametrize("load", [Load(peak=0), Load(peak=1, use=1.2), Load(peak=1, spare=-1)])
    def test_nonsense_is_refused(self, load):
        with pytest.raises(ModelError, match="must be above 0"):
            size(POINT, Instance(cores=2), load)

    def test_callers_who_wait_ask_no_faster_than_alone(self):
        assert peak_load(16, POINT) == 640.0


class TestMeasurement:
    def test_processes_become_parts(self):
        demands = {demand.part: demand for demand in to_demands(measured(), {"image_encoder": 3.0})}
        assert demands["gateway"] == Demand(part="gateway", cpu_ms=2.0, most_cores=1)
        assert demands["decode"] == Demand(part="decode", cpu_ms=1.0, most_cores=2)
        assert demands["image_encoder"] == Demand(part="image_encoder", cpu_ms=4.0, gpu_ms=3.0)
        assert demands["Triton"].most_cores is None
        assert find_part("decode_native_0_1 (12)") == "decode_native"

    def test_times_on_the_gpu_are_divided_by_the_images_of_a_batch(self):
        stages = {
            "image_encoder: batch size": {"count": 2, "mean": 16.0},
            "image_encoder: compute_infer": {"count": 32, "mean": 8.0},
            "image_encoder: compute_input": {"count": 32, "mean": 0.5},
            "decode: compute_infer": {"count": 32, "mean": 3.0},
        }
        assert gpu_times(stages) == {"image_encoder": pytest.approx(8.5 / 16)}

    def test_two_instances_are_predicted_from_one(self):
        """One fills its core at 100 images/s of 10 ms; two share two cores with callers of 2.5 ms an image."""
        one = measured(cpu_s=10.0, generator={"lag_ms": 0.1, "cpu_s": 2.5})
        assert predict_two(one) == pytest.approx(2000 / 12.5)

    def test_both_are_asked_in_turn_and_held_against_the_prediction(self, monkeypatch):
        calls = {"a": 0.0, "b": 0.0}

        def closed(server, callers, setting, number=0):
            urls = server.target.url.removeprefix("ipv4:").split(",")
            for url in urls:
                calls[url] += 100
            return measured(images_per_s=100.0 * len(urls), cpu_s=10.0 * len(urls))

        monkeypatch.setattr(measure, "closed", closed)
        monkeypatch.setattr(measure, "make_known", lambda server, setting: 0.0)
        monkeypatch.setattr(
            measure, "read_stages", lambda pages: {"gateway call: Classify": (calls[pages["gateway"]], 0.0)}
        )
        a, b = (
            Server(
                name=n, target=Target(kind="grpc", url=n), pids=(1,), can_pause=False, start_s=0, pages={"gateway": n}
            )
            for n in "ab"
        )
        check = measure._measure_both(a, b, Setting(images="made-up", n_rounds=2, warm_up_s=0.0))
        assert check["measured"]["median"] == 200.0
        assert check["predicted"]["median"] == pytest.approx(2000 / 12)
        assert check["smaller_share_of_calls"]["low"] == 0.5

    def test_images_of_a_size_are_made_up(self):
        from PIL import Image

        (content,) = read_images("made-up:96", 1)
        import io

        assert Image.open(io.BytesIO(content)).size == (96, 96)


@pytest.fixture
def record(tmp_path):
    """A record as --measure writes it; its figures are made up."""
    span = {"median": 1.0, "low": 0.9, "high": 1.1}
    names = ("predicted", "measured", "measured_over_predicted", "smaller_share_of_calls")
    document = {
        "command": "made up",
        "model": "ViT-B-32",
        "profile": "cpu",
        "environment": {"processor": "x", "cores": 2, "load_average_before": 0.0},
        "points": [asdict(POINT)],
        "two_instances": dict.fromkeys(names, span),
    }
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


class TestCommand:
    def test_a_question_is_answered(self, record, capsys):
        asked = ["--record", str(record), "--peak", "500", "--cores", "2", "--price-hour", "0.1"]
        assert scaling.main(asked) == 0
        answer = capsys.readouterr().out
        assert "one pod: 90.0 images/s; used up first: all cores" in answer
        assert "500.0 images/s at 70% full, 1 spare: 9 pods" in answer
        assert "price: 0.90 an hour, 0.50 a million images" in answer
        assert scaling.main(["--record", str(record), "--callers", "4", "--cores", "2"]) == 0
        assert "4 callers that wait ask at most 160.0 images/s" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "sentence"),
        [
            (["--peak", "5", "--labels", "1000"], "nothing as large as 32 px with 1,000 labels"),
            ([], "give either --peak or --callers"),
            (["--peak", "5", "--callers", "5"], "give either --peak or --callers"),
        ],
    )
    def test_what_cannot_be_answered_is_said(self, record, capsys, flags, sentence):
        assert scaling.main(["--record", str(record), *flags]) == 1
        assert sentence in capsys.readouterr().err

    def test_nothing_measured_is_said(self, tmp_path, capsys):
        assert scaling.main(["--record", str(tmp_path / "none.json"), "--peak", "5"]) == 1
        assert "nothing was measured yet" in capsys.readouterr().err

    def test_the_page_gets_its_tables(self, record):
        text = render(json.loads(record.read_text(encoding="utf-8")))
        assert "| 32 px | 100 | 2.00 | 1.00 | 16.00 | 1.00 | 20.0 | 80.0 | 25.0 |" in text
        assert "| 32 px | 100 | 90, all cores | 180, all cores | 360, all cores | 500, gateway | 500, gateway |" in text
        assert "| calls that the less busy instance got | 100.0% (90.0% – 110.0%) |" in text
