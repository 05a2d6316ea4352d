"""The parts of the web pages that need no browser: HTML, forms, the guard, the address."""

from __future__ import annotations

from datetime import datetime, timezone

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsr import (
    AuthenticationError,
    Client,
    DeadlineError,
    Degradation,
    InvalidRequestError,
    Prediction,
    SearchHit,
    ServiceUnavailableError,
    StoredImage,
)
from clipsr._display.data_uri import data_uri
from clipsr.cli._ui import parse_listen
from clipsr.ui import _cards, _markup
from clipsr.ui._classify_page import set_choices
from clipsr.ui._form_errors import FormError, explain, split_labels, split_words
from clipsr.ui._library_view import chosen_library
from clipsr.ui._middleware import make_middleware
from clipsr.ui._theme import make_theme
from clipsr.ui._widgets import library_update

HOSTILE = '<img src=x onerror="alert(1)">\u202e&\'"'


def stored(**changes):
    fields = {
        "sha256": "ab" * 32,
        "source": f"folder/{HOSTILE}",
        "tags": (HOSTILE,),
        "metadata": {},
        "size_hw": (32, 48),
        "size_bytes": 2048,
        "media_type": "image/png",
        "add_time": datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc),
        "model_digest": "sha256:x",
        "route": "upscaled",
        "has_original": True,
        "thumbnail": b"RIFF....WEBPVP8L",
    }
    return StoredImage(**{**fields, **changes})


@pytest.mark.parametrize(
    "html",
    [
        _markup.alert(HOSTILE),
        _markup.caution(HOSTILE),
        _markup.status(HOSTILE),
        _markup.heading(HOSTILE),
        _markup.quiet(HOSTILE),
        _markup.empty(HOSTILE),
        _markup.facts(HOSTILE, [(HOSTILE, HOSTILE)]),
        _markup.bars([Prediction(label=HOSTILE, cosine=0.3, probability=0.9)], caption=HOSTILE),
        _markup.picture(b"GIF89a", caption=HOSTILE),
        _markup.bars([Degradation(kind=HOSTILE, cosine=0.3, probability=0.9)], caption="x"),
        _markup.damage_chip(Degradation(kind=HOSTILE, cosine=0.3, probability=0.9)),
        _markup.compare(b"GIF89a", b"GIF89a", caption=HOSTILE),
        _markup.download(b"GIF89a", name=HOSTILE),
        _cards.found_cards([SearchHit(image=stored(), cosine=0.25)]),
        _cards.stored_cards([stored()]),
    ],
)
def test_text_from_elsewhere_stays_text(html):
    assert "<img src=x" not in html
    assert r"&lt;img src=x onerror=&quot;alert(1)&quot;&gt;\u202e" in html
    assert "\u202e" not in html


def test_bars_are_as_long_as_probabilities():
    html = _markup.bars([Prediction(label="cat", cosine=0.3, probability=0.876)], caption="Most likely: cat")
    assert "width:87.60%" in html
    assert ">87.6%<" in html


@pytest.mark.parametrize(("cosine", "width"), [(0.25, "25.0%"), (-0.5, "0.0%"), (1.5, "100.0%")])
def test_bars_of_cosines_stay_on_their_card(cosine, width):
    assert f"width:{width}" in _cards.found_cards([SearchHit(image=stored(), cosine=cosine)])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"BM", "image/bmp"),
    ],
)
def test_images_are_put_into_the_page(content, kind):
    assert (data_uri(content) or "").startswith(f"data:{kind};base64,")


@pytest.mark.parametrize("content", [b"", b"<svg onload='alert(1)'/>", b"II*\0", b"RIFF\0\0\0\0WAVE"])
def test_what_browsers_do_not_show_is_not_put_into_the_page(content):
    assert data_uri(content) is None
    assert "Browsers do not show" in _markup.picture(content, caption="x")


def test_an_image_without_a_thumbnail_or_source_has_a_card():
    html = _cards.stored_cards([stored(source="", thumbnail=None)])
    assert "No thumbnail" in html
    assert "(no source)" in html


def test_words_are_split():
    assert split_words(" a, b\n\nc ,,") == ["a", "b", "c"]
    assert split_words("") == []
    with pytest.raises(FormError, match="There are no labels"):
        split_labels(" , \n")


@given(st.lists(st.text(st.characters(exclude_characters=",", exclude_categories=["C", "Z"]), min_size=1)))
def test_what_is_joined_by_commas_is_split_there(words):
    assert split_words(", ".join(words)) == words


def test_errors_name_the_options_of_this_command():
    violation = ("label_space.labels[1]", "The label is empty.")
    assert explain(InvalidRequestError("Wrong labels.", violations=[violation])) == "Wrong labels. The label is empty."
    assert "--timeout" in explain(DeadlineError("No answer.", timeout_s=1))
    assert "--api-key-file" in explain(AuthenticationError("Not you.", url="x:1", code="UNAUTHENTICATED"))
    assert explain(FormError("Choose a file.")) == "Choose a file."


