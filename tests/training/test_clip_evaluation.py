"""`clipsr-eval` on CLIP models: the commands, their files, resuming, and what is wrong in one sentence."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipsr_training._cli.evaluate import main
from clipsr_training.data import decode, open_set, read_image
from clipsr_training.evaluation import _cells, _zero_shot
from clipsr_training.evaluation._low_resolution import LowResolutionPlan, Reduction
from clipsr_training.evaluation._probe import fit_probe
from clipsr_training.evaluation._zero_shot import ZeroShotResult, below_published_warning, published_imagenet_top1
from clipsr_training.liif import save_liif
from clipsr_training.liif._recipes import RECIPES
from tests.samples import known_samples, label
from tests.training.made_images import class_folders


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, repo_root) -> None:
    """Where the default model is."""
    monkeypatch.chdir(repo_root)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "colours")


@pytest.fixture
def photos(tmp_path: Path, repo_root: Path) -> Path:
    """The sample photos in folders of their classes, most of which the bundled model recognizes."""
    folder = tmp_path / "photos"
    for path in known_samples(repo_root):
        (folder / label(path)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / label(path))
    return folder


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text("utf-8"))


def entries_of(folder: Path) -> list[dict]:
    lines = (folder / "images.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def test_zero_shot_writes_its_report(folders, tmp_path, capsys):
    output = tmp_path / "report"
    options = ["--data", str(folders), "--output", str(output), "--batch-size", "5", "--templates", "@cifar"]
    assert main(["zeroshot", *options]) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "confusion.csv",
        "confusion.png",
        "images.jsonl",
        "report.json",
        "report.md",
    ]
    report, entries = report_of(output), entries_of(output)
    table = capsys.readouterr().out.strip()
    assert table in (output / "report.md").read_text("utf-8")
    correct = [entry["predicted"][0] == entry["target"] for entry in entries]
    assert report["accuracy"]["top1"]["value"] == np.mean(correct)
    assert "top5" not in report["accuracy"], "of three classes, five are always right"
    per_class = [entry["correct"] / entry["n"] for entry in report["per_class"].values()]
    resampled = report["accuracy"]["classes_resampled"]
    assert resampled["value"] == pytest.approx(report["accuracy"]["mean_per_class"]["value"])
    assert min(per_class) <= resampled["low"] <= resampled["value"] <= resampled["high"] <= max(per_class)
    assert [entry["image"] for entry in entries] == [
        f"{c}/{i}.png" for c in ("blue_sky", "green", "red") for i in range(4)
    ]
    for entry in entries:
        assert sorted(entry["predicted"]) == [0, 1, 2]
        assert entry["cosine"] == sorted(entry["cosine"], reverse=True)
        assert entry["latency_ms"] > 0
    with (output / "confusion.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["blue sky", "green", "red"]
    assert [sum(map(int, row[1:])) for row in rows[1:]] == [4, 4, 4]
    assert sum(int(row[i + 1]) for i, row in enumerate(rows[1:])) == sum(correct)
    assert min(read_image(output / "confusion.png").shape[:2]) > 100


def test_an_interrupted_measurement_goes_on_where_it_stopped(folders, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["zeroshot", "--data", str(folders), "--batch-size", "4", "--output"]
    assert main([*options, str(whole)]) == 0
    entry, calls = _zero_shot._entry, []

    def stop_at_the_sixth(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return entry(*arguments)

    monkeypatch.setattr(_zero_shot, "_entry", stop_at_the_sixth)
    assert main([*options, str(broken)]) == 130
    assert "interrupted; go on with --resume" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(Path(__file__).parents[2])
    log = broken / "images.jsonl"
    assert len(entries_of(broken)) == 4
    log.write_text(log.read_text("utf-8") + '{"image": "cut sho', "utf-8")  # as a kill leaves it
    assert main([*options, str(broken)]) == 1
    assert "go on with --resume, or choose another --output" in capsys.readouterr().err
    assert main([*options, str(broken), "--resume", "--route", "native"]) == 1
    assert "holds another measurement: route was 'auto' and is now 'native'" in capsys.readouterr().err
    assert main([*options, str(broken), "--resume"]) == 0
    figures = [[(e["image"], e["predicted"]) for e in entries_of(folder)] for folder in (whole, broken)]
    assert figures[0] == figures[1]
    assert report_of(whole)["accuracy"] == report_of(broken)["accuracy"]


def test_two_measurements_are_compared(folders, tmp_path, capsys):
    options = ["zeroshot", "--data", str(folders), "--output"]
    assert main([*options, str(tmp_path / "a"), "--precision", "bf16"]) == 0
    assert main([*options, str(tmp_path / "b"), "--compare", str(tmp_path / "a")]) == 0
    found = report_of(tmp_path / "b")["comparison"]
    assert found["same_top1"] >= 0.75
    assert 0 < found["max_cosine_difference"] <= 0.05  # bf16 has 8 bits
    assert "same top-1 on" in capsys.readouterr().out
    part = ["--limit", "5", "--compare", str(tmp_path / "a")]
    assert main([*options, str(tmp_path / "c"), *part]) == 1
    assert "it measured other images or labels" in capsys.readouterr().err


def test_other_labels_may_be_given(folders, tmp_path):
    output = tmp_path / "report"
    labels = "cloud,forest,rose"
    assert main(["zeroshot", "--data", str(folders), "--labels", labels, "--output", str(output)]) == 0
    assert list(report_of(output)["per_class"]) == labels.split(",")


def test_held_out_classes_are_told_apart_from_each_other(tmp_path):
    data = class_folders(tmp_path / "data", ("rose", "dog", "tulip"), per_class=4)
    output = tmp_path / "report"
    assert main(["zeroshot", "--data", str(data), "--held-out", "tier2", "--output", str(output)]) == 0
    with (output / "confusion.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["rose", "tulip"]
    assert len(entries_of(output)) == 8


def test_low_resolution_writes_its_report(folders, tmp_path, capsys):
    output = tmp_path / "report"
    options = ["lowres", "--data", str(folders), "--output", str(output), "--sizes", "8,32,64"]
    assert main(options) == 0
    streams = capsys.readouterr()
    assert "colours: 64 px left out, its smallest image has fewer" in streams.err
    assert "LR0.FM gives no weight for colours" in streams.err
    assert {path.name for path in output.iterdir()} == {"accuracy.png", "cells.jsonl", "report.json", "report.md"}
    (entry,) = report_of(output)["sets"]
    assert [(row["size_px"], row["rendering"]) for row in entry["top1"]] == [
        (size, rendering) for size in (8, 32) for rendering in ("nearest", "bicubic", "liif")
    ]
    # 32 px images, not reduced, take the upscaled route by themselves.
    liif = next(row for row in entry["top1"] if (row["size_px"], row["rendering"]) == (32, "liif"))
    assert liif["value"] == entry["reference"]["value"]
    page = (output / "report.md").read_text("utf-8")
    for table in streams.out.strip().split("\n\n"):
        assert table in page
    assert "colours, 8 px, bicubic: " in page
    assert "LR-12" not in page, "its cells were not measured"
    assert min(read_image(output / "accuracy.png").shape[:2]) > 100


def test_lr12_is_the_mean_of_its_twelve_cells(folders, tmp_path, capsys):
    output = tmp_path / "report"
    options = ["lowres", "--data", str(folders), "--output", str(output), "--renderings", "bicubic,liif"]
    assert main([*options, "--lr12"]) == 0
    (entry,) = report_of(output)["sets"]
    assert len(entry["top1"]) == 24
    made_by = {(row["kernel"], row["jpeg_quality"]) for row in entry["top1"]}
    assert made_by == {("bicubic", None), ("bicubic", 75), ("aliased-bilinear", 90)}
    for rendering in ("bicubic", "liif"):
        values = [row["value"] for row in entry["top1"] if row["rendering"] == rendering]
        assert entry["lr12"][rendering]["value"] == pytest.approx(np.mean(values))
        assert entry["lr12"][rendering]["low"] <= np.mean(values) <= entry["lr12"][rendering]["high"]
    printed = capsys.readouterr().out
    assert "| set | LR-12, bicubic | LR-12, LIIF | LIIF − bicubic, points |" in printed
    assert "| colours | 8 | aliased-bilinear, JPEG 90 |" in printed


def test_kernels_and_qualities_are_crossed(folders, tmp_path):
    output = tmp_path / "report"
    options = ["lowres", "--data", str(folders), "--output", str(output), "--renderings", "nearest", "--sizes", "8"]
    assert main([*options, "--kernel", "nearest,area", "--jpeg", "none,50"]) == 0
    (entry,) = report_of(output)["sets"]
    crossed = [("area", None), ("area", 50), ("nearest", None), ("nearest", 50)]
    assert [(row["kernel"], row["jpeg_quality"]) for row in entry["top1"]] == crossed


def test_the_services_route_is_measured_without_a_service(photos, tmp_path, repo_root):
    """Of the rules, one sends noisy images by the native route; noise in lossy files is not seen."""
    document = json.loads((repo_root / "model_repository/manifest.json").read_text("utf-8"))
    measured = {"upscaled_agreement": 0.5, "native_agreement": 0.5, "n_images": 9}
    rules = [
        {"max_side_px": 64, "is_lossy": False, "max_noise": 12, "route": "upscaled", **measured},
        {"max_side_px": 64, "is_lossy": False, "route": "native", **measured},
        {"max_side_px": 64, "is_lossy": True, "route": "upscaled", **measured},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({**document, "route_rules": rules}))
    garbling = RECIPES["fast"].build_model()
    with torch.no_grad():
        for parameter in garbling.parameters():
            parameter.mul_(4)
    save_liif(garbling, tmp_path / "liif.safetensors")
    output = tmp_path / "report"
    options = ["lowres", "--data", str(photos), "--output", str(output), "--sizes", "24", "--noise", "0,25"]
    model = ["--upscaler", str(tmp_path / "liif.safetensors"), "--route-rules", str(tmp_path)]
    assert main([*options, "--jpeg", "none,75", *model, "--renderings", "bicubic,liif,auto"]) == 0
    lines = (output / "cells.jsonl").read_text("utf-8").splitlines()[1:]
    cells = {(e.get("noise"), e["jpeg_quality"], e["rendering"]): e["correct"] for e in map(json.loads, lines)}
    taken = {(None, None): "liif", ("25", None): "bicubic", (None, 75): "liif", ("25", 75): "liif"}
    for (noise, quality), rendering in taken.items():
        bicubic, liif, auto = (cells[noise, quality, each] for each in ("bicubic", "liif", "auto"))
        assert bicubic != liif, "or this test can't fail"
        assert auto == (liif if rendering == "liif" else bicubic)
    assert "auto" in (output / "report.md").read_text("utf-8")


def test_noise_is_added_to_reduced_images(photos, folders, tmp_path, capsys):
    output = tmp_path / "report"
    options = ["lowres", "--data", str(photos), "--output", str(output), "--renderings", "bicubic", "--sizes", "24"]
    assert main([*options, "--noise", "0,120"]) == 0
    clean, noisy = (row["value"] for row in report_of(output)["sets"][0]["top1"])
    assert noisy < clean
    assert "| photos | 24 | bicubic, noise 120 |" in capsys.readouterr().out
    images = open_set(str(folders))
    reductions = (Reduction(), Reduction(noise=8), Reduction(noise=8, jpeg_quality=90))
    plan = LowResolutionPlan(
        backend=SimpleNamespace(image_size_px=64),
        sets=(images,),
        templates=(),
        sizes_px=(32,),
        reductions=reductions,
        renderings=("bicubic", "liif"),
        batch_size=1,
    )
    files = [[cell.prepare(images.read(i), "x", i) for i in (0, 1)] for cell in plan.cells()[1:]]
    assert files[2] == files[3], "renderings see the same noise"
    added = [
        np.asarray(decode(noisy, "x")).astype(float) - np.asarray(decode(clean, "x"))
        for noisy, clean in zip(files[2], files[0], strict=True)
    ]
    assert np.std(added[0]) == pytest.approx(8, rel=0.1)
    assert not np.array_equal(added[0], added[1])
    assert files[4][0].startswith(b"\xff\xd8")


def test_measured_cells_are_kept(folders, tmp_path, monkeypatch, capsys):
    output = tmp_path / "report"
    options = ["lowres", "--data", str(folders), "--output", str(output), "--renderings", "bicubic"]
    assert main([*options, "--sizes", "8"]) == 0
    measure, measured = _cells._measure, []

    def record(cell, *rest):
        measured.append(cell.condition["size_px"])
        return measure(cell, *rest)

    monkeypatch.setattr(_cells, "_measure", record)
    assert main([*options, "--sizes", "8,16", "--resume"]) == 0
    assert measured == [16]
    assert [row["size_px"] for row in report_of(output)["sets"][0]["top1"]] == [8, 16]
    assert capsys.readouterr().err.count("go on") == 0


def test_a_probe_tells_colours_apart(tmp_path, capsys):
    train = class_folders(tmp_path / "train", per_class=12)
    test = class_folders(tmp_path / "test", per_class=4)
    cache = tmp_path / "cache"
    options = ["linear-probe", "--train", str(train), "--data", str(test), "--cache", str(cache), "--output"]
    options += [str(tmp_path / "report"), "--validation-share", "0.25"]
    assert main(options) == 0
    report = report_of(tmp_path / "report")
    assert report["accuracy"]["top1"]["value"] == 1
    assert (report["n_train"], report["n_validation"], report["n_test"]) == (36, 9, 12)
    chosen = max(report["validation"], key=lambda fit: (fit["top1"], -fit["c"]))
    assert report["c"] == chosen["c"]
    assert "(chosen)" in capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(files) == 2
    assert main(options) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files, "embedded anew"
    (test / "green").rename(test / "violet")
    assert main(options) == 1
    assert "test images have 1 classes that the training images lack, such as 'violet'" in capsys.readouterr().err


def test_a_probe_of_noise_is_at_chance():
    """Nothing of the test images leaks into the choice of C."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(400, 8)), rng.normal(size=(2000, 8))
    targets, test_targets = rng.integers(0, 2, 400), rng.integers(0, 2, 2000)
    result = fit_probe(train, targets, test, test_targets, validation_share=0.2, seed=0)
    assert result.top1.low < 0.5 < result.top1.high
    assert result.top5.value == 1


