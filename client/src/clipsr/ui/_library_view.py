"""What the page "Library" answers: calls of the service and HTML, no gradio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsr import (
    AddedImage,
    Client,
    ClipsrError,
    FailedImage,
    ImageFilter,
    Library,
    LibraryInfo,
    Limits,
    NewImage,
)
from clipsr._display.description import format_bytes
from clipsr.ui import _cards, _markup
from clipsr.ui._form_errors import FormError, check_file, explain, split_words

_PAGE_SIZE = 24
_SHOWN_FAILURES = 5
_REPORT_EVERY = 8  # images; what a person follows without the page flickering


Start = tuple[str, int]
"""Where a page begins: its token, and the place of its first image among all, from 1."""

FIRST_PAGE: Start = ("", 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageView:
    """A page of a library as it is shown.

    Attributes:
        html: the images, or why there are none.
        next_start: where the page that follows begins; None after the last one.
    """

    html: str
    next_start: Start | None = None


def library_names(client: Client, *, timeout_s: float) -> list[str] | None:
    """Return the libraries of the service; None where it cannot be asked, the pages then say why."""
    try:
        return [library.name for library in client.list_libraries(timeout_s=timeout_s)]
    except ClipsrError:
        return None


def chosen_library(client: Client, name: str | None) -> Library:
    """Return the library that is chosen.

    Raises:
        FormError: none is; the sentence says whether there are any.
        ClipsrError: the service cannot be asked.
    """
    if name:
        return client.library(name)
    if client.list_libraries():
        raise FormError("Choose a library.")
    raise FormError("There is no library yet: make one on the page Library.")


def view_page(client: Client, name: str | None, *, tags: str, start: Start = FIRST_PAGE) -> PageView:
    """Return a page of a library, newest images first.

    Args:
        client: asks the service.
        name: of the library; None where there is none.
        tags: with commas between them; an image must have all of them.
        start: where the page begins.
    """
    token, first = start
    try:
        library = chosen_library(client, name)
        info = library.info()
        where = ImageFilter(all_tags=split_words(tags))
        page = library.list_page(token, where=where, page_size=_PAGE_SIZE, newest_first=True, return_thumbnail=True)
    except FormError as error:
        return PageView(html=_markup.empty(str(error)))
    except ClipsrError as error:
        return PageView(html=_markup.alert(explain(error)))
    parts = [_describe(info)]
    after = first + len(page.images)
    if page.images:
        parts.append(_markup.quiet(f"Images {first:,} to {after - 1:,} of {page.total_count:,}"))
        parts.append(_cards.stored_cards(page.images))
    else:
        parts.append(
            _markup.empty("No image has these tags." if split_words(tags) else "It is empty: add images below.")
        )
    return PageView(html="".join(parts), next_start=(page.next_page_token, after) if page.next_page_token else None)


def add_images(client: Client, name: str | None, paths: Sequence[str], tags: str) -> Iterator[str]:
    """Add uploaded files to a library, one after the other from the disk; yield how far it is, and what came of it."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    try:
        library = chosen_library(client, name)
        if not paths:
            raise FormError("There are no images: choose some files.")
        limits = client.model_info().limits
        words = split_words(tags)
        for index, outcome in library.add(_new_image(path, words, limits) for path in paths):
            if isinstance(outcome, FailedImage):
                failures.append(f"{Path(paths[index]).name}: {outcome.message}")
            counts["added" if isinstance(outcome, AddedImage) else type(outcome).__name__] += 1
            if counts.total() % _REPORT_EVERY == 0:
                yield _markup.status(f"{counts.total():,} of {len(paths):,} images …")
    except (ClipsrError, FormError) as error:
        yield _markup.alert(explain(error)) + (_summarize(counts, failures) if counts else "")
        return
    yield _summarize(counts, failures)


def delete_images(client: Client, name: str, hashes: Sequence[str]) -> str:
    """Delete images and return what came of it."""
    try:
        count = client.library(name).delete_images(hashes)
    except ClipsrError as error:
        return _markup.alert(explain(error))
    return _markup.status(f"Deleted {_markup.count_images(count)} from {name}.")


def create_library(client: Client, name: str, *, keep_originals: bool) -> str:
    """Create a library and return what came of it."""
    try:
        if not name.strip():
            raise FormError("The library needs a name of a-z, 0-9, - and _, such as holiday-2024.")
        info = client.library(name.strip()).create(keep_originals=keep_originals)
    except (ClipsrError, FormError) as error:
        return _markup.alert(explain(error))
    return _markup.status(f"Made the library {info.name}.")


def drop_library(client: Client, name: str | None, *, confirmation: str) -> str:
    """Remove a library with everything in it, if its name was typed once more; return what came of it."""
    try:
        library = chosen_library(client, name)
        if confirmation.strip() != name:
            raise FormError(f"Type the library's name, {name}, to drop it with all of its images.")
        count = library.drop()
    except (ClipsrError, FormError) as error:
        return _markup.alert(explain(error))
    return _markup.status(f"Dropped the library {name} with {_markup.count_images(count)}.")


def _new_image(path: str, tags: Sequence[str], limits: Limits) -> NewImage | FailedImage:
    try:
        check_file(path, limits)
    except FormError as error:
        return FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_TOO_LARGE", message=str(error))
    return NewImage(content=path, source=Path(path).name, tags=tags)


def _describe(info: LibraryInfo) -> str:
    size = f", {format_bytes(info.size_bytes)}" if info.size_bytes else ""
    originals = "files are kept" if info.keep_originals else "files are not kept"
    index = f"index over {info.indexed_count:,}" if info.is_indexed else "no index needed yet"
    line = _markup.quiet(f"{_markup.count_images(info.image_count)}{size} · {originals} · {index}")
    if not info.needs_reembedding:
        return line
    cure = f"clipsr-client library reembed {info.name}"
    return line + _markup.caution(
        f"Another model made this library. Before it can be searched or added to, run: {cure}"
    )


def _summarize(counts: Counter[str], failures: Sequence[str]) -> str:
    sentences = [f"Added {_markup.count_images(counts['added'])}."]
    if counts["PresentImage"]:
        sentences.append(f"{_markup.count_images(counts['PresentImage'])} had been there already.")
    if failures:
        sentences.append(f"{_markup.count_images(len(failures))} failed.")
    shown = [*failures[:_SHOWN_FAILURES], *(["…"] if len(failures) > _SHOWN_FAILURES else [])]
    return _markup.status(" ".join(sentences)) + "".join(_markup.caution(failure) for failure in shown)
