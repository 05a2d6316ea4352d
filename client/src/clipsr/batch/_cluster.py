"""Ray: started in this process, or a cluster; the only module that knows it, which the extra clipsr[batch] brings."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """Actors that work at the same time.

    Attributes:
        count: how many.
        cores: that each reserves.
    """

    count: int
    cores: int


class ClusterError(Exception):
    """Ray could not finish the work."""


@contextlib.contextmanager
def open_cluster(address: str | None) -> Generator[int, None, None]:
    """Connect to a cluster, or start Ray on this machine, for as long as the block takes.

    Args:
        address: of a cluster, as ray.init() takes it; None starts Ray here unless RAY_ADDRESS names one.

    Yields:
        Its cores.

    Raises:
        click.UsageError: Ray is not installed.
        ClusterError: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports every cluster over the Internet
    try:
        ray: Any = importlib.import_module("ray")
        data: Any = importlib.import_module("ray.data")
    except ImportError:
        raise click.UsageError("clipsr-batch runs on Ray: pip install 'clipsr[batch]'.") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    # Where a node is not up in time, as on a busy machine, Ray raises a bare Exception.
    except Exception as error:
        raise ClusterError(f"there is no cluster to work on: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    try:
        yield int(ray.cluster_resources().get("CPU", 0))
    finally:
        ray.shutdown()


def map_in_workers(dataset: Any, worker: type, arguments: Mapping[str, Any], workers: Workers, **batches: Any) -> Any:
    """Return the dataset that a class makes of each batch, one instance a worker; a lost one's batches are done again.

    Args:
        dataset: a ray.data.Dataset.
        worker: called with a pyarrow.Table.
        arguments: of its constructor.
        workers: how many, and of which size.
        batches: further options of map_batches().
    """
    data: Any = importlib.import_module("ray.data")
    return dataset.map_batches(
        worker,
        fn_constructor_kwargs=dict(arguments),
        compute=data.ActorPoolStrategy(size=workers.count),
        num_cpus=workers.cores,
        batch_format="pyarrow",
        **batches,
    )


def run_in_workers(
    tasks: list[dict[str, Any]], worker: type, arguments: Mapping[str, Any], workers: Workers
) -> Iterator[dict[str, Any]]:
    """Yield what a worker makes of each task, as they are done; of a task the worker is given a table of one row.

    Raises:
        ClusterError: a worker failed; one that is lost does not.
    """
    data: Any = importlib.import_module("ray.data")
    errors: Any = importlib.import_module("ray.exceptions")
    if not tasks:
        return
    # A block a task, or a worker would do several before any of them is seen.
    dataset = data.from_items(tasks, override_num_blocks=len(tasks))
    try:
        yield from map_in_workers(dataset, worker, arguments, workers, batch_size=1).iter_rows()
    except errors.RayError as error:
        raise ClusterError(f"Ray gave up: {error}") from error
