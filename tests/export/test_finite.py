"""Models in memory that are not numbers are not exported, though their graphs do what PyTorch does."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from clipsr_export import ExportError, ExportPlan, UpscalerPlan, export_repository, export_upscaler
from clipsr_export._graphs import int8
from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.modules import UpscaleGraph
from tests.export.tiny import SIZE_PX


@pytest.fixture
def nan_upscaler(upscaler):
    """An upscaler whose features are numbers and whose pixels are none."""
    model = copy.deepcopy(upscaler)
    *_, last = model.parameters()
    last.data.fill_(math.nan)
    return model


def test_the_check_of_pixels_sees_what_rounding_hides(repository, nan_upscaler):
    sample = {"canvas": np.zeros((1, 3, 32, 32), np.uint8), "box": np.array([[0, 0, 32, 32]], np.float32)}
    graph = UpscaleGraph(nan_upscaler, SIZE_PX)
    with torch.inference_mode():
        pixels, *_ = graph(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[0.0, 0, 32, 32]]))
    assert pixels.unique().tolist() == [0], "a level like any other"
    with pytest.raises(ExportError, match="upscale: PyTorch's own results are not finite"):
        check_graph("upscale", graph, repository / "upscale" / "1" / "model.onnx", [sample])


@pytest.fixture
def _another_graph(repository, monkeypatch):
    """PyTorch's results are looked at whatever the file holds; writing one takes seconds."""
    graph = (repository / "upscale" / "1" / "model.onnx").read_bytes()
    for module in ("_repository.export", "_upscaler"):
        monkeypatch.setattr(
            f"clipsr_export.{module}.write_onnx", lambda *arguments, **_: arguments[3].write_bytes(graph)
        )


@pytest.mark.usefixtures("_another_graph")
def test_a_repository_is_not_made_of_it(tmp_path, clip, nan_upscaler, repo_root):
    plan = ExportPlan(
        name="x",
        clip=clip,
        upscaler=nan_upscaler,
        template=repo_root / "model_repository",
        output=tmp_path / "repository",
        samples=(),
        native_min_side_px=1,
    )
    with pytest.raises(ExportError, match="not finite"):
        export_repository(plan)
    assert not (tmp_path / "repository" / "manifest.json").exists()


@pytest.mark.usefixtures("_another_graph")
def test_an_upscaler_alone_is_not_exported(tmp_path, nan_upscaler):
    with pytest.raises(ExportError, match="not finite"):
        export_upscaler(UpscalerPlan(upscaler=nan_upscaler, output=tmp_path / "upscaler.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_embeddings_that_are_no_numbers_agree_with_nothing(monkeypatch, tmp_path):
    rows = np.ones((4, 2), np.float32)
    monkeypatch.setattr(int8, "_run", lambda *_: [rows])
    monkeypatch.setattr(int8, "_run_by_openvino", lambda *_: [np.array([[1, 1], [1, 1], [1, 1], [math.nan, 1]])])
    with pytest.raises(ExportError, match="not finite"):
        int8.measure_agreement(tmp_path, tmp_path, rows)
    monkeypatch.setattr(int8, "_run_by_openvino", lambda *_: [0 * rows])
    assert int8.measure_agreement(tmp_path, tmp_path, rows).mean == 0
