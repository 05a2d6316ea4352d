"""What the page "Search" answers: calls of the service and HTML, no gradio."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr import Client, ClipsrError, ImageFilter, SearchResult
from clipsr.ui import _cards, _markup
from clipsr.ui._form_errors import FormError, check_file, explain, split_words
from clipsr.ui._library_view import chosen_library


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchForm:
    """The fields of the page "Search".

    Attributes:
        library: its name; None where there is none.
        text: what the images shall show; counts where is_by_image is not set.
        path: an uploaded image to search with, or None.
        is_by_image: whether the image is searched with, not the text.
        template: a prompt with {}, a published set with "@", or empty for the service's default.
        tags: tags with commas between them that an image must all have.
        source_prefix: what an image's source must begin with.
        min_cosine: least cosine to show; -1 shows all.
        top_k: images to show.
        is_exact: compares with every image.
    """

    library: str | None
    text: str
    path: str | None
    is_by_image: bool
    template: str
    tags: str
    source_prefix: str
    min_cosine: float
    top_k: int
    is_exact: bool


def answer_search(client: Client, form: SearchForm) -> str:
    """Return what a library has that fits, or a sentence that says why there is nothing."""
    try:
        result = _search(client, form)
    except (ClipsrError, FormError) as error:
        return _markup.alert(explain(error))
    warnings = [_markup.caution(warning.message) for warning in result.warnings]
    if not result.hits:
        return _markup.panel(*warnings, _markup.empty("Nothing was found. Loosen the filters, or add images."))
    embedding = f"{result.inference_ms:,.0f} ms to embed the query, " if result.inference_ms else ""
    return _markup.panel(
        *warnings,
        _markup.heading(f"{_markup.count_images(len(result.hits))}, most similar first"),
        _cards.found_cards(result.hits),
        _markup.quiet(f"{embedding}{result.search_ms:,.1f} ms to search"),
    )


def _search(client: Client, form: SearchForm) -> SearchResult:
    library = chosen_library(client, form.library)
    where = ImageFilter(all_tags=split_words(form.tags), source_prefix=form.source_prefix.strip())
    min_cosine = form.min_cosine if form.min_cosine > -1 else None
    if form.is_by_image:
        if form.path is None:
            raise FormError("There is no image to search with: drop one into the field, or choose a file.")
        check_file(form.path, client.model_info().limits)
        return library.search_image(
            form.path,
            top_k=form.top_k,
            where=where,
            min_cosine=min_cosine,
            is_exact=form.is_exact,
            return_thumbnail=True,
        )
    text, template = form.text.strip(), form.template.strip()
    if not text:
        raise FormError("Say what the images shall show, such as: a dog on grass.")
    return library.search_text(
        text,
        templates=[template] if template else [],
        top_k=form.top_k,
        where=where,
        min_cosine=min_cosine,
        is_exact=form.is_exact,
        return_thumbnail=True,
    )
