"""A model as its config.pbtxt describes it, and whether a graph fits that description."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsr_serving.errors import ModelLoadError

Shape = tuple[int, ...]
"""Sizes; -1 where any size is allowed."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: the same in graph and config.
        data_type: Triton's word without `TYPE_`, for example `FP32`.
        shape: with the batch dimension, if the model batches.
    """

    name: str
    data_type: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One entry under `optimization.execution_accelerators`.

    Attributes:
        name: as NVIDIA's backend calls it, for example `tensorrt`.
        parameters: its options, in NVIDIA's words.
    """

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a backend needs to know of one model instance.

    Attributes:
        model_file: the graph.
        max_batch_size: 0 if the model does not batch.
        instance_count: instances of the model on this machine, over all groups.
        is_gpu: this instance is of KIND_GPU.
        device_id: the GPU of this instance.
        parameters: `parameters` of the config, string values.
        accelerators: `optimization.execution_accelerators`, in order.
        graph_level: `optimization.graph.level`; 0 if absent.
    """

    name: str
    model_file: Path
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    instance_count: int
    is_gpu: bool
    device_id: int
    parameters: Mapping[str, str]
    accelerators: tuple[Accelerator, ...]
    graph_level: int

    def integer(self, key: str) -> int | None:
        """Read a parameter as an integer; None if absent.

        Raises:
            ModelLoadError: it is not one.
        """
        value = self.parameters.get(key)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError as error:
            raise ModelLoadError(
                f"model {self.name!r}: parameter {key!r} in config.pbtxt must be an integer, not {value!r}"
            ) from error


def read_parameter(args: Mapping[str, str], name: str, *, default: str | None = None) -> str:
    """Read a string under `parameters` of the model's config.pbtxt.

    Raises:
        ModelLoadError: it is missing, and has no default.
    """
    config: dict[str, Any] = json.loads(args["model_config"])
    value: str | None = config.get("parameters", {}).get(name, {}).get("string_value", default)
    if value is None:
        raise ModelLoadError(f"model {args['model_name']!r}: config.pbtxt must give the parameter {name!r}")
    return value


def read_integer_parameter(args: Mapping[str, str], name: str) -> int:
    """Read an integer under `parameters` of the model's config.pbtxt.

    Raises:
        ModelLoadError: it is missing or not an integer.
    """
    config: dict[str, Any] = json.loads(args["model_config"])
    value = config.get("parameters", {}).get(name, {}).get("string_value")
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(
            f"model {args['model_name']!r}: config.pbtxt must give the parameter {name!r} as an integer, not {value!r}"
        ) from error


def read_model_spec(args: Mapping[str, str], *, default_file: str = "model.onnx") -> ModelSpec:
    """Read what Triton hands to `initialize`.

    Args:
        args: Triton's strings; `model_config` is the config as JSON.
        default_file: graph's name where the config gives no `default_model_filename`.

    Raises:
        ModelLoadError: the graph's file is missing.
    """
    config: dict[str, Any] = json.loads(args["model_config"])
    name = args["model_name"]
    version_folder = Path(args["model_repository"]) / args["model_version"]
    model_file = version_folder / (config.get("default_model_filename") or default_file)
    if not model_file.is_file():
        raise ModelLoadError(f"model {name!r}: {model_file} is missing; run `make export` to write it")
    max_batch_size = int(config.get("max_batch_size", 0))
    optimization = config.get("optimization", {})
    accelerators = optimization.get("execution_accelerators", {})
    groups = config.get("instance_group", [])
    return ModelSpec(
        name=name,
        model_file=model_file,
        max_batch_size=max_batch_size,
        inputs=tuple(_tensor(item, max_batch_size) for item in config["input"]),
        outputs=tuple(_tensor(item, max_batch_size) for item in config["output"]),
        instance_count=max(1, sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups)),
        is_gpu=args["model_instance_kind"] == "GPU",
        device_id=int(args["model_instance_device_id"]),
        parameters={key: item.get("string_value", "") for key, item in config.get("parameters", {}).items()},
        accelerators=tuple(
            Accelerator(name=item["name"], parameters=item.get("parameters", {}))
            for kind in ("gpu", "cpu")
            for item in accelerators.get(f"{kind}_execution_accelerator", [])
        ),
        graph_level=int(optimization.get("graph", {}).get("level", 0)),
    )


def _tensor(item: Mapping[str, Any], max_batch_size: int) -> TensorSpec:
    dims = tuple(int(size) for size in item["dims"])
    shape = (-1, *dims) if max_batch_size > 0 else dims
    return TensorSpec(name=item["name"], data_type=item["data_type"].removeprefix("TYPE_"), shape=shape)


def check_signature(
    spec: ModelSpec, *, graph_inputs: Sequence[TensorSpec], graph_outputs: Sequence[TensorSpec]
) -> None:
    """Compare the config with the graph, so that a wrong pair fails at load and not at the first request.

    Raises:
        ModelLoadError: names, data types or shapes differ; the text says which.
    """
    _check_side(spec, "input", spec.inputs, graph_inputs)
    _check_side(spec, "output", spec.outputs, graph_outputs)
    unfed = {tensor.name for tensor in graph_inputs} - {tensor.name for tensor in spec.inputs}
    if unfed:
        raise ModelLoadError(
            f"model {spec.name!r}: the graph needs the inputs {sorted(unfed)}, which config.pbtxt does not declare"
        )


def _check_side(spec: ModelSpec, side: str, declared: Sequence[TensorSpec], actual: Sequence[TensorSpec]) -> None:
    in_graph = {tensor.name: tensor for tensor in actual}
    for tensor in declared:
        found = in_graph.get(tensor.name)
        if found is None:
            raise ModelLoadError(
                f"model {spec.name!r}: config.pbtxt declares the {side} {tensor.name!r}, but the graph "
                f"{spec.model_file.name} has {sorted(in_graph)}"
            )
        if found.data_type != tensor.data_type:
            raise ModelLoadError(
                f"model {spec.name!r}: the {side} {tensor.name!r} is {tensor.data_type} in config.pbtxt and "
                f"{found.data_type} in the graph"
            )
        if not _shapes_agree(tensor.shape, found.shape):
            raise ModelLoadError(
                f"model {spec.name!r}: the {side} {tensor.name!r} is {list(tensor.shape)} in config.pbtxt (batch "
                f"included) and {list(found.shape)} in the graph"
            )


def _shapes_agree(declared: Shape, actual: Shape) -> bool:
    if len(declared) != len(actual):
        return False
    pairs = list(zip(declared, actual, strict=True))
    # A fixed size in the graph cannot serve a free one in the config, least of all the batch.
    return all(want == have or have == -1 or (want == -1 and index > 0) for index, (want, have) in enumerate(pairs))
