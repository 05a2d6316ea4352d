"""Measuring upscalers: metrics against scikit-image, strips against whole images, the command and its files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from clipsr_training._cli.evaluate import main
from clipsr_training._files import write_atomically
from clipsr_training.data import read_image
from clipsr_training.liif import LIIF, ModulatedLIIF
from clipsr_training.liif._data import read_images
from clipsr_training.liif._encoders import EDSR
from clipsr_training.liif._evaluate import Input, list_images, make_sample, resize
from clipsr_training.liif._metrics import Convention, psnr, ssim
from clipsr_training.liif._report import Comparison, SrReport, draw_comparison
from clipsr_training.liif._strips import upscale_in_strips
from tests.tolerances import REWRITE
from tests.training.made import write_upscaler


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_upscaler(tmp_path / "tiny.safetensors")


def pair(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    hr = read_images([folder])[0]
    return resize(resize(hr, (60, 75)), (120, 150)), hr


def test_benchmark_figures_equal_skimage(image_folder):
    sr, hr = pair(image_folder)
    psnr_db, similarity = Convention().compare(sr, hr, 2)
    a, b = (skimage.color.rgb2ycbcr(x)[2:-2, 2:-2, 0] for x in (sr, hr))
    assert psnr_db == pytest.approx(skimage.metrics.peak_signal_noise_ratio(b, a, data_range=255), abs=1e-3)
    assert similarity == pytest.approx(skimage_ssim(a, b), abs=1e-6)


def test_div2k_figures_equal_skimage(image_folder):
    sr, hr = pair(image_folder)
    psnr_db, similarity = Convention(name="div2k").compare(sr, hr, 3)
    a, b = (x[9:-9, 9:-9] for x in (sr, hr))
    assert psnr_db == pytest.approx(skimage.metrics.peak_signal_noise_ratio(b, a), abs=1e-9)
    assert similarity == pytest.approx(np.mean([skimage_ssim(a[..., i], b[..., i]) for i in range(3)]), abs=1e-9)


def skimage_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM with the published window: skimage's own default differs from Wang et al. in all three options."""
    return skimage.metrics.structural_similarity(
        a.astype(np.float64), b.astype(np.float64), gaussian_weights=True, use_sample_covariance=False, data_range=255
    )


def test_equal_images_and_images_without_an_inside():
    flat = np.zeros((40, 40, 3), dtype=np.uint8)
    assert Convention().compare(flat, flat, 2) == (float("inf"), 1.0)
    assert psnr(np.zeros((1, 4, 4)), np.full((1, 4, 4), 255.0)) == 0
    assert ssim(np.zeros((1, 11, 11)), np.full((1, 11, 11), 255.0)) < 0.01
    with pytest.raises(ValueError, match="border"):
        Convention().compare(flat, flat, 15)
    with pytest.raises(ValueError, match="sizes differ"):
        Convention().compare(flat, flat[1:], 2)


@settings(max_examples=30)
@given(
    lr_hw=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    sr_hw=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    strip_pixels=st.integers(1, 600),
    is_liif=st.booleans(),
)
@torch.inference_mode()
def test_strips_are_the_whole_image(lr_hw, sr_hw, strip_pixels, is_liif):
    torch.manual_seed(0)
    encoder = EDSR(n_resblocks=1, n_feats=4)
    model = LIIF(encoder, hidden_list=(8, 8)) if is_liif else ModulatedLIIF(encoder, latent_dim=8, hidden_dim=4)
    lr = torch.rand(3, *lr_hw)
    whole = model.upscale(lr, sr_hw)
    strips = upscale_in_strips(model, lr, sr_hw, strip_pixels=strip_pixels)
    # The modulated decoder jumps where the nearest latent code changes; a tie may fall either way by round-off.
    row_is_tied = torch.tensor([(2 * i + 1) * lr_hw[0] % (2 * sr_hw[0]) == 0 for i in range(sr_hw[0])])
    difference = (strips - whole).abs().amax(dim=(0, 2))
    assert difference[~row_is_tied].tolist() == pytest.approx([0] * int((~row_is_tied).sum()), abs=REWRITE)


