"""Images and models are told apart by their content: caches, resuming and comparing see what has changed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipsr_training._cli.evaluate import main
from clipsr_training._files import write_array
from clipsr_training._identity import first_difference
from clipsr_training.clip import load_clip
from clipsr_training.data import open_set, read_pairs
from clipsr_training.data._route_table import RouteTable
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._probe import embed_cached
from tests.training.made_images import class_folders, png


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, repo_root) -> None:
    monkeypatch.chdir(repo_root)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "colours")


def changed(folder: Path) -> Path:
    """Put another picture behind the name of one."""
    (folder / "red" / "0.png").write_bytes(png((10, 20, 30), seed=99))
    return folder


def test_equal_images_are_one_set_wherever_they_lie(folders, tmp_path):
    digest = open_set(str(folders)).digest
    moved = tmp_path / "moved"
    shutil.copytree(folders, moved)
    (moved / "red" / "0.png").rename(moved / "red" / "00.png")
    assert open_set(str(moved)).digest == digest
    assert open_set(str(changed(folders))).digest != digest
    pairs = read_pairs(moved)
    assert replace(pairs, texts=[(0,)] * len(pairs)).digest != pairs.digest
    assert replace(pairs, texts=[(0,)] * len(pairs)).image_digest == pairs.image_digest


def test_embeddings_of_other_pixels_are_not_taken_from_the_cache(folders, tmp_path):
    backend = TorchBackend(load_clip("checkpoints/clipsr-small"), None, name="x")
    cache = tmp_path / "cache"
    cache.mkdir()

    def embed() -> np.ndarray:
        return embed_cached(backend, open_set(str(folders)), cache, route="native", batch_size=5)

    first = embed()
    assert len(list(cache.iterdir())) == 1
    assert np.array_equal(embed(), first)
    assert len(list(cache.iterdir())) == 1
    changed(folders)
    second = embed()
    assert np.flatnonzero(np.abs(second - first).max(axis=1) > 0.01).tolist() == [8]


def test_a_measurement_of_replaced_images_is_not_resumed_or_compared(folders, tmp_path, capsys):
    options = ["zeroshot", "--data", str(folders), "--route", "native", "--output"]
    assert main([*options, str(tmp_path / "a")]) == 0
    changed(folders)
    assert main([*options, str(tmp_path / "a"), "--resume"]) == 1
    assert "holds another measurement: the content of data has changed" in capsys.readouterr().err
    assert main([*options, str(tmp_path / "b"), "--compare", str(tmp_path / "a")]) == 1
    assert "it measured other images or labels (colours), or they have changed since" in capsys.readouterr().err


def test_cells_of_replaced_images_are_not_kept(folders, tmp_path, capsys):
    options = ["lowres", "--data", str(folders), "--sizes", "8", "--renderings", "bicubic", "--output", str(tmp_path)]
    assert main(options) == 0
    changed(folders)
    assert main([*options, "--resume"]) == 1
    assert "holds another measurement: the content of data.colours has changed" in capsys.readouterr().err


def test_equal_weights_behind_another_resize_are_another_model():
    checkpoint = load_clip("checkpoints/clipsr-small")
    digest = TorchBackend(checkpoint, None, name="x").describe()["digest"]
    preprocess = {**checkpoint.config["preprocess_cfg"], "resize_mode": "squash"}
    squash = replace(checkpoint, config={**checkpoint.config, "preprocess_cfg": preprocess})
    assert TorchBackend(squash, None, name="x").describe()["digest"] != digest
    assert (
        TorchBackend(checkpoint, None, name="x", routes=RouteTable(native_min_side_px=9)).describe()["digest"] != digest
    )
    assert TorchBackend(checkpoint, None, name="y").describe()["digest"] == digest


def test_a_difference_is_said_with_its_place():
    was = {"a": {"b": 1, "digest": "0" * 64}, "c": 2}
    assert first_difference(was, was) is None
    assert first_difference(was, {**was, "c": 3}) == "c was 2 and is now 3"
    assert first_difference(was, {**was, "a": {"b": 1}}) == f"a.digest was {'0' * 64!r} and is now None"
    assert first_difference(was, {"a": {"b": 1, "digest": "1" * 64}, "c": 2}) == "the content of a has changed"


def test_an_array_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.npy"

    def parts():
        yield np.zeros((2, 3), dtype=np.float32)
        raise OSError("the image is gone")

    with pytest.raises(OSError, match=r"^the image is gone"):
        write_array(path, 4, parts())
    with pytest.raises(OSError, match=r"cannot write .*nowhere/a\.npy: No such file"):
        write_array(tmp_path / "nowhere" / "a.npy", 4, parts())
    assert list(tmp_path.iterdir()) == []
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert np.array_equal(write_array(path, 4, iter([rows[:3], rows[3:]])), rows)
