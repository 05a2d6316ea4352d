"""What the gateway decides and what `clipsr.local` decides without it are the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipsr.local._answers import LabelScores
from clipsr_gateway._backend.protocol import Similarities
from clipsr_gateway._classifier.classifier import rank
from clipsr_gateway._images.header import check_image
from clipsr_gateway._limits import Limits
from clipsr_gateway.errors import ImageRejectedError
from clipsr_serving.errors import InputError
from clipsr_serving.images import FORMATS, read_image
from clipsr_serving.limits import DEFAULT_LIMITS
from tests.conftest import REPO_ROOT as ROOT


@given(cosine=st.lists(st.sampled_from([0.1, 0.2, 0.2, 0.3]), min_size=1, max_size=12), top_k=st.integers(1, 12))
def test_labels_are_ranked_alike(cosine, top_k):
    values = np.array(cosine, dtype=np.float32)
    labels = tuple(map(str, range(len(values))))
    there = rank(Similarities(cosine=values, probability=values / 2), labels, min(top_k, len(labels)))
    here = LabelScores(values, values / 2, None).rank(labels, top_k)
    assert [(each.label, each.cosine, each.probability) for each in here] == [
        (each.label, each.cosine, each.probability) for each in there
    ]


@pytest.mark.parametrize(
    ("gateway", "serving"),
    [("_text_warnings.py", "text/warnings.py"), ("_vocabulary.py", "text/vocabulary.py")],
)
def test_both_warn_by_the_same_code(gateway, serving):
    source, copy = ROOT / "gateway/src/clipsr_gateway" / gateway, ROOT / "serving/src/clipsr_serving" / serving
    assert source.read_bytes() == copy.read_bytes(), f"cp {source.relative_to(ROOT)} {copy.relative_to(ROOT)}"


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "HEIF"])
@pytest.mark.parametrize("orientation", [None, 6])
def test_the_header_says_what_the_pixels_say(kind, orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(buffer, kind, **({"exif": exif} if kind not in ("GIF", "BMP") else {}))
    header = check_image(buffer.getvalue(), limits=Limits())
    image = read_image(buffer.getvalue())
    assert header.size_hw == (image.height, image.width)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_files_are_refused_for_the_same_reasons(content):
    with pytest.raises(ImageRejectedError) as there:
        check_image(content, limits=Limits())
    with pytest.raises(InputError) as here:
        read_image(content)
    assert here.value.reason == there.value.reason


def test_the_limits_are_the_same():
    there = Limits()
    assert {name: getattr(there, name) for name in vars(DEFAULT_LIMITS)} == vars(DEFAULT_LIMITS)
