"""Command line of the training package: `clipsr-train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from clipsr_training._cli import adapt, backbone, controller, draw, edit, restorer, text, tower
from clipsr_training._cli.arguments import (
    PREPROCESS_HELP,
    HelpFormatter,
    describe,
    parse_labels,
    plain_warnings,
    positive,
    rate,
    real,
    share,
    whole,
)
from clipsr_training._cli.fit_options import add_fit_options, clip_to_start_from, read_fit_options
from clipsr_training.clip._average import average_clips
from clipsr_training.clip._recipes import OPTIMIZERS, ClipRecipe
from clipsr_training.clip._recipes import RECIPES as CLIP_RECIPES
from clipsr_training.clip._rendering import Rendering
from clipsr_training.clip._train import train_clip
from clipsr_training.data import SetOptions
from clipsr_training.interrupts import interrupted_by_sigterm
from clipsr_training.liif import load_liif
from clipsr_training.liif._average import average_upscalers
from clipsr_training.liif._recipes import RECIPES as LIIF_RECIPES
from clipsr_training.liif._train import train_liif

_DATA_HELP = "folders of images, searched with everything below them; DIV2K_train_HR is such a folder"
_SCALE_HELP = (
    "draw scales from U(1, this), instead of the recipe's 4; the service renders 16 px at 14. An image too small for a "
    "patch at a drawn scale is drawn at a smaller one"
)

_PAIRS_HELP = (
    "Parquet tables or saved datasets with image and label or caption; .csv or .tsv files with paths and captions; "
    "WebDataset .tar shards or folders of them; folders of class folders; cifar10, cifar100, or hub:OWNER/NAME"
)
_RECIPE_HELP = "hyperparameters: scratch for untrained models, finetune for trained ones (default: the one that fits)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipsr-train`; returns the exit code (0 done, 1 bad data, disk or run, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    try:
        with interrupted_by_sigterm(), plain_warnings("clipsr-train"):
            path = arguments.run(arguments)
    except (OSError, ValueError) as error:
        print(f"clipsr-train: {describe(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(f"clipsr-train: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return 130
    if rank_zero_only.rank == 0:  # of several devices' processes, one speaks
        print(path)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `clipsr-train` with all its commands."""
    parser = argparse.ArgumentParser(prog="clipsr-train", description="Train the models that clipsr serves.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_liif(commands)
    _add_clip(commands)
    adapt.add(commands)
    controller.add(commands)
    _add_average(commands)
    restorer.add(commands)
    draw.add(commands)
    edit.add(commands)
    backbone.add(commands)
    text.add(commands)
    tower.add(commands)
    return parser


def _add_liif(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "liif",
        help="train an upscaler",
        description="Train an upscaler (LIIF) on folders of high-resolution images. Low-resolution inputs are made "
        "from them by antialiased bicubic reduction, by the robust recipe in many other ways, so of DIV2K only the HR "
        "folder is needed.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--recipe", choices=sorted(LIIF_RECIPES), default="fast", help="model and hyperparameters")
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="DIR", help=_DATA_HELP)
    parser.add_argument(
        "--upscaler",
        type=Path,
        metavar="FILE",
        help="weights to start from, whose model takes the place of the recipe's",
    )
    parser.add_argument("--steps", type=positive, help="optimizer steps, instead of the recipe's")
    parser.add_argument("--batch-size", type=positive, help="patches a step, instead of the recipe's")
    parser.add_argument("--scale-max", type=real(at_least=1), help=_SCALE_HELP)
    size = parser.add_argument_group("size of the recipes fast and robust, where another upscaler is not started from")
    size.add_argument("--resblocks", type=positive, help="residual blocks of the encoder (8)")
    size.add_argument("--features", type=positive, help="its channels (32)")
    size.add_argument("--hidden", type=positive, help="width of the network that runs once an output pixel (16)")
    add_fit_options(parser, Path("runs/liif"))
    parser.set_defaults(run=_run_liif)


