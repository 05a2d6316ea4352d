"""HTML of what the pages show: pure functions, every text from elsewhere escaped, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipsr import Degradation, Prediction
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


def bars(predictions: Sequence[Prediction | Degradation], *, caption: str) -> str:
    """Return a table of labels, or of kinds of damage, with a bar each: read as text, seen as a chart.

    Args:
        predictions: best first.
        caption: what the table says, for those who do not see it.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape_html(name)}</th>'
        f'<td class="cs-bar" aria-hidden="true"><span style="width:{one.probability * _PERCENT:.2f}%"></span></td>'
        f'<td class="cs-number">{one.probability:.1%}</td>'
        f'<td class="cs-number cs-minor">{one.cosine:.3f}</td></tr>'
        for one in predictions
        for name in (one.label if isinstance(one, Prediction) else one.kind,)
    )
    noun = "damage" if any(isinstance(one, Degradation) for one in predictions) else "label"
    head = (
        f'<tr><th scope="col">{noun}</th><td aria-hidden="true"></td>'
        '<th scope="col">probability</th><th scope="col">cosine</th></tr>'
    )
    caption = escape_html(caption)
    return f'<table class="cs-bars"><caption>{caption}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>'


def damage_chip(likeliest: Degradation) -> str:
    """Return the likeliest damage of an image, as a word on it."""
    text = f"{likeliest.kind} {likeliest.probability:.0%}"
    return f'<p class="cs-tags"><span class="cs-damage">{escape_html(text)}</span></p>'


def compare(before: bytes, after: bytes, *, caption: str) -> str:
    """Return two images of equal proportions over each other, with a slider that moves the border between them.

    Args:
        before: the image on the left of the border.
        after: the image on its right; browsers must show both kinds of files.
        caption: what they show.
    """
    name = escape_html(caption)
    pictures = (
        f'<img src="{data_uri(content) or ""}" alt="{name}: {when}">'
        for when, content in (("after", after), ("before", before))
    )
    return (
        f'<figure class="cs-picture cs-compare"><div>{"".join(pictures)}'
        '</div><input type="range" min="0" max="100" value="50" aria-label="Border between before and after" '
        "oninput=\"this.previousElementSibling.style.setProperty('--border', this.value + '%')\">"
        f"<figcaption>{name}: before on the left, after on the right</figcaption></figure>"
    )


def download(content: bytes, *, name: str) -> str:
    """Return a link that saves an image file."""
    uri = data_uri(content) or ""
    return f'<p class="cs-quiet"><a download="{escape_html(name)}" href="{uri}">Save {escape_html(name)}</a></p>'


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
