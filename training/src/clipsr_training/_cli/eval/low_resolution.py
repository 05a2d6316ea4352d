"""`clipsr-eval lowres`: accuracy on images reduced to a few pixels."""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import get_args

from clipsr_training._cli.arguments import HelpFormatter, positive, real
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.cells import measure_with_progress
from clipsr_training._files import make_output_folder
from clipsr_training.degradation import KERNELS, Kernel
from clipsr_training.evaluation._backends.pixels import RENDERINGS, Rendering
from clipsr_training.evaluation._low_resolution import (
    LR12_REDUCTIONS,
    LR12_SIZES_PX,
    LowResolutionPlan,
    Reduction,
)
from clipsr_training.evaluation._low_resolution_report import LowResolutionReport, write_low_resolution_report


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "lowres",
        help="accuracy at low resolution",
        description="Reduce images, render them on the encoder's grid by nearest neighbour, bicubic or LIIF, and "
        "measure zero-shot top-1, LR-12, relative robustness, SAR and WAR. Prints Markdown tables.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json, accuracy.png and cells.jsonl")
    parser.add_argument(
        "--sizes", type=_sizes, default="8,16,24,32,64,128", metavar="N,N", help="sides to reduce to, in pixels"
    )
    parser.add_argument(
        "--kernel",
        type=_kernels,
        default="bicubic",
        metavar="K,K",
        help=f"how to reduce, any of {', '.join(KERNELS)}; the last three without antialiasing",
    )
    parser.add_argument(
        "--jpeg",
        type=_qualities,
        default="none",
        metavar="Q,Q",
        help="quality of the JPEG files (4:2:0) that reduced images are saved in, or none",
    )
    parser.add_argument(
        "--noise",
        type=_noises,
        default="0",
        metavar="N,N",
        help="standard deviations of white noise that is added to reduced images, in levels of 255",
    )
    parser.add_argument(
        "--lr12",
        action="store_true",
        help="the twelve cells of LR-12 instead of --sizes, --kernel, --noise and --jpeg: 8, 16, 24 and 32 px, each "
        "antialiased, antialiased as JPEG 75, and not antialiased as JPEG 90",
    )
    parser.add_argument(
        "--renderings",
        type=_renderings,
        default="nearest,bicubic,liif",
        metavar="R,R",
        help=f"any of {', '.join(RENDERINGS)}; auto is bicubic or LIIF as the service chooses",
    )
    options.add_templates_option(parser)
    options.add_data_options(parser, several=True)
    options.add_model_options(parser)
    parser.set_defaults(run=_run)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def _kernels(text: str) -> tuple[Kernel, ...]:
    asked = text.split(",")
    unknown = [name for name in asked if name not in KERNELS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown kernel {unknown[0]!r}; choose from {', '.join(KERNELS)}")
    return tuple(kernel for kernel in KERNELS if kernel in asked)


def _qualities(text: str) -> tuple[int | None, ...]:
    found = dict.fromkeys(None if part == "none" else positive(part) for part in text.split(","))
    if any(quality is not None and quality > 100 for quality in found):
        raise argparse.ArgumentTypeError(f"qualities of JPEG are 1 to 100, or none; got {text!r}")
    return tuple(found)


def _noises(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(map(real(at_least=0, at_most=255), text.split(","))))


def _renderings(text: str) -> tuple[Rendering, ...]:
    asked = text.split(",")
    unknown = [name for name in asked if name not in get_args(Rendering)]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown rendering {unknown[0]!r}; choose from {', '.join(RENDERINGS)}")
    return tuple(name for name in RENDERINGS if name in asked)


def _run(arguments: argparse.Namespace) -> None:
    templates = options.check_templates(arguments.templates)
    make_output_folder(arguments.output)
    sets = options.open_several(arguments)
    choices = itertools.product(arguments.kernel, arguments.noise, arguments.jpeg)
    reductions = tuple(Reduction(kernel=k, noise=n, jpeg_quality=q) for k, n, q in choices)
    plan = LowResolutionPlan(
        backend=options.open_model(arguments),
        sets=sets,
        templates=templates,
        sizes_px=LR12_SIZES_PX if arguments.lr12 else arguments.sizes,
        reductions=LR12_REDUCTIONS if arguments.lr12 else reductions,
        renderings=arguments.renderings,
        batch_size=arguments.batch_size,
    )
    found = measure_with_progress(plan.measurement(), plan.cells(), arguments)
    report = LowResolutionReport(plan=plan, curves=plan.curves(found))
    # Before it is printed: a closed pipe must not cost the report.
    write_low_resolution_report(report, arguments.output)
    print(*filter(None, (report.tables(), report.headline(), report.robustness())), sep="\n\n")
    for note in report.notes():
        print(f"clipsr-eval: {note}", file=sys.stderr)
