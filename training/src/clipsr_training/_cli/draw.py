"""`clipsr-train draw`: what a text means to a model, as a drawing."""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training import prompts
from clipsr_training._cli.arguments import PREPROCESS_HELP, HelpFormatter, positive, real, seed
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder, to_json, write_atomically
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.data import decode
from clipsr_training.drawing._draw import Drawing, DrawOptions, draw, embed_pictures, embed_texts
from clipsr_training.drawing._strokes import Strokes

_SIDE = 512  # of the PNG and of the SVG, in pixels
_STRIP_SIDE, _STRIP_PICTURES = 128, 8


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "draw",
        help="draw what a text means to a model",
        description="Move strokes until the image tower agrees with a text (CLIPDraw). Writes the drawing as SVG, and "
        "beside it a PNG, a strip of its progress and JSON with the cosines of all published labels. Interrupted, it "
        "keeps the best drawing so far.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("text", help='what to draw, worded as the model was taught: "a photo of a truck."')
    parser.add_argument("--output", type=Path, default=Path("drawing.svg"), metavar="FILE.svg", help="the drawing")
    parser.add_argument(
        "--model",
        default="checkpoints/clipsr-small",
        metavar="FOLDER|NAME",
        help="a checkpoint folder, or an OpenCLIP name with --weights",
    )
    parser.add_argument("--weights", metavar="PATH|TAG", help="weights of an OpenCLIP model")
    parser.add_argument("--preprocess", metavar="TAG", help=PREPROCESS_HELP)
    parser.add_argument("--strokes", type=positive, default=32, metavar="N", help="number of strokes")
    parser.add_argument("--steps", type=positive, default=500, metavar="N", help="optimizer steps")
    parser.add_argument("--views", type=positive, default=4, metavar="N", help="random views of the drawing a step")
    parser.add_argument("--seed", type=seed, default=0, help="of the first strokes and of the views")
    parser.add_argument("--not", nargs="+", default=[], metavar="TEXT", dest="not_texts", help="what it must not be")
    parser.add_argument(
        "--not-weight", type=real(at_least=0), default=0.3, metavar="X", help="of --not against the text"
    )
    parser.add_argument("--start", type=Path, metavar="IMAGE", help="draw onto this picture, cut to its central square")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Path:
    output: Path = arguments.output
    if output.suffix.lower() != ".svg":
        raise ValueError(f"--output is {output}; name a file that ends in .svg")
    if not arguments.text.strip():
        raise ValueError("there is no text to draw")
    start = None if arguments.start is None else _square(arguments.start)
    make_output_folder(output.parent)
    clip = _open_model(arguments)
    options = DrawOptions(
        text=arguments.text,
        not_texts=tuple(arguments.not_texts),
        n_strokes=arguments.strokes,
        n_steps=arguments.steps,
        n_views=arguments.views,
        negative_weight=arguments.not_weight,
        seed=arguments.seed,
    )
    drawings = _draw(clip, options, start)
    if not drawings:
        raise KeyboardInterrupt("stopped before the first drawing; nothing was written")
    best = max(drawings, key=lambda drawing: drawing.score)
    _write(output, clip, options, drawings, best, start)
    if drawings[-1].step < options.n_steps:
        raise KeyboardInterrupt(f"stopped; {output} is the best drawing so far, of step {best.step}")
    return output


def _open_model(arguments: argparse.Namespace) -> ClipCheckpoint:
    if arguments.weights is not None:
        return load_open_clip(arguments.model, arguments.weights, preprocess=arguments.preprocess)
    return load_clip(arguments.model)


def _draw(clip: ClipCheckpoint, options: DrawOptions, start: Image.Image | None) -> list[Drawing]:
    """Return the drawings up to the end or to Ctrl-C."""
    drawings: list[Drawing] = []
    background = None if start is None else _to_tensor(start, clip.image_size_px)
    with progress_bar() as bar:
        task = bar.add_task(options.text, total=options.n_steps)
        with contextlib.suppress(KeyboardInterrupt):  # what is drawn is kept
            for drawing in draw(clip, options, background):
                drawings.append(drawing)
                bar.update(task, completed=drawing.step)
    return drawings


def _write(
    output: Path,
    clip: ClipCheckpoint,
    options: DrawOptions,
    drawings: list[Drawing],
    best: Drawing,
    start: Image.Image | None,
) -> None:
    write_atomically(output, best.strokes.to_svg(_SIDE, None if start is None else _to_address(start)).encode())
    write_atomically(output.with_suffix(".png"), _to_png(_render(best.strokes, _SIDE, start)))
    shown = [drawings[i] for i in np.linspace(0, len(drawings) - 1, min(_STRIP_PICTURES, len(drawings))).astype(int)]
    strip = torch.cat([_render(drawing.strokes, _STRIP_SIDE, start) for drawing in shown], 2)
    write_atomically(output.with_name(f"{output.stem}-progress.png"), _to_png(strip))
    report = {
        "text": options.text,
        "not": list(options.not_texts),
        "seed": options.seed,
        "strokes": options.n_strokes,
        "step": best.step,
        "score": round(best.score, 4),
        "cosines": _cosines(clip, options, _render(best.strokes, clip.image_size_px, start)),
    }
    write_atomically(output.with_suffix(".json"), to_json(report, indent=2).encode() + b"\n")


def _cosines(clip: ClipCheckpoint, options: DrawOptions, picture: Tensor) -> dict[str, float]:
    """Return the cosine with the text and with every published label, the largest first."""
    labels = sorted({label for labels in prompts.label_sets().values() for label in labels})
    texts = [options.text, *(prompts.expand("a photo of a {}.", label) for label in labels)]
    with torch.no_grad():
        cosines = (embed_texts(clip, texts) @ embed_pictures(clip, picture[None])[0]).tolist()
    own, *others = cosines
    ranked = sorted(zip(labels, others, strict=True), key=lambda pair: -pair[1])
    return {options.text: round(own, 4), **{label: round(cosine, 4) for label, cosine in ranked}}


def _render(strokes: Strokes, side: int, start: Image.Image | None) -> Tensor:
    with torch.no_grad():
        return strokes.render(side, None if start is None else _to_tensor(start, side))


def _square(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    image = decode(path.read_bytes(), str(path))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _to_tensor(image: Image.Image, side: int) -> Tensor:
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def _to_png(picture: Tensor) -> bytes:
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _to_address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
