"""The rule for "none of these": odds, calibration, its file, and the command, on embeddings that are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsr_training._cli import evaluate
from clipsr_training.clip._checkpoint import read_taught_names
from clipsr_training.clip._data import split_validation
from clipsr_training.data import ImageSet
from clipsr_training.evaluation._backends.base import LocalBackend, Scoring
from clipsr_training.none_of_these import CALIBRATION_NAME, read_calibration
from clipsr_training.none_of_these._fit import Draw, calibrate, draw_labels, expected_calibration_error, measure
from clipsr_training.none_of_these._images import join, measure_model, names_to_compare, take_per_class
from clipsr_training.none_of_these._odds import Cosines, compare, share_words

SCALE = 20.0
N_CLASSES, N_NAMES = 20, 40


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def world(seed: int, n_images: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images around their class, the classes, and a bank of them and others."""
    classes, others = unit(np.random.default_rng(0).normal(size=(2, N_NAMES, 32)))
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, N_CLASSES, n_images)
    images = unit(classes[targets] + 0.25 * rng.normal(size=(n_images, 32)))
    return images, targets, classes[:N_CLASSES], np.concatenate([classes[:N_CLASSES], others[:N_CLASSES]])


def cosines_of(images: np.ndarray, classes: np.ndarray, names: np.ndarray) -> Cosines:
    labels = [f"thing{i}" for i in range(len(classes))]
    return compare(images, classes, names, labels, [f"name{i}" for i in range(len(names))])


def test_names_near_a_label_do_not_compete_with_it():
    images, _, classes, names = world(1, 4)
    chosen = np.array([0, 3])
    found = cosines_of(images, classes, names).log_odds(chosen, SCALE)
    is_other = ~np.isin(np.arange(len(names)), chosen)  # the bank begins with the classes themselves
    of_labels = np.exp(SCALE * (images @ classes[chosen].T).astype(float)).mean(axis=1)
    of_others = np.exp(SCALE * (images @ names[is_other].T).astype(float)).mean(axis=1)
    np.testing.assert_allclose(found, np.log(of_labels / of_others), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "label", "shares"),
    [
        ("truck", "pickup truck", True),
        ("pickup truck", "Truck", True),
        ("pickup-truck", "pickup truck", True),
        ("cat", "caterpillar", False),
        ("house cat", "cat house", False),
        ("猫", "猫", True),
    ],
)
def test_words_that_are_said_already(name, label, shares):
    assert share_words([name], [label]).item() is shares


def test_a_bank_of_nothing_else_is_an_error():
    images, _, classes, names = world(1, 4)
    with pytest.raises(ValueError, match="none of 20 names means something else"):
        cosines_of(images, classes, names[:N_CLASSES]).log_odds(np.arange(N_CLASSES), SCALE)


def test_a_calibration_holds_on_other_images():
    images, targets, classes, names = world(1)
    made = calibrate(cosines_of(images, classes, names), targets, SCALE, names=list("ab"), data="images")
    assert made.false_refusals == pytest.approx(0.05, abs=0.01)
    images, targets, classes, names = world(2)
    for count in (2, 10):
        for draw in draw_labels(cosines_of(images, classes, names), targets, SCALE, count=count, n_draws=3):
            found = measure(draw, temperature=made.temperature, bias=made.bias, threshold=made.threshold)
            assert found.auroc > 0.9
            assert found.calibration_error < 0.08
            worse = measure(draw, temperature=10 * made.temperature, bias=made.bias, threshold=made.threshold)
            assert worse.calibration_error > 2 * found.calibration_error


def test_names_that_tell_nothing_are_an_error():
    rng = np.random.default_rng(0)
    images, targets, classes, names = world(1)
    with pytest.raises(ValueError, match="too few to leave some out"):
        calibrate(cosines_of(images, classes, names), np.minimum(targets, 2), SCALE, names=["a", "b"], data="")
    noise = unit(-classes[targets] + 0.1 * rng.normal(size=images.shape))
    with pytest.raises(ValueError, match="the names tell nothing"):
        calibrate(cosines_of(noise, classes, names), targets, SCALE, names=["a", "b"], data="")


def test_the_calibration_error_is_that_of_bins():
    probability = np.array([0.01, 0.02, 0.99, 0.98])
    truth = np.array([False, True, True, True])
    weights = np.ones(4)
    expected = (2 * abs(0.015 - 0.5) + 2 * abs(0.985 - 1)) / 4
    assert expected_calibration_error(probability, truth, weights) == pytest.approx(expected)


def test_a_draw_counts_as_half_and_half():
    draw = Draw(np.zeros(10), np.arange(10) < 2)
    assert draw.weights[:2].sum() == pytest.approx(0.5)
    assert draw.weights.sum() == pytest.approx(1)


def image_set(targets: np.ndarray, classnames: tuple[str, ...], name: str = "made") -> ImageSet:
    names = [f"{name}-{i}" for i in range(len(targets))]
    return ImageSet(
        name=name, classnames=classnames, targets=targets, names=names, read=lambda i: f"{name} {i}".encode()
    )


