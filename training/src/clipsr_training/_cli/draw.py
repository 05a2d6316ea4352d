"""`clipsr-train draw`: what a text means to a model, as a drawing."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from PIL import Image

from clipsr_training._cli.arguments import HelpFormatter, positive, real, seed
from clipsr_training._cli.checkpoint import add_checkpoint_options, load_checkpoint, threads_for
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.drawing._draw import Drawing, DrawOptions, draw
from clipsr_training.drawing._output import read_start, to_background, write_drawings


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
    add_checkpoint_options(parser)
    add_drawing_options(parser)
    parser.add_argument(
        "--not", nargs="+", default=(), metavar="TEXT", dest="not_texts", help="what it must not be; none if absent"
    )
    parser.add_argument(
        "--not-weight", type=real(at_least=0), default=0.3, metavar="X", help="of --not against the text"
    )
    parser.add_argument("--start", type=Path, metavar="IMAGE", help="draw onto this picture, cut to its central square")
    parser.set_defaults(run=_run)


def add_drawing_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that every command has that draws."""
    parser.add_argument("--strokes", type=positive, default=32, metavar="N", help="number of strokes")
    parser.add_argument("--steps", type=positive, default=500, metavar="N", help="optimizer steps")
    parser.add_argument("--views", type=positive, default=4, metavar="N", help="random views of the drawing a step")
    parser.add_argument("--seed", type=seed, default=0, help="of the first strokes and of the views")


def _run(arguments: argparse.Namespace) -> Path:
    output: Path = arguments.output
    if output.suffix.lower() != ".svg":
        raise ValueError(f"--output is {output}; name a file that ends in .svg")
    if output.is_dir():
        raise IsADirectoryError(f"--output is {output}, which is a folder; name a file")
    options = DrawOptions(
        text=arguments.text,
        not_texts=tuple(arguments.not_texts),
        not_weight=arguments.not_weight,
        n_strokes=arguments.strokes,
        n_steps=arguments.steps,
        n_views=arguments.views,
        seed=arguments.seed,
    )
    start = None if arguments.start is None else read_start(arguments.start)
    clip = load_checkpoint(arguments)
    make_output_folder(output.parent)
    drawings = draw_with_progress(clip, options, start)
    facts = {"model": arguments.model, "weights": arguments.weights}
    best = write_drawings(output, clip, options, drawings, start=start, facts=facts)
    if drawings[-1].step < options.n_steps:
        raise KeyboardInterrupt(f"stopped; {output} is the best drawing so far, of step {best.step}")
    return output


def draw_with_progress(clip: ClipCheckpoint, options: DrawOptions, start: Image.Image | None = None) -> list[Drawing]:
    """Return the drawings up to the end or to Ctrl-C; KeyboardInterrupt if there is none yet."""
    drawings: list[Drawing] = []
    background = None if start is None else to_background(start, clip.image_size_px)
    with progress_bar() as bar, threads_for(clip):
        task = bar.add_task(options.text, total=options.n_steps)
        with contextlib.suppress(KeyboardInterrupt):  # what is drawn is kept
            for drawing in draw(clip, options, background):
                drawings.append(drawing)
                bar.update(task, completed=drawing.step)
    if not drawings:
        raise KeyboardInterrupt("stopped before the first drawing; nothing was written")
    return drawings
