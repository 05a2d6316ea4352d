"""A contact sheet: one HTML file that needs nothing else, for any browser and any width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from clipsr import SearchHit, StoredImage
from clipsr._display.data_uri import data_uri
from clipsr._display.description import format_bytes
from clipsr._display.text import escape_html

# No script, and nothing from elsewhere: what an image's source or tags say can do no harm.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; font: 100%/1.4 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 80rem; overflow-wrap: anywhere; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; }
header p { margin: 0 0 .25rem; opacity: .75; }
.warning { opacity: 1; font-weight: 600; }
.query { border-radius: .4rem; height: 7rem; max-width: 100%; object-fit: contain; }
ol { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(9rem, 45%), 1fr));
  list-style: none; margin: 1rem 0; padding: 0; }
figure { border: 1px solid color-mix(in srgb, currentcolor 20%, transparent); border-radius: .5rem; height: 100%;
  margin: 0; overflow: hidden; }
figure img, figure .none { aspect-ratio: 1; background: color-mix(in srgb, currentcolor 8%, transparent);
  display: block; height: auto; object-fit: contain; width: 100%; }
figure .none { align-content: center; text-align: center; }
figcaption { font-size: .85rem; padding: .4rem .5rem; }
figcaption b { font-variant-numeric: tabular-nums; }
.tag { border: 1px solid color-mix(in srgb, currentcolor 30%, transparent); border-radius: 1rem; display: inline-block;
  margin: .15rem .15rem 0 0; padding: 0 .5em; }
small { opacity: .75; }
"""


def make_sheet(
    title: str,
    notes: Sequence[str],
    found: Iterable[SearchHit | StoredImage],
    *,
    warnings: Sequence[str] = (),
    query_image: bytes | None = None,
) -> str:
    """Return the page.

    Args:
        title: what the images have in common, such as the query.
        notes: lines below it.
        found: the images with their thumbnails; of a search, with ranks and cosines.
        warnings: what should be known about the query.
        query_image: the file that was searched with; shown if browsers can.
    """
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape_html(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n",
            f"<h1>{escape_html(title)}</h1>\n",
            _show_query(query_image),
            *(f'<p class="warning" role="note">{escape_html(warning)}</p>\n' for warning in warnings),
            *(f"<p>{escape_html(note)}</p>\n" for note in notes),
            "</header>\n<main>\n<ol>\n",
            *_show_all(found),
            "</ol>\n</main>\n</body>\n</html>\n",
        ]
    )


def _show_query(content: bytes | None) -> str:
    uri = data_uri(content or b"")
    if uri is None:
        return ""
    return f'<p><img class="query" alt="the image that was searched with" src="{uri}"></p>\n'


def _show_all(found: Iterable[SearchHit | StoredImage]) -> Iterator[str]:
    for rank, each in enumerate(found, start=1):
        is_hit = isinstance(each, SearchHit)
        image = each.image if is_hit else each
        standing = f"<b>{rank}</b> · cosine {each.cosine:.3f}<br>" if is_hit else ""
        caption = f"<figcaption>{standing}{_caption(image)}</figcaption>"
        yield f"<li><figure>{_show_thumbnail(image)}{caption}</figure></li>\n"


def _show_thumbnail(image: StoredImage) -> str:
    uri = data_uri(image.thumbnail or b"")
    if uri is None:
        return '<span class="none">no thumbnail</span>'
    height, width = image.size_hw
    text = ", ".join([image.source or image.sha256, *image.tags])
    return f'<img alt="{escape_html(text)}" src="{uri}" width="{width}" height="{height}">'


def _caption(image: StoredImage) -> str:
    height, width = image.size_hw
    tags = "".join(f'<span class="tag">{escape_html(tag)}</span>' for tag in image.tags)
    values = "".join(f"<br>{escape_html(key)}: {escape_html(value)}" for key, value in sorted(image.metadata.items()))
    size = f"{width} × {height}, {format_bytes(image.size_bytes)}"
    name = escape_html(image.source or image.sha256)
    return f"{name}<br><small>{size}{values}</small><br>{tags}".removesuffix("<br>")
