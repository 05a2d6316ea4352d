"""How far an upscaler looks, measured by gradient, against changes of real pixels."""

from __future__ import annotations

import pytest
import torch

from clipsr_export import ExportError
from clipsr_export._graphs import receptive_field
from clipsr_export._graphs.receptive_field import measure_receptive_field
from clipsr_training.liif import LIIF, ModulatedLIIF, Upscaler
from clipsr_training.liif._encoders import EDSR, RDN


def edsr() -> EDSR:
    return EDSR(n_resblocks=1, n_feats=8)


# One block of EDSR sees 4 pixels: head, two convolutions, tail.
UPSCALERS = {
    "ensemble, unfold": (lambda: LIIF(edsr(), hidden_list=(16,)), 4 + 1 + 1),
    "ensemble": (lambda: LIIF(edsr(), hidden_list=(16,), feat_unfold=False), 4 + 1),
    "unfold": (lambda: LIIF(edsr(), hidden_list=(16,), local_ensemble=False), 4 + 1),
    "no cell": (lambda: LIIF(edsr(), hidden_list=(16,), cell_decode=False), 4 + 1 + 1),
    "modulated": (lambda: ModulatedLIIF(edsr(), latent_dim=16), 4 + 1),
    # Six convolutions of 3x3, the last one before the two of LIIF.
    "RDN": (lambda: LIIF(RDN(configuration=(1, 3, 4), n_feats=8), hidden_list=(16,)), 6 + 1 + 1),
}


@pytest.mark.parametrize("name", UPSCALERS)
def test_the_field_is_what_the_layers_add_up_to(name):
    make, expected = UPSCALERS[name]
    assert measure_receptive_field(make()) == expected


@pytest.mark.parametrize("name", UPSCALERS)
@torch.inference_mode()
def test_pixels_beyond_the_field_change_nothing(name):
    """And those at its edge do: in random weights some path is open."""
    make, radius = UPSCALERS[name]
    model, centre = make().eval(), 12
    lr = torch.rand(1, 3, 25, 25)
    base = render_pixel(model, lr, centre)
    far, near = lr.clone(), lr.clone()
    far[:, :, : centre - radius] = far[:, :, centre + radius + 1 :] = 0
    far[..., : centre - radius] = far[..., centre + radius + 1 :] = 0
    near[:, :, centre - radius] = 0
    assert torch.allclose(render_pixel(model, far, centre), base, atol=1e-6)
    assert (render_pixel(model, near, centre) - base).abs().max() > 0


def render_pixel(model: Upscaler, lr: torch.Tensor, centre: int) -> torch.Tensor:
    box = torch.tensor([[float(centre), float(centre), 1.0, 1.0]])
    return model.render(model.features(lr), box, (6, 6))


def test_the_measure_leaves_the_model_as_it_is():
    model = ModulatedLIIF(edsr(), latent_dim=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_receptive_field(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.hidden.parameters())


def test_a_field_wider_than_the_probe_is_measured_on_a_longer_one(monkeypatch):
    monkeypatch.setattr(receptive_field, "_LENGTHS_PX", (9, 33))
    assert measure_receptive_field(UPSCALERS["modulated"][0]()) == 5
    monkeypatch.setattr(receptive_field, "_LENGTHS_PX", (9,))
    with pytest.raises(ExportError, match="cannot be tiled"):
        measure_receptive_field(UPSCALERS["modulated"][0]())
