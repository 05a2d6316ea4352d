"""Runs a graph with the onnxruntime wheel, under the parameters of NVIDIA's onnxruntime backend."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from clipsr_serving.backends._batching import Tensors
from clipsr_serving.backends._spec import ModelSpec, TensorSpec, check_signature
from clipsr_serving.cores import share_cores
from clipsr_serving.errors import ModelLoadError

__all__ = ["OnnxRuntimeSession"]

_log = logging.getLogger(__name__)

# onnxruntime's words for Triton's data types.
_DATA_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}

# optimization.execution_accelerators, by the names that NVIDIA's backend reads.
_TENSORRT, _CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
_PROVIDERS = {"tensorrt": _TENSORRT, "cuda": _CUDA, "openvino": "OpenVINOExecutionProvider"}
# NVIDIA's words for options of the TensorRT provider; those that begin with trt_ are onnxruntime's own.
_TENSORRT_KEYS = {"max_workspace_size_bytes": "trt_max_workspace_size"}
_TENSORRT_PRECISIONS = {"FP32": {}, "FP16": {"trt_fp16_enable": "True"}}
# How onnxruntime wants the booleans that NVIDIA's backend takes in any of these forms.
_BOOLEANS = {"true": "True", "false": "False"}

# optimization.graph.level, as NVIDIA's backend numbers it.
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# Keys of onnxruntime itself. NVIDIA's backend passes on the first and ignores the second: its threads spin.
_SESSION_KEYS = ("session.use_device_allocator_for_initializers", "session.intra_op.allow_spinning")
_SHRINKAGE_KEY = "memory.enable_memory_arena_shrinkage"
_KNOWN = {
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    _SHRINKAGE_KEY,
    *_SESSION_KEYS,
    "cudnn_conv_algo_search",  # for NVIDIA's backend alone; here the accelerator's own option counts
}


class OnnxRuntimeSession:
    """One model instance; not thread-safe by intent, as a Triton instance runs one batch at a time."""

    def __init__(self, spec: ModelSpec) -> None:
        """Load the graph and compare it with the config.

        Raises:
            ModelLoadError: the graph, its signature, a parameter or an execution provider is not as configured.
        """
        unknown = sorted(set(spec.parameters) - _KNOWN)
        if unknown:
            _log.warning("model %s: the onnxruntime backend does not know the parameters %s", spec.name, unknown)
        providers = _choose_providers(spec)
        options = _make_options(spec)
        if spec.is_gpu:
            # CUDA's libraries may come as packages of this environment, where the system's loader does not look.
            ort.preload_dlls()
        try:
            self._session = ort.InferenceSession(str(spec.model_file), sess_options=options, providers=providers)
        # The wheel's exception types are private to its extension module.
        except Exception as error:
            raise ModelLoadError(f"model {spec.name!r}: onnxruntime cannot load {spec.model_file}: {error}") from error
        _refuse_fallback(spec, providers, self._session)
        self._session.disable_fallback()  # nor to the CPU later, after an error of the device
        check_signature(
            spec,
            graph_inputs=[_describe(node) for node in self._session.get_inputs()],
            graph_outputs=[_describe(node) for node in self._session.get_outputs()],
        )
        self._output_names = [tensor.name for tensor in spec.outputs]
        self._run_options = ort.RunOptions()
        if _SHRINKAGE_KEY in spec.parameters:
            self._run_options.add_run_config_entry(_SHRINKAGE_KEY, spec.parameters[_SHRINKAGE_KEY])
        names = [name for name, _ in providers]
        n_threads = options.intra_op_num_threads
        _log.info("model %s: onnxruntime, %s, %s, %d threads", spec.name, spec.model_file.name, names, n_threads)

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run once; outputs are new arrays."""
        outputs = self._session.run(self._output_names, dict(inputs), self._run_options)
        return {name: np.asarray(output) for name, output in zip(self._output_names, outputs, strict=True)}


def _describe(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, data_type=_DATA_TYPES.get(str(node.type), str(node.type)), shape=shape)


def _choose_providers(spec: ModelSpec) -> list[tuple[str, dict[str, str]]]:
    """Return the providers that the config asks for, with their options.

    The CPU's comes last, for what they leave over.
    """
    wanted: dict[str, dict[str, str]] = {}
    for accelerator in spec.accelerators:
        if accelerator.name not in _PROVIDERS:
            raise ModelLoadError(
                f"model {spec.name!r}: unknown execution accelerator {accelerator.name!r} in config.pbtxt"
            )
        provider = _PROVIDERS[accelerator.name]
        wanted[provider] = _provider_options(spec, provider, accelerator.parameters)
    if spec.is_gpu:
        wanted.setdefault(_CUDA, {"device_id": str(spec.device_id)})
    absent = [provider for provider in wanted if provider not in ort.get_available_providers()]
    if absent:
        raise ModelLoadError(
            f"model {spec.name!r}: config.pbtxt asks for {', '.join(absent)}, but this onnxruntime has only "
            f"{', '.join(ort.get_available_providers())}; install one that has it (for a GPU: scripts/install.sh gpu), "
            "or choose another --profile"
        )
    return [*wanted.items(), ("CPUExecutionProvider", {})]


def _provider_options(spec: ModelSpec, provider: str, parameters: Mapping[str, str]) -> dict[str, str]:
    if provider not in (_TENSORRT, _CUDA):
        return dict(parameters)
    options = {"device_id": str(spec.device_id)}
    for key, value in parameters.items():
        if provider == _TENSORRT and key == "precision_mode":
            if value not in _TENSORRT_PRECISIONS:
                raise ModelLoadError(
                    f"model {spec.name!r}: precision_mode must be {' or '.join(_TENSORRT_PRECISIONS)}, not {value!r}"
                )
            options |= _TENSORRT_PRECISIONS[value]
        else:
            options[_TENSORRT_KEYS.get(key, key)] = _BOOLEANS.get(value.lower(), value)
    return options


def _refuse_fallback(spec: ModelSpec, wanted: Sequence[tuple[str, dict[str, str]]], session: Any) -> None:
    """Onnxruntime leaves out a provider whose libraries or device are missing, with no more than a line in the log."""
    absent = [name for name, _ in wanted if name not in session.get_providers()]
    if absent:
        raise ModelLoadError(
            f"model {spec.name!r}: {', '.join(absent)} cannot be used here, so onnxruntime would run it on "
            f"{', '.join(session.get_providers())}; the lines before this one in Triton's log say what is missing "
            "(a GPU, its driver, or CUDA's libraries: scripts/install.sh gpu), or choose another --profile"
        )


def _make_options(spec: ModelSpec) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # 0 means the runtime's own choice, as in NVIDIA's backend; absent means a fair share of the cores.
    intra = spec.integer("intra_op_thread_count")
    options.intra_op_num_threads = share_cores(spec.instance_count) if intra is None else intra
    options.inter_op_num_threads = spec.integer("inter_op_thread_count") or 0
    if spec.integer("execution_mode") == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if spec.graph_level not in _GRAPH_LEVELS:
        raise ModelLoadError(f"model {spec.name!r}: optimization.graph.level must be -1, 0, 1 or 2")
    options.graph_optimization_level = _GRAPH_LEVELS[spec.graph_level]
    if spec.integer("enable_mem_arena") == 0:
        options.enable_cpu_mem_arena = False
    if spec.integer("enable_mem_pattern") == 0:
        options.enable_mem_pattern = False
    # Idle threads of one model would spin on the cores that the next model of the ensemble needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key in _SESSION_KEYS:
        if key in spec.parameters:
            options.add_session_config_entry(key, spec.parameters[key])
    return options
