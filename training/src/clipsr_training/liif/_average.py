"""The mean of several upscalers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipsr_training._average import average_states
from clipsr_training.liif._checkpoint import describe_upscaler, load_liif, save_liif


def average_upscalers(files: Sequence[Path], output: Path) -> Path:
    """Write the mean of upscalers of one architecture, of which each went on from the same trained weights.

    With the weights that an adaptation started from, this keeps a half of what it changed. The largest scale that the
    mean tells apart is the largest of all.

    Args:
        files: two files of weights or more.
        output: file to write.

    Returns:
        The output file.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: the output is there already.
        ValueError: there are fewer than two, or one holds another architecture than the first.
    """
    if len(files) < 2:
        raise ValueError("a mean needs two checkpoints or more")
    if output.exists():
        raise FileExistsError(f"{output} is there already: choose another file")
    first, *others = upscalers = [load_liif(file) for file in files]
    first.scale_max = max(upscaler.scale_max for upscaler in upscalers)
    for file, other in zip(files[1:], others, strict=True):
        other.scale_max = first.scale_max
        if describe_upscaler(other) != describe_upscaler(first):
            raise ValueError(f"{file} is another architecture than {files[0]}: only equal models have a mean")
    first.load_state_dict(average_states(upscalers))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_liif(first, output)
    return output