@pytest.mark.parametrize(
    ("there", "error", "said"),
    [
        (["birds"], FormError, "Choose a library."),
        ([], FormError, "There is no library yet: make one on the page Library."),
        (None, ServiceUnavailableError, "Nobody answers at"),
    ],
    ids=["chosen none", "none there", "no service"],
)
def test_why_no_library_is_chosen_is_said(fake_service, there, error, said):
    for name in there or ():
        fake_service.library.create(name)
    if there is None:
        fake_service.stop()
    with Client(fake_service.url, retries=0) as client, pytest.raises(error, match=said):
        chosen_library(client, None)


def test_choices_stay_while_the_service_is_away_and_follow_it_when_it_is_there(fake_service):
    fake_service.library.create("birds")
    with Client(fake_service.url, retries=0) as client:
        sets, templates, encoders = set_choices(client, "animals", "robust")
        assert (encoders["visible"], encoders["value"]) == (False, "plain")
        assert (sets["value"], [value for _, value in sets["choices"]][:2]) == ("animals", ["", "animals"])
        assert templates["choices"][0][1] == ""
        assert set_choices(client, "of an earlier model")[0]["value"] == ""
        fake_service.info.degradation_kinds.append("clean")
        encoders = set_choices(client, None, "robust")[2]
        assert (encoders["visible"], encoders["value"]) == (True, "robust")
        assert [value for _, value in encoders["choices"]] == ["plain", "robust"]
        libraries = library_update(client, None)
        assert (libraries["choices"], libraries["value"]) == (["birds"], "birds")
        fake_service.stop()
        for update in (*set_choices(client, "animals"), library_update(client, "birds")):
            assert "choices" not in update
            assert "value" not in update


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:7860", ("127.0.0.1", 7860)), ("[::1]:0", ("::1", 0)), ("localhost:80", ("localhost", 80))],
)
def test_addresses_are_read(text, address):
    context = click.Context(click.Command("ui"))
    assert parse_listen(context, click.Option(["--listen"]), text) == address


@pytest.mark.parametrize("text", ["7860", ":7860", "::1:7860", "host:", "host:x", "host:70000", "http://host:80"])
def test_what_is_no_address_is_refused(text):
    context = click.Context(click.Command("ui"))
    with pytest.raises(click.BadParameter, match="is not HOST:PORT"):
        parse_listen(context, click.Option(["--listen"]), text)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1:7860", 200),
        (b"LOCALHOST", 200),
        (b"[::1]:7860", 200),
        (b"evil.example", 400),
        (b"evil.example:7860", 400),
        (b"127.0.0.1.evil.example:7860", 400),
        (None, 400),
    ],
)
async def test_pages_answer_by_their_own_names_only(host, status):
    sent = await ask({"127.0.0.1", "localhost", "[::1]"}, {} if host is None else {b"host": host})
    assert sent[0]["status"] == status
    assert b"default-src 'self'" in dict(sent[0]["headers"])[b"content-security-policy"]


async def test_pages_of_a_public_address_answer_by_any_name():
    sent = await ask(None, {b"host": b"pages.example"})
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({b"origin": b"https://pages.example"}, 200),
        ({b"origin": b"https://PAGES.example"}, 200),
        ({b"origin": b"https://pages.example:8000"}, 403),
        ({b"origin": b"https://evil.example"}, 403),
        ({b"origin": b"null"}, 403),
        ({b"sec-fetch-site": b"same-origin", b"origin": b"https://behind-a-proxy.example"}, 200),
        ({b"sec-fetch-site": b"none"}, 200),
        ({b"sec-fetch-site": b"same-site"}, 403),
        ({b"sec-fetch-site": b"cross-site"}, 403),
        ({b"sec-fetch-site": b"cross-site", b"origin": b"https://pages.example"}, 403),
    ],
)
async def test_only_the_pages_themselves_may_write(headers, status):
    sent = await ask(None, {b"host": b"pages.example", **headers}, method="POST")
    assert sent[0]["status"] == status
    sent = await ask(None, {b"host": b"pages.example", **headers}, method="GET")
    assert sent[0]["status"] == 200


async def answer_ok(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(hosts, headers, method="GET"):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nothing is read")

    app = answer_ok
    for middleware in reversed(make_middleware(hosts)):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    await app({"type": "http", "method": method, "headers": list(headers.items())}, receive, send)
    return sent


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours #rrggbb (WCAG 2.2, definition of contrast ratio)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("state", ["", "_hover", "_dark", "_hover_dark"])
@pytest.mark.parametrize("kind", ["primary", "cancel"])
def test_white_words_on_buttons_can_be_read(kind, state):
    theme = make_theme()
    fill = getattr(theme, f"button_{kind}_background_fill{state}")
    colour = getattr(theme, fill[1:]) if fill.startswith("*") else fill
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", colour) >= 4.5  # WCAG 2.2, 1.4.3
