"""The model that does all that is done to an image, against the models that it stands for."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from PIL import Image
from tests.serving.models.test_models import png, reason_of, rows
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_serving.backends import open_model
from clipsr_serving.launcher._triton.image_path import build_repository

SCORES = ("cosine", "probability", "label_is_cut", "none_probability")
WAIT_S = 60


class Sender:
    """A response sender."""

    def __init__(self) -> None:
        self.sent, self.response = threading.Event(), None

    def send(self, response, flags) -> None:
        assert flags == "final"
        self.response = response
        self.sent.set()


class Request(dict):
    """Input arrays by name, and the names of the outputs that it asks for."""

    def __init__(self, wanted, **inputs) -> None:
        super().__init__(inputs)
        self._wanted, self.sender, self.is_given_up = wanted, Sender(), False

    def inputs(self):
        return [Tensor(name, array) for name, array in self.items()]

    def requested_output_names(self):
        return list(self._wanted)

    def get_response_sender(self):
        return self.sender

    def is_cancelled(self):
        return self.is_given_up


class Tensor:
    """A named array."""

    def __init__(self, name, array) -> None:
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


def labelled(*labels, count=1):
    return {"labels": rows(*[labels] * count), "templates": rows(*[(b"@simple",)] * count)}


def images(*contents, name="image", fit=b""):
    return {name: rows(*[(content,) for content in contents]), "fit": rows(*[(fit,)] * len(contents))}


def noisy_png(width, height):
    """A picture that neighbouring pixels tell apart, in a file that grows with it."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def model(triton, repository, make_args, tmp_path):
    """The model, as the launcher configures it."""
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = "final"
    from clipsr_serving.models.image_path import ImagePathModel

    text = (build_repository(repository, tmp_path / "models", config_name=None) / "image_path/config.pbtxt").read_text()
    config = json_format.MessageToDict(text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True)
    loaded = ImagePathModel()
    loaded.initialize(make_args("image_path", config=config))
    return loaded


@pytest.fixture
def step_by_step(triton, repository, make_args):
    """Classifies as the separate models do."""
    from clipsr_serving.models.decode import DecodeModel, DecodeNativeModel
    from clipsr_serving.models.similarity import SimilarityModel

    def load(model_class, name):
        text = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
        config = json_format.MessageToDict(text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True)
        loaded = model_class()
        loaded.initialize(make_args(name, config=config))
        return loaded

    def run(contents, labels, *, is_native=False):
        decode = load(DecodeNativeModel, "decode_native") if is_native else load(DecodeModel, "decode")
        (decoded,) = decode.execute([images(*contents)])
        pixels = (
            decoded.outputs
            if is_native
            else {"pixels": open_model(repository, "upscale").session.run(decoded.outputs)["pixels"]}
        )
        embedding = open_model(repository, "image_encoder").session.run(pixels)["image_embedding"]
        similarity = load(SimilarityModel, "similarity")
        (scored,) = similarity.execute([{"image_embedding": embedding, **labelled(*labels, count=len(contents))}])
        return decoded.outputs | pixels | {"image_embedding": embedding} | scored.outputs

    return run


@pytest.mark.parametrize("is_native", [False, True])
def test_answers_are_those_of_the_separate_models(model, step_by_step, is_native):
    contents = (noisy_png(40, 24), noisy_png(9, 9), png(64, 64))
    expected = step_by_step(contents, (b"cat", b"dog"), is_native=is_native)
    name = "native_image" if is_native else "image"
    wanted = (*SCORES, "image_embedding", "pixels")
    (response,) = model.execute(
        [Request(wanted, **images(*contents, name=name), **labelled(b"cat", b"dog", count=len(contents)))]
    )
    assert response.outputs.keys() == set(wanted)
    for output in wanted:
        np.testing.assert_allclose(response.outputs[output], expected[output], atol=1e-6, err_msg=output)


