"""The model `restore` as Triton calls it, against a stand-in for Triton's API."""

from __future__ import annotations

import json

import numpy as np
import pytest

SAMPLER = {
    **{"noise_level": 0.2, "multiple_px": 8, "tile_px": 64, "overlap_px": 16},
    "plans": [
        [{"time": 100.0, "state": 0.0, "clean": 1.0, "previous": 0.0, "lq": 0.0}],
        [
            {"time": 100.0, "state": 0.5, "clean": 0.5, "previous": 0.0, "lq": 0.0},
            {"time": 50.0, "state": 0.0, "clean": 1.0, "previous": 0.0, "lq": 0.0},
        ],
    ],
}


class Request(dict):
    """Inputs by name, and whether the caller has given up."""

    cancelled = False

    def is_cancelled(self) -> bool:
        return self.cancelled


def make_request(size_hw=(20, 30), steps=1, seed=3) -> Request:
    lq = np.random.default_rng(0).integers(0, 256, (1, 3, *size_hw), dtype=np.uint8)
    context = np.eye(11, dtype=np.float32)[2:3]
    numbers = {"steps": np.array([[steps]], np.int32), "seed": np.array([[seed]], np.uint64)}
    return Request(lq=lq, content=context, degradation=2 * context, **numbers)


@pytest.fixture
def model(triton, tmp_path):
    from clipsr_serving.models.restore import RestoreModel

    folder = tmp_path / "restore" / "1"
    folder.mkdir(parents=True)
    (folder / "sampler.json").write_text(json.dumps(SAMPLER))
    model = RestoreModel()
    model.initialize({"model_repository": str(folder.parent), "model_version": "1"})
    return model


def test_a_picture_goes_through_denoise_in_every_step(model, triton):
    calls = []

    def denoise(**inputs):
        calls.append(inputs)
        return 1 - inputs["lq"]

    triton.denoise = denoise
    request = make_request(steps=2)
    (response,) = model.execute([request])
    restored = response.outputs["restored"]
    assert restored.dtype == np.uint8
    assert np.array_equal(restored, 255 - request["lq"])
    assert [call["time"].item() for call in calls] == [100, 50]
    for call in calls:
        assert call["state"].shape == call["lq"].shape == (1, 3, 24, 32)
        assert all(array.dtype == np.float32 for array in call.values())
        assert np.array_equal(call["content"], request["content"])
        assert np.array_equal(call["degradation"], request["degradation"])


def test_large_pictures_go_in_tiles(model, triton):
    shapes = []
    triton.denoise = lambda lq, **_: shapes.append(lq.shape[2:]) or lq
    request = make_request((100, 64))
    (response,) = model.execute([request])
    assert shapes == [(64, 64), (64, 64)]
    assert np.array_equal(response.outputs["restored"], request["lq"])


def test_a_request_that_was_given_up_stops(model, triton):
    request, done = make_request((200, 64), steps=2), []

    def denoise(lq, **_):
        done.append(lq)
        request.cancelled = len(done) == 2
        return lq

    triton.denoise = denoise
    responses = model.execute([request, make_request()])
    assert responses[0].failure.code == "CANCELLED"
    assert not responses[1].has_error()
    assert len(done) == 3  # two of eight, and that of the other request


@pytest.mark.parametrize("steps", [-1, 0, 3])
def test_steps_that_were_not_planned_are_refused(model, steps):
    (response,) = model.execute([make_request(steps=steps)])
    assert response.failure.code == "INVALID_ARG"
    assert str(response.failure) == f"clipsr:STEPS_OUT_OF_RANGE: A restoration takes 1 to 2 steps, not {steps}."


def test_a_network_that_fails_is_unavailable(model, triton):
    def denoise(**_):
        raise RuntimeError("out of memory")

    triton.denoise = denoise
    (response,) = model.execute([make_request()])
    assert response.failure.code == "UNAVAILABLE"
    assert "denoise failed: out of memory" in str(response.failure)
