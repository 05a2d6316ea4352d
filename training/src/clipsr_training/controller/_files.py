"""Controllers on disk: `controller.safetensors`, and `controller.json` that says what it is and whose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from clipsr_training._files import make_output_folder, to_json, write_atomically
from clipsr_training._finite import describe_not_finite
from clipsr_training._identity import digest_modules
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._errors import ClipCheckpointError, NotFiniteError, WeightsFormatError, WeightsMismatchError
from clipsr_training.controller._blocks import compare_shapes
from clipsr_training.controller._controller import CONTROL_ORDERS, Controller, Encoding, encode

DESCRIPTION_NAME = "controller.json"
WEIGHTS_NAME = "controller.safetensors"
_SCHEMA_VERSION = 1


class ControllerMismatchError(ClipCheckpointError):
    """A controller that was made for another image tower."""


@dataclass(frozen=True, kw_only=True)
class ControlledClip:
    """A CLIP model with a controller of its image tower, both in evaluation mode.

    Attributes:
        clip: the model.
        controller: made for it.
    """

    clip: ClipCheckpoint
    controller: Controller

    def encode(self, pixels: Tensor, *, is_gated: bool = True) -> Encoding:
        """Embed normalized RGB [B, 3, R, R]; see `encode`."""
        return encode(cast("nn.Module", self.clip.model.visual), self.controller, pixels, is_gated=is_gated)


def digest_tower(checkpoint: ClipCheckpoint) -> str:
    """Return the SHA-256 over the image tower's weights and over what else decides its embeddings."""
    model_cfg = checkpoint.config["model_cfg"]
    facts = [model_cfg["vision_cfg"], bool(model_cfg.get("quick_gelu")), checkpoint.mean, checkpoint.std]
    return digest_modules(
        cast("nn.Module", checkpoint.model.visual), facts=json.dumps(facts, sort_keys=True, allow_nan=False)
    )


def save_controller(
    controlled: ControlledClip,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a controller's folder, which `load_controller` reads.

    Args:
        controlled: the controller, and the model that it was made for, which is not written.
        folder: made if missing.
        training: how it was trained, for people.
        dtype: of the stored weights; float16 halves the size.

    Returns:
        The folder.

    Raises:
        NotFiniteError: a weight is infinite or not a number, or becomes infinite in `dtype`; nothing is written.
        OSError: the files cannot be written.
    """
    folder, controller = Path(folder), controlled.controller
    state = {
        name: (value.detach().cpu().to(dtype) if value.is_floating_point() else value.cpu()).contiguous()
        for name, value in controller.state_dict().items()
    }
    if (fault := describe_not_finite(state)) is not None:
        raise NotFiniteError(f"{folder} is not written: {fault}")
    weights = save(state)
    description = {
        "schema_version": _SCHEMA_VERSION,
        "architecture": type(controlled.clip.model.visual).__name__,
        "control_order": controller.order,
        "kinds": list(controller.kinds),
        "base_digest": digest_tower(controlled.clip),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": dict(training or {}),
    }
    make_output_folder(folder)
    write_atomically(folder / WEIGHTS_NAME, weights)
    # Last: it names the weights, so that a pair of two runs is noticed.
    write_atomically(folder / DESCRIPTION_NAME, (to_json(description, indent=2) + "\n").encode())
    return folder


def load_controller(folder: str | Path, checkpoint: ClipCheckpoint) -> ControlledClip:
    """Load what `save_controller` wrote, in evaluation mode, in fp32.

    Args:
        folder: holds the two files.
        checkpoint: the model that the controller was made for.

    Raises:
        FileNotFoundError: a file is missing.
        ControllerMismatchError: it was made for another image tower.
        ClipCheckpointError: one of its other subclasses, where the files are damaged or don't belong together.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION_NAME)
    weights = _read(folder / WEIGHTS_NAME)
    if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
        raise WeightsFormatError(f"{folder}: {DESCRIPTION_NAME} describes other weights than {WEIGHTS_NAME} holds")
    if digest_tower(checkpoint) != description["base_digest"]:
        raise ControllerMismatchError(
            f"{folder} controls another image tower than {checkpoint.weights or 'this one'}: name the model that it "
            "was trained for, or train a controller for this one (clipsr-train controller)"
        )
    try:
        state = load(weights)
    except SafetensorError as error:
        raise WeightsFormatError(f"{folder / WEIGHTS_NAME} is damaged: {error}") from error
    controller = Controller(
        cast("nn.Module", checkpoint.model.visual),
        checkpoint.image_size_px,
        description["kinds"],
        order=description["control_order"],
    )
    load_exactly(controller, state, path=str(folder / WEIGHTS_NAME), model_name=description["architecture"])
    return ControlledClip(clip=checkpoint, controller=controller.eval())


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, path: str, model_name: str) -> None:
    """Load weights into a module, all of them and nothing else.

    Raises:
        WeightsMismatchError: names or shapes differ.
        NotFiniteError: a weight is infinite or not a number.
    """
    differences = compare_shapes(state, module.state_dict())
    if any(differences):
        raise WeightsMismatchError(path, model_name, *differences)
    if (fault := describe_not_finite(state)) is not None:
        raise NotFiniteError(f"{path}: {fault}; the training diverged: take weights from before that")
    module.load_state_dict(dict(state))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no controller at {path.parent}: {path.name} is missing")
    return path.read_bytes()


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise WeightsFormatError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("schema_version") != _SCHEMA_VERSION:
        raise WeightsFormatError(f"{path} describes no controller of schema version {_SCHEMA_VERSION}")
    kinds, order = content.get("kinds"), content.get("control_order")
    is_sound = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds) and order in CONTROL_ORDERS
    texts = ("architecture", "base_digest", "weights_sha256")
    if not is_sound or not all(isinstance(content.get(name), str) for name in texts):
        raise WeightsFormatError(f"{path} lacks one of kinds, control_order, {', '.join(texts)}, or it is of no use")
    return content
