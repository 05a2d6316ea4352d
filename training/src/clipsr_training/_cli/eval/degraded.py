"""`clipsr-eval degraded`: accuracy on damaged images."""

from __future__ import annotations

import argparse

import numpy as np

from clipsr_training._cli.arguments import HelpFormatter, parse_chosen
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.cells import measure_with_progress
from clipsr_training._files import make_output_folder, write_atomically
from clipsr_training.data import ImageSet, decode
from clipsr_training.degradation import BEYOND, KINDS, SEVERITIES, Kind
from clipsr_training.evaluation._backends.pixels import Route
from clipsr_training.evaluation._degraded import DegradedPlan
from clipsr_training.evaluation._degraded_report import DegradedReport, draw_sheet, write_degraded_report

# In the order of the report, whose pairs are the first minus the second.
_ROUTES: tuple[Route, ...] = ("upscaled", "native", "auto")
_ALL_SEVERITIES = (*SEVERITIES, BEYOND)
_SHEET = "sheet.png"
# Of the images of a contact sheet: enough that a bad draw of one shows as such.
_N_SHEET_IMAGES = 4


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "degraded",
        help="accuracy on damaged images",
        description="Damage images in ten ways at several severities, and measure zero-shot top-1 by super-resolution "
        "and by plain resize, with paired tests between them. Prints Markdown tables.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json, accuracy.png and cells.jsonl")
    parser.add_argument(
        "--sheet",
        action="store_true",
        help=f"measure nothing: draw every kind and severity on a few of the images into {_SHEET}",
    )
    parser.add_argument(
        "--kinds", type=read_kinds, default=",".join(KINDS), metavar="K,K", help="of damage, any of the default"
    )
    parser.add_argument(
        "--severities",
        type=_severities,
        default=",".join(map(str, _ALL_SEVERITIES)),
        metavar="N,N",
        help=f"1 (mild) to 5 within the training range, {BEYOND} beyond it",
    )
    parser.add_argument(
        "--routes", type=_routes, default="upscaled,native", metavar="R,R", help=f"any of {', '.join(_ROUTES)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options.add_templates_option(parser)
    options.add_data_options(parser, several=True)
    options.add_model_options(parser)
    options.add_controller_option(parser)
    parser.set_defaults(run=_run)


def read_kinds(text: str) -> tuple[Kind, ...]:
    """Read kinds of damage with commas between them, in the order in which they happen."""
    return parse_chosen(text, KINDS, "kind")


def _severities(text: str) -> tuple[int, ...]:
    return tuple(map(int, parse_chosen(text, [str(severity) for severity in _ALL_SEVERITIES], "severity")))


def _routes(text: str) -> tuple[Route, ...]:
    return parse_chosen(text, _ROUTES, "route")


def _run(arguments: argparse.Namespace) -> None:
    templates = options.check_templates(arguments.templates)
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, got {arguments.seed}")
    make_output_folder(arguments.output)
    sets = options.open_several(arguments)
    if arguments.sheet:
        sheet = draw_sheet(_few(sets[0]), arguments.severities, arguments.seed)
        write_atomically(arguments.output / _SHEET, sheet)
        print(arguments.output / _SHEET)
        return
    backend, controlled = options.open_with_controller(arguments)
    plan = DegradedPlan(
        backend=backend,
        controlled=controlled,
        sets=sets,
        templates=templates,
        kinds=arguments.kinds,
        severities=arguments.severities,
        routes=arguments.routes,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
    )
    found = measure_with_progress(plan.measurement(), plan.cells(), arguments)
    report = DegradedReport(plan=plan, results=plan.results(found))
    # Before it is printed: a closed pipe must not cost the report.
    write_degraded_report(report, arguments.output)
    print(*filter(None, (report.headline(), report.tables())), sep="\n\n")


def _few(images: ImageSet) -> list[np.ndarray]:
    """Return a few images of a set, evenly spread over it, as RGB uint8 [H, W, 3]."""
    rows = sorted({int(row) for row in np.linspace(0, len(images) - 1, _N_SHEET_IMAGES)})
    return [np.asarray(decode(images.read(row), images.names[row])) for row in rows]
