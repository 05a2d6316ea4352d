"""Runs an ONNX graph with the openvino wheel, under the parameters of NVIDIA's openvino backend."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from clipsr_serving.backends._batching import Tensors
from clipsr_serving.backends._openvino_steps import Step, cut_into_steps
from clipsr_serving.backends._spec import ModelSpec, TensorSpec, check_signature
from clipsr_serving.cores import share_cores
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
# Ours: names of float tensors inside the graph, with commas between. What leads to the first, and from each to the
# next, runs in bf16, the rest in f32.
_BF16_UP_TO = "BF16_UP_TO"
# Ours: pixels of what runs at once, those of inputs and of the first output. A larger batch is run in pieces, because
# memory for the largest that ever came is kept.
_PIXELS_AT_ONCE = "PIXELS_AT_ONCE"
# Ours: rows of what runs at once, likewise.
_ROWS_AT_ONCE = "ROWS_AT_ONCE"
# Ours: pieces of a batch that run side by side, each on its share of the threads.
_PARTS_AT_ONCE = "PARTS_AT_ONCE"
# Known to NVIDIA's backend and without meaning here: batches and shapes are dynamic anyway.
_WITHOUT_EFFECT = ("SKIP_OV_DYNAMIC_BATCHSIZE", "ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS", "TARGET_DEVICE")
_OURS = (_BF16_UP_TO, _PIXELS_AT_ONCE, _ROWS_AT_ONCE, _PARTS_AT_ONCE)
_KNOWN = {*_PASSED_ON, _THREADS, _PRECISION, _HINT_BF16, *_OURS, *_WITHOUT_EFFECT}


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
        self._pixels_at_once, self._rows_at_once = spec.integer(_PIXELS_AT_ONCE), spec.integer(_ROWS_AT_ONCE)
        self._pixels_out = math.prod(spec.outputs[0].shape[-2:])
        n_parts = min(spec.integer(_PARTS_AT_ONCE) or 1, int(properties[_THREADS]))
        cuts = spec.parameters.get(_BF16_UP_TO, "").replace(",", " ").split() if _BF16 in capabilities else []
        try:
            model = core.read_model(str(spec.model_file))
            check_signature(
                spec,
                graph_inputs=[_describe(port) for port in model.inputs],
                graph_outputs=[_describe(port) for port in model.outputs],
            )
            steps = cut_into_steps(model, cuts)
            if cuts and len(steps) == 1:
                named = " and ".join(map(repr, cuts))
                raise ModelLoadError(
                    f"model {spec.name!r}: {_BF16_UP_TO} names {named}, which {spec.model_file} does not have; run "
                    f"`make export` to write a graph that has it"
                )
            (self._alone,) = _compile(core, steps, properties, 1)
            self._side_by_side = _compile(core, steps, properties, n_parts) if n_parts > 1 else []
        except ModelLoadError:
            raise
        # openvino raises plain RuntimeError for a bad file and for a bad property alike.
        except Exception as error:
            raise ModelLoadError(f"model {spec.name!r}: openvino cannot load {spec.model_file}: {error}") from error
        self._threads = ThreadPoolExecutor(max_workers=n_parts, thread_name_prefix=spec.name)
        self._output_names = [tensor.name for tensor in spec.outputs]
        _log.info("model %s: openvino, %s, %s, bf16 up to %s", spec.name, spec.model_file.name, properties, cuts)

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run a batch; outputs are copies, as the runtime writes the next run's into the same memory."""
        rows = len(next(iter(inputs.values())))
        runners = self._side_by_side[:rows] if rows > 1 and self._side_by_side else [self._alone]
        pieces = [
            {name: tensor[start:end] for name, tensor in inputs.items()}
            for start, end in _cut_rows(rows, len(runners), self._find_rows_at_once(inputs))
        ]
        if len(pieces) == 1:
            return runners[0].run(pieces[0], self._output_names)
        # Whoever is done first takes the next piece: other processes want the cores, too. All are waited for, good or
        # bad: inputs are memory of Triton's that must outlive them.
        waiting = iter(enumerate(pieces))
        futures = [self._threads.submit(self._run_all, runner, waiting) for runner in runners]
        wait(futures)
        results = dict(chain.from_iterable(future.result() for future in futures))
        return {name: np.concatenate([results[i][name] for i in range(len(pieces))]) for name in self._output_names}

    def _find_rows_at_once(self, inputs: Tensors) -> int | None:
        if self._pixels_at_once is None:
            return self._rows_at_once
        pixels_in = sum(math.prod(tensor.shape[2:]) for tensor in inputs.values() if tensor.ndim == 4)
        rows = max(1, self._pixels_at_once // (pixels_in + self._pixels_out))
        return min(rows, self._rows_at_once or rows)

    def _run_all(
        self, runner: _Runner, pieces: Iterator[tuple[int, Tensors]]
    ) -> list[tuple[int, dict[str, NDArray[np.generic]]]]:
        return [(number, runner.run(piece, self._output_names)) for number, piece in pieces]


class _Runner:
    """Runs a batch through the steps, one after the other, on its share of the threads."""

    def __init__(self, requests: Sequence[tuple[Step, ov.InferRequest]]) -> None:
        self._requests = requests

    def run(self, inputs: Tensors, output_names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        tensors = dict(inputs)
        for step, request in self._requests:
            request.infer({name: tensors[name] for name in step.takes}, share_inputs=True, share_outputs=True)
            tensors |= {name: request.get_tensor(name).data for name in step.gives}
        _, last = self._requests[-1]
        return {name: np.array(last.get_tensor(name).data) for name in output_names}


def _compile(core: ov.Core, steps: Sequence[Step], properties: dict[str, str | int], count: int) -> list[_Runner]:
    """Make runners that work side by side, each on its share of the threads.

    Threads that share one batch wait for each other at every layer, and spin meanwhile; threads with a part each wait
    once. A batch of one row has no parts, and is left to a graph compiled for all threads.
    """
    streams: dict[str, str | int] = {"NUM_STREAMS": count} if count > 1 else {}
    bf16: dict[str, str | int] = {_PRECISION: "bf16"}
    compiled = [
        (step, core.compile_model(step.model, "CPU", properties | streams | (bf16 if step.is_bf16 else {})))
        for step in steps
    ]
    return [_Runner([(step, model.create_infer_request()) for step, model in compiled]) for _ in range(count)]


def _cut_rows(rows: int, n_runners: int, at_once: int | None) -> list[tuple[int, int]]:
    """Cut a batch into equal pieces, as many for each runner, that so many rows run at once: [(start, end), ...]."""
    n_rounds = -(-rows // max(at_once, n_runners)) if at_once else 1
    n = min(rows, n_rounds * n_runners)
    return [(rows * i // n, rows * (i + 1) // n) for i in range(n)]


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
