"""`clipsr-eval sr`: super-resolution quality."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from clipsr_training._cli.arguments import HelpFormatter, real, whole
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder
from clipsr_training.data import read_image
from clipsr_training.degradation import KERNELS
from clipsr_training.liif import Upscaler, load_liif
from clipsr_training.liif._evaluate import Input, SetQuality, evaluate_sr, list_images, make_sample
from clipsr_training.liif._metrics import Convention
from clipsr_training.liif._report import Comparison, SrReport, write_report

_DEFAULT_CHECKPOINT = Path("checkpoints/liif-fast/liif.safetensors")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sr",
        help="super-resolution quality",
        description="PSNR and SSIM of an upscaler beside bicubic and Lanczos interpolation. Prints a Markdown table.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=_DEFAULT_CHECKPOINT,
        metavar="FILE",
        help="weights: .safetensors, or an official LIIF .pth",
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, metavar="DIR", help="folders of images, a set each"
    )
    parser.add_argument("--scales", type=_scales, default="2,3,4", metavar="N,N", help="integer factors")
    parser.add_argument("--kernel", choices=KERNELS, default="bicubic", help="how inputs are reduced")
    parser.add_argument(
        "--noise",
        type=real(at_least=0, at_most=255),
        default=0.0,
        metavar="N",
        help="standard deviation of white noise that is added to the inputs, in levels of 255",
    )
    parser.add_argument(
        "--jpeg",
        type=whole(at_least=1, at_most=100),
        dest="jpeg_quality",
        metavar="Q",
        help="quality of the JPEG files (4:2:0) that inputs are saved in (absent: none)",
    )
    parser.add_argument(
        "--convention",
        choices=("benchmark", "div2k"),
        default="benchmark",
        help="benchmark: Y channel, border of scale pixels left out; div2k: RGB, border of scale + 6",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write report.md, report.json, psnr.png and comparison.png here as well",
    )
    parser.add_argument(
        "--picture", metavar="NAME", help="file name of the image in comparison.png; the first image if absent"
    )
    parser.add_argument(
        "--picture-scale",
        type=whole(at_least=2),
        metavar="N",
        help="scale of comparison.png; the largest of --scales that the model was trained for if absent",
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run_sr)


def _scales(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(whole(at_least=2), text.split(","))))


def _run_sr(arguments: argparse.Namespace) -> None:
    model = load_liif(arguments.checkpoint)
    try:
        model = model.to(torch.device(arguments.device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {arguments.device!r}: {str(error).splitlines()[0]}") from error
    convention = Convention(name=arguments.convention)
    made = Input(kernel=arguments.kernel, noise=arguments.noise, jpeg_quality=arguments.jpeg_quality)
    comparison = None
    if arguments.output is not None:
        # Before the measuring: a name that is not there, or a folder that is not writable, must not cost an hour.
        make_output_folder(arguments.output)
        comparison = _comparison(arguments, model, convention, made)
    sets = _evaluate(model, arguments.data, arguments.scales, convention, made)
    report = SrReport(checkpoint=str(arguments.checkpoint), convention=convention, made=made, sets=sets)
    print(report.tables())
    for note in report.notes():
        print(f"clipsr-eval: {note}", file=sys.stderr)
    if arguments.output is not None:
        write_report(report, comparison, arguments.output)


def _evaluate(
    model: Upscaler, folders: Sequence[Path], scales: Sequence[int], convention: Convention, made: Input
) -> tuple[SetQuality, ...]:
    counts = [len(list_images(folder)) for folder in folders]
    with progress_bar() as progress:
        task = progress.add_task("", total=sum(counts) * len(scales))
        sets: list[SetQuality] = []
        for folder in folders:
            progress.update(task, description=folder.name)
            sets.append(
                evaluate_sr(model, folder, scales, convention, made=made, on_step=lambda: progress.advance(task))
            )
    return tuple(sets)


def _comparison(arguments: argparse.Namespace, model: Upscaler, convention: Convention, made: Input) -> Comparison:
    paths = [path for folder in arguments.data for path in list_images(folder)]
    named = [path for path in paths if arguments.picture in (None, path.name, path.stem)]
    if not named:
        raise ValueError(f"--picture: none of the {len(paths)} images is named {arguments.picture}")
    trained = [scale for scale in arguments.scales if scale <= model.scale_max]
    scale = arguments.picture_scale or max(trained, default=min(arguments.scales))
    image = read_image(named[0])
    if scale < 2 or not convention.fits((image.shape[0], image.shape[1]), scale):
        raise ValueError(
            f"{named[0]} ({image.shape[0]}x{image.shape[1]} px) cannot be shown at ×{scale}: "
            "choose another with --picture, or another --picture-scale"
        )
    title = f"{named[0].name} at ×{scale}"
    return Comparison(title=title, sample=make_sample(model, image, scale, made), scale=scale)
