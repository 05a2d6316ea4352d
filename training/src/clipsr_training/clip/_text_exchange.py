"""Another text tower beside a trained image tower."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from clipsr_training import prompts
from clipsr_training.clip._checkpoint import ClipCheckpoint, save_clip
from clipsr_training.clip._classifier import HEAD, beside_text_tower
from clipsr_training.clip._embeddings import embed_texts

_PROMPT = "a photo of a {}."


def exchange_text_tower(clip: ClipCheckpoint, text: Path, folder: Path) -> Path:
    """Write a checkpoint with another text tower, and the image tower's projection brought into its space.

    Old embeddings of the names that both towers were taught are predicted from the new ones by least squares, and the
    projection is multiplied such that cosines with new texts follow those with the predicted old ones.

    Args:
        clip: a model whose image tower ends in a linear projection, as those of timm with `timm_proj: linear`.
        text: folder of a text tower that `train_text` wrote.
        folder: made if missing.

    Raises:
        FileNotFoundError: `text` lacks a file of the text tower.
        WeightsMismatchError: the tower's weights are not those of its configuration.
        ValueError: the image tower has another end, or the two towers share too few names.
        OSError: a file can't be read or written.
    """
    visual = {name: value for name, value in clip.model.state_dict().items() if name.startswith("visual.")}
    if not set(HEAD) <= visual.keys():
        raise ValueError(
            f"the image tower has no {' and '.join(HEAD)}: only towers of timm with a linear projection "
            "and a bias can be put beside another text tower"
        )
    other = beside_text_tower(text, clip.config, {n: v for n, v in visual.items() if n not in HEAD})
    names = _shared(clip, other)
    old, new = (embed_texts(model, [prompts.expand(_PROMPT, name) for name in names]) for model in (clip, other))
    bridge = torch.linalg.lstsq(new, old, driver="gelsd").solution
    head: dict[str, Tensor] = {name: bridge @ visual[name] for name in HEAD}
    other.model.load_state_dict(head | {"logit_scale": clip.model.state_dict()["logit_scale"]}, strict=False)
    return save_clip(other, folder)


def _shared(clip: ClipCheckpoint, other: ClipCheckpoint) -> list[str]:
    """Return the names that both were taught; all of the other's where it is not known what the first was."""
    taught = set(other.taught_names or ())
    names = sorted(taught if clip.taught_names is None else taught & set(clip.taught_names))
    if len(names) < other.embed_dim:
        raise ValueError(
            f"the text towers share {len(names)} taught names, too few to bring the projection into a space of "
            f"{other.embed_dim}: train the image tower anew beside this text tower (clipsr-train tower)"
        )
    return names
