"""Reading and writing restorers: the published U-Nets of DA-CLIP, and ours in safetensors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clipsr_training._files import to_json, write_atomically
from clipsr_training._finite import describe_not_finite
from clipsr_training._pickles import load_pickle, strip_wrappers
from clipsr_training.restoration._restorer import Restorer
from clipsr_training.restoration._schedule import Schedule
from clipsr_training.restoration._unet import ConditionalUNet, UNetConfig

_SPEC_KEY = "clipsr.restorer"
_CONTEXT_KEY = "mid_attn.fn.fn.transformer_blocks.0.attn2.to_k.weight"
_FIRST_KEY = "init_conv.weight"
# What the contexts of published files are: embeddings of the DA-CLIP file that they were trained with.
DACLIP_CONTEXTS = "daclip"
# Names to show of a list that may have hundreds.
_SHOWN = 3


class RestorerFormatError(ValueError):
    """A file is not a restorer that this package can read; the message says what is wrong with it."""


def load_restorer(path: str | Path) -> Restorer:
    """Load a restorer in evaluation mode, on the CPU, in single precision.

    Args:
        path: `.safetensors` as written by `save_restorer`; anything else is read as published weights
            (`universal-ir.pth`, `universal-ir-mix.pth`, `wild-ir.pth`, or what a run of that code left).

    Raises:
        FileNotFoundError: there is no such file.
        RestorerFormatError: the file is damaged, of another kind, or has other weights than its network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no restorer at {path}")
    try:
        return (_load_own if path.suffix == ".safetensors" else _load_published)(path).eval()
    except RestorerFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RestorerFormatError(f"{path} can't be read as a restorer: {error}") from error


def save_restorer(restorer: Restorer, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a restorer as one safetensors file, with its configuration as JSON in the metadata.

    Raises:
        ValueError: a weight is not finite.
        OSError: it can't be written.
    """
    path = Path(path)
    # Before the check: what half precision can't hold becomes infinite.
    tensors = {name: value.to(dtype).contiguous() for name, value in restorer.network.state_dict().items()}
    if (fault := describe_not_finite(tensors)) is not None:
        raise ValueError(f"{path} is not written: {fault}")
    spec = {
        "network": asdict(restorer.network.config),
        "schedule": asdict(restorer.schedule),
        "parametrization": restorer.parametrization,
        "contexts": restorer.contexts,
    }
    write_atomically(path, save(tensors, metadata={_SPEC_KEY: to_json(spec)}))


def _load_own(path: Path) -> Restorer:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise RestorerFormatError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    if _SPEC_KEY not in metadata:
        raise RestorerFormatError(f"{path} does not say which restorer it holds (metadata {_SPEC_KEY!r} is missing)")
    spec = json.loads(metadata[_SPEC_KEY])
    network = dict(spec["network"])
    config = UNetConfig(**{**network, "multipliers": tuple(network["multipliers"])})
    unet = _fill(path, config, state)
    return Restorer(unet, Schedule(**spec["schedule"]), spec["parametrization"], spec["contexts"])


def _load_published(path: Path) -> Restorer:
    content = load_pickle(path)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RestorerFormatError(f"{path} holds no bare state_dict, as published restorers do")
    state = strip_wrappers(cast("Mapping[str, Tensor]", content))
    for name in (_FIRST_KEY, _CONTEXT_KEY):
        if name not in state:
            raise RestorerFormatError(f"{path} is no restorer with contexts: it has no weight {name}")
    network = _fill(path, describe_published(state), state)
    return Restorer(network, Schedule(), "noise", DACLIP_CONTEXTS)


def describe_published(state: Mapping[str, Tensor]) -> UNetConfig:
    """Return the configuration that published weights have by their names and shapes.

    Raises:
        KeyError: a weight is missing.
        ValueError: there is no network of such sizes.
    """
    width = state[_FIRST_KEY].shape[0]
    depth = len({name.split(".")[1] for name in state if name.startswith("downs.")})
    ends = [state[f"downs.{level}.3.weight"].shape[0] for level in range(depth)]
    return UNetConfig(
        width=width,
        multipliers=tuple(end // width for end in ends),
        context_dim=state[_CONTEXT_KEY].shape[1],
        has_prompt="prompt" in state,
        has_bottom_transformer=f"downs.{depth - 1}.2.fn.fn.proj_in.weight" in state,
        is_halved="downsample.weight" in state,
    )


def _fill(path: Path, config: UNetConfig, state: Mapping[str, Any]) -> ConditionalUNet:
    """Return the network with these weights, which must be exactly its own."""
    with torch.device("meta"):
        expected = {name: value.shape for name, value in ConditionalUNet(config).state_dict().items()}
    if unknown := sorted(state.keys() - expected.keys()):
        raise RestorerFormatError(f"{path} has weights that its network does not know: {_shown(unknown)}")
    if missing := sorted(expected.keys() - state.keys()):
        raise RestorerFormatError(f"{path} lacks weights of its network: {_shown(missing)}")
    if other := sorted(name for name, shape in expected.items() if state[name].shape != shape):
        name = other[0]
        raise RestorerFormatError(
            f"{path} has weights of another shape than its network: {_shown(other)} "
            f"({list(state[name].shape)} instead of {list(expected[name])})"
        )
    if (fault := describe_not_finite(state)) is not None:
        raise RestorerFormatError(f"{path}: {fault}; the training diverged: take weights from before that")
    network = ConditionalUNet(config)
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network


def _shown(names: Collection[str]) -> str:
    return ", ".join(list(names)[:_SHOWN]) + (f", … ({len(names)} in all)" if len(names) > _SHOWN else "")
