"""A training run of a tiny CLIP on several processes of the CPU; run by `test_several_devices.py`.

    python devices_run.py N_DEVICES BATCH_SIZE FOLDER [N_MACHINES]

Writes `step-I.pt` for the first steps: the loss and, in the first, all gradients, as averaged over the devices.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from clipsr_training._fit import FitOptions, fit
from clipsr_training.clip._checkpoint import build_clip
from clipsr_training.clip._data import ClassPrompts, TrainingSource
from clipsr_training.clip._recipes import ClipRecipe
from clipsr_training.clip._train import ClipTrainingModule

SIDE_PX = 16
CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIDE_PX, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


class RecordedTraining(ClipTrainingModule):
    """Keeps what the steps compute."""

    folder: Path

    def training_step(self, batch, batch_idx):
        """Keep the loss."""
        self.loss = super().training_step(batch, batch_idx)
        return self.loss

    def on_before_optimizer_step(self, optimizer):
        """Write loss and gradients, before weights change."""
        if self.trainer.is_global_zero:
            gradients = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
            torch.save(
                {"loss": self.loss.detach(), "gradients": gradients}, self.folder / f"step-{self.global_step}.pt"
            )


def sources(phrases: ClassPrompts) -> list[TrainingSource]:
    """Images of three classes, and images with one or two captions of four: texts repeat within and across devices."""
    rng = np.random.default_rng(0)
    texts = {
        True: [(phrases._add(name, True),) for name in ("cat", "ship", "lawn mower")],
        False: [tuple(phrases._add(f"caption {i % 4}", False) for i in own) for own in ((0, 1), (1,), (2, 3), (0, 3))],
    }
    return [
        TrainingSource(
            name=f"classes {has_classes}",
            pixels=rng.integers(0, 256, (18, 3, SIDE_PX, SIDE_PX), dtype=np.uint8),
            texts=[own[i % len(own)] for i in range(18)],
            has_classes=has_classes,
            train=np.arange(16),
            validation=np.arange(16, 18),
        )
        for has_classes, own in texts.items()
    ]


def training(*, batch_size: int, options: FitOptions) -> RecordedTraining:
    """Return what trains a tiny model, always from the same weights."""
    options.seed_everything()
    phrases = ClassPrompts(["a photo of a {}.", "{}"])
    recipe = ClipRecipe(batch_size=batch_size, lr=1e-4, warmup=0.0, augmented=True, cutout=0.25)
    module = RecordedTraining(build_clip(CONFIG), recipe, sources(phrases), phrases, options)
    module.folder = options.output
    return module


def main(n_devices: str, batch_size: int, folder: Path, n_machines: int = 1) -> None:
    """Train for one epoch."""
    options = FitOptions(output=folder, seed=1, precision="32-true", devices=n_devices, nodes=n_machines)
    fit(training(batch_size=batch_size, options=options), options, settings={}, max_epochs=1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
