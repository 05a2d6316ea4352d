"""`clipsr-eval lowres`: accuracy on images reduced to a few pixels."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from clipsr_training._cli.arguments import HelpFormatter, positive
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.evaluation._backends.pixels import RENDERINGS, Rendering
from clipsr_training.evaluation._low_resolution import LowResolutionPlan, measure_low_resolution
from clipsr_training.evaluation._low_resolution_report import LowResolutionReport, write_low_resolution_report


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "lowres",
        help="accuracy at low resolution",
        description="Reduce images by antialiased bicubic, render them on the encoder's grid by nearest neighbour, "
        "bicubic or LIIF, and measure zero-shot top-1, relative robustness, SAR and WAR. Prints Markdown tables.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json, accuracy.png and cells.jsonl")
    parser.add_argument(
        "--sizes", type=_sizes, default="8,16,24,32,64,128", metavar="N,N", help="sides to reduce to, in pixels"
    )
    parser.add_argument(
        "--renderings", type=_renderings, default=",".join(RENDERINGS), metavar="R,R", help="any of the default"
    )
    options.add_templates_option(parser)
    options.add_data_options(parser, several=True)
    options.add_model_options(parser)
    parser.set_defaults(run=_run)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def _renderings(text: str) -> tuple[Rendering, ...]:
    asked = text.split(",")
    unknown = [name for name in asked if name not in get_args(Rendering)]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown rendering {unknown[0]!r}; choose from {', '.join(RENDERINGS)}")
    return tuple(name for name in RENDERINGS if name in asked)


def _run(arguments: argparse.Namespace) -> None:
    templates = options.check_templates(arguments.templates)
    make_output_folder(arguments.output)
    sets = tuple(options.open_images(arguments, spec) for spec in arguments.data)
    names = [images.name for images in sets]
    if len(set(names)) != len(names):
        raise ValueError(f"two data sets have one name ({', '.join(names)}), so a report could not tell them apart")
    plan = LowResolutionPlan(
        backend=options.open_model(arguments),
        sets=sets,
        templates=templates,
        sizes_px=arguments.sizes,
        renderings=arguments.renderings,
        batch_size=arguments.batch_size,
    )
    cells = plan.cells()
    with progress_bar() as progress:
        task = progress.add_task("", total=sum(len(sets[cell.set_index]) for cell in cells))
        curves = measure_low_resolution(
            plan, cells, arguments.output, resume=arguments.resume, on_images=lambda n: progress.advance(task, n)
        )
    report = LowResolutionReport(plan=plan, curves=curves)
    # Before it is printed: a closed pipe must not cost the report.
    write_low_resolution_report(report, arguments.output)
    print(report.tables(), report.robustness(), sep="\n\n")
    for note in report.notes():
        print(f"clipsr-eval: {note}", file=sys.stderr)
