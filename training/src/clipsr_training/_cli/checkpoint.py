"""What the commands share that work with one trained CLIP model: which one it is, and how many threads it is worth."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clipsr_training._cli.arguments import PREPROCESS_HELP
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.liif import BUNDLED_UPSCALER, UPSCALER_NAME, Upscaler, find_upscaler, load_liif

# The layers of a tower of this size are too small to share: on a busy processor, threads wait for each other.
_ONE_THREAD_SIDE_PX = 64
_NO_UPSCALER = "none"


def add_checkpoint_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that `load_checkpoint` reads."""
    parser.add_argument(
        "--model",
        default="checkpoints/clipsr-small",
        metavar="FOLDER|NAME",
        help="a checkpoint folder, or an OpenCLIP name with --weights",
    )
    parser.add_argument("--weights", metavar="PATH|TAG", help="weights of an OpenCLIP model")
    parser.add_argument("--preprocess", metavar="TAG", help=PREPROCESS_HELP)


def add_upscaler_option(parser: argparse._ActionsContainer, purpose: str) -> None:
    """Add the option that `load_upscaler` reads."""
    parser.add_argument(
        "--upscaler",
        metavar="FILE",
        help=f"{purpose}; {_NO_UPSCALER} to do without (default: {UPSCALER_NAME} in the folder of --model, or else "
        f"{BUNDLED_UPSCALER})",
    )


def load_upscaler(arguments: argparse.Namespace) -> Upscaler | None:
    """Load the upscaler of --upscaler, or of --model.

    Raises:
        OSError: the file is missing.
        ValueError: it holds no upscaler.
    """
    if arguments.upscaler == _NO_UPSCALER:
        return None
    return load_liif(arguments.upscaler or find_upscaler(arguments.model))


def load_checkpoint(arguments: argparse.Namespace) -> ClipCheckpoint:
    """Load the model of --model, --weights and --preprocess.

    Raises:
        OSError: a file is missing.
        ValueError: the options don't fit together, or the model can't be used.
    """
    if Path(arguments.model).is_dir():
        if arguments.weights is not None:
            raise ValueError(f"{arguments.model} is a folder that holds its own weights; leave out --weights")
        return load_clip(arguments.model)
    if arguments.weights is None:
        raise ValueError(
            f"there is no folder {arguments.model}; for a model that OpenCLIP knows by name, give --weights as well"
        )
    return load_open_clip(arguments.model, arguments.weights, preprocess=arguments.preprocess)


@contextmanager
def threads_for(clip: ClipCheckpoint) -> Iterator[None]:
    """Let PyTorch use one thread for a small tower, unless OMP_NUM_THREADS says how many."""
    before = torch.get_num_threads()
    if clip.image_size_px <= _ONE_THREAD_SIDE_PX and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
