"""`clipsr.local` with a robust encoder in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.client.local.test_local import LABELS, cosines, pictures, png
from tests.serving.conftest import D, make_repository

from clipsr import FailedImage, InvalidRequestError
from clipsr.local import Classifier

__all__ = ["pictures"]  # a fixture

KINDS = ("bright", "dark")
OUTPUTS = ("cosine", "probability")


@pytest.fixture(scope="module")
def robust(tmp_path_factory) -> Classifier:
    """A robust encoder beside the plain one; images look damaged by the first number of their embedding."""
    return load(tmp_path_factory.mktemp("robust"), head={"weight": [1.0] + [0.0] * (D - 1), "bias": 0.0})


def load(folder: Path, **entry) -> Classifier:
    root = make_repository(folder)
    text = (root / "image_encoder" / "config.pbtxt").read_text(encoding="utf-8")
    added = "".join(f'\n  {{ name: "degradation_{n}" data_type: TYPE_FP32 dims: [ -1 ] }},' for n in OUTPUTS)
    text = text.replace('name: "image_encoder"', 'name: "robust_encoder"').replace("\noutput [", f"\noutput [{added}")
    (root / "robust_encoder" / "1").mkdir(parents=True)
    (root / "robust_encoder" / "config.pbtxt").write_text(text, encoding="utf-8")
    save_graph(root)
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    manifest["robust_encoder"] = {"kinds": list(KINDS), **entry}
    (root / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Classifier.load(root, profile="cpu-onnx", threads=1)


def save_graph(root: Path) -> None:
    """The plain encoder's, its embedding turned round, with brightness for damage."""
    model = onnx.load(root / "image_encoder" / "1" / "model.onnx")
    graph, make = model.graph, onnx.helper.make_node
    graph.node[-1].output[0] = "plain"
    graph.node.extend(
        [
            make("Neg", ["plain"], ["image_embedding"]),
            make("ReduceMean", ["centred", "axes"], ["mean"], keepdims=0),
            make("Reshape", ["mean", "column"], ["rows"]),
            make("Mul", ["rows", "signs"], ["degradation_cosine"]),
            make("Softmax", ["degradation_cosine"], ["degradation_probability"], axis=-1),
        ]
    )
    constants = {"axes": np.array([1, 2, 3]), "column": np.array([-1, 1])}
    constants["signs"] = np.array([[0.005, -0.005]], np.float32)
    graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in constants.items())
    graph.output.extend(
        onnx.helper.make_tensor_value_info(f"degradation_{name}", onnx.TensorProto.FLOAT, ["N", 2]) for name in OUTPUTS
    )
    onnx.save(model, root / "robust_encoder" / "1" / "model.onnx")


def test_it_embeds_and_names_the_damage(robust, pictures):
    plain = robust.classify(pictures, LABELS, top_k=0, return_embedding=True)
    steered = robust.classify(pictures, LABELS, top_k=0, return_embedding=True, encoder="robust")
    for one, other in zip(plain, steered, strict=True):
        assert (one.encoder, one.degradations, other.encoder) == ("plain", (), "robust")
        np.testing.assert_allclose(one.embedding, np.negative(other.embedding), atol=1e-6)
        assert cosines(one) == pytest.approx({label: -value for label, value in cosines(other).items()}, abs=1e-6)
        first, second = other.degradations
        assert {first.kind, second.kind} == set(KINDS)
        assert first.probability >= second.probability
        assert first.probability + second.probability == pytest.approx(1)
    [bright] = robust.classify([np.full((9, 9, 3), 250, np.uint8)], LABELS, encoder="robust")
    [dark] = robust.embed_images([np.full((9, 9, 3), 5, np.uint8)], encoder="robust")
    assert [bright.degradations[0].kind, dark.degradations[0].kind] == ["bright", "dark"]
    assert dark.encoder == "robust"


def test_where_it_is_to_be_chosen_the_plain_embedding_decides(robust, pictures):
    sources = [*pictures[:5], b"text", *pictures[5:]]
    plain = robust.classify(sources, LABELS, return_embedding=True)
    chosen = robust.classify(sources, LABELS, return_embedding=True, encoder="auto")
    steered = robust.classify(sources, LABELS, return_embedding=True, encoder="robust")
    taken = set()
    for one, auto, other in zip(plain, chosen, steered, strict=True):
        if isinstance(one, FailedImage):
            assert one == auto == other
            continue
        expected = other if one.embedding[0] > 0 else one
        np.testing.assert_allclose(auto.embedding, expected.embedding, atol=1e-6)
        assert (auto.encoder, len(auto.degradations)) == (expected.encoder, len(expected.degradations))
        taken.add(auto.encoder)
    assert taken == {"plain", "robust"}


def test_without_a_head_nothing_chooses(tmp_path):
    classifier = load(tmp_path)
    with pytest.raises(InvalidRequestError, match="nothing that tells when") as caught:
        classifier.classify([png()], LABELS, encoder="auto")
    assert caught.value.reason == "ENCODER_MISSING"
    assert classifier.classify([png()], LABELS, encoder="robust")[0].encoder == "robust"
