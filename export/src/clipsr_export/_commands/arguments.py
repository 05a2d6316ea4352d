"""Options that the commands of `clipsr-export` share, and how their help is printed."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from clipsr_export._repository.running import find_service
from clipsr_training.data import find_images
from clipsr_training.liif import BUNDLED_UPSCALER, UPSCALER_NAME

if TYPE_CHECKING:
    # argparse gives its own result type of add_subparsers() no public name.
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: not that a flag is off, or that an option is absent."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def cosine(text: str) -> float:
    """Read a number from -1 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from -1 to 1, not {text!r}")
    return value


def add_command(commands: Commands, name: str, *, help_line: str, description: str) -> argparse.ArgumentParser:
    """Add a command; the caller adds its options and sets `run`, a function of the parsed arguments."""
    return commands.add_parser(name, help=help_line, description=description, formatter_class=HelpFormatter)


def add_repository_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that fills a model repository takes: where from, where to, checked on what."""
    parser.add_argument("--template", type=Path, default=Path("model_repository"), metavar="DIR", help="configurations")
    parser.add_argument(
        "--output", type=Path, default=Path("model_repository"), metavar="DIR", help="repository to fill"
    )
    parser.add_argument(
        "--samples", type=Path, default=Path("samples"), metavar="DIR", help="real images for the check"
    )


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """Add what the commands that export a CLIP model share, beside the repository's options."""
    parser.add_argument(
        "--upscaler",
        type=Path,
        metavar="FILE",
        help="LIIF weights before the encoder: .safetensors, or .pth in the official format (default: "
        f"{UPSCALER_NAME} in the checkpoint's folder, or else {BUNDLED_UPSCALER})",
    )
    parser.add_argument(
        "--picture-upscaler",
        type=Path,
        metavar="FILE",
        help="LIIF weights for pictures that people look at, where those before the encoder were adapted to it "
        f"(default: --upscaler, or else {BUNDLED_UPSCALER})",
    )
    parser.add_argument(
        "--robust-upscaler",
        type=Path,
        metavar="FILE",
        help="LIIF weights for such pictures of unknown origin, of clipsr-train liif --recipe robust (absent: this "
        "recipe is not offered)",
    )
    _add_optional_models(parser)
    parser.add_argument("--name", help="name of the model in the manifest (default: the checkpoint's)")
    _add_route_options(parser)
    parser.add_argument(
        "--none-of-these",
        metavar="FILE|DATA",
        help="the rule for images that show none of the labels: none_of_these.json of clipsr-eval none-of-these, or "
        "labelled validation images to make it from (default: the file beside the weights of a checkpoint folder, if "
        "there is one)",
    )
    parser.add_argument(
        "--no-text-banks",
        action="store_true",
        help="do not embed the named label sets now; the service then does at their first use",
    )
    parser.add_argument(
        "--int8",
        metavar="DATA",
        help="add an int8 image encoder, calibrated on these images, as the command int8 does",
    )


def _add_route_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--native-min-side",
        type=positive,
        metavar="PX",
        help="images of at least this shorter side skip super-resolution (default: the checkpoint's, or R / 2)",
    )
    routes = parser.add_mutually_exclusive_group()
    routes.add_argument(
        "--photos",
        metavar="DATA",
        help="photos without labels to choose the route of small images by, a folder or any data set; takes minutes "
        "(absent: --route-rules decide)",
    )
    routes.add_argument(
        "--route-rules",
        type=Path,
        metavar="FILE",
        help="what clipsr-eval routes measured for this model and upscaler (default: the file beside the weights of a "
        "checkpoint folder, if there is one; absent: --native-min-side decides)",
    )
    parser.add_argument(
        "--anchors",
        metavar="A,B|@SET+@SET|FILE",
        help="with --photos: nouns that the model's texts are good at (default: the 1,000 of ImageNet)",
    )


def _add_optional_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--restorer",
        type=Path,
        metavar="FILE",
        help="weights of clipsr-train restorer --contexts kinds, to serve restoration with (absent: it is not offered)",
    )
    parser.add_argument(
        "--controller",
        type=Path,
        metavar="FOLDER|FILE",
        help="add an encoder for damaged images: a folder of clipsr-train controller, trained for this model, or a "
        "DA-CLIP checkpoint, which is the model, too (absent: the encoder robust is not offered)",
    )


def warn_of_service(repository: Path) -> None:
    """Say on the error output that a service runs on the repository that is about to be replaced."""
    if (message := find_service(repository, os.environ)) is not None:
        print(f"clipsr-export: WARNING: {message}", file=sys.stderr)


def find_samples(folder: Path) -> tuple[Path, ...]:
    """Return the images of a folder, sorted; none where it is absent."""
    return tuple(find_images(folder, recursive=False))
