"""`clipsr-export upscaler`: an upscaler alone, as one ONNX file for any size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clipsr_export._commands.arguments import add_command, find_samples
from clipsr_export._upscaler import UpscalerPlan, export_upscaler
from clipsr_training.liif import load_liif

if TYPE_CHECKING:
    from clipsr_export._commands.arguments import Commands


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "upscaler",
        help_line="export an upscaler alone, for images and output of any size",
        description="Export a LIIF as one ONNX file that upscales images of any size to any size, without a server.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoints/liif-fast/liif.safetensors"),
        metavar="FILE",
        help="LIIF weights: .safetensors, or .pth in the official format",
    )
    parser.add_argument("--output", type=Path, default=Path("upscaler.onnx"), metavar="FILE", help="file to write")
    parser.add_argument(
        "--input-type",
        choices=("uint8", "float32"),
        default="uint8",
        help="element type of lr: uint8 takes levels, float32 values in [0, 1]",
    )
    parser.add_argument(
        "--samples", type=Path, default=Path("samples"), metavar="DIR", help="real images for the check"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    plan = UpscalerPlan(
        upscaler=load_liif(arguments.checkpoint),
        output=arguments.output,
        input_type=arguments.input_type,
        samples=find_samples(arguments.samples),
        report=lambda line: print(line, flush=True),
    )
    export_upscaler(plan)
