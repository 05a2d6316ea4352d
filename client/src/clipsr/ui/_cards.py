"""HTML of a library's images, each on a card; pure functions like those of _markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipsr import SearchHit, StoredImage
from clipsr._display.data_uri import data_uri
from clipsr._display.description import format_bytes
from clipsr._display.text import escape_html

_UNNAMED = "(no source)"
_SHOWN_HASH = 12  # digits; enough to tell images apart, and what `clipsr-client library` shows


def found_cards(hits: Sequence[SearchHit]) -> str:
    """Return what was found, best first, each with its cosine in figures and as a bar."""
    items = (
        f'<li class="cs-card">{_thumbnail(hit.image)}<div class="cs-text">{_title(hit.image)}'
        f'<div class="cs-cosine"><span aria-hidden="true"><i style="width:{_share(hit.cosine):.1f}%"></i></span>'
        f"<b>cosine {hit.cosine:.3f}</b></div>{_tags(hit.image)}</div></li>"
        for hit in hits
    )
    return _list(items)


def stored_cards(images: Sequence[StoredImage]) -> str:
    """Return images to choose from: each card is the label of a box to tick."""
    items = (
        f'<li class="cs-card"><label><input type="checkbox" name="picked" value="{escape_html(image.sha256)}">'
        f'{_thumbnail(image)}<span class="cs-text">{_title(image)}'
        f'<span class="cs-minor">{image.size_hw[1]} × {image.size_hw[0]}, {format_bytes(image.size_bytes)}<br>'
        f"{image.add_time:%Y-%m-%d %H:%M} UTC</span>{_tags(image)}</span></label></li>"
        for image in images
    )
    return _list(items)


def _list(items: Iterable[str]) -> str:
    return f'<ul class="cs-cards">{"".join(items)}</ul>'


def _thumbnail(image: StoredImage) -> str:
    source = data_uri(image.thumbnail or b"")
    if source is None:
        return '<span class="cs-blank">No thumbnail</span>'
    return f'<img src="{source}" alt="{escape_html(image.source or _UNNAMED)}">'


def _title(image: StoredImage) -> str:
    name = escape_html(image.source.rpartition("/")[2] or _UNNAMED)
    whole = f"{escape_html(image.source)} {image.sha256[:_SHOWN_HASH]}"
    return f'<span class="cs-title" title="{whole}">{name}</span>'


def _tags(image: StoredImage) -> str:
    return f'<span class="cs-tags">{"".join(f"<span>{escape_html(tag)}</span>" for tag in image.tags)}</span>'


def _share(cosine: float) -> float:
    """Return the length of a cosine's bar in percent; below 0 there is none."""
    return max(0.0, min(1.0, cosine)) * 100
