"""Runs an ONNX graph with the openvino wheel, under the parameters of NVIDIA's openvino backend."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

from clipsr_serving.backends._batching import Tensors
from clipsr_serving.backends._cores import share_cores
from clipsr_serving.backends._spec import ModelSpec, TensorSpec, check_signature
from clipsr_serving.errors import ModelLoadError

__all__ = ["OpenVinoSession"]

_log = logging.getLogger(__name__)

# openvino's words for Triton's data types.
_DATA_TYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}

# Passed on as they are, where the config gives them.
_PASSED_ON = ("PERFORMANCE_HINT", "NUM_STREAMS", "COMPILATION_NUM_THREADS")
_THREADS = "INFERENCE_NUM_THREADS"
_PRECISION = "INFERENCE_PRECISION_HINT"
_HINT_BF16 = "HINT_BF16"  # NVIDIA's spelling of INFERENCE_PRECISION_HINT=bf16
_BF16 = "BF16"  # openvino's word for what a processor can do
# Ours: the name of a float tensor inside the graph. What leads to it runs in bf16, the rest in f32.
_BF16_UP_TO = "BF16_UP_TO"
# Ours: rows that run at once. A larger batch is run in parts, because memory for the largest that ever came is kept.
_ROWS_AT_ONCE = "ROWS_AT_ONCE"
# Known to NVIDIA's backend and without meaning here: batches and shapes are dynamic anyway.
_WITHOUT_EFFECT = ("SKIP_OV_DYNAMIC_BATCHSIZE", "ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS", "TARGET_DEVICE")
_KNOWN = {*_PASSED_ON, _THREADS, _PRECISION, _HINT_BF16, _BF16_UP_TO, _ROWS_AT_ONCE, *_WITHOUT_EFFECT}


class OpenVinoSession:
    """One model instance on the CPU; not thread-safe by intent, as a Triton instance runs one batch at a time."""

    def __init__(self, spec: ModelSpec) -> None:
        """Read the ONNX file, compile it with dynamic shapes, compare it with the config.

        Raises:
            ModelLoadError: the graph, its signature, a parameter or the device is not as configured.
        """
        if spec.is_gpu:
            raise ModelLoadError(f"model {spec.name!r}: the openvino backend runs on KIND_CPU only")
        unknown = sorted(set(spec.parameters) - _KNOWN)
        if unknown:
            _log.warning("model %s: the openvino backend does not know the parameters %s", spec.name, unknown)
        core = ov.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        properties = _make_properties(spec, capabilities)
        self._cut = spec.parameters.get(_BF16_UP_TO) if _BF16 in capabilities else None
        try:
            model = core.read_model(str(spec.model_file))
            check_signature(
                spec,
                graph_inputs=[_describe(port) for port in model.inputs],
                graph_outputs=[_describe(port) for port in model.outputs],
            )
            self._head: ov.InferRequest | None = None
            if self._cut is not None:
                head, model = _cut_at(spec, model, self._cut)
                self._head = core.compile_model(head, "CPU", properties | {_PRECISION: "bf16"}).create_infer_request()
            self._compiled = core.compile_model(model, "CPU", properties)
        except ModelLoadError:
            raise
        # openvino raises plain RuntimeError for a bad file and for a bad property alike.
        except Exception as error:
            raise ModelLoadError(f"model {spec.name!r}: openvino cannot load {spec.model_file}: {error}") from error
        self._rows_at_once = spec.integer(_ROWS_AT_ONCE)
        self._request = self._compiled.create_infer_request()
        self._output_names = [tensor.name for tensor in spec.outputs]
        _log.info("model %s: openvino %s, bf16 up to %s", spec.name, properties, self._cut)

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run a batch; outputs are copies, as the runtime writes the next run's into the same memory."""
        rows = len(next(iter(inputs.values())))
        if self._rows_at_once is None or rows <= self._rows_at_once:
            return self._run(inputs)
        starts = range(0, rows, self._rows_at_once)
        parts = [
            self._run({name: tensor[start : start + self._rows_at_once] for name, tensor in inputs.items()})
            for start in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._output_names}

    def _run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        tensors = dict(inputs)
        if self._head is not None and self._cut is not None:
            self._head.infer(tensors, share_inputs=True, share_outputs=True)
            tensors[self._cut] = self._head.get_output_tensor().data
        results = self._request.infer(tensors, share_inputs=True, share_outputs=False)
        return {name: results[name] for name in self._output_names}


def _cut_at(spec: ModelSpec, model: ov.Model, name: str) -> tuple[ov.Model, ov.Model]:
    """Split a graph at one of its inner tensors.

    Returns:
        of the same inputs the graph that gives this tensor alone, and the graph that takes it as one more input.

    Raises:
        ModelLoadError: the graph has no such tensor.
    """
    head, tail = model.clone(), model.clone()
    try:
        head.add_outputs(name)
        (added,) = tail.add_outputs(name)
    except RuntimeError as error:
        raise ModelLoadError(
            f"model {spec.name!r}: {_BF16_UP_TO} names the tensor {name!r}, which {spec.model_file} does not have; run "
            f"`make export` to write a graph that has it"
        ) from error
    for result in head.get_results()[:-1]:
        head.remove_result(result)
    source = added.get_node().input_value(0)
    tail.remove_result(added.get_node())
    parameter = opset.parameter(source.get_partial_shape(), source.get_element_type(), name=name)
    parameter.output(0).set_names({name})
    for reader in source.get_target_inputs():
        reader.replace_source_output(parameter.output(0))
    tail.add_parameters([parameter])
    tail.validate_nodes_and_infer_types()
    return head, tail


def _describe(port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    element_type = str(port.get_element_type().get_type_name())
    return TensorSpec(name=port.get_any_name(), data_type=_DATA_TYPES.get(element_type, element_type), shape=shape)


def _make_properties(spec: ModelSpec, capabilities: list[str]) -> dict[str, str | int]:
    properties: dict[str, str | int] = {key: spec.parameters[key] for key in _PASSED_ON if key in spec.parameters}
    threads = spec.integer(_THREADS)
    properties[_THREADS] = share_cores(spec.instance_count) if threads is None else threads
    properties[_PRECISION] = _choose_precision(spec, capabilities)
    return properties


def _choose_precision(spec: ModelSpec, capabilities: list[str]) -> str:
    """f32 unless asked for otherwise: openvino's own default rounds to bf16 wherever the CPU can."""
    default = "bf16" if spec.parameters.get(_HINT_BF16, "").upper() == "YES" else "f32"
    precision = spec.parameters.get(_PRECISION, default).lower()
    if precision not in ("f32", "bf16"):
        raise ModelLoadError(f"model {spec.name!r}: {_PRECISION} must be f32 or bf16, not {precision!r}")
    if precision == "bf16" and _BF16 not in capabilities:
        # Emulated bf16 is slower than f32 and no more exact.
        _log.info("model %s: this CPU has no bf16, f32 is used", spec.name)
        return "f32"
    return precision
