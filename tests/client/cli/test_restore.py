"""`clipsr-client restore`: what is asked, and where files go."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.rpc import code_pb2

from clipsr.v1 import classifier_pb2, upscaler_pb2


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(b"cat")
    return path


def test_an_image_is_restored(run, cat, tmp_path, fake_service) -> None:
    options = ("--remove", "haze", "--remove", "rain", "--steps", "3", "--seed", "7")
    done = run("restore", str(cat), str(tmp_path / "clear.JPG"), *options)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "clear.JPG").read_bytes() == b"clear cat"
    (request,) = fake_service.restores
    assert (list(request.remove), request.steps, request.seed, request.force) == (["haze", "rain"], 3, 7, False)
    assert request.format == upscaler_pb2.IMAGE_FORMAT_JPEG
    assert "removed: haze, rain; steps: 3" in done.out


def test_force_restores_whatever_it_may_be(run, cat, tmp_path, fake_service) -> None:
    done = run("restore", str(cat), str(tmp_path / "clear.png"), "--force")
    assert done.code == 0
    assert "removed: whatever it was; steps: 5" in done.out
    assert fake_service.restores[0].force
    fake_service.leaves_unchanged = True
    done = run("restore", str(cat), str(tmp_path / "same.png"), "--force")
    assert done.out.endswith("same.png  unchanged\n")


def test_without_remove_the_service_decides(run, cat, tmp_path, fake_service) -> None:
    fake_service.detects = {"hazy": 0.75, "clean": 0.25}
    done = run("restore", str(cat), str(tmp_path / "clear.png"), "--upscale", "4")
    assert done.code == 0
    assert done.out.endswith("clear.png  detected: hazy 75%; steps: 5; 48 x 32 -> 192 x 128\n")
    (request,) = fake_service.restores
    assert (list(request.remove), request.upscale) == ([], 4)
    done = run("restore", str(cat), str(tmp_path / "named.png"), "--remove", "rain")
    assert done.out.endswith("named.png  removed: rain (detected: hazy 75%); steps: 5\n")
    fake_service.detects, fake_service.leaves_unchanged = {"clean": 0.96}, True
    done = run("restore", str(cat), str(tmp_path / "same.png"))
    assert done.out.endswith("same.png  unchanged: clean 96%\n")


def test_where_nothing_is_detected_no_second_image_is_sent(run, tmp_path, fake_service) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
        fake_service.fail_image(name.encode(), reason="REMOVE_MISSING", message="Nothing says what to remove.")
    done = run("restore", str(tmp_path), str(tmp_path / "out"))
    assert (done.code, done.err) == (2, "clipsr-client: Nothing says what to remove.\n")
    assert len(fake_service.restores) == 1


def test_a_folder_keeps_its_names_and_one_failure_is_one(run, tmp_path, fake_service) -> None:
    for name in ("a.png", "b.png", "sub/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    fake_service.fail_image(b"b.png")
    done = run("restore", str(tmp_path / "photos"), str(tmp_path / "clear"), "--remove", "haze")
    assert done.code == 1
    assert done.out.endswith("\n3 images: 2 restored, 1 failed\n")
    assert "b.png: INVALID_ARGUMENT" in done.err
    assert (tmp_path / "clear" / "sub" / "c.png").read_bytes() == b"clear sub/c.png"


def test_without_a_restorer_no_second_image_is_sent(run, tmp_path, fake_service) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
        message = "This service restores no images."
        code = code_pb2.FAILED_PRECONDITION
        fake_service.fail_image(name.encode(), reason="RESTORER_MISSING", message=message, code=code)
    done = run("restore", str(tmp_path), str(tmp_path / "out"), "--remove", "haze")
    assert (done.code, done.err) == (2, "clipsr-client: This service restores no images.\n")
    assert len(fake_service.restores) == 1


def test_nothing_is_replaced_unless_it_is_asked_for(run, cat, tmp_path, fake_service) -> None:
    output = tmp_path / "clear.png"
    output.write_bytes(b"mine")
    done = run("restore", str(cat), str(output), "--remove", "haze", "--force")
    assert (done.code, output.read_bytes()) == (2, b"mine")
    assert "--overwrite" in done.err
    assert not fake_service.restores
    assert run("restore", str(cat), str(output), "--remove", "haze", "--overwrite").code == 0
    assert output.read_bytes() == b"clear cat"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--upscale", "0.5"], "at least 1"),
        (["--remove", "haze", "--steps", "0"], "0 is not in the range"),
        (["--remove", "haze", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_usage(run, cat, tmp_path, fake_service, options, complaint) -> None:
    done = run("restore", str(cat), str(tmp_path / "clear.png"), *options)
    assert done.code == 2
    assert complaint in done.err
    assert not fake_service.restores


def test_info_says_what_can_be_removed(run, fake_service) -> None:
    assert "restorer" not in run("info").out
    kinds = [classifier_pb2.DamageKind(name="hazy", words=["haze"]), classifier_pb2.DamageKind(name="noisy")]
    restorer = classifier_pb2.RestorerInfo(architecture="unet", kinds=kinds, default_steps=5, max_steps=20)
    fake_service.info.restorer.CopyFrom(restorer)
    fake_service.info.limits.max_restore_pixels = 1_000_000
    shown = " ".join(run("info").out.split())
    assert "unet, in 5 steps by default, 20 at most; removes hazy, noisy" in shown
    assert "1,000,000 pixels" in shown
