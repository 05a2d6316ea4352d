"""Counts the work of a graph: the products in its convolutions and matrix multiplications."""

# onnx ships partial types: what comes out of it is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

__all__ = ["count_macs", "fix_batch"]


def count_macs(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Count the multiply-accumulates of each convolution and matrix multiplication, in the order of the graph.

    Args:
        model: a graph of fixed sizes.

    Returns:
        names of nodes and their counts.

    Raises:
        ValueError: an operator of this kind has an operand of unknown size.
    """
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    sizes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return [(node.name, _node_macs(node, sizes)) for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]


def fix_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a graph the batch size 1 where it is free; changes the model."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    return model


def _node_macs(node: onnx.NodeProto, sizes: Mapping[str, list[int]]) -> int:
    result, operands = sizes.get(node.output[0]), [sizes.get(name) for name in node.input[:2]]
    if not result or None in operands or 0 in result:
        raise ValueError(f"{node.op_type} {node.name} has an operand of unknown size")
    first, second = operands
    assert first is not None
    assert second is not None
    if node.op_type == "Conv":  # a weight is [out, in / groups, rows, columns]
        return math.prod(result) * math.prod(second[1:])
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(result) * first[0 if is_transposed else -1]
