"""`clipsr-train restorer`: a damaged picture becomes a clean one."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive, rate
from clipsr_training._cli.fit_options import add_fit_options, read_fit_options
from clipsr_training.data import SetOptions
from clipsr_training.restoration._contexts import CONTEXT_NAMES
from clipsr_training.restoration._recipe import RestorerRecipe
from clipsr_training.restoration._train import train_restorer

_DEFAULTS = RestorerRecipe()


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "restorer",
        help="train a restorer of damaged pictures",
        description="Train a network that turns damaged pictures into clean ones, on undamaged photos without labels: "
        "squares are cut from them and damaged in ten ways, singly or by two.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="DATA",
        help="photos: folders, searched with everything below them, or any source that clipsr-train clip takes; each "
        "named one is drawn from equally often, however many photos it holds",
    )
    data.add_argument("--split", default="train", help="of data sets that have several")
    data.add_argument("--image-column", metavar="NAME", help="of tables; image, img, ... if absent")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--contexts",
        choices=CONTEXT_NAMES,
        default=_DEFAULTS.contexts,
        help="what the network is told beside the picture: nothing, or the kinds of damage",
    )
    model.add_argument("--width", type=positive, default=_DEFAULTS.width, help="channels at full size")
    steps = parser.add_argument_group("optimization")
    steps.add_argument("--draws", type=positive, default=_DEFAULTS.draws, help="pictures of the whole run")
    steps.add_argument("--batch-size", type=positive, default=_DEFAULTS.batch_size, help="pictures a step")
    steps.add_argument("--lr", type=rate, default=_DEFAULTS.lr, help="peak learning rate")
    steps.add_argument(
        "--side", type=positive, default=_DEFAULTS.side_px, metavar="PX", dest="side_px", help="of the pictures"
    )
    add_fit_options(parser, Path("runs/restorer"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Path:
    names = [field.name for field in fields(RestorerRecipe)]
    recipe = RestorerRecipe(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})
    return train_restorer(
        arguments.data,
        recipe,
        read_fit_options(arguments),
        data_options=SetOptions(split=arguments.split, image_column=arguments.image_column),
    )
