"""Contact sheets as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clipsr import SearchHit, StoredImage
from clipsr._files import describe_unwritable, write_atomically
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._library.sheet import make_sheet


def write_sheet(
    path: Path,
    title: str,
    notes: Sequence[str],
    found: Iterable[SearchHit | StoredImage],
    *,
    warnings: Sequence[str] = (),
    query_image: bytes | None = None,
) -> ExitCode:
    """Write the page of make_sheet() in full or not at all, print its name, and return how it ended."""
    page = make_sheet(title, notes, found, warnings=warnings, query_image=query_image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        report(f"{describe_unwritable(path, error)} (--html)")
        return ExitCode.OUTPUT_FAILED
    print(path, flush=True)
    return ExitCode.OK