def test_bicubic_baseline_is_the_published_one(data_dir, repo_root, tmp_path):
    """Set5 ×2: 33.66 dB and 0.9299 in the literature (MATLAB's imresize), 33.68 as recorded with the data."""
    checkpoint = repo_root / "checkpoints" / "liif-fast" / "liif.safetensors"
    arguments = ["sr", "--checkpoint", str(checkpoint), "--data", str(data_dir / "sr" / "Set5"), "--scales", "2"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["sets"]
    methods = entry["scales"][0]["methods"]
    assert methods["bicubic"]["psnr_db"] == pytest.approx(33.68, abs=0.02)
    assert methods["bicubic"]["ssim"] == pytest.approx(0.9299, abs=1e-3)
    assert methods["model"]["psnr_db"] >= 36.8


def test_the_command_writes_its_report(checkpoint, image_folder, tmp_path, capsys):
    output = tmp_path / "new" / "report"
    arguments = ["sr", "--checkpoint", str(checkpoint), "--data", str(image_folder), "--scales", "2,3"]
    assert main([*arguments, "--convention", "div2k", "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["comparison.png", "psnr.png", "report.json", "report.md"]
    page = (output / "report.md").read_text("utf-8")
    table = capsys.readouterr().out.strip()
    assert table in page
    assert "| images | ×3 | 3 |" in table
    assert "scale + 6" in page
    content = json.loads((output / "report.json").read_text("utf-8"))
    assert content["convention"] == "div2k"
    assert [score["scale"] for score in content["sets"][0]["scales"]] == [2, 3]
    for name in ("psnr.png", "comparison.png"):
        assert min(read_image(output / name).shape[:2]) > 100


def test_the_printed_figures_are_the_mean_over_images(checkpoint, image_folder, tmp_path, capsys):
    assert main(["sr", "--checkpoint", str(checkpoint), "--data", str(image_folder), "--scales", "4"]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].split(" | ")
    values = []
    for path in list_images(image_folder):
        hr = read_image(path)[:120, :148]
        values.append(Convention().compare(resize(resize(hr, (30, 37)), (120, 148)), hr, 4))
    expected = np.mean(values, axis=0)
    assert cells[3] == f"{expected[0]:.2f} / {expected[1]:.4f}"


def test_scales_that_an_image_is_too_small_for_are_stated(checkpoint, image_folder, tmp_path, capsys):
    Image.new("RGB", (30, 200)).save(image_folder / "narrow.png")
    arguments = ["sr", "--checkpoint", str(checkpoint), "--data", str(image_folder), "--scales", "2,12,60"]
    assert main([*arguments, "--output", str(tmp_path / "report")]) == 0
    streams = capsys.readouterr()
    assert "×12: 1 of 4 images are too small and were left out (narrow.png)" in streams.err
    assert "| images | ×60 | 0 | – |" in streams.out
    assert "narrow.png" in (tmp_path / "report" / "report.md").read_text("utf-8")
    assert main([*arguments[:-1], "60"]) == 1
    assert "too small for ×60" in capsys.readouterr().err


def test_the_picture_shows_the_asked_image_at_the_asked_scale(checkpoint, image_folder, tmp_path):
    output = tmp_path / "report"
    arguments = ["sr", "--checkpoint", str(checkpoint), "--data", str(image_folder), "--scales", "2"]
    assert main([*arguments, "--output", str(output), "--picture", "1", "--picture-scale", "5"]) == 0
    assert "1.png at ×5" in (output / "report.md").read_text("utf-8")
    hr = read_image(image_folder / "1.png")
    picture = read_image(output / "comparison.png")
    gap, caption, factor = 8, 28, 384 // 150
    truth = picture[gap + caption :, 3 * (150 * factor + gap) + gap :][: 120 * factor, : 150 * factor]
    assert np.array_equal(truth[::factor, ::factor], hr)


def test_inputs_may_be_damaged(checkpoint, image_folder, tmp_path, capsys):
    arguments = ["sr", "--checkpoint", str(checkpoint), "--data", str(image_folder), "--scales", "2"]
    psnr: dict[str, float] = {}
    for name, options in {
        "clean": [],
        "jpeg": ["--jpeg", "20"],
        "aliased": ["--kernel", "nearest"],
        "noisy": ["--noise", "16"],
    }.items():
        output = tmp_path / name
        assert main([*arguments, *options, "--output", str(output)]) == 0
        report = json.loads((output / "report.json").read_text("utf-8"))
        psnr[name] = report["sets"][0]["scales"][0]["methods"]["bicubic"]["psnr_db"]
    assert report["inputs"] == {"kernel": "bicubic", "noise": 16, "jpeg_quality": None}
    assert max(psnr, key=lambda name: psnr[name]) == "clean"
    assert len(set(psnr.values())) == 4
    noisy, aliased = ((tmp_path / name / "report.md").read_text("utf-8") for name in ("noisy", "aliased"))
    assert "inputs reduced by bicubic, noise of standard deviation 16;" in noisy
    assert "inputs reduced by nearest;" in aliased
    hr = read_images([image_folder])[0]
    assert np.array_equal(Input().make(hr, (60, 75)), resize(hr, (60, 75)))


def test_a_large_image_is_shown_by_its_middle(checkpoint):
    from clipsr_training.liif import load_liif

    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    sample = make_sample(load_liif(checkpoint), image, 2)
    sheet = np.asarray(draw_comparison(Comparison(title="x", sample=sample, scale=2), Convention()))
    assert np.array_equal(sheet[-8 - 384 : -8, -8 - 384 : -8][::2, ::2], image[54:246, 154:346])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--data": "nowhere"}, "no images in nowhere: there is no such folder"),
        ({"--checkpoint": "nowhere.pth"}, "no upscaler checkpoint at nowhere.pth"),
        ({"--checkpoint": "clip.safetensors"}, "does not say which upscaler it holds"),
        ({"--output": "clip.safetensors"}, "cannot write into clip.safetensors: File exists"),
        ({"--output": "clip.safetensors/report"}, "cannot write into clip.safetensors/report: Not a directory"),
        ({"--picture": "zebra"}, "none of the 3 images is named zebra"),
        ({"--picture-scale": "90"}, "cannot be shown at ×90"),
        ({"--device": "cuda:77"}, "cannot use the device 'cuda:77'"),
        ({"--device": "toaster"}, "cannot use the device 'toaster'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    change, sentence, checkpoint, image_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    save_file({"weight": torch.zeros(1)}, "clip.safetensors")
    options = {"--checkpoint": checkpoint, "--data": image_folder, "--output": "report", "--scales": "2"} | change
    assert main(["sr", *(str(part) for option in options.items() for part in option)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("scales", ["1,2", "2,,3", "two", "2.5"])
def test_nonsensical_scales_are_refused(scales, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sr", "--data", ".", "--scales", scales])
    assert "expected a whole number of at least 2" in capsys.readouterr().err


def test_a_damaged_image_is_named(checkpoint, image_folder, capsys):
    (image_folder / "x.png").write_text("not an image")
    assert main(["sr", "--checkpoint", str(checkpoint), "--data", str(image_folder)]) == 1
    assert "x.png can't be read" in capsys.readouterr().err


def test_an_empty_folder_is_named(checkpoint, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["sr", "--checkpoint", str(checkpoint), "--data", str(tmp_path / "empty")]) == 1
    assert "it holds none" in capsys.readouterr().err


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write_atomically(path, b"old")

    def stop(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(OSError, match=r"cannot write .*report\.md: No space left"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.md"]


def test_an_infinite_psnr_is_null_in_json(checkpoint, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    output = tmp_path / "report"
    assert main(["sr", "--checkpoint", str(checkpoint), "--data", str(folder), "--output", str(output)]) == 0
    content = json.loads((output / "report.json").read_text("utf-8"))
    assert content["sets"][0]["scales"][0]["methods"]["bicubic"] == {"psnr_db": None, "ssim": 1.0}


def test_the_report_has_a_page_without_a_picture():
    report = SrReport(checkpoint="x.pth", convention=Convention(), made=Input(), sets=())
    assert "comparison.png" not in report.markdown(None)