def test_sets_of_several_files_are_one():
    first = image_set(np.array([0, 1]), ("cat", "dog"), "a")
    joined = join([first, image_set(np.array([1, 0]), ("dog", "bus"), "b")])
    assert joined.classnames == ("cat", "dog", "bus")
    assert joined.targets.tolist() == [0, 1, 2, 1]
    assert [joined.read(i) for i in range(4)] == [b"a 0", b"a 1", b"b 0", b"b 1"]


def test_images_kept_off_training_are_found_again():
    targets = np.random.default_rng(0).integers(0, 3, 60)

    class Source:
        has_classes, phrases, name = True, ("x", "y", "z"), "made"
        texts = [(int(t),) for t in targets]  # noqa: RUF012 (of this test)

        def __len__(self) -> int:
            return len(targets)

    _, expected = split_validation(Source(), 4, seed=5)  # pyright: ignore[reportArgumentType]
    chosen = take_per_class(image_set(targets, ("x", "y", "z")), 4, seed=5)
    assert [int(name.split("-")[1]) for name in chosen.names] == expected.tolist()


class MadeUp(LocalBackend):
    """Knows images by what is written in them, and labels by their number."""

    def __init__(self, images: np.ndarray, classes: np.ndarray, names: np.ndarray) -> None:
        super().__init__(image_size_px=8, scoring=Scoring(function="softmax", logit_scale=SCALE))
        self.images, self.texts = images, {f"thing{i}": row for i, row in enumerate(classes)}
        self.texts |= {f"name{i}": row for i, row in enumerate(names)}

    def describe(self) -> dict[str, object]:
        return {"backend": "made up", "model": "made up", "digest": ""}

    def embed_images(self, files, names, *, route):
        return np.stack([self.images[int(file.split()[-1])] for file in files])

    def embed_labels(self, labels, templates):
        return np.stack([self.texts[label] for label in labels])


def test_other_images_are_measured_against_all_labels():
    images, targets, classes, names = world(1)
    backend = MadeUp(images, classes, names)
    bank = tuple(f"name{i}" for i in range(len(names)))
    made = calibrate(cosines_of(images, classes, names), targets, SCALE, names=bank, data="")
    labels = tuple(f"thing{i}" for i in range(N_CLASSES))
    is_known = targets < 10
    known = replace(image_set(targets, labels).select(np.flatnonzero(is_known)), classnames=labels[:10])
    *by_count, against = measure_model(backend, known, made, others=image_set(targets, labels, "others"))
    assert [own.what for own in by_count] == ["2 of 10 labels", "5 of 10 labels"]
    assert against.what == f"all labels, against {(~is_known).sum():,} images of others"
    assert 0.9 < against.auroc.low <= against.auroc.value <= against.auroc.high <= 1
    with pytest.raises(ValueError, match="is a class of made"):
        list(measure_model(backend, known, made, others=known))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["cat"]}, "a bank of 1 names"),
        ({"names": ["cat", "cat"]}, "names must be different"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1"),
        ({"max_label_cosine": 7}, "max_label_cosine"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_file_is_refused(change, message, tmp_path):
    content = json.loads((Path("checkpoints/clipsr-small") / CALIBRATION_NAME).read_text())
    path = tmp_path / CALIBRATION_NAME
    path.write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message):
        read_calibration(path)


def test_the_bundled_model_has_a_rule_of_names_that_it_was_taught():
    folder = Path("checkpoints/clipsr-small")
    assert read_calibration(folder / CALIBRATION_NAME).names == names_to_compare(read_taught_names(folder))


def test_no_thing_is_compared_in_two_languages():
    english = names_to_compare(None)
    assert {"cat", "giraffe"} <= set(english)
    assert "猫" not in english
    assert names_to_compare(("cat", "Katze", "猫", "blue thing")) == ("cat", "blue thing")


def test_a_checkpoint_that_says_nothing_was_taught_anything(tmp_path):
    assert read_taught_names(tmp_path) is None
    (tmp_path / "taught_names.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="holds no names"):
        read_taught_names(tmp_path)


def test_the_command_calibrates_and_reports(tmp_path, capsys):
    for name in ("cat", "dog", "ship", "truck", "bird", "frog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    data, output = str(tmp_path / "data"), tmp_path / "out"
    common = ["none-of-these", "--data", data, "--output", str(output), "--no-check"]
    assert evaluate.main([*common, "--calibrate", data, "--calibration", "x"]) == 1
    assert "leave one of them out" in capsys.readouterr().err
    assert evaluate.main(common) == 0
    assert "| 5 of 6 labels | " in capsys.readouterr().out
    report = json.loads((output / "report.json").read_text())
    assert report["n_names"] == len(names_to_compare(read_taught_names(Path("checkpoints/clipsr-small"))))
    assert not (output / CALIBRATION_NAME).exists()
