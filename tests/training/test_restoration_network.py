"""The restoration network: shapes, padding, folding, and files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from clipsr_training.restoration import (
    ConditionalUNet,
    Restorer,
    RestorerFormatError,
    Schedule,
    UNetConfig,
    fold_contexts,
    load_restorer,
    pad_to_multiple,
    save_restorer,
)
from clipsr_training.restoration._checkpoint import describe_published

SMALL = UNetConfig(width=32, multipliers=(1, 2), context_dim=6)
PUBLISHED = UNetConfig()
WILD = UNetConfig(context_dim=768, has_prompt=False, is_halved=True)


def random_network(config: UNetConfig) -> ConditionalUNet:
    """A network none of whose layers is zero."""
    network = ConditionalUNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def inputs(size_hw: tuple[int, int], dim: int | None = 6, batch: int = 2) -> tuple[torch.Tensor | None, ...]:
    contexts = (None, None) if dim is None else torch.randn(2, batch, dim)
    return (*torch.rand(2, batch, 3, *size_hw), torch.tensor([40.0]), *contexts)


@torch.inference_mode()
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (3, 5), (16, 16), (31, 18)])
@pytest.mark.parametrize("config", [SMALL, replace(SMALL, context_dim=None), replace(SMALL, is_halved=True)])
def test_pictures_of_any_size_pass(config, size_hw):
    state, *rest = inputs(size_hw, config.context_dim)
    found = random_network(config)(state, *rest)
    assert found.shape == state.shape
    assert found.isfinite().all()


def test_padding_reflects_and_falls_back_to_the_edge_where_nothing_is_left_to_reflect():
    x = torch.arange(9.0 * 3).reshape(1, 1, 9, 3)
    padded = pad_to_multiple(x, 16)
    assert padded.shape == (1, 1, 16, 16)
    assert torch.equal(padded[..., :3], functional.pad(x, (0, 0, 0, 7), mode="reflect"))
    assert torch.equal(padded[..., :9, 3:], x[..., 2:].expand(1, 1, 9, 13))
    assert pad_to_multiple(padded, 16) is padded


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL, replace(SMALL, has_bottom_transformer=False)])
def test_a_folded_network_is_equal_and_knows_no_queries(config):
    network = random_network(config)
    folded = fold_contexts(network)
    given = inputs((20, 12))
    assert (network(*given) - folded(*given)).abs().max() < 1e-5
    assert not any("attn2" in name or "norm2" in name for name in folded.state_dict())
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in network.parameters())
    assert fold_contexts(folded) is folded
    content = given[3]
    assert content is not None
    other = (*given[:3], content + 1, given[4])
    assert (folded(*other) - folded(*given)).abs().max() > 1e-4  # the context still counts


def test_each_picture_has_its_own_time_and_contexts():
    network = random_network(SMALL)
    state, lq, _, content, degradation = inputs((8, 8))
    times = torch.tensor([3.0, 90.0])
    with torch.inference_mode():
        together = network(state, lq, times, content, degradation)
        alone = [network(*(v[i : i + 1] for v in (state, lq, times, content, degradation))) for i in range(2)]  # pyright: ignore[reportOptionalSubscript]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize(("config", "n_tensors", "n_parameters"), [(PUBLISHED, 224, 48_975_747), (WILD, None, None)])
def test_the_published_sizes_are_found_in_their_weights(config, n_tensors, n_parameters):
    with torch.device("meta"):
        network = ConditionalUNet(config)
    assert describe_published(network.state_dict()) == config
    if n_tensors is not None:
        assert len(network.state_dict()) == n_tensors
        assert sum(p.numel() for p in network.parameters()) == n_parameters


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("is_wild", [False, True])
def test_published_files_load(tmp_path, is_wild, prefix):
    config = replace(SMALL, has_prompt=not is_wild, is_halved=is_wild)
    network = random_network(config)
    path = tmp_path / "ir.pth"
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, path)
    loaded = load_restorer(path)
    assert loaded.network.config == config
    assert loaded.parametrization == "noise"
    assert not loaded.training
    given = inputs((9, 8))
    with torch.inference_mode():
        assert torch.equal(loaded.network(*given), network(*given))


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = random_network(SMALL).state_dict()
    path = tmp_path / "ir.pth"
    for change, sentence in (
        ({"extra.weight": torch.zeros(1)}, "does not know: extra.weight"),
        ({"mid_block1.mlp.1.bias": None}, "lacks weights of its network: mid_block1.mlp.1.bias"),
        (
            {"final_conv.bias": torch.zeros(4)},
            r"another shape than its network: final_conv.bias \(\[4\] instead of \[3\]\)",
        ),
        ({"final_conv.bias": torch.full((3,), torch.nan)}, "not finite"),
        ({"init_conv.weight": None}, "no weight init_conv.weight"),
        ({"downs.1.3.weight": None}, "downs.1.3.weight"),
        ({name: None for name in state if ".attn2." in name}, "no restorer with contexts: it has no weight mid_attn"),
    ):
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        torch.save(changed, path)
        with pytest.raises(RestorerFormatError, match=sentence):
            load_restorer(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"init_conv.weight": 1}])
def test_other_files_are_told_apart(tmp_path, content):
    path = tmp_path / "ir.pth"
    torch.save(content, path)
    with pytest.raises(RestorerFormatError, match="restorer"):
        load_restorer(path)
    path.write_bytes(b"nothing")
    with pytest.raises(RestorerFormatError, match="no PyTorch checkpoint"):
        load_restorer(path)
    with pytest.raises(FileNotFoundError, match="no restorer at"):
        load_restorer(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("context_dim", [None, 6])
def test_our_files_hold_everything(tmp_path, context_dim, dtype):
    config = replace(SMALL, context_dim=context_dim, is_folded=context_dim is not None)
    schedule = Schedule(n_times=50, max_sigma=30, eps=0.01)
    contexts = None if context_dim is None else "kinds"
    restorer = Restorer(random_network(config), schedule, "residual", contexts)
    path = tmp_path / "restorer.safetensors"
    save_restorer(restorer, path, dtype=dtype)
    loaded = load_restorer(path)
    assert (loaded.network.config, loaded.schedule, loaded.parametrization, loaded.contexts) == (
        config,
        schedule,
        "residual",
        contexts,
    )
    for name, value in restorer.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value.to(dtype).float())


def test_our_files_are_checked(tmp_path):
    path = tmp_path / "restorer.safetensors"
    restorer = Restorer(random_network(SMALL), Schedule(), "noise", "kinds")
    save_restorer(restorer, path)
    state = load_file(path)
    with safe_open(path, "pt") as file:
        (key,), spec = file.metadata(), json.loads(next(iter(file.metadata().values())))
    for changed, metadata, sentence in (
        ({**state, "more": torch.zeros(1)}, spec, "does not know: more"),
        (state, {**spec, "parametrization": "magic"}, "unknown parametrization 'magic'"),
        (state, {**spec, "schedule": {"eps": 2}}, "eps must be between 0 and 1"),
        (state, {**spec, "network": {**spec["network"], "width": 64}}, "another shape"),
        (state, {"network": spec["network"]}, "schedule"),
    ):
        save_file(changed, path, metadata={key: json.dumps(metadata)})
        with pytest.raises(RestorerFormatError, match=sentence):
            load_restorer(path)
    save_file(state, path)
    with pytest.raises(RestorerFormatError, match="does not say which restorer it holds"):
        load_restorer(path)
    with torch.no_grad():
        restorer.network.final_conv.weight.fill_(1e6)
    with pytest.raises(ValueError, match="not finite"):
        save_restorer(restorer, tmp_path / "half.safetensors", dtype=torch.float16)
    assert not (tmp_path / "half.safetensors").exists()


def test_contexts_must_be_those_of_the_network():
    with_contexts = Restorer(random_network(SMALL), Schedule(), "noise", "kinds")
    without = Restorer(random_network(replace(SMALL, context_dim=None)), Schedule(), "noise", None)
    x, contexts = torch.rand(1, 3, 8, 8), (torch.rand(1, 6), torch.rand(1, 6))
    with pytest.raises(ValueError, match=r"needs two contexts of 6 numbers \(kinds\)"):
        with_contexts.predict(x, x, 5.0, None)
    with pytest.raises(ValueError, match="trained without contexts"):
        without.predict(x, x, 5.0, contexts)
    with pytest.raises(ValueError, match=r"degradation context must be \[B, 6\], got \[1, 5\]"):
        with_contexts.predict(x, x, 5.0, (contexts[0], torch.rand(1, 5)))
    with pytest.raises(ValueError, match="needs the name of their source"):
        Restorer(random_network(SMALL), Schedule(), "noise", None)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"width": 0}, "width of 0"), ({"multipliers": ()}, "multipliers"), ({"width": 20}, "can't be divided")],
)
def test_networks_that_cannot_be_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        UNetConfig(**wrong)
