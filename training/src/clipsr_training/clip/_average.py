"""The mean of several CLIP checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from clipsr_training._average import average_states
from clipsr_training.clip._checkpoint import CONFIG_NAME, load_clip, save_clip


def average_clips(folders: Sequence[str | Path], output: Path) -> Path:
    """Write the mean of checkpoints of one architecture, of which each went on from the same trained weights.

    Args:
        folders: two checkpoint folders or more.
        output: folder to write; made if missing.

    Returns:
        The output folder.

    Raises:
        FileNotFoundError: a folder is no checkpoint.
        FileExistsError: the output folder holds a checkpoint.
        ValueError: there are fewer than two, or one has another configuration than the first.
        NotFiniteError: a weight of one, or of the mean in half precision, is not finite.
    """
    if len(folders) < 2:
        raise ValueError("a mean needs two checkpoints or more")
    if (output / CONFIG_NAME).exists():
        raise FileExistsError(f"{output} holds a checkpoint already: choose another folder")
    checkpoints = [load_clip(folder) for folder in folders]
    first, *others = checkpoints
    for folder, checkpoint in zip(folders[1:], others, strict=True):
        if checkpoint.config != first.config:
            raise ValueError(f"{folder} has another configuration than {folders[0]}: only equal models have a mean")
    first.model.load_state_dict(average_states([checkpoint.model for checkpoint in checkpoints]))
    # Half precision on disk, as training writes it.
    return save_clip(first, output, dtype=torch.float16)
