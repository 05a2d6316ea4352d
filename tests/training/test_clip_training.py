"""CLIP training: rendering onto the encoder's grid, batches, locks, learning rates and whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipsr_training._cli.train import main as train_main
from clipsr_training.clip import load_clip, multi_positive_sigmoid_loss
from clipsr_training.clip._checkpoint import build_clip, bundled_config, save_clip
from clipsr_training.clip._data import ClassPrompts, ClipBatchDataset, TrainingSource, apply_cutout, split_validation
from clipsr_training.clip._distillation import distillation_loss, load_teachers
from clipsr_training.clip._optimizer import build_optimizer, lock_towers
from clipsr_training.clip._recipes import RECIPES, ClipRecipe
from clipsr_training.clip._rendering import RenderedOnTheFly, Renderer, Rendering, render_to_cache
from clipsr_training.clip._train import learning_rate
from clipsr_training.data import PairSource, read_pairs
from clipsr_training.liif import load_liif
from tests.forks import TRAIN
from tests.training.test_clip_sources import picture

SHIPPED = Path("checkpoints/clipsr-small")
LIIF_WEIGHTS = Path("checkpoints/liif-fast/liif.safetensors")


@pytest.fixture(scope="module")
def untrained():
    """The bundled configuration with random weights; tests must not change it."""
    torch.manual_seed(0)
    return build_clip(bundled_config("clipsr-small"))


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """40 images of three sizes; two captions each, the second shared by half of them."""
    lines = ["path,caption"]
    for i in range(40):
        picture(i, [(32, 32), (40, 24), (20, 30)][i % 3]).save(tmp_path / f"{i}.png")
        lines += [f"{i}.png,picture number {i}", f"{i}.png,{'an even picture' if i % 2 == 0 else 'an odd picture'}"]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def training_source(source: PairSource, phrases: ClassPrompts, pixels: np.ndarray) -> TrainingSource:
    rows = np.arange(len(source))
    return TrainingSource(
        name=source.name,
        pixels=pixels,
        texts=phrases.add(source),
        has_classes=source.has_classes,
        train=rows,
        validation=rows[:0],
    )


@pytest.mark.parametrize(
    "rendering",
    [
        Rendering(),
        Rendering(upscaler="bicubic"),
        Rendering(upscaler="bicubic", scale=2.5),
        Rendering(upscaler=LIIF_WEIGHTS),
        Rendering(upscaler=LIIF_WEIGHTS, scale=2),
    ],
    ids=str,
)
def test_cached_and_fresh_renderings_agree(tmp_path, captions, untrained, rendering):
    """One image at a time, all at once through the cache, and the cache read again."""
    source, renderer = read_pairs(captions), Renderer(rendering, untrained)
    cached = render_to_cache(source, renderer, tmp_path / "cache")
    assert cached.shape == (40, 3, 64, 64)
    rows = np.array([7, 0, 31, 2])
    assert np.abs(RenderedOnTheFly(source, renderer)[rows].astype(int) - cached[rows]).max() <= 1
    assert np.array_equal(render_to_cache(source, renderer, tmp_path / "cache"), cached)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_liif_at_a_scale_is_the_upscaled_image_resized(untrained):
    image = picture(0, (32, 32))
    lr = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    with torch.inference_mode():
        sr = load_liif(LIIF_WEIGHTS).upscale(lr, (64, 64))
    expected = (sr * 255).round().clamp(0, 255)
    pixels = Renderer(Rendering(upscaler=LIIF_WEIGHTS, scale=2), untrained)([image])[0]
    # The renderer computes in bf16: compare means, and allow a few levels a pixel.
    assert np.abs(pixels - expected.numpy()).mean() < 2


def test_without_upscaler_pixels_are_those_of_openclip(untrained):
    # After clipsr_training, whose import makes torchvision's possible.
    from open_clip.transform import image_transform
    from torchvision.transforms import Compose

    settings = untrained.config["preprocess_cfg"]
    for mode in ("shortest", "longest", "squash"):
        config = {**untrained.config, "preprocess_cfg": {**settings, "resize_mode": mode}}
        pixels = Renderer(Rendering(), replace(untrained, config=config))([picture(0, (50, 30))])[0]
        transform = image_transform(64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode)
        assert isinstance(transform, Compose)
        expected = transform(picture(0, (50, 30))) * 255
        assert np.abs(pixels - expected.numpy()).max() < 1e-3, mode


def test_a_rendering_that_fails_leaves_no_file(tmp_path, untrained):
    (tmp_path / "cat").mkdir()
    picture(0).save(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.png").write_bytes(b"\x89PNG, cut off")
    with pytest.raises(ValueError, match=r"b\.png"):
        render_to_cache(read_pairs(tmp_path), Renderer(Rendering(), untrained), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_renderings_refuse_nonsense():
    with pytest.raises(ValueError, match="1 to 32"):
        Rendering(upscaler="bicubic", scale=0.5)
    with pytest.raises(ValueError, match="needs an upscaler"):
        Rendering(scale=2)


def test_batches_pair_images_with_texts_of_their_concept(parquet, captions, untrained):
    """Classes and captions in one batch: every image has its own texts as positives, and no other's."""
    phrases = ClassPrompts(["a photo of a {}."])
    labelled, captioned = read_pairs(parquet), read_pairs(captions)
    blank = [np.full((len(s), 3, 16, 16), 100 * k, dtype=np.uint8) for k, s in enumerate((labelled, captioned))]
    sources = [training_source(s, phrases, b) for s, b in zip((labelled, captioned), blank, strict=True)]
    asked: list[list[str]] = []
    dataset = ClipBatchDataset(
        sources,
        phrases,
        lambda texts: asked.append(texts) or untrained.tokenizer(texts),
        batch_size=8,
        augmented=False,
        cutout=0.0,
        seed=0,
        epoch=0,
    )
    assert len(dataset) == 11
    for index, batch in enumerate(dataset):
        assert batch.is_positive.shape == (8, len(batch.tokens))
        assert (batch.is_positive.sum(dim=0) >= 1).all()
        chosen = dataset.order[index * 8 : (index + 1) * 8]
        for row, (source, image) in enumerate(chosen):
            assert int(batch.pixels[row].max()) == 100 * source  # images keep their places
            own = {phrases.texts[i] for i in sources[source].texts[image]}
            words = {*own, *(word for label in own for word in phrases._synonyms.get(label, ()))}
            positive = [text for text, is_own in zip(asked[index], batch.is_positive[row], strict=True) if is_own]
            assert positive
            assert all(any(word in text for word in words) for text in positive)


