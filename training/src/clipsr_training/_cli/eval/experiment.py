"""`clipsr-eval experiment`: the published comparison of CLIP with and without LIIF, with controls and seeds."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from clipsr_training._cli.arguments import PREPROCESS_HELP, HelpFormatter, positive
from clipsr_training._cli.eval import options
from clipsr_training._files import make_output_folder
from clipsr_training._identity import digest_modules
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.clip._checkpoint import build_clip, bundled_config
from clipsr_training.clip._recipes import RECIPES
from clipsr_training.data import SetOptions, read_pairs
from clipsr_training.experiment._design import ARMS, SCALES, ExperimentDesign, describe_recipe, draw
from clipsr_training.experiment._report import ExperimentReport, write_experiment_report
from clipsr_training.experiment._run import Cost, estimate_cost, run_experiment

_FROM_SCRATCH = "clipsr-tiny"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "experiment",
        help="CLIP with and without LIIF",
        description="Train CLIP on images as they are, enlarged twice by bicubic, and enlarged twice by LIIF, with "
        "several seeds; test every model on all three; report accuracies, intervals and McNemar's tests. From a "
        "trained model with the published hyperparameters, or else a tiny model from random weights.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json, accuracy.png, models.jsonl and the models")
    parser.add_argument("--data", required=True, metavar="TRAIN", help="training images with classes, as for training")
    parser.add_argument("--test", required=True, metavar="TEST", help="test images with the same classes")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="full, or quick: to see that it works")
    parser.add_argument("--model", metavar="FOLDER|NAME", help="a trained model to start from; absent: random weights")
    parser.add_argument("--weights", metavar="FILE|TAG", help="weights of a model that OpenCLIP knows by name")
    parser.add_argument("--preprocess", metavar="TAG", help=PREPROCESS_HELP)
    parser.add_argument(
        "--upscaler", type=Path, default=Path("checkpoints/liif-fast/liif.safetensors"), metavar="FILE", help="LIIF"
    )
    parser.add_argument("--train-images", type=positive, metavar="N", help="instead of the scale's")
    parser.add_argument("--test-images", type=positive, metavar="N", help="instead of the scale's")
    parser.add_argument("--seeds", type=positive, metavar="N", help="trainings of each arm")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the training images")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images a step")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    make_output_folder(arguments.output)
    design = _design(arguments)
    _say(_announcement(design, estimate_cost(design), arguments.output))
    result = run_experiment(design, arguments.output, resume=arguments.resume, say=_say)
    report = ExperimentReport(design=design, result=result, command=_command(arguments))
    # Before it is printed: a closed pipe must not cost the report.
    write_experiment_report(report, arguments.output)
    print(report.markdown())


def _design(arguments: argparse.Namespace) -> ExperimentDesign:
    scale = SCALES[arguments.scale]
    start, make_checkpoint = _start(arguments)
    if arguments.model is None:
        recipe = replace(RECIPES["scratch"], epochs=scale.epochs, batch_size=scale.batch_size)
    else:
        recipe = RECIPES["finetune"]
    asked = {"epochs": arguments.epochs, "batch_size": arguments.batch_size}
    recipe = replace(recipe, **{name: value for name, value in asked.items() if value is not None})
    train, test = read_pairs(arguments.data), read_pairs(arguments.test, options=SetOptions(split="test"))
    held_out = recipe.validation_per_class * len(train.phrases)
    return ExperimentDesign(
        start=start,
        start_digest=digest_modules(make_checkpoint(0).model),
        make_checkpoint=make_checkpoint,
        recipe=recipe,
        train=draw(train, (arguments.train_images or scale.n_train) + held_out),
        test=draw(test, arguments.test_images or scale.n_test),
        liif=arguments.upscaler,
        n_seeds=arguments.seeds or scale.n_seeds,
    )


def _start(arguments: argparse.Namespace) -> tuple[str, Callable[[int], ClipCheckpoint]]:
    """Return a description of the starting point, and what makes it for a seed.

    Raises:
        OSError: there is no such model.
        ValueError: it can't be read, or the options don't fit.
    """
    model, weights, preprocess = arguments.model, arguments.weights, arguments.preprocess
    if model is None:
        if weights is not None:
            raise ValueError("--weights needs --model, the name by which OpenCLIP knows the model")
        config = bundled_config(_FROM_SCRATCH)
        return f"random weights of `{_FROM_SCRATCH}`, {config['model_cfg']['vision_cfg']['image_size']} px", _untrained
    if Path(model).is_dir():
        if weights is not None:
            raise ValueError(f"{model} is a folder that holds its own weights; leave out --weights")
        return f"`{model}`, trained before", lambda _: load_clip(model)
    if weights is None:
        raise ValueError(f"there is no folder {model}; for a model that OpenCLIP knows by name, give --weights as well")
    return f"`{model}` with `{weights}`, trained before", lambda _: load_open_clip(
        model, weights, preprocess=preprocess
    )


def _untrained(seed: int) -> ClipCheckpoint:
    torch.manual_seed(seed)
    return build_clip(bundled_config(_FROM_SCRATCH))


def _announcement(design: ExperimentDesign, cost: Cost, folder: Path) -> str:
    n = len(ARMS) * design.n_seeds
    return (
        f"{n} trainings of {design.n_trained:,} images ({describe_recipe(design.recipe)}), each tested on "
        f"{len(design.test):,} images in {len(ARMS)} renderings; about {cost.seconds / 60:.0f} minutes in all on "
        f"this machine, timed just now, and {cost.disk_bytes / 1e9:.1f} GB in {folder}; what is interrupted goes on "
        "with --resume"
    )


def _command(arguments: argparse.Namespace) -> str:
    """Return what to type to make the report again, with names of data instead of this machine's paths."""
    words = ["clipsr-eval", "experiment", "--scale", arguments.scale]
    words += ["--data", "/".join(Path(arguments.data).parts[-2:]), "--test", "/".join(Path(arguments.test).parts[-2:])]
    for option in ("model", "weights", "preprocess", "train_images", "test_images", "seeds", "epochs", "batch_size"):
        if (value := getattr(arguments, option)) is not None:
            words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _say(sentence: str) -> None:
    print(f"clipsr-eval: {sentence}", file=sys.stderr, flush=True)
