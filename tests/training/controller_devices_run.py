"""A training run of a tiny controller on several processes of the CPU; run by `test_controller_devices.py`.

    python controller_devices_run.py RECIPE N_DEVICES BATCH_SIZE FOLDER

Writes `step-I.pt` for every step: the loss, and all gradients, as averaged over the devices.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipsr_training._fit import FitOptions, fit
from clipsr_training.adapt._photos import Photos
from clipsr_training.controller._captions import Captions
from clipsr_training.controller._module import ControllerModule, Texts
from clipsr_training.controller._recipe import RECIPES
from clipsr_training.controller._train import make_controller
from clipsr_training.evaluation._backends.pixels import encode
from tests.training.tiny_clips import tiny_clip


class RecordedTraining(ControllerModule):
    """Keeps what the steps compute."""

    folder: Path

    def training_step(self, batch, batch_idx):
        """Keep the loss."""
        self.loss = super().training_step(batch, batch_idx)
        return self.loss

    def on_before_optimizer_step(self, optimizer):
        """Write the mean loss and the gradients, before weights change."""
        loss = self.all_gather(self.loss.detach()).mean()
        if self.trainer.is_global_zero:
            gradients = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
            torch.save({"loss": loss, "gradients": gradients}, self.folder / f"step-{self.global_step}.pt")


def main(name: str, n_devices: str, batch_size: str, folder: Path) -> None:
    """Train for three steps."""
    options = FitOptions(output=folder, seed=1, precision="32-true", devices=n_devices, n_workers=0)
    options.seed_everything()
    rng = np.random.default_rng(0)
    files = [encode(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))) for _ in range(24)]
    photos = Photos(names=[str(i) for i in range(24)], read=files.__getitem__)
    size = int(batch_size)
    # As many steps, whatever the number of devices.
    recipe = replace(RECIPES[name], batch_size=size, draws=3 * size, warmup=0.0)
    clip = tiny_clip("vit")
    controller = make_controller(clip, recipe)
    with torch.no_grad():  # zero connections would hide what signals do to gradients
        for parameter in controller.connections.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    features = torch.nn.functional.normalize(torch.randn(6, 16), dim=-1)
    captions = Captions(texts=[(i % 6, (i + 1) % 6) for i in range(24)], phrases=tuple("abcdef"))
    texts = Texts(features, captions if name == "daclip" else None)
    module = RecordedTraining(clip, controller, None, recipe, photos, photos.select([0]), texts, options)
    module.folder = folder
    fit(module, options, settings={}, max_epochs=1)


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]))
