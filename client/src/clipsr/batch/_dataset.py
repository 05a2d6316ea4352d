"""Classification as a step of a pipeline on Ray Data."""

from __future__ import annotations

import importlib
from typing import Any

from clipsr._types import ClassifyOptions
from clipsr.batch._cluster import Workers, map_in_workers
from clipsr.batch._models import Models, OpenModels
from clipsr.batch._partitions import image_of
from clipsr.cli._classify import parquet
from clipsr.cli._classify.records import make_record

# Some batches of the image encoder, and some windows of a stream.
_BATCH_SIZE = 256


def classify_dataset(
    dataset: Any,
    models: Models,
    options: ClassifyOptions,
    *,
    image_column: str = "image",
    output_column: str = "outcome",
    workers: int = 1,
    cores_per_worker: int = 1,
    batch_size: int = _BATCH_SIZE,
) -> Any:
    """Classify the images of a ray.data.Dataset.

    Args:
        dataset: of rows with an image file each.
        models: a Service, or LocalModels, whose `threads` should be `cores_per_worker`.
        options: what is asked about every image.
        image_column: holds the files: binary, or a struct with the binary field `bytes`.
        output_column: gets a struct with the fields of the Parquet files of `clipsr-client classify` but `path`; the
            `status` of an image that failed says why, and its neighbours have theirs.
        workers: that work at the same time, each with the models loaded once.
        cores_per_worker: that each reserves.
        batch_size: images that a worker has in memory at once.

    Returns:
        The dataset with one column more; lazy, as all of Ray Data.
    """
    arguments = {"models": models, "options": options, "image_column": image_column, "output_column": output_column}
    pool = Workers(count=workers, cores=cores_per_worker)
    return map_in_workers(dataset, _Annotator, arguments, pool, batch_size=batch_size)


class _Annotator:
    """Adds the column to a batch; one in each worker."""

    def __init__(self, models: Models, options: ClassifyOptions, image_column: str, output_column: str) -> None:
        self._models: OpenModels = models.open()
        self._max_image_bytes = models.describe().max_image_bytes
        self._options, self._image_column, self._output_column = options, image_column, output_column

    def __call__(self, batch: Any) -> Any:
        images = [image_of(value, max_bytes=self._max_image_bytes) for value in batch[self._image_column].to_pylist()]
        records = [make_record("", outcome) for outcome in self._models.classify(images, self._options)]
        arrow: Any = importlib.import_module("pyarrow")
        rows = parquet.make_table(records).drop_columns(["path"])
        return batch.append_column(self._output_column, arrow.chunked_array(rows.to_struct_array()))
