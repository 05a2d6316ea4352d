"""`clipsr-eval linear-probe`: how well a linear classifier reads the embeddings."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive, seed, share
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.evaluation._backends.base import LocalBackend
from clipsr_training.evaluation._probe import embed_cached, fit_probe, match_classes, n_fits
from clipsr_training.evaluation._probe_report import ProbeReport, write_probe_report


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "linear-probe",
        help="logistic regression on frozen embeddings",
        description="Fit a logistic regression on a model's embeddings of training images, its penalty chosen on a "
        "validation split of them, and measure it on test images. Prints Markdown tables.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="gets report.md, report.json and validation.png"
    )
    parser.add_argument("--train", required=True, metavar="DATA", help="training images, named as --data are")
    parser.add_argument("--train-split", default="train", help="of a training set that has several")
    parser.add_argument("--train-limit", type=positive, metavar="N", help="only so many training images")
    parser.add_argument(
        "--validation-share", type=_part, default=0.1, metavar="0-1", help="of the training images, to choose C on"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the validation split")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/embeddings"), metavar="DIR", help="keeps embeddings for the next probe"
    )
    options.add_route_option(parser)
    options.add_data_options(parser, several=False)
    options.add_model_options(parser, ("torch", "onnx"))
    parser.set_defaults(run=_run, on_interrupt="interrupted; embeddings of whole sets are kept in the cache")


def _part(text: str) -> float:
    value = share(text)
    if value in (0, 1):
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, not {text}")
    return value


def _run(arguments: argparse.Namespace) -> None:
    make_output_folder(arguments.output)
    make_output_folder(arguments.cache)
    train = options.open_images(_for_training(arguments), arguments.train)
    test = options.open_images(arguments, arguments.data)
    test_targets = match_classes(train, test)
    backend = options.open_model(arguments)
    assert isinstance(backend, LocalBackend), "the parser offers no other"
    with progress_bar() as progress:
        task = progress.add_task("embedding", total=len(train) + len(test))
        features = [
            embed_cached(
                backend,
                images,
                arguments.cache,
                route=arguments.route,
                batch_size=arguments.batch_size,
                on_images=lambda n: progress.advance(task, n),
            )
            for images in (train, test)
        ]
        fitting = progress.add_task("fitting", total=n_fits() + 1)
        result = fit_probe(
            features[0],
            train.targets,
            features[1],
            test_targets,
            validation_share=arguments.validation_share,
            seed=arguments.seed,
            on_fit=lambda: progress.advance(fitting),
        )
    settings = {
        "model": backend.describe(),
        "train": train.name,
        "train_digest": train.digest,
        "data": test.name,
        "data_digest": test.digest,
        "route": arguments.route,
        "seed": arguments.seed,
    }
    report = ProbeReport(settings=settings, train=train.name, test=test.name, result=result)
    # Before it is printed: a closed pipe must not cost the report.
    write_probe_report(report, arguments.output)
    print(report.tables())
    for note in report.notes():
        print(f"clipsr-eval: {note}", file=sys.stderr)


def _for_training(arguments: argparse.Namespace) -> argparse.Namespace:
    changed = {"split": arguments.train_split, "limit": arguments.train_limit}
    return argparse.Namespace(**{**vars(arguments), **changed})
