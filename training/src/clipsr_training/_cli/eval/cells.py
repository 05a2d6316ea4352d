"""Measurements in cells, with a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training.evaluation._cells import Cell, CellKey, Measurement, measure_cells


def measure_with_progress(
    measurement: Measurement, cells: Sequence[Cell], arguments: argparse.Namespace
) -> dict[CellKey, np.ndarray]:
    """Measure cells into the output folder that the options name; see `measure_cells`."""
    with progress_bar() as progress:
        task = progress.add_task("", total=sum(len(cell.images) for cell in cells))
        return measure_cells(
            measurement, cells, arguments.output, resume=arguments.resume, on_images=lambda n: progress.advance(task, n)
        )
