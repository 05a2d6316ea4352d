"""What LanceDB raises, which it tells apart by words alone, becomes an error that a caller can act on."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import LibraryError, NotInLibraryError, StorageFullError, StorageUnavailableError

# errno 28 (ENOSPC) and 122 (EDQUOT), as Rust writes them.
_FULL = ("(os error 28)", "(os error 122)")

# A table whose folder is gone: dropped, by this process or another.
_GONE = ("was not found", "Not found: ")

# The storage failed, or commits of others came first more often than Lance tries.
_UNAVAILABLE = ("LanceError(IO)", "Too many concurrent writers", "conflict", "Object store error", "Generic S3 error")


@contextmanager
def storage_errors(library: str) -> Generator[None]:
    """Translate errors of the storage of a library; others are faults of the program and pass.

    Raises:
        NotInLibraryError: the library is gone.
        StorageFullError: nothing more can be written.
        StorageUnavailableError: the storage failed.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as cause:
        error = _translate(library, cause)
        if error is None:
            raise
        if not isinstance(error, NotInLibraryError):
            log_event("library_fault", {"library": library, "cause": str(cause)}, level=logging.ERROR)
        raise error from cause


def library_unknown(library: str) -> NotInLibraryError:
    """Return the error of a library that is not there."""
    return NotInLibraryError(
        "LIBRARY_UNKNOWN",
        f'There is no library "{library}"; `clipsr-client library list` shows those there are, and '
        f"`clipsr-client library create {library}` makes it.",
    )


def _translate(library: str, cause: Exception) -> LibraryError | None:
    text = str(cause)
    if any(mark in text for mark in _FULL):
        return StorageFullError(library)
    if any(mark in text for mark in _GONE):
        return library_unknown(library)
    if isinstance(cause, OSError) or any(mark in text for mark in _UNAVAILABLE):
        return StorageUnavailableError(library)
    return None
