"""Files of a drawing: SVG, PNG, a strip of its progress, and JSON with what the model says of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training import prompts
from clipsr_training._files import to_json, write_atomically
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._embeddings import embed_pictures, embed_texts
from clipsr_training.data import decode
from clipsr_training.drawing._draw import Drawing, DrawOptions
from clipsr_training.drawing._strokes import Strokes

SIDE = 512  # of the PNG and of the SVG, in pixels
_STRIP_SIDE, _STRIP_PICTURES = 128, 8
_TEMPLATE = "a photo of a {}."


def write_drawings(
    output: Path,
    clip: ClipCheckpoint,
    options: DrawOptions,
    drawings: Sequence[Drawing],
    *,
    start: Image.Image | None = None,
    facts: Mapping[str, object],
) -> Drawing:
    """Write the best of the drawings of a run, and its progress.

    Args:
        output: of the SVG; the other files lie beside it.
        clip: what it was drawn with.
        options: how it was drawn.
        drawings: at least one.
        start: the picture below it.
        facts: what else the JSON says.

    Returns:
        The best one.

    Raises:
        OSError: a file can't be written.
    """
    best = max(drawings, key=lambda drawing: drawing.score)
    write_atomically(output, best.strokes.to_svg(SIDE, None if start is None else to_address(start)).encode())
    write_atomically(output.with_suffix(".png"), to_png(render(best.strokes, SIDE, start)))
    shown = [drawings[i] for i in np.linspace(0, len(drawings) - 1, min(_STRIP_PICTURES, len(drawings))).astype(int)]
    strip = torch.cat([render(drawing.strokes, _STRIP_SIDE, start) for drawing in shown], 2)
    write_atomically(output.with_name(f"{output.stem}-progress.png"), to_png(strip))
    picture = render(best.strokes, clip.image_size_px, start)
    report = {
        **facts,
        **asdict(options),
        "step": best.step,
        "score": round(best.score, 4),
        **_cosines(clip, options.text, picture),
    }
    write_atomically(output.with_suffix(".json"), to_json(report, indent=2).encode() + b"\n")
    return best


def _cosines(clip: ClipCheckpoint, text: str, picture: Tensor) -> dict[str, object]:
    """Return the cosine with the text, and with every published label, the largest first."""
    labels = sorted({label for labels in prompts.label_sets().values() for label in labels})
    texts = [text, *(prompts.expand(_TEMPLATE, label) for label in labels)]
    with torch.no_grad():
        own, *others = (embed_texts(clip, texts) @ embed_pictures(clip, picture[None])[0]).tolist()
    ranked = sorted(zip(labels, others, strict=True), key=lambda pair: -pair[1])
    return {
        "cosine": round(own, 4),
        "template": _TEMPLATE,
        "cosines": {label: round(cosine, 4) for label, cosine in ranked},
    }


def read_start(path: Path) -> Image.Image:
    """Return the central square of an image file, as large as a drawing.

    Raises:
        OSError: there is no file, or it can't be read.
        ValueError: it is no image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    image = decode(path.read_bytes(), str(path))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def render(strokes: Strokes, side: int, start: Image.Image | None = None) -> Tensor:
    """Return the drawing [3, side, side], without gradients, on a picture if there is one."""
    with torch.no_grad():
        return strokes.render(side, None if start is None else to_background(start, side))


def to_background(image: Image.Image, side: int) -> Tensor:
    """Return a square image as [3, side, side] in [0, 1]."""
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def to_png(picture: Tensor) -> bytes:
    """Encode RGB [3, H, W] in [0, 1]."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return _png(Image.fromarray(pixels))


def to_address(image: Image.Image) -> str:
    """Return an image as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
