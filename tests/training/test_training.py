"""Data, loss, metrics and the training loop on small inputs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipsr_training import prompts
from clipsr_training._cli.train import main as train_main
from clipsr_training._torchvision_ops import define_missing_schemas
from clipsr_training.clip import multi_positive_contrastive_loss
from clipsr_training.clip._data import augment, render
from clipsr_training.liif import ModulatedLIIF, describe_upscaler, load_liif, save_liif
from clipsr_training.liif._data import PatchDataset, read_images
from clipsr_training.liif._encoders import EDSR
from clipsr_training.liif._evaluate import resize, upscale_uint8
from clipsr_training.liif._recipes import RECIPES, LiifRecipe
from clipsr_training.liif._train import run_settings, sample_picture


def test_torchvision_imports_beside_a_cpu_only_torch():
    """In a fresh process: the cure must run before the import that needs it."""
    code = "import clipsr_training, torchvision; print(torchvision.__version__)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    assert define_missing_schemas() == []  # a second call has nothing left to define


def test_prompt_sets_are_the_published_ones():
    templates = prompts.template_sets()
    assert {name: len(values) for name, values in templates.items()} == {"simple": 1, "cifar": 18, "imagenet": 80}
    assert all(t.count("{}") == 1 for values in templates.values() for t in values)
    assert {name: len(values) for name, values in prompts.label_sets().items()} == {
        "cifar10": 10,
        "cifar100": 100,
        "cifar": 110,
    }


def test_no_word_names_two_classes():
    labels = prompts.label_sets()["cifar"]
    words = [word for label in labels for word in (label, *prompts.synonyms().get(label, ()))]
    assert len(words) == len(set(words))
    assert set(prompts.synonyms()) <= set(labels)


def test_expand_keeps_braces_of_the_label():
    assert prompts.expand("a photo of a {}.", "{0} {}") == "a photo of a {0} {}."


def test_patches_depend_on_nothing_but_seed_and_index(image_folder):
    images = read_images([image_folder])
    options = {"patch_size": 24, "sample_q": 100, "scale_max": 3.0, "seed": 5}
    whole = PatchDataset(images, n_samples=10, **options)
    rest = PatchDataset(images, n_samples=4, first_index=6, **options)
    for i in range(4):
        for a, b in zip(whole[6 + i], rest[i], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(whole[0].lr, whole[1].lr)


def test_patch_queries_carry_the_pixels_they_point_at(image_folder):
    images = read_images([image_folder])
    sample = PatchDataset(images, n_samples=1, patch_size=24, sample_q=576, scale_max=1.0)[0]
    index = sample.u.round().long()  # at scale 1 query points are pixel centres
    picked = sample.lr[:, index[:, 0], index[:, 1]].T.float() / 255
    assert torch.allclose(picked, sample.hr, atol=1 / 255)


def test_bad_image_folders(tmp_path, capsys):
    assert train_main(["liif", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 1
    assert "no images below" in capsys.readouterr().err
    (tmp_path / "x.png").write_text("not an image")
    assert train_main(["liif", "--data", str(tmp_path), "--output", str(tmp_path / "run")]) == 1
    assert "x.png can't be read as an image" in capsys.readouterr().err


def test_recipes_refuse_nonsense():
    with pytest.raises(ValueError, match="steps"):
        LiifRecipe(architecture="fast", steps=0)
    with pytest.raises(ValueError, match="sample_q"):
        LiifRecipe(architecture="fast", patch_size=10, sample_q=101)
    with pytest.raises(ValueError, match="max_noise"):
        LiifRecipe(architecture="fast", max_noise=0.5)
    with pytest.raises(ValueError, match="features must be at least 1"):
        LiifRecipe(architecture="fast", features=0)
    with pytest.raises(ValueError, match="are those of the architecture fast, not of rdn_liif"):
        LiifRecipe(architecture="rdn_liif", hidden=8)
    assert {name: recipe.architecture for name, recipe in RECIPES.items()} == {
        name: "fast" if name == "robust" else name for name in RECIPES
    }


def test_loss_equals_clip_where_every_text_has_one_image():
    image, text = (torch.nn.functional.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    scale = torch.tensor(7.0)
    logits = scale * image @ text.T
    target = torch.arange(5)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    actual = multi_positive_contrastive_loss(image, text, scale, torch.eye(5, dtype=torch.bool))
    assert torch.allclose(actual, expected, atol=1e-6)


def test_loss_counts_a_text_as_often_as_it_describes_an_image():
    """Passing a repeated text once equals passing it as often as it occurs, in the image-to-text direction."""
    image, text = (torch.nn.functional.normalize(torch.randn(n, 8), dim=-1) for n in (4, 3))
    owner = torch.tensor([0, 0, 1, 2])
    scale = torch.tensor(5.0)
    mask = torch.nn.functional.one_hot(owner, 3).bool()
    repeated = (scale * image @ text[owner].T).softmax(dim=1)
    image_to_text = -(repeated * (owner[:, None] == owner)).sum(dim=1).log().mean()
    columns = (scale * image @ text.T).log_softmax(dim=0) * mask / mask.sum(dim=0)
    expected = (image_to_text - columns.sum() / 3) / 2
    assert torch.allclose(multi_positive_contrastive_loss(image, text, scale, mask), expected, atol=1e-6)


def test_loss_does_not_push_images_of_one_caption_apart():
    """Two images on the same caption: the loss is at its minimum with both on it, which one-positive CLIP punishes."""
    text = torch.eye(2, 4)
    aligned = torch.stack((text[0], text[0], text[1]))
    mask = torch.tensor([[True, False], [True, False], [False, True]])
    apart = torch.nn.functional.normalize(
        aligned + torch.tensor([[0, 0, 1.0, 0], [0, 0, -1.0, 0], [0, 0, 0, 0]]), dim=-1
    )
    scale = torch.tensor(100.0)
    best = multi_positive_contrastive_loss(aligned, text, scale, mask)
    # The text-to-image half cannot go below the entropy of two equal targets.
    assert float(best) == pytest.approx(np.log(2) / 4, abs=1e-4)
    assert multi_positive_contrastive_loss(apart, text, scale, mask) > best - 1e-6


def test_augmentation_keeps_shape_and_uses_only_pixels_of_the_image():
    pixels = torch.randint(0, 100, (6, 3, 32, 32), dtype=torch.uint8)
    output = augment(pixels, np.random.default_rng(0))
    assert output.shape == pixels.shape
    assert output.dtype == torch.uint8
    assert not torch.equal(output, pixels)
    assert all(set(o.unique().tolist()) <= set(p.unique().tolist()) for o, p in zip(output, pixels, strict=True))


def test_render_without_upscaler_is_antialiased_bicubic():
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    pixels = render(images, None, 40)
    assert pixels.shape == (2, 3, 40, 40)
    assert pixels.dtype == np.uint8


def test_a_resumed_liif_run_ends_with_the_same_weights(tmp_path, image_folder, monkeypatch):
    """Two segments in one go, and one segment, a stop, and a resume."""
    from clipsr_training import _fit
    from clipsr_training.liif import _train

    monkeypatch.setattr(_train, "STEPS_PER_SEGMENT", 3)
    recipe = LiifRecipe(architecture="fast", patch_size=16, sample_q=64, batch_size=2, steps=6, lr=1e-3)
    options = {"seed": 3, "precision": "32-true", "devices": "1", "n_workers": 0}

    whole = _fit.FitOptions(output=tmp_path / "whole", **options)
    _train.train_liif(recipe, [image_folder], whole)

    module = _stopped_after_one_segment(recipe, image_folder, tmp_path / "parts", options)
    assert module.current_epoch == 1
    resumed = _fit.FitOptions(output=tmp_path / "parts", resume=True, **options)
    _train.train_liif(recipe, [image_folder], resumed)

    a, b = (load_file(tmp_path / name / "liif.safetensors") for name in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert logged_pictures(tmp_path / "parts" / "logs") == {"samples/input_bicubic_model_truth": [3, 6]}


def test_a_small_upscaler_is_trained_and_starts_another(tmp_path, image_folder, capsys):
    command = ["liif", "--data", str(image_folder), "--steps", "1", "--batch-size", "1", "--precision", "32-true"]
    # A fork of this process, in which other tests have left threads, ended it now and then.
    command += ["--workers", "0"]
    size = ["--resblocks", "2", "--features", "8", "--hidden", "4"]
    assert train_main([*command, *size, "--output", str(tmp_path / "small")]) == 0
    small = tmp_path / "small" / "liif.safetensors"
    assert train_main([*command, *size, "--upscaler", str(small), "--output", str(tmp_path / "both")]) == 1
    assert "--upscaler brings the size of its model" in capsys.readouterr().err
    assert train_main([*command, "--upscaler", str(small), "--output", str(tmp_path / "next")]) == 0
    for name in ("small", "next"):
        model = load_liif(tmp_path / name / "liif.safetensors")
        assert (model.encoder.out_dim, model.latent_dim, model.hidden_dim) == (8, 24, 4)
        assert len(model.encoder.body) == 3


def noisy_error(upscaler: Path | None, folder: Path) -> float:
    """Mean absolute error in levels on noisy inputs at their own size; None leaves them, as interpolation does."""
    model, noise = None if upscaler is None else load_liif(upscaler), np.random.default_rng(0)
    errors = []
    for image in read_images([folder]):
        sr = lr = (image + noise.normal(0, 20, image.shape)).clip(0, 255).round().astype(np.uint8)
        if model is not None:
            sr = upscale_uint8(model, lr, image.shape[:2])
        errors.append(np.abs(sr.astype(float) - image).mean())
    return float(np.mean(errors))


def test_a_short_robust_training_removes_noise(tmp_path, image_folder, monkeypatch, repo_root):
    """The weights that ship sharpen noise; 200 steps on small patches later they remove some."""
    quick = replace(RECIPES["robust"], steps=200, batch_size=4, patch_size=24, sample_q=256, scale_max=2.0, lr=2e-3)
    monkeypatch.setitem(RECIPES, "robust", quick)
    start, output = repo_root / "checkpoints/liif-fast/liif.safetensors", tmp_path / "run"
    arguments = ["liif", "--recipe", "robust", "--upscaler", str(start), "--data", str(image_folder)]
    assert train_main([*arguments, "--output", str(output), "--workers", "0", "--precision", "32-true"]) == 0
    interpolated = noisy_error(None, image_folder)
    assert noisy_error(start, image_folder) > 1.05 * interpolated
    assert noisy_error(output / "liif.safetensors", image_folder) < 0.95 * interpolated


def test_the_model_of_the_starting_weights_is_trained(tmp_path, image_folder):
    start, output = ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16), tmp_path / "run"
    save_liif(start, tmp_path / "start.safetensors")
    arguments = ["liif", "--upscaler", str(tmp_path / "start.safetensors"), "--data", str(image_folder)]
    arguments += ["--output", str(output), "--steps", "1", "--batch-size", "1", "--workers", "0"]
    assert train_main([*arguments, "--precision", "32-true"]) == 0
    trained = load_liif(output / "liif.safetensors")
    assert describe_upscaler(trained) == describe_upscaler(start), "and not the recipe's"
    moved = [float((a - b).detach().abs().max()) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01, "one step from where it started"


def test_robust_patches_are_damaged_and_clean_ones_as_before(image_folder):
    images = read_images([image_folder])
    options = {"n_samples": 40, "patch_size": 24, "sample_q": 100, "scale_max": 3.0, "seed": 5}
    clean, damaged = PatchDataset(images, **options), PatchDataset(images, **options, max_noise=20.0)
    differences = [(a.lr.float() - b.lr.float()).abs().mean() for a, b in ((clean[i], damaged[i]) for i in range(40))]
    untouched = sum(float(d) == 0 for d in differences)
    assert 0.1 < untouched / 40 < 0.5, "a quarter is reduced cleanly"
    assert max(differences) > 5
    again = PatchDataset(images, **options, max_noise=20.0)
    assert all(torch.equal(damaged[i].lr, again[i].lr) for i in range(5))


def test_other_starting_weights_are_another_run(image_folder):
    images, recipe = read_images([image_folder]), RECIPES["robust"]
    one, two = (ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16) for _ in range(2))
    settings = [run_settings(recipe, images, start) for start in (None, one, two)]
    assert len({str(each["upscaler"]) for each in settings}) == 3
    assert settings[1] == run_settings(recipe, images, one)


def test_a_run_killed_while_saving_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    from clipsr_training._fit import AtomicCheckpointIO

    path = tmp_path / "run" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def killed(checkpoint: object, file: Path) -> None:
        Path(file).write_bytes(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path) == {"step": 1}


def logged_pictures(folder: Path) -> dict[str, list[int]]:
    """The steps at which each picture was logged, ascending.

    A resumed run has two event files; of one second, "…10" is read before "…9".
    """
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: sorted(event.step for event in events.Images(tag)) for tag in events.Tags()["images"]}


def test_the_logged_picture_shows_input_bicubic_model_and_truth(image_folder):
    image = read_images([image_folder])[0]
    picture = sample_picture(RECIPES["fast"].build_model(), image, 4.0)
    assert picture.shape == (120, 480, 3)
    lr = resize(image[:, 15:135], (30, 30))
    assert np.array_equal(picture[::4, :120:4], lr)
    assert np.array_equal(picture[:, 120:240], resize(lr, (120, 120)))
    assert np.array_equal(picture[:, 360:], image[:, 15:135])


def _stopped_after_one_segment(recipe, folder, output, options):
    from clipsr_training import _fit
    from clipsr_training.liif import _train

    fit_options = _fit.FitOptions(output=output, **options)
    fit_options.seed_everything()
    images = read_images([folder])
    module = _train.LiifTrainingModule(recipe, images, seed=fit_options.seed, n_workers=0)
    _fit.fit(module, fit_options, settings=_train.run_settings(recipe, images), max_epochs=1)
    return module


def test_an_image_smaller_than_a_patch_is_named(tmp_path, image_folder, capsys):
    Image.new("RGB", (90, 47)).save(image_folder / "low.png")
    assert train_main(["liif", "--data", str(image_folder), "--output", str(tmp_path / "run")]) == 1
    expected = f"clipsr-train: {image_folder / 'low.png'} has a side of 47 px; patches need at least 48 px\n"
    assert capsys.readouterr().err == expected


def test_a_run_is_not_overwritten_and_nothing_is_not_resumed(tmp_path, image_folder, capsys):
    output = tmp_path / "run"
    arguments = ["liif", "--data", str(image_folder), "--output", str(output)]
    assert train_main([*arguments, "--resume"]) == 1
    assert "nothing to resume" in capsys.readouterr().err
    output.mkdir()
    (output / "last.ckpt").write_bytes(b"")
    assert train_main(arguments) == 1
    assert "--resume" in capsys.readouterr().err


def test_the_mean_of_upscalers_lies_between_them(tmp_path, capsys):
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    for i, (file, scale_max) in enumerate(zip(files, (4.0, 16.0), strict=True)):
        torch.manual_seed(i)
        save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=4), latent_dim=8, hidden_dim=4, scale_max=scale_max), file)
    output = tmp_path / "means" / "mean.safetensors"
    command = ["average", *map(str, files), "--output", str(output)]
    assert train_main(command) == 0
    first, second, mean = map(load_liif, (*files, output))
    assert mean.scale_max == 16
    for name, value in mean.state_dict().items():
        assert torch.allclose(value, (first.state_dict()[name] + second.state_dict()[name]) / 2), name
    assert train_main(command) == 1
    assert "is there already" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    save_liif(ModulatedLIIF(EDSR(n_resblocks=2, n_feats=4), latent_dim=8, hidden_dim=4), other)
    for given, sentence in (([files[0], other], "only equal models have a mean"), ([other], "two checkpoints or more")):
        assert train_main(["average", *map(str, given), "--output", str(tmp_path / "new.safetensors")]) == 1
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()
