"""`clipsr-export clip` and `clipsr-export checkpoints`: a CLIP model and an upscaler into a model repository."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clipsr_export._arguments import add_clip_options, add_command, add_repository_options, find_samples
from clipsr_export._repository import ExportPlan, export_repository
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.liif import load_liif

if TYPE_CHECKING:
    from clipsr_export._arguments import Commands

# What runs where no command is given, and `make export` with it.
DEFAULT_COMMAND = "checkpoints"


def add_parser(commands: "Commands") -> None:
    """Add both commands."""
    _add_checkpoints(commands)
    _add_clip(commands)


def _add_checkpoints(commands: "Commands") -> None:
    parser = add_command(
        commands,
        DEFAULT_COMMAND,
        help_line="export a CLIP folder and an upscaler, by default those that come with clipsr",
        description="Export a CLIP checkpoint folder (open_clip_config.json beside its weights) and a LIIF.",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        default=Path("checkpoints/clipsr-small"),
        metavar="DIR",
        help="checkpoint in OpenCLIP's layout",
    )
    add_clip_options(parser)
    add_repository_options(parser)
    parser.set_defaults(run=_run_checkpoints)


def _add_clip(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "clip",
        help_line="export a model that OpenCLIP knows by name, with your weights",
        description="Export a model that OpenCLIP knows by name, with weights from a file or from a hub.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="OpenCLIP model name, for example ViT-B-32")
    parser.add_argument("--weights", required=True, metavar="PATH", help="file of its weights")
    add_clip_options(parser)
    add_repository_options(parser)
    parser.set_defaults(run=_run_clip)


def _run_checkpoints(arguments: argparse.Namespace) -> None:
    _export(arguments, load_clip(arguments.clip), arguments.clip.resolve().name)


def _run_clip(arguments: argparse.Namespace) -> None:
    _export(arguments, load_open_clip(arguments.model, arguments.weights), arguments.model)


def _export(arguments: argparse.Namespace, clip: ClipCheckpoint, name: str) -> None:
    default_side = clip.config.get("clipsr_cfg", {}).get("native_min_side_px", clip.image_size_px // 2)
    plan = ExportPlan(
        name=arguments.name or name,
        clip=clip,
        upscaler=load_liif(arguments.upscaler),
        template=arguments.template,
        output=arguments.output,
        samples=find_samples(arguments.samples),
        native_min_side_px=arguments.native_min_side or default_side,
        report=lambda line: print(line, flush=True),
    )
    export_repository(plan)
