"""HTML of what the pages show: pure functions, every text from elsewhere escaped, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipsr import Prediction
from clipsr._display.data_uri import data_uri
from clipsr._display.text import escape_html

_PERCENT = 100


def alert(sentence: str) -> str:
    """Return a failure; assistive technology reads it at once."""
    return f'<div class="cs-alert" role="alert"><strong>That did not work.</strong> {escape_html(sentence)}</div>'


def status(sentence: str) -> str:
    """Return a success, read when the reader pauses."""
    return f'<div class="cs-done" role="status">{escape_html(sentence)}</div>'


def caution(sentence: str) -> str:
    """Return what to know about an answer that is there all the same."""
    return f'<div class="cs-caution">{escape_html(sentence)}</div>'


def heading(text: str) -> str:
    """Return the heading of an answer."""
    return f'<h2 class="cs-heading">{escape_html(text)}</h2>'


def count_images(count: int) -> str:
    """Return a number of images in words."""
    return "1 image" if count == 1 else f"{count:,} images"


def empty(sentence: str) -> str:
    """Return what stands where there is nothing yet."""
    return f'<div class="cs-empty">{escape_html(sentence)}</div>'


def quiet(sentence: str) -> str:
    """Return a remark."""
    return f'<p class="cs-quiet">{escape_html(sentence)}</p>'


def panel(*parts: str) -> str:
    """Return parts below each other, announced when they change."""
    return f'<div class="cs-panel" role="status">{"".join(parts)}</div>'


def bars(predictions: Sequence[Prediction], *, caption: str) -> str:
    """Return a table of labels with a bar each: read as text, seen as a chart.

    Args:
        predictions: best first.
        caption: what the table says, for those who do not see it.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape_html(one.label)}</th>'
        f'<td class="cs-bar" aria-hidden="true"><span style="width:{one.probability * _PERCENT:.2f}%"></span></td>'
        f'<td class="cs-number">{one.probability:.1%}</td>'
        f'<td class="cs-number cs-minor">{one.cosine:.3f}</td></tr>'
        for one in predictions
    )
    head = (
        '<tr><th scope="col">label</th><td aria-hidden="true"></td>'
        '<th scope="col">probability</th><th scope="col">cosine</th></tr>'
    )
    caption = escape_html(caption)
    return f'<table class="cs-bars"><caption>{caption}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>'


def facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a titled list of names and what they stand for."""
    items = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd>" for name, value in rows)
    return f'<section class="cs-facts"><h2>{escape_html(title)}</h2><dl>{items}</dl></section>'


def picture(content: bytes, *, caption: str) -> str:
    """Return an image with its pixels as they are, or a remark where browsers cannot show its kind."""
    source = data_uri(content)
    if source is None:
        shown = '<div class="cs-blank">Browsers do not show files of this kind.</div>'
    else:
        shown = f'<img src="{source}" alt="{escape_html(caption)}">'
    return f'<figure class="cs-picture">{shown}<figcaption>{escape_html(caption)}</figcaption></figure>'
