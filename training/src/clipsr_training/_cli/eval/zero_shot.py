"""`clipsr-eval zeroshot`: accuracy without training on the classes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.evaluation._zero_shot import (
    ZeroShotPlan,
    below_published_warning,
    check_comparable,
    compare_with,
    measure_zero_shot,
)
from clipsr_training.evaluation._zero_shot_report import ZeroShotReport, write_zero_shot_report


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "zeroshot",
        help="zero-shot accuracy",
        description="Top-1, top-5 and mean accuracy per class of a CLIP model on labelled images, with intervals, "
        "times, a log of every image and a confusion matrix. Prints a Markdown table.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json, images.jsonl, confusion.png and confusion.csv")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help="output of an earlier measurement of the same images, to test against",
    )
    options.add_templates_option(parser)
    options.add_route_option(parser)
    options.add_data_options(parser, several=False)
    options.add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    templates = options.check_templates(arguments.templates)
    make_output_folder(arguments.output)
    images = options.open_images(arguments, arguments.data)
    if arguments.compare is not None:
        check_comparable(images, arguments.compare)
    plan = ZeroShotPlan(
        backend=options.open_model(arguments),
        images=images,
        templates=templates,
        route=arguments.route,
        batch_size=arguments.batch_size,
    )
    with progress_bar() as progress:
        task = progress.add_task(images.name, total=len(images))
        result = measure_zero_shot(
            plan, arguments.output, resume=arguments.resume, on_images=lambda n: progress.advance(task, n)
        )
    warning = None
    if arguments.backend == "torch":
        warning = below_published_warning(result, images.name, arguments.model, arguments.weights)
    report = ZeroShotReport(
        plan=plan,
        result=result,
        agreement=None if arguments.compare is None else compare_with(result, arguments.compare),
        notes=() if warning is None else (f"**Warning:** {warning}.",),
    )
    # Before it is printed: a closed pipe must not cost the report.
    write_zero_shot_report(report, arguments.output)
    print(report.tables())
    if (comparison := report.comparison()) is not None:
        print(f"\n{comparison}")
    if warning is not None:
        print(f"clipsr-eval: warning: {warning}", file=sys.stderr)
