"""Cuts a graph of openvino at inner tensors, into steps that are compiled for different precisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import openvino as ov
from openvino import opset13 as opset


@dataclass(frozen=True)
class Step:
    """A part of a graph.

    Attributes:
        model: takes inputs of the whole graph and tensors of earlier steps, by name.
        gives: names of the tensors that it makes for later steps; empty for the last one, which has the outputs.
        is_bf16: whether it may run in bf16, if f32 is what was asked for.
    """

    model: ov.Model
    gives: tuple[str, ...] = ()
    is_bf16: bool = False

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """Names of what it takes."""
        return tuple(port.get_any_name() for port in self.model.inputs)


def cut_into_steps(model: ov.Model, names: Sequence[str]) -> list[Step]:
    """Cut a graph such that what leads to the first tensor, and from each to the next, is computed in bf16.

    What meets a tensor on its way to the next, coordinates and such, is computed before, in f32, as is what comes after
    the last. All that is in bf16 is one step: its tensors are handed on as they lie in memory.

    Args:
        model: the graph; its inner tensors may get names.
        names: of tensors inside it, in its order; what it lacks is left out, and without any of them it stays whole.
    """
    outputs = {name: port for op in model.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
    names = [name for name in names if name in outputs]
    if not names:
        return [Step(model)]
    beside = [
        tensor
        for before, name in pairwise(names)
        for tensor in _find_inputs_beside(model, outputs[before], outputs[name], prefix=name)
    ]
    last = names[-1]
    coordinates = [Step(_extract(model, (), beside), tuple(beside))] if beside else []
    return [*coordinates, Step(_extract(model, beside, [last]), (last,), is_bf16=True), Step(_extract(model, [last]))]


def _find_inputs_beside(model: ov.Model, source: ov.Output, target: ov.Output, *, prefix: str) -> tuple[str, ...]:
    """Return the tensors that meet a source on its way to a target, by name, which those without one get."""
    ancestors = {op.get_friendly_name() for op in _find_ancestors([target.get_node()])}
    between: set[str] = set()
    beside: dict[str, None] = {}
    for op in model.get_ordered_ops():
        inputs = [port.get_source_output() for port in op.inputs()]
        if op.get_friendly_name() not in ancestors or not any(
            port == source or port.get_node().get_friendly_name() in between for port in inputs
        ):
            continue
        between.add(op.get_friendly_name())
        for port in inputs:
            node = port.get_node()
            if port != source and node.get_friendly_name() not in between and node.get_type_name() != "Constant":
                if not port.get_names():
                    port.set_names({f"{prefix}/{len(beside)}"})
                beside[port.get_any_name()] = None
    return tuple(beside)


def _find_ancestors(nodes: Iterable[ov.Node]) -> list[ov.Node]:
    """Return the nodes and all that they are computed from."""
    found: dict[str, ov.Node] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node
            waiting += [port.get_source_output().get_node() for port in node.inputs()]
    return list(found.values())


def _extract(model: ov.Model, takes: Iterable[str], gives: Sequence[str] = ()) -> ov.Model:
    """Return the part of a graph from its inputs and some inner tensors to others, or to its outputs."""
    part = model.clone()
    outputs = {name: port for op in part.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
    parameters = [*part.get_parameters()]
    results = [opset.result(outputs[name]) for name in gives] or part.get_results()
    for name in takes:
        port = outputs[name]
        parameter = opset.parameter(port.get_partial_shape(), port.get_element_type(), name=name)
        for reader in port.get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        parameter.output(0).set_names({name})
        parameters.append(parameter)
    needed = {node.get_friendly_name() for node in _find_ancestors(results)}
    taken = [parameter for parameter in parameters if parameter.get_friendly_name() in needed]
    return ov.Model(results, taken)  # pyright: ignore[reportGeneralTypeIssues] - openvino's own stubs disagree
