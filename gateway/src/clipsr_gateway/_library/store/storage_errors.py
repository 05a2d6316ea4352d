"""What LanceDB raises, which it tells apart by words alone, becomes an error that a caller can act on."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager

from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import LibraryError, NotInLibraryError, StorageFullError, StorageUnavailableError

# errno 28 (ENOSPC) and 122 (EDQUOT), as Rust writes them.
_FULL = ("(os error 28)", "(os error 122)")

# A table whose folder is gone: dropped, by this process or another.
_GONE = ("was not found", "Not found: ")

# Commits of others came first more often than Lance tries.
_CONTENDED = ("Too many concurrent writers", "conflict")

# The storage failed, in the words of Lance, of its object stores and of their HTTP client.
_UNAVAILABLE = ("LanceError(IO)", "IO {", "Object store error", "Generic S3 error", "HttpError", "RetryError")

_SILENT = (re.compile(r"Connect,|ConnectError|dns error|Connection refused"), "nothing answers at its endpoint")

# What an operator must mend, and how.
_LASTING = (
    (
        re.compile(r"BadScheme|http URLs are not allowed"),
        "its endpoint is http://, which needs AWS_ALLOW_HTTP=true",
    ),
    (re.compile(r"NoSuchBucket|bucket does not exist"), "there is no such bucket; create it, or correct --library-uri"),
    (
        re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|\b40[13] |Forbidden|Unauthorized"),
        "it refuses the credentials; check the ones in the gateway's environment",
    ),
    (re.compile(r"\(os error 13\)|Permission denied"), "the gateway may not read or write it"),
)


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


def explain(text: str) -> str:
    """Return why a storage failed, as the end of a sentence; empty where its words are not known."""
    return next((cause for pattern, cause in (*_LASTING, _SILENT) if pattern.search(text)), "")


def is_contended(text: str) -> bool:
    """Return whether the words of an error say that another writer came first."""
    return any(mark in text for mark in _CONTENDED)


def _translate(library: str, cause: Exception) -> LibraryError | None:
    text = str(cause)
    if any(mark in text for mark in _FULL):
        return StorageFullError(library)
    if any(mark in text for mark in _GONE) and "HttpError" not in text:
        return library_unknown(library)
    if is_contended(text):
        return StorageUnavailableError(library, "others wrote to it at the same time too often")
    if isinstance(cause, OSError) or any(mark in text for mark in _UNAVAILABLE):
        return StorageUnavailableError(
            library, explain(text), is_lasting=any(pattern.search(text) for pattern, _ in _LASTING)
        )
    return None
