"""Training recipes for upscalers: the hyperparameters, then the model that each describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from clipsr_training.liif._encoders import EDSR, RDN
from clipsr_training.liif._liif import LIIF
from clipsr_training.liif._modulated import ModulatedLIIF
from clipsr_training.liif._upscaler import Upscaler


@dataclass(frozen=True, kw_only=True)
class LiifRecipe:
    """How one upscaler is trained.

    Attributes:
        architecture: which model `build_model` makes.
        patch_size: side of the low-resolution patch, in pixels.
        sample_q: query points a patch.
        batch_size: patches a step.
        scale_max: scales are drawn from U(1, scale_max).
        steps: optimizer steps of the whole run.
        lr: peak learning rate of Adam.
        schedule: "step" halves the rate every fifth of the run (published); "cosine" warms up and anneals to zero.
        resblocks, features: of the encoder of "fast".
        hidden: width of its per-pixel network.
        max_noise: inputs are damaged as `draw_thumbnail` draws it, with noise up to this standard deviation in levels
            of 255; None reduces them by antialiased bicubic and does nothing else.
    """

    architecture: Literal["edsr_baseline_liif", "rdn_liif", "fast"]
    patch_size: int = 48
    sample_q: int = 2304
    batch_size: int = 16
    scale_max: float = 4.0
    steps: int = 1_000_000
    lr: float = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    resblocks: int = 8
    features: int = 32
    hidden: int = 16
    max_noise: float | None = None

    def __post_init__(self) -> None:
        for name in ("patch_size", "sample_q", "batch_size", "steps", "resblocks", "features", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.scale_max < math.inf:
            raise ValueError(f"scale_max must be a finite number of at least 1, got {self.scale_max}")
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"lr must be a finite number of at least 0, got {self.lr}")
        if self.max_noise is not None and not 1 <= self.max_noise < math.inf:
            raise ValueError(f"max_noise must be a finite number of at least 1, got {self.max_noise}")
        sizes = (self.resblocks, self.features, self.hidden)
        if self.architecture != "fast" and sizes != (8, 32, 16):
            raise ValueError(
                f"resblocks, features and hidden are those of the architecture fast, not of {self.architecture}"
            )
        if self.sample_q > self.patch_size**2:
            raise ValueError(f"sample_q {self.sample_q} exceeds the {self.patch_size}^2 pixels of a patch at scale 1")

    def build_model(self) -> Upscaler:
        """Return the untrained model."""
        if self.architecture == "edsr_baseline_liif":
            return LIIF(EDSR())
        if self.architecture == "rdn_liif":
            return LIIF(RDN())
        encoder = EDSR(n_resblocks=self.resblocks, n_feats=self.features)
        # The layer before the modulations is wider than the features; as wide as three times them it ships.
        return ModulatedLIIF(encoder, latent_dim=3 * self.features, hidden_dim=self.hidden, scale_max=self.scale_max)


# Published: 1000 epochs of 1000 steps, batch 16, Adam 1e-4 halved every 200 epochs (Chen et al. 2021, section 4.1).
RECIPES: Mapping[str, LiifRecipe] = {
    "edsr_baseline_liif": LiifRecipe(architecture="edsr_baseline_liif"),
    "rdn_liif": LiifRecipe(architecture="rdn_liif"),
    # A tenth of the published size, for a CPU: a higher peak rate with annealing makes up for the fewer steps.
    "fast": LiifRecipe(architecture="fast", steps=12_000, lr=1e-3, schedule="cosine"),
    # The same for pictures of unknown origin: it removes aliasing, JPEG's blocks and noise instead of sharpening them.
    "robust": LiifRecipe(architecture="fast", steps=12_000, lr=1e-3, schedule="cosine", max_noise=20.0),
}
