"""What the training commands share: where and how a run is carried out, and the CLIP model that it begins with."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipsr_training._cli.arguments import devices, seed, whole
from clipsr_training._fit import FitOptions
from clipsr_training._precision import default_precision
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.clip._checkpoint import build_clip, bundled_config

_AUTO = "auto"


def add_fit_options(parser: argparse.ArgumentParser, output: Path) -> None:
    """Add the options of `FitOptions`."""
    parser.add_argument("--output", type=Path, default=output, help="folder for checkpoints, logs and final weights")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, data order and augmentation")
    parser.add_argument(
        "--precision",
        default=_AUTO,
        help="Lightning's precision: bf16-mixed, 32-true, ...; auto: bf16-mixed on processors and GPUs that multiply "
        "bf16, else 32-true",
    )
    parser.add_argument("--devices", type=devices, default="auto", help="number of devices of each machine")
    parser.add_argument("--nodes", type=whole(at_least=1), default=1, help="machines; torchrun starts each")
    parser.add_argument("--workers", type=whole(at_least=0), default=1, help="data loader processes")


def read_fit_options(arguments: argparse.Namespace) -> FitOptions:
    """Read what `add_fit_options` added."""
    return FitOptions(
        output=arguments.output,
        resume=arguments.resume,
        seed=arguments.seed,
        precision=default_precision() if arguments.precision == _AUTO else arguments.precision,
        devices=arguments.devices,
        nodes=arguments.nodes,
        n_workers=arguments.workers,
    )


def clip_to_start_from(model: str, weights: str | None, preprocess: str | None) -> ClipCheckpoint:
    """Load the model that a run begins with: a named one, a checkpoint folder, or a bundled configuration."""
    if weights is not None:
        return load_open_clip(model, weights, preprocess=preprocess)
    return load_clip(model) if Path(model).is_dir() else build_clip(bundled_config(model))
