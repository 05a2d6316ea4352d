"""`clipsr-eval routes`: which route small images should take, by photos without labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipsr_training._cli.adapt import add_teacher_options
from clipsr_training._cli.arguments import HelpFormatter, positive, seed
from clipsr_training._cli.checkpoint import add_checkpoint_options, add_upscaler_option, load_checkpoint, load_upscaler
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.adapt import RouteRule, measure_routes, read_nouns
from clipsr_training.adapt._routes import Teacher
from clipsr_training.adapt._rules_file import RULES_NAME, MeasuredRules, model_digest, write_rules


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "routes",
        help="which route small images should take, by photos without labels",
        description="Draw thumbnails of photos at 8 px and more, answer them by super-resolution and by plain resize, "
        "and compare both with the answer to the undamaged photo. Prints a Markdown table, and writes the better route "
        f"of every range of sizes and kind of file to {RULES_NAME}: put it beside the model's weights, or name it to "
        "clipsr-export.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"gets {RULES_NAME}")
    parser.add_argument(
        "--photos", nargs="+", required=True, metavar="DATA", help="photos without labels: folders or any data sets"
    )
    add_teacher_options(parser)
    parser.add_argument("--limit", type=positive, default=500, metavar="N", help="photos to draw from them at random")
    parser.add_argument("--seed", type=seed, default=0, help="of all draws")
    add_checkpoint_options(parser)
    add_upscaler_option(parser, "LIIF weights before the encoder")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    nouns = read_nouns(arguments.anchors)
    teacher = Teacher(side_px=arguments.teacher_side_px, both_routes=arguments.teacher_both_routes)
    upscaler = load_upscaler(arguments)
    if upscaler is None:
        raise ValueError("without an upscaler there is one route alone, and nothing to measure")
    checkpoint = load_checkpoint(arguments)
    make_output_folder(arguments.output)
    with progress_bar() as progress:
        task = progress.add_task("answering", total=None)
        rules = measure_routes(
            checkpoint,
            upscaler,
            arguments.photos,
            nouns,
            teacher=teacher,
            limit=arguments.limit,
            seed=arguments.seed,
            on_images=lambda count: progress.advance(task, count),
        )
    photos = f"{rules[0].n_images:,} photos of {', '.join(Path(spec).name for spec in arguments.photos)}"
    measured = MeasuredRules(rules=rules, model_digest=model_digest(checkpoint, upscaler), photos=photos)
    write_rules(measured, arguments.output / RULES_NAME)
    print(_table(rules))


def _table(rules: Sequence[RouteRule]) -> str:
    rows = [
        f"| up to {rule.max_side_px} px | {'JPEG' if rule.is_lossy else 'lossless'}"
        f"{'' if rule.max_noise is None else f', noise up to {rule.max_noise:g}'} | {rule.upscaled_agreement:.1%} | "
        f"{rule.native_agreement:.1%} | {rule.route} |"
        for rule in rules
    ]
    head = "| shorter side | file | super-resolution | plain resize | route |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])
