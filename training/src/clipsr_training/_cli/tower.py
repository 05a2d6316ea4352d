"""`clipsr-train tower`: an image tower learns pictures as people have them, beside a text tower that stays."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive, rate, share
from clipsr_training._cli.checkpoint import add_upscaler_option, load_upscaler
from clipsr_training._cli.fit_options import add_fit_options, read_fit_options
from clipsr_training.adapt import read_nouns
from clipsr_training.clip import load_clip
from clipsr_training.clip._checkpoint import set_input_side
from clipsr_training.data import SetOptions
from clipsr_training.tower import TowerRecipe, train_tower

_DEFAULTS = TowerRecipe()


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tower",
        help="train an image tower on small, damaged pictures with labels",
        description="Train the image tower of a CLIP model on pictures with class labels, as they are, reduced and "
        "saved as programs do, and damaged, by either route to the encoder. The text tower stays as it is, so words "
        "that no picture shows keep their place.",
        formatter_class=HelpFormatter,
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="CLIP checkpoint to start from")
    model.add_argument(
        "--image-size",
        type=positive,
        metavar="PX",
        help="side of the encoder's input from now on, of image towers from timm (default: the model's)",
    )
    add_upscaler_option(model, "LIIF weights that render pictures, as in the service")
    model.add_argument(
        "--replay",
        type=Path,
        metavar="FOLDER",
        help="CLIP checkpoint whose opinion of the undamaged pictures is to be kept",
    )
    model.add_argument(
        "--nouns",
        metavar="A,B|@SET+@SET|FILE",
        help="what the replayed model tells apart, as --anchors of clipsr-train adapt; absent: the 1,000 of ImageNet",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", nargs="+", required=True, metavar="DATA", help="sources that clipsr-train clip takes")
    data.add_argument("--split", default="train", help="of data sets that have several")
    data.add_argument("--image-column", metavar="NAME", help="of tables; image, img, ... if absent")
    data.add_argument("--label-column", metavar="NAME", help="of tables; label, fine_label, ... if absent")
    data.add_argument(
        "--hold-out",
        action="store_true",
        help="leave out the classes that are held out to test untaught names: for measuring, not for serving",
    )
    _add_steps(parser)
    add_fit_options(parser, Path("runs/tower"))
    parser.set_defaults(run=_run)


def _add_steps(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_argument_group("optimization")
    steps.add_argument("--draws", type=positive, default=_DEFAULTS.draws, help="pictures of the whole run")
    steps.add_argument("--batch-size", type=positive, default=_DEFAULTS.batch_size, help="pictures a step")
    steps.add_argument("--lr", type=rate, default=_DEFAULTS.lr, help="peak learning rate")
    steps.add_argument(
        "--head-lr", type=rate, default=_DEFAULTS.head_lr, help="likewise of the projection and the scale"
    )
    steps.add_argument(
        "--replay-weight", type=rate, default=_DEFAULTS.replay_weight, help="of the replay, against the labels"
    )
    steps.add_argument(
        "--embedding-weight",
        type=rate,
        default=_DEFAULTS.embedding_weight,
        help="of the distance from the replayed model's embedding of the undamaged picture, brought into the texts' "
        "space through the nouns",
    )
    steps.add_argument(
        "--small-share", type=share, default=_DEFAULTS.small_share, help="part that is reduced and saved as programs do"
    )
    steps.add_argument(
        "--damaged-share", type=share, default=_DEFAULTS.damaged_share, help="part that one of ten kinds damages"
    )


def _run(arguments: argparse.Namespace) -> Path:
    names = [field.name for field in fields(TowerRecipe)]
    chosen = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    model = load_clip(arguments.model)
    return train_tower(
        model if arguments.image_size is None else set_input_side(model, arguments.image_size),
        load_upscaler(arguments),
        arguments.data,
        TowerRecipe(**chosen),
        read_fit_options(arguments),
        replayed=None if arguments.replay is None else load_clip(arguments.replay),
        nouns=read_nouns(arguments.nouns),
        data_options=SetOptions(
            split=arguments.split, image_column=arguments.image_column, label_column=arguments.label_column
        ),
    )