def test_each_part_is_there_by_itself(model, step_by_step):
    expected = step_by_step((noisy_png(40, 24),), (b"cat", b"dog"))
    for wanted, inputs in (
        (("canvas", "box"), images(noisy_png(40, 24))),
        (("pixels",), {name: expected[name] for name in ("canvas", "box")}),
        (("image_embedding",), {"pixels": expected["pixels"]}),
        (SCORES, {"image_embedding": expected["image_embedding"], **labelled(b"cat", b"dog")}),
        (("image_embedding",), images(noisy_png(40, 24))),
    ):
        (response,) = model.execute([Request(wanted, **inputs)])
        assert response.outputs.keys() == set(wanted)
        for output in wanted:
            np.testing.assert_allclose(response.outputs[output], expected[output], atol=1e-6, err_msg=output)


def test_what_is_not_asked_for_is_not_computed(model, triton):
    (response,) = model.execute([Request(("image_embedding",), **images(png(8, 8)), **labelled(b"new", b"words"))])
    assert not response.has_error()
    assert triton.batches == [], "the text encoder was called for labels that nobody asked about"


def test_requests_of_one_batch_fail_alone(model):
    good, labels = images(png(9, 9)), labelled(b"cat", b"dog")
    responses = model.execute(
        [
            Request(("cosine",), **good, **labels),
            Request(("cosine",), **images(png(9, 9), fit=b"stretch"), **labels),
            Request(("cosine",), **good, **labelled(b"cat", b"cat")),
            Request(("cosine",), **good),
            Request(("cosine",), **good, **labels),
        ]
    )
    assert [reason_of(response) for response in responses] == [
        "OK",
        "clipsr:FIT_UNKNOWN",
        "clipsr:LABEL_DUPLICATE",
        "clipsr:INTERNAL",
        "OK",
    ]
    np.testing.assert_array_equal(responses[0].outputs["cosine"], responses[-1].outputs["cosine"])


def test_a_request_without_what_it_needs_is_told_so(model):
    (response,) = model.execute([Request(("cosine", "probability"), **labelled(b"cat", b"dog"))])
    assert "lacks the inputs for cosine, probability" in response.error().message()


def test_a_large_image_is_answered_later_and_holds_nobody_up(model, step_by_step):
    large = noisy_png(600, 500)
    expected = step_by_step((large,), (b"cat", b"dog"))
    slow, broken = (
        Request(SCORES, **images(content), **labelled(b"cat", b"dog")) for content in (large, large[: len(large) // 2])
    )
    quick = Request(("cosine",), **images(png(9, 9)), **labelled(b"cat", b"dog"))
    responses = model.execute([slow, quick, broken])
    assert [response is None for response in responses] == [True, False, True]
    assert responses[1].outputs["cosine"].shape == (1, 2)
    assert slow.sender.sent.wait(WAIT_S)
    assert broken.sender.sent.wait(WAIT_S)
    np.testing.assert_allclose(slow.sender.response.outputs["cosine"], expected["cosine"], atol=1e-6)
    assert reason_of(broken.sender.response) == "clipsr:IMAGE_TRUNCATED"


def test_a_large_image_that_nobody_waits_for_is_not_decoded(model):
    request = Request(("cosine",), **images(noisy_png(600, 500)), **labelled(b"cat", b"dog"))
    request.is_given_up = True
    assert model.execute([request]) == [None]
    assert request.sender.sent.wait(WAIT_S)
    assert request.sender.response.failure.code == "CANCELLED"


def test_time_and_cache_are_counted(model, triton):
    for _ in range(2):
        model.execute([Request(("cosine",), **images(png(9, 9)), **labelled(b"cat", b"dog"))])
    assert triton.totals["clipsr_text_cache_misses_total"] == 2
    assert triton.totals["clipsr_text_cache_hits_total"] == 2
    assert triton.totals["clipsr_image_path_seconds_total"] > 0


def test_a_repository_without_engines_is_not_loaded(triton, make_args, tmp_path):
    from clipsr_serving.errors import ServingError
    from clipsr_serving.models.image_path import ImagePathModel

    for parameters, message in (({}, "the parameter 'repository'"), ({"repository": str(tmp_path)}, "manifest.json")):
        config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
        with pytest.raises(ServingError, match=message):
            ImagePathModel().initialize(make_args("image_path", config=config))
