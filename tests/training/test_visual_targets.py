"""What models of images say of names, carried over to other texts: predictions, what is left out or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipsr_training._cli.train import main
from clipsr_training.text import _visual
from clipsr_training.text._visual import VisualNames, VisualNamesError, VisualTargets, read_clip_texts

NAMES = tuple(f"thing {i}" for i in range(60))


def ask(texts: Sequence[str]) -> list[np.ndarray]:
    """Two text models that place texts by their number."""
    numbers = np.array([float(text.split()[-1]) for text in texts])
    angles = np.stack([np.cos(numbers / 20), np.sin(numbers / 20)], axis=1)
    return [angles, angles[:, ::-1]]


def named(names: Sequence[str], weight: float = 2.0) -> VisualNames:
    (angles, _) = ask(names)
    return VisualNames(names=tuple(names), vectors=np.concatenate([3 * angles, angles**2], axis=1) + 7, weight=weight)


def extend(*known: VisualNames) -> VisualTargets:
    return VisualTargets(known, ask, lambda name: f"a photo of a {name}")


def test_nothing_known_adds_nothing():
    found = extend()(ask(["thing 3"]))
    assert len(found) == 2


def test_what_is_known_of_names_is_predicted_of_others():
    others = tuple(f"thing {i}.5" for i in range(10, 50))
    *_, predicted = extend(named(NAMES))(ask(others))
    expected = named(others).vectors - named(NAMES).vectors.mean(axis=0)
    cosines = (predicted * expected).sum(axis=1)
    cosines /= np.linalg.norm(predicted, axis=1) * np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.98


def test_a_part_has_its_weight():
    light, heavy = (extend(named(NAMES, weight))(ask(NAMES))[-1] for weight in (1.0, 3.0))
    np.testing.assert_allclose(heavy, 3 * light, rtol=1e-4, atol=1e-6)
    assert np.sqrt(np.square(light).sum(axis=1).mean()) == pytest.approx(1, abs=0.15)


def test_a_later_part_is_predicted_from_those_before_it():
    """Two names that the text models place alike, and only the first part tells apart."""
    found = extend(named(NAMES), named(NAMES, 1.0))(ask(NAMES))
    assert [part.shape[1] for part in found] == [2, 2, 4, 4]


def test_held_out_names_are_left_out():
    known = VisualNames(names=("pizza", "zebra"), vectors=np.eye(2), weight=1.0).without_held_out()
    assert known.names == ("zebra",)
    assert known.vectors.tolist() == [[0.0, 1.0]]


@pytest.fixture
def metadata(tmp_path, monkeypatch) -> Path:
    """A folder as Detic's, of four names."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    categories = [{"name": "aerosol_can"}, {"name": "bow_(weapon)"}]
    (folder / "lvis_v1_train_cat_info.json").write_text(json.dumps(categories))
    (folder / "Objects365_names_fix.csv").write_text("1,Bow,Bow\n2,Wild Bird,Bird\n")
    np.save(folder / "lvis_v1_clip_a+cname.npy", np.array([[3.0, 4.0], [0.0, 2.0]], np.float32))
    np.save(folder / "o365_clip_a+cnamefix.npy", np.array([[1.0, 0.0], [5.0, 0.0]], np.float32))
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _visual._DETIC}
    monkeypatch.setattr(_visual, "_DETIC", digests)
    return folder


def test_texts_of_clip_are_read_by_name(metadata):
    known = read_clip_texts(metadata)
    assert known.names == ("aerosol can", "bow", "Wild Bird"), "the first of two equal names counts"
    np.testing.assert_allclose(known.vectors, [[0.6, 0.8], [0, 1], [1, 0]])


@pytest.mark.parametrize("name", _visual._DETIC)
def test_other_files_are_refused(name, metadata):
    (metadata / name).write_bytes(b"something else")
    with pytest.raises(VisualNamesError, match=r"is missing, or not the file expected: take metadata from a checkout"):
        read_clip_texts(metadata)


def test_a_missing_folder_is_said_in_one_line(tmp_path, capsys):
    command = ["text", "--clip-texts", str(tmp_path / "nothing"), "--output", str(tmp_path / "run")]
    assert main(command) == 1
    assert "lvis_v1_train_cat_info.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
