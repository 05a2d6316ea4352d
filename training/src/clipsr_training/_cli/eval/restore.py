"""`clipsr-eval restore`: how well a restorer removes damage."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from clipsr_training._cli.arguments import HelpFormatter, positive, seed, whole
from clipsr_training._cli.eval import options
from clipsr_training._cli.eval.degraded import read_kinds
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.adapt._photos import Photos, open_photos
from clipsr_training.data import SetOptions
from clipsr_training.data._images import read_size
from clipsr_training.degradation import BEYOND, KINDS
from clipsr_training.evaluation._degraded import HEADLINE_SEVERITY
from clipsr_training.evaluation._perceptual import Lpips, check_side
from clipsr_training.evaluation._restoration import RestorePlan, measure_restoration
from clipsr_training.evaluation._restoration_report import RestoreReport, write_restore_report
from clipsr_training.restoration import SAMPLERS, Restorer, load_restorer
from clipsr_training.restoration._contexts import contexts_of
from clipsr_training.restoration._draws import check_photos


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "restore",
        help="PSNR, SSIM and LPIPS of restored pictures",
        description="Damage photos in ten ways, restore them in some numbers of steps, and compare both with the "
        "undamaged photo, by kind. Prints a Markdown table.",
        formatter_class=HelpFormatter,
    )
    options.add_output_options(parser, "report.md, report.json, sheet.png and restored.jsonl")
    parser.add_argument(
        "--restorer", type=Path, required=True, metavar="FILE", help="weights that clipsr-train restorer wrote"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", nargs="+", required=True, metavar="DATA", help="undamaged photos, as clipsr-train restorer takes them"
    )
    data.add_argument("--split", default="test", help="of data sets that have several")
    data.add_argument("--image-column", metavar="NAME", help="of tables; image, img, ... if absent")
    data.add_argument("--limit", type=positive, metavar="N", help="only so many photos of each, evenly spread")
    data.add_argument(
        "--side", type=whole(at_least=16), default=64, metavar="PX", help="of the pictures: photos are reduced to it"
    )
    parser.add_argument(
        "--kinds", type=read_kinds, default=",".join(KINDS), metavar="K,K", help="of damage, any of the default"
    )
    parser.add_argument(
        "--severity",
        type=whole(at_least=1, at_most=BEYOND),
        default=HEADLINE_SEVERITY,
        help=f"1 (mild) to 5 within the training range, {BEYOND} beyond it",
    )
    parser.add_argument("--steps", type=_steps, default="1,5,20", metavar="N,N", help="of the sampler")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ode-2", help="how the steps are taken")
    parser.add_argument(
        "--lpips",
        action="store_true",
        help="measure LPIPS as well, of pictures of 32 px and more; AlexNet's weights (233 MB) are downloaded once",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the damage and of the sampler's noise")
    parser.add_argument("--device", default="cpu", help="where the restorer runs: cpu, cuda, ...")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="pictures at once")
    parser.set_defaults(run=_run)


def _steps(text: str) -> tuple[int, ...]:
    return tuple(sorted(set(map(positive, text.split(",")))))


def _run(arguments: argparse.Namespace) -> None:
    restorer = _load(arguments)
    make_output_folder(arguments.output)
    sources = {spec: _open(arguments, spec) for spec in arguments.data}
    names = {spec: Path(spec).name for spec in sources}
    plan = RestorePlan(
        restorer=restorer,
        name=arguments.restorer.name,
        # By short names where they differ.
        sources={names[s] if len(set(names.values())) == len(names) else s: p for s, p in sources.items()},
        kinds=arguments.kinds,
        severity=arguments.severity,
        side_px=arguments.side,
        steps=arguments.steps,
        sampler=arguments.sampler,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        lpips=Lpips(next(restorer.parameters()).device) if arguments.lpips else None,
    )
    with progress_bar() as progress:
        task = progress.add_task("", total=sum(map(len, sources.values())) * len(plan.kinds))
        found = measure_restoration(
            plan, arguments.output, resume=arguments.resume, on_pictures=lambda n: progress.advance(task, n)
        )
    report = RestoreReport(plan=plan, found=found)
    # Before it is printed: a closed pipe must not cost the report.
    write_restore_report(report, arguments.output)
    print(report.tables())


def _load(arguments: argparse.Namespace) -> Restorer:
    restorer = load_restorer(arguments.restorer)
    contexts_of(restorer)  # before hours are spent
    try:
        return restorer.to(torch.device(arguments.device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {arguments.device!r}: {str(error).splitlines()[0]}") from error


def _open(arguments: argparse.Namespace, spec: str) -> Photos:
    photos = open_photos([spec], SetOptions(split=arguments.split, image_column=arguments.image_column))
    if arguments.limit is not None and arguments.limit < len(photos):
        photos = photos.select(np.linspace(0, len(photos) - 1, arguments.limit).astype(int))
    photos = check_photos(photos, spec)
    if arguments.lpips:  # before hours are spent
        sides = (min(read_size(photos.read(i), photos.names[i])) for i in range(len(photos)))
        check_side(min(arguments.side, *sides))
    return photos
