"""The pictures that a run keeps off training, as files: what is calibrated on them has not been learned by heart."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clipsr_training._files import make_output_folder, write_atomically
from clipsr_training.tower._pool import Pool


def write_kept_off(pool: Pool, rows: np.ndarray, folder: Path) -> None:
    """Write pictures of a pool as PNG, and beside those of each source a table of paths and labels.

    Args:
        pool: what they are of.
        rows: of the pool.
        folder: gets `0-tiny.csv` and `0-tiny/` for a first source called tiny; made if missing.

    Raises:
        ValueError: an image can't be decoded.
        OSError: a file can't be written.
    """
    for number, source in enumerate(pool.sources):
        own = rows[pool.source[rows] == number]
        if not len(own):
            continue
        name = f"{number}-{source.name.replace('/', '-')}"
        make_output_folder(folder / name)
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(("image", "label"))
        for index in own:
            picture = f"{name}/{pool.row[index]}.png"
            content = io.BytesIO()
            Image.fromarray(pool.square(int(index))).save(content, "PNG")
            write_atomically(folder / picture, content.getvalue())
            writer.writerow((picture, pool.names[pool.name[index]]))
        write_atomically(folder / f"{name}.csv", table.getvalue().encode())