def test_cutout_greys_a_square_that_may_reach_over_the_border():
    pixels = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    apply_cutout(pixels, 0.25, np.random.default_rng(0))
    grey = pixels == 127
    assert torch.equal(grey[:, 0], grey[:, 2])
    counts = grey[:, 0].sum(dim=(1, 2))
    assert counts.max() == 16
    assert counts.min() >= 4  # its centre is inside
    assert set(pixels.unique().tolist()) == {0, 127}
    for image in grey[:, 0]:
        rows, columns = image.any(dim=1), image.any(dim=0)
        assert torch.equal(image, rows[:, None] & columns)  # a rectangle
    with pytest.raises(ValueError, match="cutout must be 0 to 1"):
        ClipRecipe(cutout=1.5)


def test_validation_split_is_disjoint_and_balanced(parquet, captions):
    source = read_pairs(parquet)
    train, validation = split_validation(source, 3, seed=0)
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 48
    assert np.bincount([source.texts[row][0] for row in validation]).tolist() == [3] * 3
    assert len(split_validation(read_pairs(captions), 10, seed=0)[1]) == 4  # a tenth at most
    with pytest.raises(ValueError, match=r"class 'cat' has no more than the 16 images .* --validation-per-class"):
        split_validation(source, 16, seed=0)


