"""Reading and writing upscalers: the official LIIF format, and ours in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clipsr_training._files import write_weights
from clipsr_training._finite import describe_not_finite
from clipsr_training._pickles import load_pickle, strip_wrappers
from clipsr_training.liif._encoders import EDSR, RDN, RDN_CONFIGURATIONS
from clipsr_training.liif._liif import LIIF
from clipsr_training.liif._modulated import ModulatedLIIF
from clipsr_training.liif._upscaler import Upscaler

UPSCALER_NAME = "liif.safetensors"
BUNDLED_UPSCALER = Path("checkpoints/liif-fast") / UPSCALER_NAME
_SPEC_KEY = "clipsr.upscaler"


class CheckpointFormatError(ValueError):
    """A file is not a checkpoint that this package can read; the message says what is wrong with it."""


def find_upscaler(model: str | Path) -> Path:
    """Return the weights that render small images for a CLIP model.

    Args:
        model: its folder, or a name.

    Returns:
        `liif.safetensors` in the folder, adapted to the model; where there is none, the weights that come with clipsr.
    """
    beside = Path(model) / UPSCALER_NAME
    return beside if beside.is_file() else BUNDLED_UPSCALER


def load_liif(path: str | Path) -> Upscaler:
    """Load an upscaler in evaluation mode, on the CPU.

    Args:
        path: an official LIIF checkpoint (`.pth`: {'model': {'name', 'args', 'sd'}}), or `.safetensors` as written by
            `save_liif`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointFormatError: the file is damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no upscaler checkpoint at {path}")
    spec, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_official(path)
    try:
        model = build_upscaler(spec, state)
        model.load_state_dict(dict(state))
    except (KeyError, TypeError, RuntimeError) as error:
        # PyTorch's own message has a line for every weight.
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointFormatError(f"{path} does not fit the model that it describes: {reason}") from error
    if (fault := describe_not_finite(state)) is not None:
        raise CheckpointFormatError(f"{path}: {fault}; the training diverged: take weights from before that")
    return model.eval()


def save_liif(model: Upscaler, path: str | Path) -> None:
    """Write an upscaler: `.pth` in the official format (LIIF only), `.safetensors` for any model.

    Raises:
        ValueError: the ending is neither, the official format cannot describe the model, or a weight is not finite.
        OSError: it cannot be written.
    """
    path = Path(path)
    if (fault := describe_not_finite(model.state_dict())) is not None:
        raise ValueError(f"{path} is not written: {fault}")
    spec = describe_upscaler(model)
    if path.suffix == ".safetensors":
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        write_weights(path, tensors, {_SPEC_KEY: json.dumps(spec, allow_nan=False)})
    elif path.suffix == ".pth" and spec["name"] == "liif":
        torch.save({"model": {**spec, "sd": model.state_dict()}}, path)
    else:
        raise ValueError(f"cannot write a {spec['name']} model to {path.name}: use .safetensors (or .pth for liif)")


def describe_upscaler(model: Upscaler) -> dict[str, Any]:
    """Return {'name', 'args'} in the official checkpoints' vocabulary; `build_upscaler` inverts it."""
    if isinstance(model, LIIF):
        args: dict[str, Any] = {
            "encoder_spec": _describe_encoder(model.encoder),
            "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": list(model.hidden_list)}},
            "local_ensemble": model.local_ensemble,
            "feat_unfold": model.feat_unfold,
            "cell_decode": model.cell_decode,
        }
        return {"name": "liif", "args": args}
    if isinstance(model, ModulatedLIIF):
        args = {
            "encoder_spec": _describe_encoder(model.encoder),
            "latent_dim": model.latent_dim,
            "hidden_dim": model.hidden_dim,
            "scale_max": model.scale_max,
        }
        return {"name": "modulated-liif", "args": args}
    raise ValueError(f"cannot describe a {type(model).__name__}")


