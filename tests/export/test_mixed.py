"""Which layers keep floating point where all in int8 would cost too much."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from clipsr_export import ExportError
from clipsr_export._graphs import mixed
from clipsr_export._graphs.int8 import FILE_NAME, PreparedEncoder
from clipsr_export._graphs.mixed import choose_parts, divide
from clipsr_export._repository.manifest import Agreement
from tests.export.test_int8 import export, images
from tests.export.tiny import SIZE_PX

__all__ = ["images"]  # a fixture


@pytest.fixture(scope="module")
def encoder(repository, tmp_path_factory) -> PreparedEncoder:
    return PreparedEncoder(repository / "image_encoder" / "1" / "model.onnx", tmp_path_factory.mktemp("prepared"))


def test_parts_hold_every_layer_once_and_in_order(encoder):
    layers = [node.name for node in PreparedEncoder.quantizable(onnx.load(encoder.path).graph)]
    for count in (1, 2, 3, len(layers), 10 * len(layers)):
        parts = divide(encoder.path, count=count)
        assert [name for part in parts for name in part.names] == layers
        assert 1 <= len(parts) <= min(count, len(layers))


@pytest.fixture
def costs(encoder, monkeypatch) -> dict[str, float]:
    """What the int8 of each layer costs in cosine, in place of a measurement."""
    parts = divide(encoder.path, count=3)
    monkeypatch.setattr(mixed, "divide", lambda *_, **__: parts)
    found = {name: 0.0 for part in parts for name in part.names}
    kept = []
    monkeypatch.setattr(encoder, "quantize", lambda target, pixels, keep: kept.append(keep))

    def measure(*_: object) -> Agreement:
        value = 1 - sum(cost for name, cost in found.items() if name not in kept[-1])
        return Agreement(n_images=1, mean=value, p1=value, least=value)

    monkeypatch.setattr(mixed, "measure_agreement", measure)
    return found


PIXELS = np.zeros((1, 3, SIZE_PX, SIZE_PX), np.uint8)


def test_what_costs_most_for_its_work_keeps_floating_point(encoder, costs):
    *others, dear = mixed.divide(encoder.path, count=3)
    costs[dear.names[0]], costs[others[0].names[0]] = 0.02, 0.0001
    lines = []
    chosen = choose_parts(encoder, PIXELS, mean_cosine=0.999, report=lines.append)
    assert chosen.keep == frozenset(dear.names)
    assert chosen.int8_share == pytest.approx(1 - dear.macs / sum(part.macs for part in (*others, dear)))
    assert chosen.mean_cosine == pytest.approx(0.9999)
    assert [line.partition(":")[0] for line in lines] == [
        "100 % of the work in int8",
        f"{100 * chosen.int8_share:.0f} % of the work in int8",
    ]


def test_nothing_keeps_it_where_all_in_int8_is_near_enough(encoder, costs):
    costs[next(iter(costs))] = 0.0001
    chosen = choose_parts(encoder, PIXELS, mean_cosine=0.999, report=lambda _: None)
    assert (chosen.keep, chosen.int8_share) == (frozenset(), 1.0)


def test_what_no_mixture_reaches_is_said(encoder, costs):
    costs.update(dict.fromkeys(costs, 0.05))
    with pytest.raises(ExportError, match=r"the mean cosine with fp32 is still 0\.\d+, and 0\.999 is asked for"):
        choose_parts(encoder, PIXELS, mean_cosine=0.999, report=lambda _: None)


def test_the_graph_and_the_manifest_have_what_was_chosen(repository, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mixed, "_N_PARTS", 2)
    parts = divide(PreparedEncoder(repository / "image_encoder" / "1" / "model.onnx", tmp_path).path, count=2)
    means = iter([0.9, 0.99, 0.901, 0.995])  # all in int8; the first kept, the second kept; the first again
    true = mixed.measure_agreement

    def measure(*arguments):
        found = true(*arguments)
        return found.model_copy(update={"mean": next(means)})

    monkeypatch.setattr(mixed, "measure_agreement", measure)
    copied = Path(shutil.copytree(repository, tmp_path / "repository"))
    assert export(copied, images, "--mean-cosine", "0.994", "--force") == 0
    said = capsys.readouterr().out
    assert "mean cosine with fp32 0.99500" in said
    assert "times as long as with --profile cpu-bf16 on this machine" in said
    share = json.loads((copied / "manifest.json").read_text())["int8"]["image_encoder"]["int8_share"]
    assert 0 < share < 1
    graph = onnx.load(copied / "image_encoder" / "1" / FILE_NAME).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    floating = {node.name for node in products if node.input[1] in constants}
    assert set(parts[0].names) <= floating
    assert not set(parts[1].names) & floating
