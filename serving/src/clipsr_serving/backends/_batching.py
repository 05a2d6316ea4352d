"""Runs many requests as few batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.generic]]
Run = Callable[[Tensors], Tensors]
"""Runs a graph once. Its outputs belong to the caller: they are never overwritten by a later run."""

Answer = Tensors | Exception


def run_batched(requests: Sequence[Tensors], run: Run, *, batches: bool) -> list[Answer]:
    """Run requests, those of equal shapes in one batch.

    A batch that fails is run again request by request, so that the one at fault fails alone.

    Args:
        requests: inputs by name; with `batches` the first axis of each is the batch.
        run: the graph.
        batches: False for a model without a batch dimension.

    Returns:
        for each request its outputs, or the exception that it ended in.
    """
    answers: dict[int, Answer] = {}
    for members in _group(requests, batches):
        try:
            outputs = _run_group([requests[index] for index in members], run)
            answers.update(zip(members, outputs, strict=True))
        # Runtimes raise their own types; whatever it is goes back to the request and is logged by Triton.
        except Exception as error:
            answers.update((index, _run_alone(requests[index], run, error, len(members))) for index in members)
    return [answers[index] for index in range(len(requests))]


def _group(requests: Sequence[Tensors], batches: bool) -> list[list[int]]:
    """Return indices of requests that may share a batch, in order of first appearance."""
    if not batches:
        return [[index] for index in range(len(requests))]
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for index, tensors in enumerate(requests):
        shapes = tuple((name, tensor.shape[1:]) for name, tensor in sorted(tensors.items()))
        groups.setdefault(shapes, []).append(index)
    return list(groups.values())


def _run_group(requests: Sequence[Tensors], run: Run) -> list[Tensors]:
    if len(requests) == 1:
        return [run(requests[0])]
    stacked = {name: np.concatenate([tensors[name] for tensors in requests]) for name in requests[0]}
    outputs = run(stacked)
    first_name = next(iter(requests[0]))
    ends = np.cumsum([len(tensors[first_name]) for tensors in requests])
    for name, output in outputs.items():
        if len(output) != ends[-1]:
            raise RuntimeError(f"the output {name!r} has {len(output)} rows for a batch of {ends[-1]}")
    parts = {name: np.split(output, ends[:-1]) for name, output in outputs.items()}
    return [{name: part[index] for name, part in parts.items()} for index in range(len(requests))]


def _run_alone(tensors: Tensors, run: Run, error: Exception, members: int) -> Answer:
    if members == 1:
        return error
    try:
        return run(tensors)
    except Exception as own_error:
        return own_error
