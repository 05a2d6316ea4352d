"""A restorer: a network, the SDE it was trained for, and what its output means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from clipsr_training.restoration._sampling import SAMPLERS, Sampler, clean_from_noise, plan_steps, sample
from clipsr_training.restoration._schedule import Schedule
from clipsr_training.restoration._unet import ConditionalUNet

Parametrization = Literal["noise", "residual"]
PARAMETRIZATIONS: tuple[Parametrization, ...] = get_args(Parametrization)
Contexts = tuple[Tensor, Tensor]


class Restorer(nn.Module):
    """Predicts the clean picture from a state of the SDE and the damaged picture.

    Attributes:
        network: the U-Net.
        schedule: of the SDE.
        parametrization: the network predicts the `noise` in the state (published weights), or the `residual`: the
            clean picture less the damaged one.
        contexts: name of their source; None for a network without.
    """

    def __init__(
        self,
        network: ConditionalUNet,
        schedule: Schedule,
        parametrization: Parametrization,
        contexts: str | None,
    ) -> None:
        super().__init__()
        if parametrization not in PARAMETRIZATIONS:
            raise ValueError(f"unknown parametrization {parametrization!r}; known: {', '.join(PARAMETRIZATIONS)}")
        if (contexts is None) != (network.config.context_dim is None):
            raise ValueError("a network with contexts needs the name of their source, and one without has none")
        self.network = network
        self.schedule = schedule
        self.parametrization = parametrization
        self.contexts = contexts

    def predict(self, state: Tensor, lq: Tensor, time: float, contexts: Contexts | None) -> Tensor:
        """Return x̂0, [B, 3, H, W], nominally in [0, 1], for states of one time.

        Args:
            state: [B, 3, H, W] x_t.
            lq: [B, 3, H, W] the damaged pictures, in [0, 1].
            time: above 0, up to T.
            contexts: of content and degradation, each [B, D]; None for a network without.
        """
        content, degradation = self._check_contexts(contexts)
        found = self.network(state, lq, state.new_full((1,), time), content, degradation)
        if self.parametrization == "residual":
            return lq + found
        return clean_from_noise(self.schedule, state, lq, found, time)

    def _check_contexts(self, contexts: Contexts | None) -> tuple[Tensor | None, Tensor | None]:
        dim = self.network.config.context_dim
        if contexts is None:
            if dim is not None:
                raise ValueError(f"this restorer needs two contexts of {dim} numbers ({self.contexts})")
            return None, None
        if dim is None:
            raise ValueError("this restorer was trained without contexts")
        for name, context in zip(("content", "degradation"), contexts, strict=True):
            if context.ndim != 2 or context.shape[1] != dim:
                raise ValueError(f"the {name} context must be [B, {dim}], got {list(context.shape)}")
        return contexts


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """How pictures are sampled.

    Attributes:
        steps: network evaluations.
        sampler: see `plan_steps`.
        seed: of the noise; the same seed and picture give the same result.
    """

    steps: int = 5
    sampler: Sampler = "ode-2"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"restoring takes 1 step or more, got {self.steps}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; known: {', '.join(SAMPLERS)}")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, got {self.seed}")


@torch.inference_mode()
def restore(restorer: Restorer, lq: Tensor, contexts: Contexts | None, options: RestoreOptions) -> Tensor:
    """Restore pictures of one size.

    All pictures of a batch get the same noise.

    Args:
        restorer: in evaluation mode.
        lq: [B, 3, H, W] damaged pictures, in [0, 1], of any size from 1x1.
        contexts: of whole pictures, see `Restorer.predict`.
        options: how.

    Returns:
        [B, 3, H, W], clamped to [0, 1].
    """
    schedule = restorer.schedule

    def noise(draw: int) -> Tensor:
        values = np.random.default_rng((options.seed, draw)).standard_normal(lq.shape[1:], dtype=np.float32)
        return torch.from_numpy(values).to(lq).expand_as(lq)

    def predict(state: Tensor, time: float) -> Tensor:
        return restorer.predict(state, lq, time, contexts)

    start = lq + schedule.noise_level * noise(0)
    steps = plan_steps(schedule, options.sampler, options.steps)
    return sample(predict, lq, start, steps, lambda number: noise(number + 1)).clamp(0, 1)


def to_pixels(restored: Tensor) -> np.ndarray:
    """Return RGB uint8 [H, W, 3] of [3, H, W] in [0, 1], rounded."""
    return (restored * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
