"""A graph in fp16, its inputs and outputs as they were.

TensorRT 11 takes each tensor's type from the graph (10 can be told to), so precision is decided here and not by a flag
of its builder; and here it can be compared with fp32 on any machine.
"""

# onnx and onnxruntime ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers import float16

# Kept in fp32: sums over a whole layer or embedding exceed fp16's 65,504 or lose their small terms, and the last
# division makes the embedding's length 1, which the service takes for granted.
_SUMS = ("LayerNormalization", "LpNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Pow")
_LENGTH = ("Clip", "Expand", "Div")


def write_half(source: Path, target: Path) -> None:
    """Write the fp16 form of a graph.

    Args:
        source: the fp32 graph.
        target: file to write; weights above 2 GB go to a file beside it.
    """
    model = onnx.load(str(source))
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_SUMS, *_LENGTH]
    half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    _drop_repeated_casts(half)
    ONNXModel(half).topological_sort()  # the converter appends its casts at the end
    has_file_beside = source.with_name(f"{source.name}.data").exists()
    onnx.save(half, str(target), save_as_external_data=has_file_beside, location=f"{target.name}.data")
    onnx.checker.check_model(str(target))


def _drop_repeated_casts(model: onnx.ModelProto) -> None:
    """Drop repeated casts: the converter adds the same cast once for every node in fp32 that reads a weight."""
    made: set[str] = set()
    repeated = [node for node in model.graph.node if not _is_first(node, made)]
    for node in repeated:
        model.graph.node.remove(node)


def _is_first(node: onnx.NodeProto, made: set[str]) -> bool:
    is_repeated = node.op_type == "Cast" and node.output[0] in made
    made.update(node.output)
    return not is_repeated