def _run_liif(arguments: argparse.Namespace) -> Path:
    sizes = ("resblocks", "features", "hidden")
    names = ("steps", "batch_size", "scale_max", *sizes)
    overrides = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.upscaler is not None and overrides.keys() & set(sizes):
        raise ValueError("--upscaler brings the size of its model: leave out --resblocks, --features and --hidden")
    recipe = replace(LIIF_RECIPES[arguments.recipe], **overrides)
    start = None if arguments.upscaler is None else load_liif(arguments.upscaler)
    return train_liif(recipe, arguments.data, read_fit_options(arguments), start=start)


def _add_clip(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "clip",
        help="train or fine-tune a CLIP model",
        description="Train a CLIP model contrastively on images with class labels or captions. Options that are absent "
        "follow the recipe; docs/training.md lists both recipes.",
        formatter_class=HelpFormatter,
    )
    _add_clip_model(parser)
    _add_clip_data(parser)
    steps = parser.add_argument_group("optimization")
    steps.add_argument("--recipe", choices=sorted(CLIP_RECIPES), help=_RECIPE_HELP)
    steps.add_argument("--epochs", type=positive, help="passes over the images")
    steps.add_argument("--batch-size", type=positive, help="images a step")
    steps.add_argument(
        "--accumulate", type=positive, metavar="N", help="batches whose gradients are added before a step"
    )
    steps.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help="adamw, or muon for the image tower's convolutions and AdamW for the rest: fewer epochs from scratch",
    )
    steps.add_argument("--lr", type=rate, help="peak learning rate of AdamW")
    steps.add_argument("--image-lr", type=rate, help="that of the image tower, if another")
    steps.add_argument("--text-lr", type=rate, help="that of the text tower, if another")
    steps.add_argument("--muon-lr", type=rate, help="peak learning rate of Muon")
    steps.add_argument("--weight-decay", type=rate, help="on weights of two and more dimensions")
    add_fit_options(parser, Path("runs/clip"))
    parser.set_defaults(run=_run_clip)


def _add_clip_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="clipsr-small",
        help="a checkpoint folder to go on from, an OpenCLIP name with --weights, or a bundled untrained configuration",
    )
    model.add_argument("--weights", metavar="PATH|TAG", help="weights of an OpenCLIP model")
    model.add_argument("--preprocess", metavar="TAG", help=PREPROCESS_HELP)
    model.add_argument(
        "--compile",
        action="store_true",
        dest="compiled",
        help="compile the image tower first: faster steps, once a C++ compiler has taken its minute",
    )
    model.add_argument(
        "--lock-image",
        type=whole(at_least=0),
        nargs="?",
        const=0,
        metavar="N",
        dest="unlocked_image_groups",
        help="keep the image tower as it is, but for its last N groups of layers (N absent: all of it)",
    )
    model.add_argument(
        "--lock-text",
        type=whole(at_least=0),
        nargs="?",
        const=0,
        metavar="N",
        dest="unlocked_text_layers",
        help="likewise the text tower, but for its last N layers",
    )
    model.add_argument(
        "--teacher",
        nargs="+",
        metavar="FOLDER",
        dest="teachers",
        help="checkpoint folders of models with the same image size and tokenizer: learn from their mean opinion as "
        "well (distillation)",
    )
    model.add_argument(
        "--distillation",
        type=share,
        metavar="0-1",
        help="weight of the teachers against the contrastive loss",
    )


def _add_clip_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", nargs="+", required=True, metavar="DATA", help=_PAIRS_HELP)
    data.add_argument("--split", default="train", help="of data sets that have several")
    data.add_argument("--image-column", metavar="NAME", help="of tables; image, img, ... if absent")
    data.add_argument("--label-column", metavar="NAME", help="of tables; label, fine_label, ... if absent")
    data.add_argument(
        "--caption-column",
        metavar="NAME",
        help="of tables, to be read even if there are labels; caption, ... if absent",
    )
    data.add_argument(
        "--labels",
        metavar="A,B|@SET",
        help="names for classes, in their order: with commas, or a set such as @cifar10; labels that are numbers have "
        "none of their own",
    )
    data.add_argument("--devkit", type=Path, metavar="DIR", help="ImageNet: the unpacked ILSVRC2012_devkit_t12")
    data.add_argument("--templates", dest="template_set", metavar="SET", help="prompts for classes: simple, cifar, ...")
    _add_clip_rendering(data)
    data.add_argument(
        "--validation-per-class", type=positive, metavar="N", help="images of every class kept off training"
    )