def build_upscaler(spec: Mapping[str, Any], state: Mapping[str, Tensor] | None = None) -> Upscaler:
    """Build a model from {'name', 'args'}; `state` settles sizes that the description leaves open.

    Raises:
        CheckpointFormatError: the description names a model, encoder or MLP that does not exist here.
    """
    args = dict(spec["args"])
    encoder = _build_encoder(args.pop("encoder_spec"), state or {})
    if spec["name"] == "modulated-liif":
        return ModulatedLIIF(encoder, **args)
    if spec["name"] != "liif":
        raise CheckpointFormatError(f"unknown upscaler {spec['name']!r}; known: liif, modulated-liif")
    imnet = args.pop("imnet_spec")
    if imnet["name"] != "mlp":
        raise CheckpointFormatError(f"unknown imnet {imnet['name']!r}; known: mlp")
    return LIIF(encoder, hidden_list=imnet["args"]["hidden_list"], **args)


def _describe_encoder(encoder: nn.Module) -> dict[str, Any]:
    if isinstance(encoder, EDSR):
        n_resblocks = len(encoder.body) - 1
        return {
            "name": "edsr-baseline",
            "args": {"no_upsampling": True, "n_resblocks": n_resblocks, "n_feats": encoder.out_dim},
        }
    if isinstance(encoder, RDN):
        depth = _rdn_configuration(encoder.state_dict(), "")
        name = next((key for key, value in RDN_CONFIGURATIONS.items() if value == depth), "A")
        return {"name": "rdn", "args": {"no_upsampling": True, "G0": encoder.out_dim, "RDNconfig": name}}
    raise ValueError(f"cannot describe an encoder of type {type(encoder).__name__}")


def _build_encoder(spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    args = spec["args"]
    if not args.get("no_upsampling", False):
        raise CheckpointFormatError("the encoder carries an upsampler (no_upsampling is not set); LIIF needs none")
    if spec["name"] in ("edsr-baseline", "edsr"):
        # The published defaults of each name (Lim et al. 2017: the full model scales residuals by 0.1).
        full = spec["name"] == "edsr"
        return EDSR(
            n_resblocks=args.get("n_resblocks", 32 if full else 16),
            n_feats=args.get("n_feats", 256 if full else 64),
            res_scale=args.get("res_scale", 0.1 if full else 1.0),
        )
    if spec["name"] == "rdn":
        # The weights settle the depth: files exist whose shortened RDN keeps a configuration's letter.
        named = RDN_CONFIGURATIONS[args.get("RDNconfig", "B")]
        configuration = _rdn_configuration(state, "encoder.") if state else named
        return RDN(configuration=configuration, n_feats=args.get("G0", 64))
    raise CheckpointFormatError(f"unknown encoder {spec['name']!r}; known: edsr-baseline, edsr, rdn")


def _rdn_configuration(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int, int]:
    """Return (D, C, G) as the parameter names and shapes give them."""
    block = f"{prefix}RDBs."
    n_blocks = len({key[len(block) :].split(".")[0] for key in state if key.startswith(block)})
    first = f"{block}0.convs."
    n_convolutions = len({key[len(first) :].split(".")[0] for key in state if key.startswith(first)})
    return n_blocks, n_convolutions, state[f"{first}0.conv.0.weight"].shape[0]


def _read_official(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    try:
        content = load_pickle(path)
    except ValueError as error:
        raise CheckpointFormatError(f"{path} can't be read as an upscaler: {error}") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not {"name", "args", "sd"} <= model.keys():
        raise CheckpointFormatError(f"{path} has no 'model' with 'name', 'args' and 'sd', as LIIF checkpoints have")
    return cast("Mapping[str, Any]", model), strip_wrappers(cast("Mapping[str, Tensor]", model["sd"]))


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointFormatError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    if _SPEC_KEY not in metadata:
        raise CheckpointFormatError(f"{path} does not say which upscaler it holds (metadata {_SPEC_KEY!r} is missing)")
    return json.loads(metadata[_SPEC_KEY]), state
