"""Command line of the export: `clipsr-export`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clipsr_export._errors import ExportError
from clipsr_export._repository import ExportPlan, export_repository
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.liif import CheckpointFormatError, load_liif

_SAMPLE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipsr-export`; returns the exit code (0 done, 1 not exported)."""
    arguments = _parser().parse_args(argv)
    try:
        export_repository(_plan(arguments))
    except (ExportError, CheckpointFormatError, OSError, ValueError, RuntimeError) as error:
        print(f"clipsr-export: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipsr-export",
        description="Export a LIIF and a CLIP checkpoint into a model repository that clipsr-serve runs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--clip",
        type=Path,
        default=Path("checkpoints/clipsr-small"),
        metavar="DIR",
        help="checkpoint in OpenCLIP's layout",
    )
    parser.add_argument("--model", metavar="NAME", help="OpenCLIP model name, instead of --clip; needs --weights")
    parser.add_argument("--weights", metavar="PATH", help="weights for --model")
    parser.add_argument(
        "--upscaler",
        type=Path,
        default=Path("checkpoints/liif-fast/liif.safetensors"),
        metavar="FILE",
        help="LIIF weights: .safetensors, or .pth in the official format",
    )
    parser.add_argument("--template", type=Path, default=Path("model_repository"), metavar="DIR", help="configurations")
    parser.add_argument(
        "--output", type=Path, default=Path("model_repository"), metavar="DIR", help="repository to fill"
    )
    parser.add_argument(
        "--samples", type=Path, default=Path("samples"), metavar="DIR", help="real images for the check"
    )
    parser.add_argument("--name", help="name of the model in the manifest (default: the checkpoint's)")
    parser.add_argument(
        "--native-min-side",
        type=int,
        metavar="PX",
        help="images of at least this shorter side skip super-resolution (default: the checkpoint's, or R / 2)",
    )
    return parser


def _plan(arguments: argparse.Namespace) -> ExportPlan:
    if (arguments.model is None) != (arguments.weights is None):
        raise ExportError("--model and --weights go together: the architecture's name and the file of its weights")
    clip, name = _clip(arguments)
    default_side = clip.config.get("clipsr_cfg", {}).get("native_min_side_px", clip.image_size_px // 2)
    samples = sorted(p for p in arguments.samples.glob("*") if p.suffix.lower() in _SAMPLE_SUFFIXES)
    return ExportPlan(
        name=arguments.name or name,
        clip=clip,
        upscaler=load_liif(arguments.upscaler),
        template=arguments.template,
        output=arguments.output,
        samples=tuple(samples),
        native_min_side_px=arguments.native_min_side or default_side,
        report=lambda line: print(line, flush=True),
    )


def _clip(arguments: argparse.Namespace) -> tuple[ClipCheckpoint, str]:
    if arguments.model is None:
        return load_clip(arguments.clip), arguments.clip.resolve().name
    return load_open_clip(arguments.model, arguments.weights), arguments.model
