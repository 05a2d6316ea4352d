"""`clipsr-eval drawings`: whether other models name what a model draws."""

from __future__ import annotations

import argparse
import json
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from clipsr_training import prompts
from clipsr_training._cli.arguments import HelpFormatter, parse_labels, positive
from clipsr_training._cli.checkpoint import (
    add_checkpoint_options,
    add_upscaler_option,
    load_checkpoint,
    load_upscaler,
    threads_for,
)
from clipsr_training._cli.draw import add_drawing_options, draw_with_progress
from clipsr_training._cli.eval import options
from clipsr_training._files import make_output_folder, to_json, write_atomically
from clipsr_training.clip import ClipCheckpoint, load_clip
from clipsr_training.data import ImageSet, SetOptions, open_set
from clipsr_training.drawing._draw import DrawOptions
from clipsr_training.drawing._output import write_drawings
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._drawings import Judgement, judge_drawings, measure_top1, to_markdown

_BATCH_SIZE = 64


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "drawings",
        help="whether other models name what a model draws",
        description="Draw every label as clipsr-train draw does, and let the model itself and others say what the "
        "drawings show. Judges take no part in drawing, nor in choosing a drawing. Prints a Markdown table.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json and the drawings")
    parser.add_argument("--labels", default="@cifar10", metavar="A,B|@SET", help="what to draw, and to choose from")
    parser.add_argument(
        "--template", default="a photo of a {}.", metavar="TEXT", help="the prompt, with {} where the label goes"
    )
    parser.add_argument("--judge", nargs="+", default=(), metavar="FOLDER", help="checkpoint folders of other models")
    parser.add_argument(
        "--data", metavar="DATA", help="labelled images of these labels, on which all models' top-1 is measured"
    )
    parser.add_argument("--split", default="test", help="of a data set that has several")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="only so many of --data, drawn at random, always alike"
    )
    add_upscaler_option(parser, "weights that render the small ones of --data")
    add_checkpoint_options(parser.add_argument_group("model"))
    add_drawing_options(parser.add_argument_group("drawing"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    labels = parse_labels(arguments.labels)
    paths = _paths(labels, arguments.output)
    options.check_templates([arguments.template])
    make_output_folder(arguments.output)
    images = None if arguments.data is None else _open_images(arguments, labels)
    judges = {name: load_clip(name) for name in arguments.judge}
    clip = load_checkpoint(arguments)
    for label, path in zip(labels, paths, strict=True):
        _draw(arguments, clip, label, path)
    drawings = {label: path.with_suffix(".png").read_bytes() for label, path in zip(labels, paths, strict=True)}
    judgements = [
        _judge(arguments, name, judge, drawings, images) for name, judge in {arguments.model: clip, **judges}.items()
    ]
    report = to_markdown(judgements)
    settings = {"template": arguments.template, "data": arguments.data, "judgements": [j.json() for j in judgements]}
    # Before it is printed: a closed pipe must not cost the report.
    write_atomically(arguments.output / "report.md", f"{report}\n".encode())
    write_atomically(arguments.output / "report.json", to_json(settings, indent=2).encode() + b"\n")
    print(report)


def _paths(labels: tuple[str, ...], folder: Path) -> list[Path]:
    """Return where drawings go; ValueError where two labels would share a file."""
    stems = [re.sub(r"[^\w-]+", "-", label) for label in labels]
    paths = [folder / f"{stem}.svg" for stem in stems]
    for label, path in zip(labels, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(f"{label!r} and another label would both become {path}; draw them in separate calls")
    return paths


def _open_images(arguments: argparse.Namespace, labels: tuple[str, ...]) -> ImageSet:
    images = open_set(arguments.data, SetOptions(split=arguments.split)).sample(arguments.limit)
    if tuple(images.classnames) != labels:
        raise ValueError(f"{arguments.data} has other labels than the drawings, or in another order")
    return images


def _draw(arguments: argparse.Namespace, clip: ClipCheckpoint, label: str, path: Path) -> None:
    """Draw a label, unless --resume finds it drawn like this."""
    how = DrawOptions(
        text=prompts.expand(arguments.template, label),
        n_strokes=arguments.strokes,
        n_steps=arguments.steps,
        n_views=arguments.views,
        seed=arguments.seed,
    )
    facts = {"model": arguments.model, "weights": arguments.weights}
    if arguments.resume and _is_drawn(path, json.loads(to_json({**facts, **asdict(how)}))):
        return
    drawings = draw_with_progress(clip, how)
    if drawings[-1].step < how.n_steps:
        raise KeyboardInterrupt
    write_drawings(path, clip, how, drawings, facts=facts)


def _is_drawn(path: Path, settings: dict[str, object]) -> bool:
    # The JSON is written last.
    with suppress(OSError, ValueError):
        found = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return path.with_suffix(".png").is_file() and settings.items() <= found.items()
    return False


def _judge(
    arguments: argparse.Namespace,
    name: str,
    clip: ClipCheckpoint,
    drawings: dict[str, bytes],
    images: ImageSet | None,
) -> Judgement:
    upscaler = None if images is None else load_upscaler(arguments)
    backend = TorchBackend(clip, upscaler, name=name)
    classifier = backend.classifier(tuple(drawings), (arguments.template,))
    with threads_for(clip):
        return Judgement(
            judge=name,
            verdicts=judge_drawings(classifier, drawings),
            accuracy=None if images is None else measure_top1(classifier, images, _BATCH_SIZE),
        )
