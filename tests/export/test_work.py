"""The work of a graph, counted."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from clipsr_export._graphs.work import count_macs, fix_batch


def test_products_are_counted_as_by_hand():
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 5, 6])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8, 5, 7])]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [8, 2, 3, 3], [0.0] * 144),
        helper.make_tensor("m", TensorProto.FLOAT, [6, 7], [0.0] * 42),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1], group=2),
        helper.make_node("MatMul", ["h", "m"], ["y"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights))
    assert [macs for _, macs in count_macs(model)] == [2 * 8 * 5 * 6 * (2 * 9), 2 * 8 * 5 * 7 * 6]
    inputs[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    dynamic = helper.make_model(helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name="y")], weights))
    with pytest.raises(ValueError, match="unknown size"):
        count_macs(dynamic)


def test_a_free_batch_counts_as_one_image(repository):
    """The encoder as it is exported: sizes that depend on the batch are found through its shape arithmetic."""
    model = onnx.load(repository / "image_encoder" / "1" / "model.onnx")
    with pytest.raises(ValueError, match="unknown size"):
        count_macs(model)
    counts = [macs for _, macs in count_macs(fix_batch(model))]
    assert len(counts) > 4
    assert min(counts) > 0
