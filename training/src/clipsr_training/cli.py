"""Command line of the training package: `clipsr-train`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipsr_training._arguments import HelpFormatter
from clipsr_training._fit import FitOptions
from clipsr_training.clip._train import OPTIMIZERS, ClipRecipe, train_clip
from clipsr_training.liif._recipes import RECIPES as LIIF_RECIPES
from clipsr_training.liif._train import train_liif

_DATA_HELP = "folders of images, searched with everything below them; DIV2K_train_HR is such a folder"
_SCALE_HELP = (
    "draw scales from U(1, this), instead of the recipe's 4; the service renders 16 px at 14. An image too small for a "
    "patch at a drawn scale is drawn at a smaller one"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipsr-train`; returns the exit code (0 done, 1 bad data or a run that can't continue, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    try:
        path = arguments.run(arguments)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        print(f"clipsr-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(f"clipsr-train: {interruption or 'interrupted'}", file=sys.stderr)
        return 130
    print(path)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `clipsr-train` with all its commands."""
    parser = argparse.ArgumentParser(prog="clipsr-train", description="Train the models that clipsr serves.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_liif(commands)
    _add_clip(commands)
    return parser


def _add_liif(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "liif",
        help="train an upscaler",
        description="Train an upscaler (LIIF) on folders of high-resolution images. Low-resolution inputs are made "
        "from them by antialiased bicubic reduction, so of DIV2K only the HR folder is needed.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--recipe", choices=sorted(LIIF_RECIPES), default="fast", help="model and hyperparameters")
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="patches a step, instead of the recipe's")
    parser.add_argument("--scale-max", type=float, help=_SCALE_HELP)
    _add_fit_options(parser, Path("runs/liif"))
    parser.set_defaults(run=_run_liif)


def _run_liif(arguments: argparse.Namespace) -> Path:
    overrides = {
        name: value for name in ("steps", "batch_size", "scale_max") if (value := getattr(arguments, name)) is not None
    }
    recipe = replace(LIIF_RECIPES[arguments.recipe], **overrides)
    return train_liif(recipe, arguments.data, _fit_options(arguments))


def _add_clip(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    recipe = ClipRecipe()
    parser = commands.add_parser(
        "clip",
        help="train a CLIP model",
        description="Train a CLIP model contrastively on class-labelled images, rendered by an upscaler.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--model", default="clipsr-small", help="bundled configuration, or a checkpoint folder to go on from"
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, metavar="FILE", help="Parquet files with image and label"
    )
    parser.add_argument(
        "--upscaler", type=Path, metavar="FILE", help="weights that render the images; bicubic if absent"
    )
    parser.add_argument("--epochs", type=int, default=recipe.epochs, help="passes over the images")
    parser.add_argument("--batch-size", type=int, default=recipe.batch_size, help="images a step")
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default=recipe.optimizer,
        help="adamw, or muon for the image tower's convolutions and AdamW for the rest: fewer epochs from scratch",
    )
    parser.add_argument("--lr", type=float, default=recipe.lr, help="peak learning rate of AdamW")
    parser.add_argument("--muon-lr", type=float, default=recipe.muon_lr, help="peak learning rate of Muon")
    parser.add_argument(
        "--webp-quality",
        type=int,
        metavar="1-100",
        help="encode losslessly stored images as WebP of this quality first: give it where some data sets are lossy "
        "and some are not, or the model learns to tell them apart by that (absent: leave them as they are)",
    )
    _add_fit_options(parser, Path("runs/clip"))
    parser.set_defaults(run=_run_clip)


def _run_clip(arguments: argparse.Namespace) -> Path:
    recipe = ClipRecipe(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        optimizer=arguments.optimizer,
        lr=arguments.lr,
        muon_lr=arguments.muon_lr,
        webp_quality=arguments.webp_quality,
    )
    options = _fit_options(arguments)
    return train_clip(arguments.model, arguments.data, recipe, options, upscaler=arguments.upscaler)


def _add_fit_options(parser: argparse.ArgumentParser, output: Path) -> None:
    parser.add_argument("--output", type=Path, default=output, help="folder for checkpoints, logs and final weights")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and augmentation")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning's precision: bf16-mixed, 32-true, ...")
    parser.add_argument("--devices", default="auto", help="number of devices")
    parser.add_argument("--workers", type=int, default=1, help="data loader processes")


def _fit_options(arguments: argparse.Namespace) -> FitOptions:
    return FitOptions(
        output=arguments.output,
        resume=arguments.resume,
        seed=arguments.seed,
        precision=arguments.precision,
        devices=arguments.devices,
        n_workers=arguments.workers,
    )


if __name__ == "__main__":
    sys.exit(main())
