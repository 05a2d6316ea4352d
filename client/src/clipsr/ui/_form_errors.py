"""What went wrong, in a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipsr import AuthenticationError, ClipsrError, DeadlineError, InvalidRequestError, Limits
from clipsr._display.description import format_bytes


class FormError(Exception):
    """What was filled in cannot be sent; its text says what to change."""


def explain(error: ClipsrError | FormError) -> str:
    """Return the sentence to show; options that it names are those of `clipsr-client ui`."""
    if isinstance(error, InvalidRequestError):
        return " ".join([str(error), *(text for _, text in error.violations if text not in str(error))])
    if isinstance(error, AuthenticationError):
        return f"{error} Start this page again with --api-key-file, --tls, --ca or --cert."
    if isinstance(error, DeadlineError):
        return f"{error} Start this page again with a longer --timeout."
    return str(error)


def check_file(path: str, limits: Limits) -> None:
    """Refuse a file that the service would refuse, before it is read.

    Raises:
        FormError: the file is larger than the service takes, or was removed, as uploads are after a while.
    """
    try:
        size_bytes = Path(path).stat().st_size
    except FileNotFoundError:
        raise FormError("The uploaded file was removed meanwhile: choose it again.") from None
    if size_bytes > limits.max_image_bytes:
        raise FormError(
            f"The file has {format_bytes(size_bytes)}; the service takes at most "
            f"{format_bytes(limits.max_image_bytes)} an image. Choose a smaller one."
        )


def split_labels(typed: str) -> Sequence[str]:
    """Return the labels in a text, with commas or line ends between them.

    Raises:
        FormError: there are none.
    """
    labels = split_words(typed)
    if not labels:
        raise FormError("There are no labels: type some with commas between them, such as cat, dog, bird.")
    return labels


def split_words(typed: str) -> Sequence[str]:
    """Return what stands between commas or line ends in a text, such as tags; none for an empty one."""
    return [word for line in typed.splitlines() for part in line.split(",") if (word := part.strip())]
