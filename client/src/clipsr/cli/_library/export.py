"""What `clipsr-client library export` does once its options are understood."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import click
from rich.progress import Progress, TaskID

from clipsr import Client, ImageFilter, StoredImage
from clipsr._files import describe_unwritable, open_text_atomically, write_atomically
from clipsr.cli._csv import CsvWriter
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._library.rows import IMAGE_COLUMNS, to_record
from clipsr.cli._progress import make_progress

_PAGE_SIZE = 64  # with files: at most about 64 MiB at once, as the service keeps none above a MiB
_HASH_LETTERS = 16  # in file names: 64 bits
_STEM_LETTERS = 50  # of up to four bytes, so that a name stays below the 255 bytes that file systems allow

_ENDINGS = {
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/mpo": ".jpg",  # a JPEG with more pictures behind it, as many phones write them
    "image/png": ".png",
    "image/tiff": ".tif",
    "image/webp": ".webp",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What to write where.

    Attributes:
        folder: for the images and the table; made if it is not there.
        is_thumbnails: writes thumbnails instead of the files that were added.
        is_json: writes the table as JSON lines instead of CSV.
        has_embeddings: writes embeddings, too; with JSON lines only.
        is_csv_safe: as CsvWriter's is_safe.
        where: which images.
    """

    folder: Path
    is_thumbnails: bool
    is_json: bool
    has_embeddings: bool
    is_csv_safe: bool
    where: ImageFilter | None


def export_images(client: Client, name: str, options: ExportOptions) -> ExitCode:
    """Write images and a table of what is known about them; files that are there already stay.

    Raises:
        click.UsageError: options contradict each other, or the folder is a file.
        ClipsrError: the service could not be asked; the same command resumes.
    """
    if options.has_embeddings and not options.is_json:
        raise click.UsageError("CSV holds no embeddings: add --table jsonl.")
    if options.folder.exists() and not options.folder.is_dir():
        raise click.UsageError(f"{str(options.folder)!r} is a file: name a folder to write into.")
    try:
        return _Export(client, name, options).run()
    except BrokenPipeError:
        raise
    except OSError as error:
        path = Path(error.filename or options.folder)
        report(f"{describe_unwritable(path, error)} The same command then resumes.")
        return ExitCode.OUTPUT_FAILED


class _Export:
    """One export; counts what it wrote."""

    def __init__(self, client: Client, name: str, options: ExportOptions) -> None:
        self._library, self._options = client.library(name), options
        self._written = self._without_file = 0

    def run(self) -> ExitCode:
        options = self._options
        table = options.folder / ("images.jsonl" if options.is_json else "images.csv")
        first = self._library.list_page(where=options.where, page_size=1)  # without a library there will be no folder
        options.folder.mkdir(parents=True, exist_ok=True)
        with make_progress() as progress:
            task = progress.add_task("exporting", total=first.total_count)
            self._write_table(table, self._records(progress, task))
        total = self._written + self._without_file
        lacking = f", {self._without_file:,} without a file, as the library keeps none" if self._without_file else ""
        print(f"{total:,} images: {self._written:,} files{lacking}; {table}", flush=True)
        return ExitCode.SOME_FAILED if self._without_file else ExitCode.OK

    def _records(self, progress: Progress, task: TaskID) -> Iterator[dict[str, Any]]:
        options = self._options
        images = self._library.list_images(
            where=options.where,
            page_size=_PAGE_SIZE,
            return_thumbnail=options.is_thumbnails,
            return_original=not options.is_thumbnails,
            return_embedding=options.has_embeddings,
        )
        for image in images:
            yield {"file": self._write_image(image), **to_record(image)}
            progress.advance(task)

    def _write_image(self, image: StoredImage) -> str:
        """Write an image's file and return its name; empty if there is none."""
        content = image.thumbnail if self._options.is_thumbnails else image.original
        if content is None:
            self._without_file += 1
            return ""
        name = make_file_name(image, is_thumbnail=self._options.is_thumbnails)
        path = self._options.folder / name
        if not (path.is_file() and path.stat().st_size == len(content)):  # its name has its hash: the same image
            write_atomically(path, content)
        self._written += 1
        return name

    def _write_table(self, path: Path, records: Iterator[dict[str, Any]]) -> None:
        """Write the table in full or not at all."""
        with open_text_atomically(path) as file:
            if self._options.is_json:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                return
            writer = CsvWriter(file, ("file", *IMAGE_COLUMNS), is_safe=self._options.is_csv_safe)
            for record in records:
                writer.write(record)


def make_file_name(image: StoredImage, *, is_thumbnail: bool) -> str:
    """Return a name for an image's file: what its source calls it, as far as any system allows, and its hash."""
    last = PureWindowsPath(PurePosixPath(image.source).name).name
    stem = re.sub(r"[^\w.-]+", "_", PurePosixPath(last).stem)[:_STEM_LETTERS].strip("._-")
    ending = ".webp" if is_thumbnail else _ENDINGS.get(image.media_type, "")
    return f"{stem}-{image.sha256[:_HASH_LETTERS]}{ending}" if stem else f"{image.sha256[:_HASH_LETTERS]}{ending}"