def test_sigmoid_loss_equals_siglip_where_every_text_has_one_image():
    from open_clip.loss import SigLipLoss

    image, text = (torch.nn.functional.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    expected = SigLipLoss()(image, text, scale, bias)
    actual = multi_positive_sigmoid_loss(image, text, scale, bias, torch.eye(5, dtype=torch.bool))
    assert torch.allclose(actual, expected, atol=1e-5)


def test_sigmoid_loss_counts_a_text_as_often_as_it_describes_an_image():
    image, text = (torch.nn.functional.normalize(torch.randn(n, 8), dim=-1) for n in (3, 2))
    owner, scale, bias = torch.tensor([0, 0, 1]), torch.tensor(5.0), torch.tensor(-1.0)
    signs = 2 * (owner[:, None] == owner).float() - 1
    repeated = -torch.nn.functional.logsigmoid(signs * (scale * image @ text[owner].T + bias)).sum() / 3
    mask = torch.nn.functional.one_hot(owner, 2).bool()
    assert torch.allclose(multi_positive_sigmoid_loss(image, text, scale, bias, mask), repeated, atol=1e-6)


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(100, 0.1, step) for step in range(101)]
    assert rates[9] == 1
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[100] == 0


def test_towers_have_their_own_rates_and_locks():
    checkpoint = build_clip(bundled_config("clipsr-small"))
    recipe = ClipRecipe(lr=1e-3, image_lr=1e-4, text_lr=1e-5, unlocked_text_layers=3)
    lock_towers(checkpoint.model, recipe)
    optimizer = build_optimizer(checkpoint.model, recipe)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(checkpoint.model.named_parameters())
    assert rate[id(names["visual.conv1.weight"])] == 1e-4
    assert rate[id(names["logit_scale"])] == 1e-3
    assert rate[id(names["transformer.resblocks.3.mlp.c_fc.weight"])] == 1e-5
    assert id(names["transformer.resblocks.0.mlp.c_fc.weight"]) not in rate
    assert id(names["token_embedding.weight"]) not in rate
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(names["visual.conv1.weight"])] == recipe.weight_decay
    assert decays[id(names["visual.bn1.weight"])] == 0


def test_a_resnet_tower_is_locked_whole_or_not_at_all():
    model = build_clip(bundled_config("clipsr-small")).model
    with pytest.raises(ValueError, match="lock all of it or none"):
        lock_towers(model, ClipRecipe(unlocked_image_groups=2))


def test_the_published_settings_are_the_default_for_trained_models():
    recipe = RECIPES["finetune"]
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.optimizer) == (25, 32, 1e-6, "adamw")


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_clip_trains_and_its_checkpoint_loads(tmp_path, parquet, captions, optimizer):
    """One epoch of the real command on classes (a source of them twice) and captions, and the checkpoint loads."""
    options = ["--epochs", "1", "--batch-size", "8", "--optimizer", optimizer, "--output", str(tmp_path / "run")]
    assert train_main(["clip", "--data", str(parquet), str(parquet), str(captions), *options]) == 0
    checkpoint = load_clip(tmp_path / "run" / "clip")
    assert (checkpoint.image_size_px, checkpoint.embed_dim, checkpoint.context_length) == (64, 256, 32)
    with torch.inference_mode():
        features = checkpoint.encode_text(checkpoint.tokenizer(["a photo of a cat.", "a photo of a ship."]))
    assert features.shape == (2, 256)
    assert torch.isfinite(features).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")  # PyTorch's own compiler
def test_a_compiled_run_writes_the_same_kind_of_checkpoint(tmp_path, parquet):
    """The names of the weights are those of the model, and they move as without, but for rounding."""
    weights = {}
    for name, options in (("plain", []), ("compiled", ["--compile"])):
        run = tmp_path / name
        command = ["clip", "--data", str(parquet), "--epochs", "1", "--batch-size", "8", "--precision", "32-true"]
        assert train_main([*command, "--output", str(run), *options]) == 0
        weights[name] = load_file(run / "clip" / "open_clip_model.safetensors")
    assert weights["plain"].keys() == weights["compiled"].keys()
    drift = max(float((weights["plain"][k].float() - v.float()).abs().max()) for k, v in weights["compiled"].items())
    assert drift < 0.05


