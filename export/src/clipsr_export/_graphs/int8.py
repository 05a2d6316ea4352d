"""Image encoders in int8, each written beside the fp32 graph of an exported repository.

Weights are quantized by channel, activations by tensor, both from the ranges that calibration images give. The graph
stays an ONNX file with QuantizeLinear and DequantizeLinear nodes, which openvino runs as int8 (so does onnxruntime).
What is not quantized runs in bf16 where the processor has it.

`upscale` is not quantized: 8 bits move single pixels. Nor is `text_encoder`: it works only for texts that no cache
holds, and its embeddings are then used for every image.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"; onnxruntime.quantization.
"""

# onnx and onnxruntime ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from clipsr_export._errors import ExportError
from clipsr_export._repository.manifest import Agreement

FILE_NAME = "model.int8.onnx"
# Where the arithmetic is. Normalizations, softmax and activations stay in fp32: they are little work, and sensitive.
_QUANTIZED_OPERATORS = ("Conv", "MatMul", "Gemm")
# Their answers are no longer the numbers that they were given.
_COMPARISONS = ("ArgMax", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
# Images that go through a graph at once.
_BATCH = 8
_LEAST_LENGTH = 1e-12
_N_TURNS = 20

Pixels = npt.NDArray[np.uint8]


class PreparedEncoder:
    """An image encoder that is ready to be quantized, as often as one likes. Delete it with its folder.

    Args:
        source: the fp32 graph, pixels UINT8 [N, 3, R, R] to image_embedding FP32 [N, D], its first output.
        folder: where an intermediate graph is written.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.path = source, folder / "prepared.onnx"
        # Constants are folded and batch normalizations merged into convolutions first, as the engines would do later.
        quant_pre_process(str(source), str(self.path), skip_symbolic_shape=True)
        self._names = [node.name for node in self.quantizable(onnx.load(str(self.path)).graph)]

    @staticmethod
    def quantizable(graph: Any) -> list[Any]:
        """Return the nodes that are products with weights, but those that none comes before or none after.

        Of a tower these are the first and the last: little work, and every error in them goes into every embedding.
        What a comparison makes of numbers does not come after them, so a controller, whose verdict opens a gate,
        keeps its own first and last. Products of two activations, as in attention, have no weights and stay in fp32
        as well.
        """
        weights = {initializer.name for initializer in graph.initializer}
        products = {
            node.name
            for node in graph.node
            if node.op_type in _QUANTIZED_OPERATORS and len(node.input) > 1 and node.input[1] in weights
        }
        nodes = [node for node in graph.node if node.op_type not in _COMPARISONS]
        later = _reached(products, [(node, node.input, node.output) for node in nodes])
        earlier = _reached(products, [(node, node.output, node.input) for node in reversed(nodes)])
        return [node for node in nodes if node.name in products & later & earlier]

    def quantize(self, target: Path, pixels: Pixels, *, keep: Collection[str] = ()) -> None:
        """Write the int8 form.

        Args:
            target: file to write, one file whatever its size below 2 GB.
            pixels: [M, 3, R, R] images to calibrate on, as the encoder sees them in service.
            keep: names of nodes that keep floating point besides.
        """
        with _quiet():
            quantize_static(
                str(self.path),
                str(target),
                _Batches(pixels),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED_OPERATORS),
                nodes_to_quantize=[name for name in self._names if name not in keep],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
        onnx.checker.check_model(str(target))


def _reached(products: Collection[str], steps: Sequence[tuple[Any, Sequence[str], Sequence[str]]]) -> set[str]:
    """Return the names of the nodes that a product's numbers come to, of steps (node, from, to) in their order."""
    names: set[str] = set()
    tensors: set[str] = set()
    for node, sources, targets in steps:
        if is_reached := not tensors.isdisjoint(sources):
            names.add(node.name)
        if is_reached or node.name in products:
            tensors.update(targets)
    return names


class _Batches(CalibrationDataReader):
    """Hands out calibration images."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = iter(_split(pixels))

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the next batch by the input's name; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _split(pixels: Pixels) -> Sequence[Pixels]:
    return [pixels[i : i + _BATCH] for i in range(0, len(pixels), _BATCH)]


def measure_agreement(source: Path, target: Path, pixels: Pixels) -> Agreement:
    """Compare the embeddings of both graphs, and the kinds of damage that they name, each by an engine that serves it.

    Args:
        source: the fp32 graph, run by onnxruntime.
        target: the converted one, run by openvino as the profile cpu-int8 does.
        pixels: [N, 3, R, R], at least one.

    Raises:
        ExportError: an embedding is not finite.
    """
    (expected, *cosines_expected), (actual, *cosines_actual) = _run(source, pixels), _run_by_openvino(target, pixels)
    # Without length there is no direction: such embeddings agree with nothing.
    lengths = np.maximum(np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1), _LEAST_LENGTH)
    cosines = np.sort((expected * actual).sum(axis=1) / lengths)
    if not np.isfinite(cosines).all():
        raise ExportError("embeddings of the fp32 or the int8 graph are not finite; export the model again")
    return Agreement(
        n_images=len(cosines),
        mean=float(cosines.mean()),
        p1=float(cosines[len(cosines) // 100]),
        least=float(cosines[0]),
        same_kind=_share_alike(cosines_expected[0], cosines_actual[0]) if cosines_expected else None,
    )


def _share_alike(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    return float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean())


def compare_speed(source: Path, target: Path, pixels: Pixels) -> float:
    """Return how many times as long as in bf16 (fp32 without it) the converted graph takes on this machine.

    By openvino, a batch of each in turn; the median of the ratios.
    """
    graphs = [_compile(path) for path in (source, target)]
    batch, ratios = _split(pixels)[0], []
    for _ in range(_N_TURNS + 1):
        seconds = []
        for graph in graphs:
            began_s = time.perf_counter()
            graph(batch)
            seconds.append(time.perf_counter() - began_s)
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios[1:])  # the first plans memory


def _run(path: Path, pixels: Pixels) -> list[npt.NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return _join([session.run(None, {"pixels": batch}) for batch in _split(pixels)])


def _run_by_openvino(path: Path, pixels: Pixels) -> list[npt.NDArray[np.float32]]:
    compiled = _compile(path)
    return _join([[np.array(output) for output in compiled(batch).values()] for batch in _split(pixels)])


def _join(batches: Sequence[Sequence[Any]]) -> list[npt.NDArray[np.float32]]:
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _compile(path: Path) -> openvino.CompiledModel:
    """Compile a graph as the profiles cpu-int8 and cpu-bf16 do."""
    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "bf16" if has_bf16 else "f32"})


class _quiet:  # noqa: N801 - reads as the statement that it is
    """Silences the quantizer's advice, which goes to the root logger; its errors are exceptions and still arrive."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._level)