def test_a_split_that_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="no validation split can be drawn from 3 training images"):
        fit_probe(np.eye(3), np.arange(3), np.eye(3), np.arange(3), validation_share=0.1, seed=0)


def test_single_images_become_pictures(folders, tmp_path, capsys):
    output = tmp_path / "pictures"
    paths = [str(folders / "red" / "0.png"), str(folders / "green" / "1.png")]
    labels = "rose,forest,sea,cat"
    assert main(["image", *paths, "--labels", labels, "--top", "2", "--output", str(output)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 4
    assert {row[2] for row in rows} <= set(labels.split(","))
    for row in (rows[0], rows[2]):
        assert 25 <= float(row[4].removesuffix("% |")) <= 100, "the best of four holds a quarter at least"
    assert sorted(path.name for path in output.iterdir()) == ["0.png", "1.png"]
    with Image.open(output / "0.png") as picture:
        assert picture.width > picture.height > 200


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--data": "nowhere"}, "no data at nowhere"),
        ({"--model": "nowhere"}, "there is no folder nowhere; for a model that OpenCLIP knows by name, give --weights"),
        ({"--weights": "openai"}, "holds its own weights; leave out --weights"),
        ({"--upscaler": "nowhere.pth"}, "no upscaler checkpoint at nowhere.pth"),
        ({"--upscaler": "none"}, "images take the upscaled route, but no upscaler was given"),
        ({"--templates": "a photo"}, "a template needs one {}"),
        ({"--labels": "@nothing"}, "no label set @nothing; known: @cifar10"),
        ({"--labels": "a,b,a"}, "each once"),
        ({"--held-out": "tier2"}, "has 0 of these classes, and two at least are needed"),
        ({"--device": "toaster"}, "cannot use the device 'toaster'"),
        ({"--compare": "nowhere"}, "no log at nowhere"),
        ({"--backend": "onnx", "--repository": "docs"}, "docs/manifest.json is missing; run `make export`"),
        ({"--backend": "grpc", "--url": "127.0.0.1:9"}, "the service at 127.0.0.1:9 can't be asked"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change, sentence, folders, tmp_path, capsys):
    options = {"--data": str(folders), "--output": str(tmp_path / "report")} | change
    assert main(["zeroshot", *(part for option in options.items() for part in option)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_two_sets_of_one_name_are_refused(folders, tmp_path, capsys):
    assert main(["lowres", "--data", str(folders), str(folders), "--output", str(tmp_path / "report")]) == 1
    assert "two data sets have one name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["lowres", "--data", "x", "--output", "y", "--sizes", "8,eight"],
        ["lowres", "--data", "x", "--output", "y", "--renderings", "lanczos"],
        ["lowres", "--data", "x", "--output", "y", "--kernel", "cubic"],
        ["lowres", "--data", "x", "--output", "y", "--jpeg", "101"],
        ["lowres", "--data", "x", "--output", "y", "--jpeg", "best"],
        ["lowres", "--data", "x", "--output", "y", "--noise", "-1"],
        ["degraded", "--data", "x", "--output", "y", "--kinds", "dirty"],
        ["degraded", "--data", "x", "--output", "y", "--severities", "7"],
        ["degraded", "--data", "x", "--output", "y", "--routes", "scenic"],
        ["zeroshot", "--data", "x", "--output", "y", "--limit", "0"],
        ["linear-probe", "--train", "x", "--data", "y", "--output", "z", "--validation-share", "1"],
        ["linear-probe", "--train", "x", "--data", "y", "--output", "z", "--backend", "grpc"],
    ],
)
def test_nonsensical_options_are_refused(options):
    with pytest.raises(SystemExit, match="2"):
        main(options)


@pytest.mark.parametrize(
    ("n_correct", "data", "name", "weights", "warns"),
    [
        (31_300, "imagenet", "ViT-B-32", "openai", True),
        (31_300, "imagenet", "ViT-B-32-quickgelu", "openai", True),
        (31_500, "imagenet", "ViT-B-32", "openai", False),
        (31_300, "imagenet", "ViT-B-32", "laion2b_s34b_b79k", False),
        (31_300, "imagenet", "clipsr-small", None, False),
        (31_300, "cifar10", "ViT-B-32", "openai", False),
    ],
)
def test_a_known_model_that_lands_low_is_warned_of(n_correct, data, name, weights, warns):
    targets = np.zeros(50_000, dtype=np.int64)
    predicted = (np.arange(50_000) >= n_correct).astype(np.int64)[:, None]
    result = ZeroShotResult(
        targets=targets,
        predicted=predicted,
        cosines=np.zeros((50_000, 1)),
        latency_ms=np.ones(50_000),
        classnames=("a", "b"),
    )
    warning = below_published_warning(result, data, name, weights)
    assert (warning is not None) == warns
    if warning is not None:
        assert "63.3% is published" in warning


def test_the_published_figures_are_in_the_docs(repo_root):
    page = (repo_root / "docs" / "evaluation.md").read_text("utf-8")
    for name, top1 in published_imagenet_top1().items():
        assert f"| `{name}` | {100 * top1:.1f} |" in page
