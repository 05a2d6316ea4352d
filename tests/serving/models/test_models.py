"""The Python models as Triton calls them, against a stand-in for Triton's API."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import serialize_byte_tensor

from clipsr_serving.images import DECODE_CPU_S, limit_cpu
from clipsr_serving.manifest import Manifest


def png(width, height, colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows(*values):
    """[batch, n] BYTES."""
    return np.array([list(row) for row in values], dtype=object)


def reason_of(response):
    return response.error().message().split(": ")[0] if response.has_error() else "OK"


@pytest.fixture
def load(triton, repository, make_args):
    """Initializes a model of the repository with its committed config."""

    def load_it(name, class_name, model):
        module = __import__(f"clipsr_serving.models.{name}", fromlist=[class_name])
        text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        config = json_format.MessageToDict(text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True)
        instance = getattr(module, class_name)()
        instance.initialize(make_args(model, config=config))
        return instance

    return load_it


class TestDecode:
    def test_gives_canvas_and_box(self, load):
        (response,) = load("decode", "DecodeModel", "decode").execute(
            [{"image": rows([png(40, 20)]), "fit": rows([b"center_crop"])}]
        )
        assert response.outputs["canvas"].shape == (1, 3, 64, 64)
        assert response.outputs["canvas"].dtype == np.uint8
        assert response.outputs["box"].tolist() == [[0, 10, 20, 20]]

    def test_images_of_one_request_share_the_largest_canvas(self, load):
        (response,) = load("decode", "DecodeModel", "decode").execute(
            [{"image": rows([png(8, 8)], [png(100, 90)]), "fit": rows([b""], [b"squash"])}]
        )
        assert response.outputs["canvas"].shape == (2, 3, 128, 128)
        assert response.outputs["box"].tolist() == [[0, 0, 8, 8], [0, 0, 90, 100]]

    def test_native_gives_pixels(self, load, sizes):
        (response,) = load("decode", "DecodeNativeModel", "decode_native").execute(
            [{"image": rows([png(300, 200)]), "fit": rows([b"squash"])}]
        )
        assert response.outputs["pixels"].shape == (1, 3, sizes.R, sizes.R)

    @pytest.mark.parametrize(("name", "model"), [("DecodeModel", "decode"), ("DecodeNativeModel", "decode_native")])
    def test_each_decoding_has_a_limit_of_processor_time(self, load, name, model, monkeypatch):
        instance, limits = load("decode", name, model), []

        def spy(seconds):
            limits.append(seconds)
            return limit_cpu(seconds)

        monkeypatch.setattr("clipsr_serving.models.decode.limit_cpu", spy)
        instance.execute([{"image": rows([png(8, 8)], [png(9, 9)]), "fit": rows([b""], [b""])}])
        assert limits == [DECODE_CPU_S] * 2

    @pytest.mark.parametrize(("name", "model"), [("DecodeModel", "decode"), ("DecodeNativeModel", "decode_native")])
    def test_a_bad_image_fails_alone(self, load, name, model):
        requests = [
            {"image": rows([content]), "fit": rows([fit])}
            for content, fit in (
                (png(9, 9), b""),
                (b"", b""),
                (b"text", b""),
                (png(9, 9), b"stretch"),
                (png(9, 9), b""),
            )
        ]
        responses = load("decode", name, model).execute(requests)
        assert [reason_of(response) for response in responses] == [
            "OK",
            "clipsr:IMAGE_EMPTY",
            "clipsr:IMAGE_UNRECOGNIZED",
            "clipsr:FIT_UNKNOWN",
            "OK",
        ]
        assert {response.failure.code for response in responses if response.has_error()} == {"INVALID_ARG"}

    def test_what_nobody_foresaw_is_internal(self, load):
        (response,) = load("decode", "DecodeModel", "decode").execute([{"image": rows([7]), "fit": rows([b""])}])
        assert reason_of(response) == "clipsr:INTERNAL"


@pytest.fixture
def encode(triton, sizes):
    """A text encoder that gives every token row its own direction."""
    table = np.random.default_rng(0).standard_normal((300, sizes.D)).astype(np.float32)
    triton.encode = lambda tokens: np.stack(
        [(table[ids] * np.arange(1, len(ids) + 1)[:, None]).mean(0) for ids in tokens]
    )
    return triton.encode


def similarity_request(sizes, labels, templates=(b"@simple",)):
    embedding = np.zeros((1, sizes.D), np.float32)
    embedding[0, 0] = 1
    return {"image_embedding": embedding, "labels": rows(labels), "templates": rows(templates)}


class TestSimilarity:
    def test_long_label_tensors_are_taken_apart_once(self, load, triton, encode):
        """Triton's stub makes a tensor by the function that its module holds at that moment."""
        load("similarity", "SimilarityModel", "similarity")
        for length, is_kept in ((5, False), (200, True)):
            labels = np.array([f"label {i}".encode() for i in range(length)], dtype=object)
            encoded = serialize_byte_tensor(labels).item()
            first, again = (triton.deserialize_bytes_tensor(np.frombuffer(encoded, np.int8)) for _ in range(2))
            assert first.tolist() == labels.tolist()
            assert (first is again) == is_kept
        other = triton.deserialize_bytes_tensor(encoded[:-1] + b"x")
        assert other.tolist() == [*labels.tolist()[:-1], b"label 19x"]

    def test_a_backend_that_takes_tensors_apart_itself_is_left_alone(self, load, triton, encode, sizes):
        """Triton's Python backend does it in C++ since 2025, and calls no function of its module."""
        del triton.deserialize_bytes_tensor
        model = load("similarity", "SimilarityModel", "similarity")
        assert not hasattr(triton, "deserialize_bytes_tensor")
        (response,) = model.execute([similarity_request(sizes, (b"cat", b"dog"))])
        assert response.outputs["cosine"].shape == (1, 2)

    def test_scores_and_counts(self, load, triton, encode, sizes):
        model = load("similarity", "SimilarityModel", "similarity")
        for _ in range(2):
            (response,) = model.execute([similarity_request(sizes, (b"cat", "猫".encode(), "🐱".encode()))])
            assert response.outputs["cosine"].shape == (1, 3)
            assert response.outputs["probability"].sum() == pytest.approx(1)
        assert triton.batches == [3]
        assert triton.totals == {
            "clipsr_text_cache_hits_total": 3,
            "clipsr_text_cache_misses_total": 3,
            "clipsr_text_cache_evictions_total": 0,
            "clipsr_text_encoder_calls_total": 1,
        }

    def test_requests_of_one_batch_share_a_call_and_fail_alone(self, load, triton, encode, sizes):
        model = load("similarity", "SimilarityModel", "similarity")
        responses = model.execute(
            [
                similarity_request(sizes, (b"cat", b"dog")),
                similarity_request(sizes, (b"cat", b"cat")),
                similarity_request(sizes, (b"cat",), (b"no placeholder",)),
                similarity_request(sizes, (b"cat", b"dog", b"fox"), (b"@pair",)),
                similarity_request(sizes, ()),
            ]
        )
        assert [reason_of(response) for response in responses] == [
            "OK",
            "clipsr:LABEL_DUPLICATE",
            "clipsr:TEMPLATE_WITHOUT_PLACEHOLDER",
            "OK",
            "clipsr:LABELS_EMPTY",
        ]
        assert triton.batches == [6], "three labels in two templates; @simple is one of these"

    def test_a_long_list_goes_in_chunks_of_the_encoders_batch(self, load, triton, encode, sizes):
        model = load("similarity", "SimilarityModel", "similarity")
        labels = [f"label {index}".encode() for index in range(130)]
        (response,) = model.execute([similarity_request(sizes, labels)])
        assert response.outputs["cosine"].shape == (1, 130)
        assert triton.batches == [64, 64, 2]

    def test_labels_that_are_cut_are_named(self, load, triton, encode, sizes):
        model = load("similarity", "SimilarityModel", "similarity")
        long, template = "red " + "x" * sizes.L, b"{}"
        for _ in range(2):
            (response,) = model.execute([similarity_request(sizes, (b"cat", long.encode()), (template,))])
            assert response.outputs["label_is_cut"].dtype == bool
            assert response.outputs["label_is_cut"].tolist() == [[False, True]]

    def test_what_the_encoder_cannot_tell_apart_is_refused(self, load, triton, encode, sizes):
        model = load("similarity", "SimilarityModel", "similarity")
        begin = "a very long beginning " * sizes.L
        for _ in range(2):  # the second time nothing may come from a cache
            responses = model.execute(
                [
                    similarity_request(sizes, (f"{begin}red".encode(), f"{begin}blue".encode())),
                    similarity_request(sizes, (b"cat", b"dog"), (f"{begin}{{}}".encode(),)),
                    similarity_request(sizes, (b"cat", b"dog")),
                ]
            )
            reasons = [reason_of(response) for response in responses]
            assert reasons == ["clipsr:LABELS_INDISTINGUISHABLE", "clipsr:TEMPLATE_TOO_LONG", "OK"]

    def test_a_published_set_that_the_encoder_cannot_tell_apart_is_said_and_hides_no_other_labels(
        self, load, repository, encode, sizes, monkeypatch, caplog
    ):
        from clipsr_serving.models import similarity

        begin = "a very long beginning " * sizes.L
        document = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
        document["label_sets"] = {"alike": [f"{begin}red", f"{begin}blue"]}
        manifest = Manifest.model_validate_json(json.dumps(document))
        monkeypatch.setattr(similarity, "read_manifest", lambda root: manifest)
        model = load("similarity", "SimilarityModel", "similarity")
        assert "The label set alike cannot be used" in caplog.text
        alike = [label.encode() for label in document["label_sets"]["alike"]]
        responses = model.execute([similarity_request(sizes, alike), similarity_request(sizes, (b"cat", b"dog"))])
        assert [reason_of(response) for response in responses] == ["clipsr:LABELS_INDISTINGUISHABLE", "OK"]

    def test_a_text_encoder_that_is_down_is_unavailable(self, load, triton, sizes):
        def fail(tokens):
            raise RuntimeError("no such model")

        triton.encode = fail
        (response,) = load("similarity", "SimilarityModel", "similarity").execute(
            [similarity_request(sizes, (b"cat",))]
        )
        assert reason_of(response) == "clipsr:BACKEND_UNAVAILABLE"
        assert response.failure.code == "UNAVAILABLE"

    def test_a_config_without_its_parameters_does_not_load(self, triton, make_args):
        from clipsr_serving.errors import ModelLoadError
        from clipsr_serving.models.similarity import SimilarityModel

        with pytest.raises(ModelLoadError, match="text_encoder_max_batch_size"):
            SimilarityModel().initialize(make_args("similarity"))


