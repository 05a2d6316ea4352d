"""PyTorch modules to ONNX files."""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

# The newest opset that both ONNX Runtime in Triton 24.10 and TensorRT 10 read in full.
OPSET = 18
# Protobuf's limit for one message; larger graphs keep their weights in a file beside them.
EXTERNAL_DATA_BYTES = 2**31 - 2**20


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic_axes: Mapping[str, Mapping[int, str]],
    *,
    inner: Sequence[str] = (),
) -> None:
    """Export a module by the dynamo exporter and check the file with ONNX's own checker.

    Args:
        module: takes the inputs in order and returns one tensor, or a tuple of the outputs and the inner ones.
        inputs: example inputs by name.
        outputs: names of the results.
        path: file to write; external data, if needed, goes to a file beside it.
        dynamic_axes: for each input, axis → symbol of axes that vary; `8*rows` for multiples of 8.
        inner: names of the tuple's other tensors. The graph computes them on the way to its outputs and keeps the
            names, so that whoever reads the file can find them, but does not return them.
    """
    symbols = {s: _dimension(s) for axes in dynamic_axes.values() for s in axes.values()}
    shapes = {name: {axis: symbols[s] for axis, s in dynamic_axes[name].items()} for name in inputs}
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[*outputs, *inner],
            dynamic_shapes=tuple(shapes[name] for name in inputs),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    del program.model.graph.outputs[len(outputs) :]
    # Not the module's parameters: a graph of one tower leaves out those of the other.
    weights = (initializer.const_value for initializer in program.model.graph.initializers.values())
    n_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    program.save(str(path), external_data=n_bytes > EXTERNAL_DATA_BYTES)
    onnx.checker.check_model(str(path))


def _dimension(symbol: str) -> Any:
    """Return an axis that varies; torch has no public type for a multiple of one."""
    factor, _, name = symbol.rpartition("*")
    dimension = torch.export.Dim(name, min=1)
    return int(factor) * dimension if factor else dimension


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Silence the exporter's progress chatter; its errors are exceptions and still arrive."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