def _add_clip_rendering(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--upscaler",
        default="none",
        metavar="none|bicubic|FILE",
        help="what enlarges the images: nothing but CLIP's own resize, bicubic interpolation, or LIIF weights",
    )
    data.add_argument(
        "--scale",
        type=real(at_least=1, at_most=32),
        help="enlarge by this, then resize and crop as CLIP does (absent: straight onto the encoder's pixels, as the "
        "service does)",
    )
    data.add_argument(
        "--both-routes",
        action="store_true",
        help="train on every image as the upscaler renders it and as CLIP's own resize does, so that the service may "
        "take either route",
    )
    data.add_argument(
        "--thumbnails",
        type=whole(at_least=0),
        metavar="N",
        help="train on N small pictures of every image besides, of 8 px and more, made by all sorts of reductions, "
        "blur, noise, JPEG and WebP, as clipsr-train adapt draws them",
    )
    data.add_argument(
        "--on-the-fly",
        action="store_true",
        help="render an image each time it is used, in --workers processes, instead of all of them once to the output "
        "folder (3 R^2 bytes an image)",
    )
    data.add_argument(
        "--webp-quality",
        type=whole(at_least=1, at_most=100),
        metavar="1-100",
        help="encode losslessly stored images as WebP of this quality first: give it where some sources are lossy and "
        "some are not, or the model learns to tell them apart by that",
    )
    data.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        dest="augmented",
        help="flip and shift images at random",
    )
    data.add_argument(
        "--cutout",
        type=share,
        metavar="0-1",
        help="grey out a square of this part of a side in every image",
    )


def _run_clip(arguments: argparse.Namespace) -> Path:
    options = read_fit_options(arguments)
    upscaler = arguments.upscaler if arguments.upscaler in {"none", "bicubic"} else Path(arguments.upscaler)
    is_untrained = not Path(arguments.model).is_dir() and arguments.weights is None
    recipe = CLIP_RECIPES[arguments.recipe or ("scratch" if is_untrained else "finetune")]
    names = [field.name for field in fields(ClipRecipe)]
    overrides = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    overrides["teachers"] = tuple(arguments.teachers or ())
    if arguments.distillation is not None and not arguments.teachers:
        raise ValueError("--distillation weighs what teachers say; name them with --teacher, or leave it out")
    recipe = replace(recipe, **overrides, rendering=Rendering(upscaler=upscaler, scale=arguments.scale))
    options.seed_everything()
    checkpoint = clip_to_start_from(arguments.model, arguments.weights, arguments.preprocess)
    return train_clip(checkpoint, arguments.data, recipe, options, data_options=_data_options(arguments))


def _add_average(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "average",
        help="average the weights of CLIP models, or of upscalers",
        description="Write the mean of the weights of CLIP models, or of upscalers, that went on from the same trained "
        "weights, with other seeds or settings (a model soup): often better than each of them, at the cost of one. "
        "The mean of adapted weights and those they started from keeps half of the change.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="FOLDER|FILE", help="folders of one CLIP model, or files of LIIF"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER|FILE", help="where to write the mean")
    parser.set_defaults(run=_average)


def _average(arguments: argparse.Namespace) -> Path:
    average = average_upscalers if arguments.checkpoints[0].is_file() else average_clips
    return average(arguments.checkpoints, arguments.output)


def _data_options(arguments: argparse.Namespace) -> SetOptions:
    return SetOptions(
        split=arguments.split,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        caption_column=arguments.caption_column,
        devkit=arguments.devkit,
        labels=None if arguments.labels is None else parse_labels(arguments.labels),
    )


if __name__ == "__main__":
    sys.exit(main())