class TestEmbedText:
    def test_embeds_rows_of_texts(self, load, triton, encode, sizes):
        model = load("embed_text", "EmbedTextModel", "embed_text")
        responses = model.execute(
            [
                {"texts": rows((b"cat", b"dog"), (b"fox", b"fox")), "templates": rows((b"{}",), (b"{}",))},
                {"texts": rows((b"",)), "templates": rows((b"{}",))},
            ]
        )
        embedding = responses[0].outputs["text_embedding"]
        assert embedding.shape == (2, 2, sizes.D)
        np.testing.assert_array_equal(embedding[1, 0], embedding[1, 1])
        assert responses[0].outputs["text_is_cut"].tolist() == [[False, False], [False, False]]
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=-1), 1, atol=1e-5)
        assert reason_of(responses[1]) == "clipsr:TEXT_EMPTY"

    def test_texts_that_are_cut_are_named(self, load, triton, encode, sizes):
        model = load("embed_text", "EmbedTextModel", "embed_text")
        texts = rows((b"cat", b"x" * sizes.L))
        (response,) = model.execute([{"texts": texts, "templates": rows((b"{}",))}])
        assert response.outputs["text_is_cut"].tolist() == [[False, True]]

    def test_a_template_must_leave_the_text_inside_the_context(self, load, triton, encode, sizes):
        model = load("embed_text", "EmbedTextModel", "embed_text")
        template = ("a very long beginning " * sizes.L + "{}").encode()
        (response,) = model.execute([{"texts": rows((b"cat",)), "templates": rows((template,))}])
        assert reason_of(response) == "clipsr:TEMPLATE_TOO_LONG"


@pytest.mark.parametrize("model", ["decode", "decode_native", "similarity", "embed_text"])
def test_the_committed_model_files_give_triton_its_class(triton, committed_repository, model):
    source = (committed_repository / model / "1" / "model.py").read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    exec(compile(source, "model.py", "exec"), namespace)
    for method in ("initialize", "execute"):
        assert callable(getattr(namespace["TritonPythonModel"], method))
