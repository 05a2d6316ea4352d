"""`clipsr-eval none-of-these`: how well a model says that an image shows none of the labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive, seed
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder, to_json, write_atomically
from clipsr_training.adapt import read_nouns
from clipsr_training.clip._checkpoint import read_taught_names
from clipsr_training.data import ImageSet
from clipsr_training.evaluation._backends.base import LocalBackend
from clipsr_training.none_of_these._calibration import (
    CALIBRATION_NAME,
    Calibration,
    read_calibration,
    write_calibration,
)
from clipsr_training.none_of_these._images import (
    Measured,
    calibrate_model,
    join,
    measure_model,
    names_to_compare,
    take_per_class,
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "none-of-these",
        help="how well a model says that an image shows none of the labels",
        description="Measure the rule by which an image shows none of the labels: labels are drawn from the classes, "
        "and the images of all other classes should be refused. With --calibrate, the rule is made first, and written "
        f"to {CALIBRATION_NAME} in the output folder: put it beside the model's weights, or name it to clipsr-export. "
        "Prints a Markdown table; intervals are over draws of labels.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"gets report.md, report.json and {CALIBRATION_NAME}"
    )
    rule = parser.add_argument_group("rule")
    rule.add_argument(
        "--calibration", type=Path, metavar="FILE", help=f"the rule to measure (default: {CALIBRATION_NAME} in --model)"
    )
    rule.add_argument(
        "--calibrate",
        nargs="+",
        metavar="DATA",
        help="make a rule from these labelled images, which the model was not trained on, instead",
    )
    rule.add_argument("--calibrate-split", default="train", metavar="SPLIT", help="of data sets that have several")
    rule.add_argument(
        "--per-class",
        type=positive,
        metavar="N",
        help="only N images of each class of --calibrate: those that clipsr-train clip with this --seed keeps off",
    )
    rule.add_argument("--seed", type=seed, default=0, help="of --per-class")
    rule.add_argument(
        "--names",
        metavar="A,B|@SET+@SET|FILE",
        help="with --calibrate: what an image may show instead of the labels, as many things as possible that the "
        "model knows (default: taught_names.txt in --model, or else 2,400 things)",
    )
    parser.add_argument("--others", metavar="DATA", help="images of other things, which all labels are to refuse")
    options.add_data_options(parser, several=False)
    options.add_model_options(parser, ("torch", "onnx"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.calibrate is not None and arguments.calibration is not None:
        raise ValueError("--calibrate makes a rule and --calibration names one; leave one of them out")
    make_output_folder(arguments.output)
    images = options.open_images(arguments, arguments.data)
    others = None if arguments.others is None else options.open_images(_without_labels(arguments), arguments.others)
    validation = _open_validation(arguments)
    taught = read_taught_names(Path(arguments.model))
    names = read_nouns(arguments.names) if arguments.names is not None else names_to_compare(taught)
    backend = options.open_model(arguments)
    assert isinstance(backend, LocalBackend), "the parser offers no other"
    with progress_bar() as progress:
        total = sum(map(len, filter(None, (images, others, validation))))
        task = progress.add_task("embedding", total=total)

        def on_images(count: int) -> None:
            progress.advance(task, count)

        if validation is not None:
            calibration = calibrate_model(backend, validation, names, on_images=on_images)
        else:
            calibration = read_calibration(arguments.calibration or Path(arguments.model) / CALIBRATION_NAME)
        measured = list(measure_model(backend, images, calibration, others=others, on_images=on_images))
    if validation is not None:
        write_calibration(calibration, arguments.output / CALIBRATION_NAME)
    settings = {"model": backend.describe(), "data": images.name, "data_digest": images.digest}
    _write(arguments.output, settings, calibration, measured)
    print(_table(measured))


def _open_validation(arguments: argparse.Namespace) -> ImageSet | None:
    if arguments.calibrate is None:
        return None
    changed = argparse.Namespace(**{**vars(_without_labels(arguments)), "split": arguments.calibrate_split})
    sets = [options.open_images(changed, spec) for spec in arguments.calibrate]
    if arguments.per_class is not None:
        sets = [take_per_class(images, arguments.per_class, arguments.seed) for images in sets]
    return join(sets)


def _without_labels(arguments: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(arguments), "labels": None, "limit": None, "no_check": True})


def _table(measured: Sequence[Measured]) -> str:
    rows = [
        f"| {own.what} | {own.auroc.value:.3f} ({own.auroc.low:.3f} to {own.auroc.high:.3f}) | "
        f"{own.calibration_error.percent()} | {own.false_refusals.percent()} | {own.caught.percent()} |"
        for own in measured
    ]
    head = "| labels | AUROC | calibration error | refused with a label | refused without |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _write(folder: Path, settings: dict[str, object], calibration: Calibration, measured: Sequence[Measured]) -> None:
    figures = ("auroc", "calibration_error", "false_refusals", "caught")
    content = {
        "schema_version": 1,
        **settings,
        "temperature": calibration.temperature,
        "bias": calibration.bias,
        "threshold": calibration.threshold,
        "n_names": len(calibration.names),
        "calibrated_on": calibration.data,
        "measured": [{"labels": own.what, **{name: getattr(own, name).json() for name in figures}} for own in measured],
    }
    write_atomically(folder / "report.json", (to_json(content, indent=2) + "\n").encode())
    page = (
        f"# None of these\n\nCompared with {len(calibration.names):,} names; temperature "
        f"{calibration.temperature:.3f}, bias {calibration.bias:+.3f}, threshold {calibration.threshold:.3f}, "
        f"calibrated on {calibration.data}. As if half of the images showed one of the labels; intervals at 95 %.\n\n"
        f"{_table(measured)}\n"
    )
    write_atomically(folder / "report.md", page.encode())
