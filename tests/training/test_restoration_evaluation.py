"""`clipsr-eval restore`: its figures against independent ones, its report, resuming, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from clipsr_training._cli.evaluate import main
from clipsr_training.data import read_image
from clipsr_training.degradation import DEGRADATIONS, KINDS, degrade, generator, strength_of
from clipsr_training.evaluation import _restoration
from clipsr_training.restoration import ConditionalUNet, Restorer, Schedule, UNetConfig, save_restorer
from tests.training.made import write_photos

N_PHOTOS = 3


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos", N_PHOTOS, (40, 24))


def write_restorer(path: Path, *, contexts: str | None = None, shift: float = 0.0) -> Path:
    """A restorer that adds `shift` to every damaged picture."""
    dim = None if contexts is None else len(KINDS)
    config = UNetConfig(width=32, multipliers=(1, 1), context_dim=dim, has_bottom_transformer=False, is_folded=True)
    network = ConditionalUNet(config)
    with torch.no_grad():
        network.final_conv.weight.zero_()
        network.final_conv.bias.fill_(shift)  # pyright: ignore[reportOptionalMemberAccess]
    save_restorer(Restorer(network, Schedule(), "residual", contexts), path)
    return path


@pytest.fixture
def options(tmp_path, photos) -> list[str]:
    restorer = write_restorer(tmp_path / "restorer.safetensors", contexts="kinds", shift=8 / 255)
    return [
        *("restore", "--restorer", str(restorer), "--data", str(photos), "--side", "24", "--steps", "1,2"),
        *("--output", str(tmp_path / "report")),
    ]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_figures_are_those_of_an_independent_implementation(options, photos, tmp_path):
    assert main([*options, "--kinds", "noisy,hazy", "--severity", "2", "--seed", "4"]) == 0
    (source,) = report_of(tmp_path / "report")["sources"]
    for kind in ("noisy", "hazy"):
        expected = {"damaged": [], "1": [], "2": []}
        for i, path in enumerate(sorted(photos.iterdir())):
            clean = read_image(path)[:, 8:32]
            damaged = degrade(clean, kind, strength_of(2), generator(4, i, kind))
            restored = np.clip(damaged.astype(int) + 8, 0, 255).astype(np.uint8)
            for column, picture in (("damaged", damaged), ("1", restored), ("2", restored)):
                psnr = peak_signal_noise_ratio(clean, picture)
                ssim = structural_similarity(
                    clean, picture, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
                )
                expected[column].append((psnr, ssim))
        for column, figures in expected.items():
            found, (psnr, ssim) = source["kinds"][kind][column], np.mean(figures, axis=0)
            assert found["psnr_db"] == pytest.approx(psnr, abs=1e-6)
            assert found["ssim"] == pytest.approx(ssim, abs=0.02)  # windows that cross the border count there


@pytest.fixture
def alexnet(tmp_path, monkeypatch):
    """AlexNet with made weights, where torchvision looks for the published ones."""
    from torchvision import models  # after clipsr_training, whose import makes torchvision's possible

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = models.alexnet(weights=None).state_dict()
    features = models.alexnet(weights=None, num_classes=1).features
    # What classifies is not used: one number, of every shape.
    state = {name: torch.zeros(()).expand(value.shape) for name, value in whole.items() if "classifier" in name}
    state |= {f"features.{name}": value for name, value in features.state_dict().items()}
    place = tmp_path / "torch" / "hub" / "checkpoints" / models.AlexNet_Weights.DEFAULT.url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save(state, place)
    return features


def enlarge(photos: Path) -> None:
    for path in photos.iterdir():
        Image.open(path).resize((60, 40)).save(path)


def lpips_of(features: torch.nn.Sequential, picture: np.ndarray, other: np.ndarray) -> float:
    """The formula of Zhang et al. 2018, with the published weights of the layers."""
    import torchmetrics.functional.image.lpips as published  # likewise

    lins = torch.load(Path(published.__file__).parent / "lpips_models" / "alex.pth", map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    states = [
        ((torch.from_numpy(p.copy()) / 127.5 - 1 - shift) / scale).permute(2, 0, 1)[None] for p in (picture, other)
    ]
    total, layer = 0.0, 0
    with torch.no_grad():
        for module in features[:12]:  # the last one pools
            states = [module(state.clone()) for state in states]
            if isinstance(module, torch.nn.ReLU):
                a, b = (state / (state.square().sum(dim=1, keepdim=True).sqrt() + 1e-8) for state in states)
                total += float(((a - b).square() * lins[f"lin{layer}.model.1.weight"]).sum(dim=1).mean())
                layer += 1
    assert layer == 5
    return total


def test_lpips_is_that_of_its_paper(options, photos, alexnet, tmp_path, capsys):
    enlarge(photos)
    more = ["--kinds", "noisy", "--severity", "2", "--side", "40", "--lpips"]
    assert main([*options, *more]) == 0
    (source,) = report_of(tmp_path / "report")["sources"]
    expected = {"damaged": [], "1": []}
    for i, path in enumerate(sorted(photos.iterdir())):
        clean = read_image(path)[:, 10:50]
        damaged = degrade(clean, "noisy", strength_of(2), generator(0, i, "noisy"))
        expected["damaged"].append(lpips_of(alexnet, damaged, clean))
        expected["1"].append(lpips_of(alexnet, np.clip(damaged.astype(int) + 8, 0, 255).astype(np.uint8), clean))
    for column, values in expected.items():
        assert source["kinds"]["noisy"][column]["lpips"] == pytest.approx(np.mean(values), rel=1e-4)
        assert np.mean(values) > 0
    assert "PSNR in dB, SSIM and LPIPS" in (tmp_path / "report" / "report.md").read_text("utf-8")
    capsys.readouterr()
    small = tmp_path / "small"
    assert main([*options, *more, "--side", "24", "--output", str(small)]) == 1
    assert "LPIPS needs pictures of 32 px or more, and one has 24" in capsys.readouterr().err
    Image.open(sorted(photos.iterdir())[-1]).resize((60, 30)).save(sorted(photos.iterdir())[-1])
    assert main([*options, *more, "--output", str(small)]) == 1
    assert "and one has 30" in capsys.readouterr().err
    assert list(small.iterdir()) == [], "said before anything is measured"


def test_lpips_without_its_weights_says_where_they_belong(options, photos, tmp_path, monkeypatch, capsys):
    enlarge(photos)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert main([*options, "--side", "40", "--lpips"]) == 1
    error = capsys.readouterr().err
    assert "no route to host" in error
    assert f"at {tmp_path / 'torch' / 'hub' / 'checkpoints'}" in error
    assert not (tmp_path / "report").exists() or not list((tmp_path / "report").iterdir())


def test_the_report_holds_every_kind_and_the_mean_of_ten(options, tmp_path, capsys):
    assert main(options) == 0
    output = tmp_path / "report"
    assert {p.name for p in output.iterdir()} == {"report.json", "report.md", "restored.jsonl", "sheet.png"}
    (source,) = report_of(output)["sources"]
    assert list(source["kinds"]) == list(KINDS)
    for column in ("damaged", "1", "2"):
        ten = [source["kinds"][kind][column]["psnr_db"] for kind in DEGRADATIONS]
        assert source["mean_of_ten_psnr_db"][column]["value"] == pytest.approx(np.mean(ten))
    printed = capsys.readouterr().out
    assert "| photos | mean of ten |" in printed
    assert "| photos | gain | – | +" in printed
    assert printed.strip() in (output / "report.md").read_text("utf-8")
    height, width = read_image(output / "sheet.png").shape[:2]
    assert height > 1000 > width > 300


def test_an_unchanged_picture_has_a_bounded_figure(options, tmp_path, photos):
    write_restorer(tmp_path / "restorer.safetensors", contexts="kinds")
    for i, path in enumerate(sorted(photos.iterdir())):  # a draw of `clean` changes nothing in a third of the cases
        Image.new("RGB", (24, 24), (i, i, i)).save(path)
    assert main([*options, "--kinds", "clean"]) == 0
    (source,) = report_of(tmp_path / "report")["sources"]
    assert source["kinds"]["clean"]["1"]["psnr_db"] <= _restoration.BEST_PSNR_DB


def test_kinds_that_are_done_are_kept_and_settings_are_part_of_them(options, tmp_path, monkeypatch, capsys):
    assert main([*options, "--kinds", "rainy"]) == 0
    measure, measured = _restoration._measure, []

    def record(plan, source, kind, on_pictures):
        measured.append(kind)
        return measure(plan, source, kind, on_pictures)

    monkeypatch.setattr(_restoration, "_measure", record)
    assert main([*options, "--kinds", "rainy,snowy", "--resume"]) == 0
    assert measured == ["snowy"]
    capsys.readouterr()
    assert main([*options, "--kinds", "rainy", "--resume", "--seed", "1"]) == 1
    assert "seed was 0 and is now 1" in capsys.readouterr().err


def test_bad_input_is_one_sentence(options, tmp_path, capsys):
    told = write_restorer(tmp_path / "other.safetensors", contexts="kinds")
    text = told.read_bytes().replace(b'"kinds\\"', b'"kindz\\"').replace(b'\\"kinds\\"', b'\\"kindz\\"')
    told.write_bytes(text)
    for more, sentence in (
        (["--restorer", str(tmp_path / "nowhere.pth")], "no restorer at"),
        (["--restorer", str(told)], "takes contexts of 'kindz', which its file does not hold"),
        (["--data", str(tmp_path / "nowhere")], "no data at"),
        (["--device", "cuda:77"], "cannot use the device 'cuda:77'"),
    ):
        assert main([*options, *more]) == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert sentence in error
    for more in (["--kinds", "foggy"], ["--steps", "0"], ["--severity", "7"], ["--side", "8"]):
        with pytest.raises(SystemExit):
            main([*options, *more])
