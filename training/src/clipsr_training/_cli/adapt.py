"""`clipsr-train adapt`: thumbnails are answered as their photos are, without labels."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive, rate, real, share
from clipsr_training._cli.checkpoint import add_checkpoint_options, load_checkpoint
from clipsr_training._cli.fit_options import add_fit_options, read_fit_options
from clipsr_training.adapt import read_nouns
from clipsr_training.adapt._recipe import TUNES, AdaptRecipe
from clipsr_training.adapt._train import adapt
from clipsr_training.data import SetOptions
from clipsr_training.liif import load_liif

_DEFAULTS = AdaptRecipe()
_ANCHORS_HELP = (
    "nouns that the model is asked to tell apart: with commas, published sets joined by +, or a text file of one a "
    "line; absent: the 1,000 of ImageNet. Name those that the model's texts are good at"
)
_BOTH_HELP = (
    "with --teacher-side: ask the tower about the reduced photo by the native route as well, and teach the mean of "
    "both answers"
)
_TEACHER_HELP = (
    "let the tower judge the photo reduced to this side and rendered by super-resolution, instead of the "
    "photo: for towers trained on such pictures"
)
_TEACHER_UPSCALER_HELP = (
    "with --teacher-side: LIIF weights that render what the tower judges; absent: those of --upscaler. Name the first "
    "upscaler where a run goes on from the weights of another"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "adapt",
        help="adapt an upscaler to a CLIP model, without labels",
        description="Teach an upscaler to render small, damaged pictures such that a CLIP model answers as it answers "
        "the undamaged photo. Photos need no labels. Thumbnails are drawn from them at 8 px and more, by all sorts of "
        "reductions, blur, noise, JPEG and WebP. The weights kept are those that agree best on photos kept off.",
        formatter_class=HelpFormatter,
    )
    model = parser.add_argument_group("model")
    add_checkpoint_options(model)
    model.add_argument(
        "--upscaler",
        default="checkpoints/liif-fast/liif.safetensors",
        metavar="FILE",
        help="LIIF weights to start from",
    )
    model.add_argument(
        "--tune",
        choices=TUNES,
        default=_DEFAULTS.tune,
        help="what changes: the upscaler alone, with the tower as it is bit for bit, or the image tower as well",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="DATA",
        help="photos: folders, searched with everything below them, or any source that clipsr-train clip takes",
    )
    data.add_argument("--split", default="train", help="of data sets that have several")
    data.add_argument("--image-column", metavar="NAME", help="of tables; image, img, ... if absent")
    add_teacher_options(data)
    data.add_argument("--teacher-upscaler", metavar="FILE", help=_TEACHER_UPSCALER_HELP)
    data.add_argument(
        "--max-noise",
        type=rate,
        default=_DEFAULTS.max_noise,
        help="largest standard deviation of the thumbnails' noise, in levels of 255",
    )
    data.add_argument(
        "--damaged-share",
        type=share,
        default=_DEFAULTS.damaged_share,
        help="part of the thumbnails that one of ten kinds damages as well: dark, hazy, blurred, ...",
    )
    _add_steps(parser)
    add_fit_options(parser, Path("runs/adapt"))
    parser.set_defaults(run=_run)


def add_teacher_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say what the model is asked about undamaged photos."""
    parser.add_argument("--anchors", metavar="A,B|@SET+@SET|FILE", help=_ANCHORS_HELP)
    parser.add_argument("--teacher-side", type=positive, metavar="PX", dest="teacher_side_px", help=_TEACHER_HELP)
    parser.add_argument("--teacher-both-routes", action="store_true", help=_BOTH_HELP)


def _add_steps(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_argument_group("optimization")
    steps.add_argument("--draws", type=positive, default=_DEFAULTS.draws, help="thumbnails of the whole run")
    steps.add_argument("--batch-size", type=positive, default=_DEFAULTS.batch_size, help="thumbnails a step")
    steps.add_argument("--lr", type=rate, default=_DEFAULTS.lr, help="peak learning rate of the upscaler")
    steps.add_argument("--tower-lr", type=rate, default=_DEFAULTS.tower_lr, help="that of the image tower, if tuned")
    steps.add_argument(
        "--scale-max",
        type=real(at_least=1),
        default=_DEFAULTS.scale_max,
        help="largest scale that the upscaler tells from larger ones; 8 px at an encoder of 128 px are 16",
    )
    steps.add_argument(
        "--pixel-weight",
        type=rate,
        default=_DEFAULTS.pixel_weight,
        help="of the pixels' error, after a first fifth of the run where it is 1",
    )


def _run(arguments: argparse.Namespace) -> Path:
    options = read_fit_options(arguments)
    names = [field.name for field in fields(AdaptRecipe)]
    recipe = AdaptRecipe(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})
    teacher_upscaler = load_liif(arguments.teacher_upscaler) if arguments.teacher_upscaler else None
    if teacher_upscaler and recipe.teacher_side_px is None:
        raise ValueError("--teacher-upscaler renders reduced photos: say their side with --teacher-side")
    return adapt(
        load_checkpoint(arguments),
        load_liif(arguments.upscaler),
        arguments.data,
        read_nouns(arguments.anchors),
        recipe,
        options,
        data_options=SetOptions(split=arguments.split, image_column=arguments.image_column),
        teacher_upscaler=teacher_upscaler,
    )