def test_fine_tuning_keeps_what_is_locked_and_moves_the_rest(forks, tmp_path, parquet):
    """On the fly, in a worker, by LIIF, from a trained checkpoint, gradients of two batches a step."""
    start = "checkpoints/clipsr-small"
    options = ["--model", start, "--lock-image", "--epochs", "1", "--batch-size", "4", "--accumulate", "2"]
    options += ["--on-the-fly", "--upscaler", str(LIIF_WEIGHTS), "--lr", "1e-3", "--output", str(tmp_path / "run")]
    # In a process of its own, as a user runs it: workers are forked, and this process may hold open gRPC channels.
    completed = forks.run(TRAIN, "clip", "--data", parquet, *options)
    assert completed.returncode == 0, completed.stderr
    before = load_file(Path(start) / "open_clip_model.safetensors")
    after = load_file(tmp_path / "run" / "clip" / "open_clip_model.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith("visual.")]  # running statistics included


def test_a_resumed_run_ends_with_the_same_weights(tmp_path, parquet, monkeypatch):
    """Two epochs in one go, and one epoch, an interruption, and the rest."""
    from clipsr_training.clip._train import ClipTrainingModule

    command = ["clip", "--data", str(parquet), "--epochs", "2", "--batch-size", "8", "--precision", "32-true"]
    assert train_main([*command, "--output", str(tmp_path / "whole")]) == 0

    def interrupt(self: ClipTrainingModule) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClipTrainingModule, "on_train_epoch_start", interrupt)
        assert train_main([*command, "--output", str(tmp_path / "parts")]) == 130
    assert not (tmp_path / "parts" / "clip").exists()
    assert train_main([*command, "--output", str(tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (load_file(tmp_path / run / "clip" / "open_clip_model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_too_few_images_are_refused_before_training(tmp_path, parquet, capsys):
    assert train_main(["clip", "--data", str(parquet), "--batch-size", "19", "--output", str(tmp_path / "run")]) == 1
    assert "18 images to train on are fewer than one batch takes (19)" in capsys.readouterr().err


def test_data_that_cannot_be_used_is_one_line(tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("path,label\n", encoding="utf-8")
    assert train_main(["clip", "--data", str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("clipsr-train: ")
    assert error.count("\n") == 1


def changed_copy(folder: Path, *, seed: int, noise: float = 0.01) -> Path:
    """A checkpoint folder of the shipped model with noise on its weights."""
    checkpoint = load_clip(SHIPPED)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter += noise * parameter.std(correction=0) * torch.randn_like(parameter)
    return save_clip(checkpoint, folder)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    """And one teacher's softened probabilities are those of its own cosines at a quarter of its scale."""
    student = load_clip(SHIPPED)
    teachers = load_teachers([SHIPPED], student, mirrors=True)
    assert teachers is not None
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    tokens = student.tokenizer(["a photo of a cat.", "a photo of a ship."])
    texts = teachers.encode_texts(tokens)
    target = teachers.probabilities(pixels, texts)
    normalized = (pixels / 255 - torch.tensor(student.mean).view(3, 1, 1)) / torch.tensor(student.std).view(3, 1, 1)
    with torch.inference_mode():
        images = torch.nn.functional.normalize(student.encode_image(normalized), dim=-1)
    cosines = images @ texts[0].T
    assert torch.allclose(target, (student.logit_scale * cosines / 4).softmax(dim=1), atol=1e-4)
    scale = torch.tensor(student.logit_scale)
    assert distillation_loss(images, texts[0], scale, target) < 1e-4
    assert distillation_loss(texts[0][[0, 1, 0]], texts[0], scale, target) > 1e-1


def test_teachers_give_the_mean_of_their_opinions_every_second_on_the_mirror_image(tmp_path):
    student = load_clip(SHIPPED)
    other = changed_copy(tmp_path / "other", seed=1)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    tokens = student.tokenizer(["a photo of a cat.", "a photo of a ship."])

    def opinion(folders: list[Path], seen: torch.Tensor, *, mirrors: bool) -> torch.Tensor:
        teachers = load_teachers(folders, student, mirrors=mirrors)
        assert teachers is not None
        return teachers.probabilities(seen, teachers.encode_texts(tokens))

    first = opinion([SHIPPED], pixels, mirrors=False)
    for mirrors in (False, True):
        second = opinion([other], pixels.flip(-1) if mirrors else pixels, mirrors=False)
        both = opinion([SHIPPED, other], pixels, mirrors=mirrors)
        assert torch.allclose(both, (first + second) / 2, atol=1e-6)
        assert not torch.allclose(both, first, atol=1e-4)


def test_a_student_comes_nearer_to_its_teacher(tmp_path, parquet):
    """The real command with the teacher's opinion alone, from noise in both towers, the text tower learning."""
    start = changed_copy(tmp_path / "start", seed=1, noise=1.0)
    options = ["--teacher", str(SHIPPED), "--distillation", "1", "--lock-image"]
    options += ["--lr", "1e-3", "--epochs", "6", "--batch-size", "6"]
    command = ["clip", "--model", str(start), "--data", str(parquet), *options, "--output", str(tmp_path / "run")]
    assert train_main(command) == 0
    source = read_pairs(parquet)
    cached = render_to_cache(source, Renderer(Rendering(), load_clip(SHIPPED)), tmp_path / "cache")
    seen = torch.from_numpy(np.array(cached))

    def distance(folder: Path) -> float:
        """Divergence from the teacher on the training images."""
        student = load_clip(folder)
        teachers = load_teachers([SHIPPED], student, mirrors=False)
        own = load_teachers([folder], student, mirrors=False)
        assert teachers is not None
        assert own is not None
        tokens = student.tokenizer([f"a photo of a {name}." for name in source.phrases])
        said = own.probabilities(seen, own.encode_texts(tokens))
        target = teachers.probabilities(seen, teachers.encode_texts(tokens))
        return float(torch.nn.functional.kl_div(said.log(), target, reduction="batchmean"))

    before, after = distance(start), distance(tmp_path / "run" / "clip")
    assert after < 0.5 * before


def test_a_teacher_of_another_kind_is_refused(tmp_path, parquet, capsys):
    config = bundled_config("clipsr-small")
    config["model_cfg"]["vision_cfg"]["image_size"] = 32
    folder = save_clip(build_clip(config), tmp_path / "small")
    command = ["clip", "--data", str(parquet), "--teacher", str(folder), "--output", str(tmp_path / "run")]
    assert train_main(command) == 1
    assert "takes images of 32 px, the model 64" in capsys.readouterr().err
    config = bundled_config("clipsr-small")
    config["model_cfg"]["text_cfg"]["context_length"] = 16
    folder = save_clip(build_clip(config), tmp_path / "short")
    assert train_main([*command[:4], str(folder), *command[5:]]) == 1
    assert "reads other tokens" in capsys.readouterr().err
    assert train_main([*command[:4], str(tmp_path / "none"), *command[5:]]) == 1
    assert "a CLIP checkpoint is a folder" in capsys.readouterr().err
    assert train_main([*command[:3], "--distillation", "0.5", *command[5:]]) == 1
    assert "name them with --teacher" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_mean_of_checkpoints_loads_and_lies_between_them(tmp_path, capsys):
    folders = [changed_copy(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    output = tmp_path / "mean"
    assert train_main(["average", *map(str, folders), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    first, second, mean = (load_clip(folder).model.state_dict() for folder in (*folders, output))
    assert any(not torch.equal(first[name], second[name]) for name in mean)
    for name, value in mean.items():
        if value.is_floating_point():
            assert torch.allclose(value, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-6), name
        else:
            assert torch.equal(value, first[name]), name
    assert train_main(["average", *map(str, folders), "--output", str(output)]) == 1
    assert "holds a checkpoint already" in capsys.readouterr().err


def test_only_equal_models_have_a_mean(tmp_path, capsys):
    config = bundled_config("clipsr-small")
    config["model_cfg"]["embed_dim"] = 128
    other = save_clip(build_clip(config), tmp_path / "other")
    for folders, expected in (([SHIPPED, other], "only equal models have a mean"), ([SHIPPED], "two checkpoints")):
        assert train_main(["average", *map(str, folders), "--output", str(tmp_path / "mean")]) == 1
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()
