"""`clipsr-train controller`: damaged pictures are answered as undamaged ones, by a tower that stays as it is."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, parse_chosen, positive, rate, share
from clipsr_training._cli.checkpoint import add_checkpoint_options, add_upscaler_option, load_checkpoint, load_upscaler
from clipsr_training._cli.fit_options import add_fit_options, read_fit_options
from clipsr_training.adapt import read_nouns
from clipsr_training.controller._recipe import RECIPES, ControllerRecipe
from clipsr_training.controller._train import train_controller
from clipsr_training.data import SetOptions
from clipsr_training.degradation import DEGRADATIONS, Kind

_DEFAULTS = RECIPES["distill"]
_RECIPE_HELP = (
    "distill needs photos alone; daclip is that of the paper: captioned photos, two contrastive terms, and a text "
    "tower that tells the names of damage apart"
)
_ANCHORS_HELP = (
    "distill: nouns that the model is asked to tell apart: with commas, published sets joined by +, or a text file of "
    "one a line; absent: the 1,000 of ImageNet"
)
_DATA_HELP = (
    "photos: folders, searched with everything below them, or any source that clipsr-train clip takes; daclip: the "
    "latter, with captions or classes"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "controller",
        help="make a CLIP model answer damaged pictures as undamaged ones",
        description="Train a controller: a copy of the image tower that steers the frozen one, block by block, such "
        "that a picture that is blurred, dark, noisy, ... gets the embedding of the undamaged one, and that names the "
        "damage. The model itself stays as it is, bit for bit.",
        formatter_class=HelpFormatter,
    )
    model = parser.add_argument_group("model")
    add_checkpoint_options(model)
    add_upscaler_option(model, "LIIF weights that render small pictures, as in the service")
    _add_data(parser)
    _add_steps(parser)
    add_fit_options(parser, Path("runs/controller"))
    parser.set_defaults(run=_run)


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", nargs="+", required=True, metavar="DATA", help=_DATA_HELP)
    data.add_argument("--split", default="train", help="of data sets that have several")
    data.add_argument("--image-column", metavar="NAME", help="of tables; image, img, ... if absent")
    data.add_argument("--label-column", metavar="NAME", help="daclip: of tables; label, fine_label, ... if absent")
    data.add_argument("--caption-column", metavar="NAME", help="daclip: of tables; caption, text, ... if absent")
    data.add_argument("--anchors", metavar="A,B|@SET+@SET|FILE", help=_ANCHORS_HELP)
    data.add_argument(
        "--kinds",
        type=_kinds,
        default=",".join(DEGRADATIONS),
        metavar="K,K",
        help="of damage, any of the default, which are told apart and from clean pictures",
    )


def _add_steps(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_argument_group("optimization")
    steps.add_argument("--recipe", choices=list(RECIPES), default="distill", help=_RECIPE_HELP)
    steps.add_argument("--draws", type=positive, default=_DEFAULTS.draws, help="pictures of the whole run")
    steps.add_argument("--batch-size", type=positive, default=_DEFAULTS.batch_size, help="pictures a step")
    steps.add_argument("--lr", type=rate, help="peak learning rate of the copy, instead of the recipe's")
    steps.add_argument("--connection-lr", type=rate, help="likewise of the connections and prototypes")
    steps.add_argument(
        "--clean-share", type=share, default=_DEFAULTS.clean_share, help="part of the pictures that stay undamaged"
    )


def _kinds(text: str) -> tuple[Kind, ...]:
    return parse_chosen(text, DEGRADATIONS, "kind")


def _run(arguments: argparse.Namespace) -> Path:
    options = read_fit_options(arguments)
    names = [field.name for field in fields(ControllerRecipe)]
    chosen = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return train_controller(
        load_checkpoint(arguments),
        load_upscaler(arguments),
        arguments.data,
        read_nouns(arguments.anchors),
        replace(RECIPES[arguments.recipe], **chosen),
        options,
        data_options=SetOptions(
            split=arguments.split,
            image_column=arguments.image_column,
            label_column=arguments.label_column,
            caption_column=arguments.caption_column,
        ),
    )
