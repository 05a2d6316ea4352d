"""Builds TensorRT plans and compares them with their graphs: the only module that needs TensorRT and a GPU.

Source: NVIDIA TensorRT, developer guide, "Working with Dynamic Shapes" and "Timing Cache"; Python API of 10 and 11.
"""

# TensorRT, PyTorch and onnxruntime ship no or partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from clipsr_export._errors import PlanError
from clipsr_export._tensorrt.plans import OptimizationProfile

_WORKSPACE_BYTES = 4 << 30
_INSTALL = "pip install tensorrt-cu12, in the version that the serving Triton has, with a CUDA build of PyTorch"


class PlanBuilder:
    """TensorRT on one GPU.

    Args:
        timing_cache: file of measured kernels, read if it is there and written after each build; it makes the next
            build of a similar graph on this kind of GPU take seconds.

    Raises:
        PlanError: TensorRT or a GPU is missing.
    """

    def __init__(self, timing_cache: Path) -> None:
        self._trt = _import_tensorrt()
        if not torch.cuda.is_available():
            raise PlanError(
                "PyTorch finds no CUDA device; plans are built on the machine that serves them, with its GPU, driver "
                f"and a CUDA build of PyTorch ({_INSTALL})"
            )
        self._timing_cache = timing_cache
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)

    @property
    def version(self) -> str:
        """TensorRT's version."""
        return str(self._trt.__version__)

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Of the GPU."""
        return torch.cuda.get_device_capability()

    @property
    def gpu(self) -> str:
        """The GPU's name."""
        return torch.cuda.get_device_name()

    def build(self, graph: Path, target: Path, profiles: Sequence[OptimizationProfile]) -> None:
        """Build a plan.

        Args:
            graph: the ONNX file; its types are the plan's.
            target: file to write.
            profiles: ranges of the inputs, in the order of their numbers.

        Raises:
            PlanError: TensorRT can't run the graph; the text is what its parser said.
        """
        trt = self._trt
        builder = trt.Builder(self._logger)
        # Required of TensorRT 10 so that it takes types from the graph; 11 does so always.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            complaints = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise PlanError(f"TensorRT {self.version} can't read {graph.name}: {complaints}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is to be fp32
        for ranges in profiles:
            profile = builder.create_optimization_profile()
            for name, shapes in ranges.items():
                profile.set_shape(name, shapes.least, shapes.best, shapes.most)
            config.add_optimization_profile(profile)
        content = self._timing_cache.read_bytes() if self._timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise PlanError(f"TensorRT {self.version} built no plan of {graph.name}; its lines above say why")
        target.write_bytes(bytes(plan))
        self._timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))

    def run(self, plan: Path, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, profile: int) -> npt.NDArray[Any]:
        """Run a plan once.

        Args:
            plan: the file.
            inputs: by name, within the ranges of the profile.
            output: name of the result.
            profile: number of the optimization profile.

        Raises:
            PlanError: it can't be loaded or run.
        """
        trt = self._trt
        engine = trt.Runtime(self._logger).deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise PlanError(f"TensorRT {self.version} can't load {plan.name}")
        context = engine.create_execution_context()
        stream = torch.cuda.current_stream()
        context.set_optimization_profile_async(profile, stream.cuda_stream)
        buffers = {name: torch.from_numpy(array).cuda().contiguous() for name, array in inputs.items()}
        for name, buffer in buffers.items():
            context.set_input_shape(name, tuple(buffer.shape))
            context.set_tensor_address(name, buffer.data_ptr())
        kinds = {trt.DataType.UINT8: torch.uint8, trt.DataType.FLOAT: torch.float32}
        shape = tuple(context.get_tensor_shape(output))
        result = torch.empty(shape, dtype=kinds[engine.get_tensor_dtype(output)], device="cuda")
        context.set_tensor_address(output, result.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise PlanError(f"TensorRT {self.version} can't run {plan.name}; its lines above say why")
        stream.synchronize()
        return result.cpu().numpy()


def reference(graph: Path, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return what onnxruntime computes of the fp32 graph on the processor."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(inputs))[0])


def _import_tensorrt() -> Any:
    try:
        import tensorrt  # pyright: ignore[reportMissingImports]  # NVIDIA's, where there is a GPU
    except ImportError as error:
        raise PlanError(f"TensorRT is not installed here ({error}): {_INSTALL}") from error
    return tensorrt
