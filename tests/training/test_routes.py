"""The route of small images, measured on photos without labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipsr_training._cli.evaluate import main as evaluate
from clipsr_training.adapt import OtherWeightsError, measure_routes, read_rules
from clipsr_training.adapt._routes import Teacher
from clipsr_training.clip import load_clip
from clipsr_training.data import decode
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.liif import load_liif
from tests.training.made import write_clip, write_photos, write_upscaler


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos", 14, (100, 90), cells_hw=(9, 10))


@pytest.fixture
def model(tmp_path) -> Path:
    return write_clip(tmp_path / "model")


@pytest.fixture
def upscaler(tmp_path) -> Path:
    return write_upscaler(tmp_path / "liif.safetensors")


def test_the_route_is_the_one_that_answers_as_the_photo_is_answered(photos, model, monkeypatch):
    black = load_liif("checkpoints/liif-fast/liif.safetensors")
    with torch.no_grad():
        for parameter in black.parameters():
            parameter.zero_()  # nothing but cubic interpolation is left
    rules = measure_routes(load_clip(model), black, [photos], ["cat", "dog", "ship"], limit=6)
    kinds = [(False, 3), (False, 12), (False, None), (True, None)]
    assert [(rule.max_side_px, (rule.is_lossy, rule.max_noise)) for rule in rules] == [
        (side, kind) for side in (12, 24, 48, 64) for kind in kinds
    ]
    assert all(rule.n_images == 6 for rule in rules)
    assert all(
        rule.route == ("upscaled" if rule.upscaled_agreement >= rule.native_agreement else "native") for rule in rules
    )
    again = measure_routes(load_clip(model), black, [photos], ["cat", "dog", "ship"], limit=6)
    assert again == rules

    answer = TorchBackend.embed_images

    def broken_upscaler(self, files, names, *, route):
        found = answer(self, files, names, route="native")
        return -found if route == "upscaled" else found

    monkeypatch.setattr(TorchBackend, "embed_images", broken_upscaler)
    assert {rule.route for rule in measure_routes(load_clip(model), black, [photos], ["cat", "dog"], limit=6)} == {
        "native"
    }


@pytest.mark.filterwarnings("ignore:.*smaller than the encoder")
def test_routes_are_measured_into_a_file_for_these_weights(tmp_path, photos, model, upscaler, capsys):
    arguments = [
        "--photos",
        photos,
        "--limit",
        3,
        "--anchors",
        "cat,dog,ship",
        "--model",
        model,
        "--upscaler",
        upscaler,
    ]
    output = tmp_path / "routes"
    assert evaluate(["routes", *map(str, arguments), "--output", str(output)]) == 0
    table = capsys.readouterr().out.splitlines()
    checkpoint = load_clip(model)
    path = output / "route_rules.json"
    rules = read_rules(path, checkpoint, load_liif(upscaler))
    assert rules == measure_routes(checkpoint, load_liif(upscaler), [photos], ["cat", "dog", "ship"], limit=3)
    assert [line.split("|")[-2].strip() for line in table[2:]] == [rule.route for rule in rules]
    with pytest.raises(OtherWeightsError, match="measured for another model or upscaler"):
        read_rules(path, checkpoint, load_liif("checkpoints/liif-fast/liif.safetensors"))
    path.write_text('{"rules": [{"route": "native"}]}')
    with pytest.raises(ValueError, match="holds no rules that clipsr-eval routes wrote"):
        read_rules(path, checkpoint, load_liif(upscaler))


@pytest.mark.filterwarnings("ignore:.*smaller than the encoder")
def test_what_counts_may_be_the_answer_to_the_reduced_photo(photos, model, upscaler, monkeypatch):
    asked: list[tuple[str, int]] = []
    answer = TorchBackend.embed_images

    def note(self, files, names, *, route):
        asked.extend((route, min(decode(file, "photo").size)) for file in files)
        return answer(self, files, names, route=route)

    monkeypatch.setattr(TorchBackend, "embed_images", note)
    for both, routes in ((False, ["upscaled"]), (True, ["upscaled", "native"])):
        asked.clear()
        teacher = Teacher(side_px=20, both_routes=both)
        clip, liif = load_clip(model), load_liif(upscaler)
        rules = measure_routes(clip, liif, [photos], ["cat", "dog"], limit=1, teacher=teacher)
        assert asked[: len(routes)] == [(route, 20) for route in routes]
        assert len(asked) == len(routes) + 2 * len(rules)
    with pytest.raises(ValueError, match="--teacher-side"):
        Teacher(both_routes=True)
