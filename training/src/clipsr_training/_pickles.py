"""PyTorch's own files, read without executing anything in them, and the wrappers around the tensors."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

# Objects without behaviour that training scripts keep beside the weights: their options.
_HARMLESS = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
# Put before every name by DistributedDataParallel, torch.compile and Lightning, in any order.
_PREFIXES = ("module.", "_orig_mod.", "model.", "_forward_module.")
# Of torch.optim.swa_utils.AveragedModel: how many models the mean is of.
_COUNTERS = frozenset({"n_averaged"})
_GLOBAL = re.compile(r"(?:GLOBAL|Unsupported global:(?: GLOBAL)?|Unsupported class) ([\w.]+)")


def load_pickle(path: Path | BinaryIO, *, is_mapped: bool = False) -> Any:
    """Read a file that `torch.save` wrote; only tensors, plain values and options are taken.

    Args:
        path: the file.
        is_mapped: leave the tensors on disk until they are used.

    Raises:
        ValueError: it is no such file, is damaged, or holds objects that would have to be executed; the message is for
            people and names the object.
        OSError: it can't be read.
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    # What the unpickler trips over, whatever the bytes say.
    except (
        pickle.UnpicklingError,
        struct.error,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        # Not torch's message: it advises to run the file.
        match = _GLOBAL.search(str(error))
        if match is not None:
            reason = f"it holds code ({match[1]}), which is never run; save the tensors alone, as model.state_dict()"
        else:
            reason = "it is no PyTorch checkpoint, or is damaged"
        raise ValueError(reason) from error


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the model's own names: without counters of averaging and prefixes that all names share."""
    bare = {name: value for name, value in state.items() if name not in _COUNTERS}
    while (prefix := _shared_prefix(bare)) is not None:
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _shared_prefix(names: Iterable[str]) -> str | None:
    all_names = list(names)
    return next((p for p in _PREFIXES if all_names and all(name.startswith(p) for name in all_names)), None)
