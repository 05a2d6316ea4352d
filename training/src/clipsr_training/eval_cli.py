"""Command line of the evaluation: `clipsr-eval`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from clipsr_training.liif import load_liif
from clipsr_training.liif._evaluate import evaluate_sr


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipsr-eval`; returns the exit code (0 done, 1 bad data or checkpoint)."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (FileNotFoundError, ValueError) as error:
        print(f"clipsr-eval: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clipsr-eval", description="Measure the models that clipsr serves.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sr = commands.add_parser(
        "sr",
        help="super-resolution quality",
        description="PSNR on Y (border of `scale` pixels left out) beside bicubic interpolation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sr.add_argument(
        "--checkpoint", type=Path, default=Path("checkpoints/liif-fast/liif.safetensors"), help="LIIF weights"
    )
    sr.add_argument("--data", nargs="+", type=Path, required=True, metavar="DIR", help="folders of images, a set each")
    sr.add_argument("--scales", type=_scales, default=(2, 3, 4), metavar="N,N", help="integer factors")
    sr.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    sr.set_defaults(run=_run_sr)
    return parser


def _scales(text: str) -> tuple[int, ...]:
    scales = tuple(int(part) for part in text.split(","))
    if min(scales) < 2:
        raise argparse.ArgumentTypeError("scales are integers of at least 2")
    return scales


def _run_sr(arguments: argparse.Namespace) -> None:
    model = load_liif(arguments.checkpoint)
    results = {folder.name: evaluate_sr(model, folder, arguments.scales) for folder in arguments.data}
    print("| set | scale | bicubic, dB | model, dB | gain, dB |\n|---|---|---|---|---|")
    for name, scores in results.items():
        for score in scores:
            gain = score.model_psnr_db - score.bicubic_psnr_db
            print(
                f"| {name} | ×{score.scale} | {score.bicubic_psnr_db:.2f} | {score.model_psnr_db:.2f} | {gain:+.2f} |"
            )
    if arguments.json is not None:
        table = {name: [asdict(score) for score in scores] for name, scores in results.items()}
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
