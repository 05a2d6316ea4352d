"""Every kind of image that a library keeps has an ending when it is exported."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from clipsr.cli._library.export import _ENDINGS
from clipsr_gateway._images.header import FORMATS, read_header


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_every_format_has_an_ending_that_says_what_it_is(kind):
    picture = Image.new("RGB", (8, 8))
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [picture]} if kind == "MPO" else {}
    picture.save(buffer, kind, **more)
    ending = _ENDINGS[read_header(buffer.getvalue(), max_pixels=64).media_type]
    assert Image.registered_extensions()[ending] == ("JPEG" if kind == "MPO" else kind)
