"""The sampler that export writes, run as it is served, restores what PyTorch restores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clipsr_export._repository.restorer import describe_sampler
from clipsr_serving.restoration import read_sampler, restore
from clipsr_serving.restoration._noise import pixel_noise
from clipsr_training.restoration import ConditionalUNet, Restorer, Schedule, UNetConfig, plan_steps
from clipsr_training.restoration._sampling import sample
from tests.tolerances import RESTORED


@torch.inference_mode()
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_served_sampler_equals_pytorch(tmp_path, steps):
    torch.manual_seed(0)
    config = UNetConfig(width=32, multipliers=(1, 1), context_dim=11, has_bottom_transformer=False)
    restorer = Restorer(ConditionalUNet(config), Schedule(), "residual", "kinds").eval()
    path = tmp_path / "sampler.json"
    path.write_text(json.dumps(describe_sampler(restorer)))
    lq = np.random.default_rng(0).integers(0, 256, (3, 37, 50), dtype=np.uint8)
    contexts = (torch.eye(11)[3:4], torch.eye(11)[3:4])

    def predict(state, lq, time):
        return restorer.predict(torch.from_numpy(state)[None], torch.from_numpy(lq)[None], time, contexts)[0].numpy()

    found = restore(lq, predict, read_sampler(path), steps=steps, seed=9)
    mu = torch.from_numpy(lq)[None] / 255
    state = mu + restorer.schedule.noise_level * torch.from_numpy(pixel_noise(9, 0, (37, 50)))
    plan = plan_steps(restorer.schedule, "ode-2", steps)
    expected = sample(
        lambda x, time: restorer.predict(x, mu, time, contexts), mu, state, plan, lambda _: torch.zeros_like(mu)
    )
    assert np.abs(found - expected[0].clamp(0, 1).numpy()).max() <= RESTORED
