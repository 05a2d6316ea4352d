"""Embeddings of names, computed at export: those of the label sets, and those that stand for "none of these"."""

# torch ships partial types: what comes out of it is unknown to the checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipsr_export._graphs.modules import TextEncoderGraph
from clipsr_export._repository.manifest import sha256
from clipsr_training import prompts
from clipsr_training.clip import ClipCheckpoint

DEFAULT_TEMPLATES = "@simple"
NONE_BANK = "similarity/text_banks/none-of-these.npz"
_BANK_TEMPLATE_SETS = ("simple", "cifar")
# Texts that a text tower encodes at once: at width 1,024, the activations of one layer are then 100 MB.
_TEXT_BATCH = 64


@torch.inference_mode()
def write_text_banks(clip: ClipCheckpoint, staging: Path, report: Callable[[str], None]) -> list[dict[str, str]]:
    """Write embeddings of the named label sets; returns the manifest's list of banks."""
    folder = staging / "similarity" / "text_banks"
    folder.mkdir(parents=True)
    templates = [t for name in _BANK_TEMPLATE_SETS for t in prompts.template_sets()[name]]
    embedding = _embed_prompts(clip, [label for labels in prompts.label_sets().values() for label in labels], templates)
    banks: list[dict[str, str]] = []
    for label_set, labels in prompts.label_sets().items():
        for template_set in _BANK_TEMPLATE_SETS:
            templates = prompts.template_sets()[template_set]
            path = folder / f"{label_set}-{template_set}.npz"
            _write_bank(path, labels, templates, embedding, staging)
            file = path.relative_to(staging).as_posix()
            banks.append({"file": file, "label_set": label_set, "templates": f"@{template_set}"})
    report(f"text banks: {', '.join(bank['file'].rsplit('/')[-1] for bank in banks)}")
    return banks


@torch.inference_mode()
def write_none_bank(clip: ClipCheckpoint, names: Sequence[str], staging: Path, report: Callable[[str], None]) -> None:
    """Write the names that labels are compared with for "none of these", and their embeddings."""
    templates = prompts.template_sets()[DEFAULT_TEMPLATES.removeprefix("@")]
    path = staging / NONE_BANK
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_bank(path, names, templates, _embed_prompts(clip, names, templates), staging)
    report(f"none of these: compared with {len(names):,} names")


def _write_bank(
    path: Path, labels: Sequence[str], templates: Sequence[str], embedding: Mapping[str, Tensor], staging: Path
) -> None:
    """Write labels with the means over their prompts, and the digest of the text encoder that they are of."""
    rows = [torch.stack([embedding[prompts.expand(t, label)] for t in templates]) for label in labels]
    mean = nn.functional.normalize(torch.stack(rows).mean(dim=1), dim=-1).numpy().astype(np.float32)
    np.savez(
        path,
        labels=np.array(labels),
        templates=np.array(templates),
        text_embedding=mean,
        digest=np.array(sha256(staging / "text_encoder" / "1" / "model.onnx")),
    )


def _embed_prompts(clip: ClipCheckpoint, labels: Sequence[str], templates: Sequence[str]) -> dict[str, Tensor]:
    """Embed each prompt once, though several sets share it."""
    texts = list(dict.fromkeys(prompts.expand(t, label) for label in labels for t in templates))
    graph = TextEncoderGraph(clip)
    chunks = clip.tokenizer(texts).split(_TEXT_BATCH)
    return dict(zip(texts, torch.cat([graph(chunk) for chunk in chunks]), strict=True))
