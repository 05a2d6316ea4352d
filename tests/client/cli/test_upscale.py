"""`clipsr-client upscale`: where files go, and what is never overwritten."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import grpc
import pytest

from clipsr.cli._inputs import Item
from clipsr.cli._pictures.outputs import Replacement, plan_outputs
from clipsr.cli._pictures.upscale import parse_size
from clipsr.v1 import types_pb2, upscaler_pb2

KEEP = Replacement(option="--force", is_given=False)
NOBODY = "127.0.0.1:1"  # tcpmux: privileged, and gone from the world


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(b"cat")
    return path


class TestSize:
    @pytest.mark.parametrize("text", ["512x384", "512X384", " 512x384 ", "512×384"])
    def test_width_comes_first(self, text) -> None:
        assert parse_size(text) == (384, 512)

    @pytest.mark.parametrize("text", ["", "512", "512x", "x384", "0x4", "512x384x3", "51.2x38", "-5x4", "a x b"])
    def test_everything_else_is_refused(self, text) -> None:
        with pytest.raises(click.BadParameter, match="512x384"):
            parse_size(text)


class TestOneImage:
    def test_is_written_in_the_format_of_its_ending(self, run, cat, tmp_path, fake_service) -> None:
        done = run("upscale", str(cat), str(tmp_path / "large.JPG"), "--scale", "3.5")
        assert (done.code, done.err) == (0, "")
        assert (tmp_path / "large.JPG").read_bytes() == b"large cat"
        (request,) = fake_service.upscales
        assert (request.scale, request.format) == (3.5, upscaler_pb2.IMAGE_FORMAT_JPEG)
        assert "48 x 32 -> 168 x 112" in done.out
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "large.JPG"]

    def test_size_is_width_times_height(self, run, cat, tmp_path, fake_service) -> None:
        options = ("--size", "512x384", "--recipe", "robust")
        assert run("upscale", str(cat), str(tmp_path / "large.png"), *options).code == 0
        (request,) = fake_service.upscales
        assert request.recipe == types_pb2.UPSCALE_RECIPE_ROBUST
        assert (request.size.height, request.size.width) == (384, 512)

    def test_goes_into_a_folder_under_its_own_name(self, run, cat, tmp_path, fake_service) -> None:
        (tmp_path / "large").mkdir()
        assert run("upscale", str(cat), str(tmp_path / "large"), "--scale", "2").code == 0
        assert (tmp_path / "large" / "cat.png").read_bytes() == b"large cat"
        done = run("upscale", str(cat), str(tmp_path / "large"), "--scale", "2", "--format", "webp")
        assert done.code == 0
        assert (tmp_path / "large" / "cat.webp").exists()

    def test_comes_from_standard_input(self, run, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"cat"), isatty=lambda: False))
        assert run("upscale", "-", str(tmp_path / "large.png"), "--scale", "2").code == 0
        assert (tmp_path / "large.png").read_bytes() == b"large cat"
        done = run("upscale", "-", str(tmp_path), "--scale", "2")
        assert (done.code, "no name" in done.err) == (2, True)

    def test_goes_to_standard_output(self, run, cat, fake_service) -> None:
        done = run("upscale", str(cat), "-", "--scale", "2", "--format", "webp")
        assert (done.code, done.out, done.err) == (0, "large cat", "")
        assert fake_service.upscales[0].format == upscaler_pb2.IMAGE_FORMAT_WEBP

    @pytest.mark.parametrize("name", ["cat.png", "./sub/../cat.png", "link.png"])
    @pytest.mark.parametrize("force", [[], ["--force"]])
    def test_is_never_its_own_output(self, run, cat, tmp_path, fake_service, name, force) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "link.png").symlink_to(cat)
        done = run("upscale", str(cat), str(tmp_path / name), "--scale", "2", *force)
        assert done.code == 2
        assert "never overwritten" in done.err
        assert cat.read_bytes() == b"cat"
        assert not fake_service.upscales

    def test_replaces_nothing_without_force(self, run, cat, tmp_path, fake_service) -> None:
        output = tmp_path / "large.png"
        output.write_bytes(b"mine")
        done = run("upscale", str(cat), str(output), "--scale", "2")
        assert (done.code, output.read_bytes()) == (2, b"mine")
        assert "--force" in done.err
        assert not fake_service.upscales
        assert run("upscale", str(cat), str(output), "--scale", "2", "--force").code == 0
        assert output.read_bytes() == b"large cat"

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["{cat}", "{tmp}/out.png"], "either --scale or --size"),
            (["{cat}", "{tmp}/out.png", "--scale", "2", "--size", "5x5"], "either --scale or --size"),
            (["{cat}", "{tmp}/out.png", "--scale", "0.5"], "at least 1"),
            (["{cat}", "{tmp}/out.png", "--scale", "nan"], "at least 1"),
            (["{cat}", "{tmp}/out.png", "--size", "512"], "WIDTHxHEIGHT"),
            (["{cat}", "{tmp}/out.gif", "--scale", "2"], "does not end in"),
            (["{cat}", "{tmp}/out", "--scale", "2"], "does not end in"),
            (["{cat}", "{tmp}/no/out.png", "--scale", "2"], "There is no folder"),
            (["{cat}", "{tmp}/out.png", "--scale", "2", "--format", "png"], "ending of OUT"),
            (["{tmp}/dog.png", "{tmp}/out.png", "--scale", "2"], "does not exist"),
            (["{tmp}", "{cat}", "--scale", "2"], "is a file"),
            (["{cat}", "-", "--scale", "2"], "by --format"),
            (["{tmp}", "-", "--scale", "2", "--format", "png"], "takes one image"),
        ],
    )
    def test_wrong_usage(self, run, cat, tmp_path, fake_service, arguments, complaint) -> None:
        done = run("upscale", *(each.format(cat=cat, tmp=tmp_path) for each in arguments))
        assert done.code == 2
        assert complaint in done.err
        assert not fake_service.upscales

    def test_a_refused_image_writes_nothing(self, run, cat, tmp_path, fake_service) -> None:
        fake_service.fail_image(b"cat", reason="OUTPUT_TOO_LARGE", message="Too large; see `clipsr-client info`.")
        done = run("upscale", str(cat), str(tmp_path / "large.png"), "--scale", "2")
        assert done.code == 1
        assert "INVALID_ARGUMENT: Too large; see `clipsr-client info`." in done.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png"]

    def test_an_output_that_cannot_be_written_is_no_failed_image(self, run, cat, tmp_path) -> None:
        done = run("upscale", str(cat), "/proc/large.png", "--scale", "2")
        assert (done.code, "'/proc/large.png' could not be written" in done.err) == (5, True)

    def test_nobody_answers(self, run, cat, tmp_path) -> None:
        done = run("upscale", str(cat), str(tmp_path / "large.png"), "--scale", "2", "--url", NOBODY)
        assert done.code == 3

    def test_a_deadline(self, run, cat, tmp_path, fake_service) -> None:
        fake_service.delay_s = 2.0
        done = run("upscale", str(cat), str(tmp_path / "large.png"), "--scale", "2", "--timeout", "0.2")
        assert (done.code, "--timeout" in done.err) == (3, True)


class TestFolder:
    def test_what_is_no_file_takes_no_neighbour_along(self, run, folder, tmp_path) -> None:
        os.mkfifo(folder / "pipe.png")
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "loop.png").symlink_to(folder / "loop.png")
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2")
        assert done.code == 1
        assert "pipe.png: INVALID_ARGUMENT: This is a named pipe" in done.err
        assert "loop.png: DATA_LOSS" in done.err
        assert done.out.endswith("\n5 images: 3 upscaled, 2 failed\n")

    def test_keeps_names_and_subfolders(self, run, folder, tmp_path, fake_service) -> None:
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2")
        assert (done.code, done.err) == (0, "clipsr-client: left out of folders: hidden 2, .txt 1\n")
        written = {str(path.relative_to(tmp_path / "large")) for path in (tmp_path / "large").rglob("*.*")}
        assert written == {"a.jpg", "b/猫.webp", "c.PNG"}
        assert (tmp_path / "large" / "b" / "猫.webp").read_bytes() == "large b/猫.webp".encode()
        assert "3 images: 3 upscaled" in done.out

    def test_a_format_replaces_the_endings(self, run, folder, tmp_path) -> None:
        (folder / "d.gif").write_bytes(b"d")
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2", "--format", "png")
        assert done.code == 0
        written = {str(path.relative_to(tmp_path / "large")) for path in (tmp_path / "large").rglob("*.*")}
        assert written == {"a.png", "b/猫.png", "c.PNG", "d.png"}

    def test_failures_are_reported_and_the_rest_is_done(self, run, folder, tmp_path, fake_service) -> None:
        (folder / "d.gif").write_bytes(b"d")
        (folder / "e.png").write_bytes(b"e")
        (tmp_path / "large").mkdir()
        (tmp_path / "large" / "e.png").write_bytes(b"mine")
        fake_service.fail_image(b"a.jpg", message="Ends early.")
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2")
        assert done.code == 1
        _, *lines = done.err.splitlines()  # the first counts what was left out
        assert len(lines) == 3
        assert "a.jpg: INVALID_ARGUMENT: Ends early." in lines[0]
        assert "d.gif: INVALID_ARGUMENT" in lines[1]
        assert "e.png: ALREADY_EXISTS" in lines[2]
        assert (tmp_path / "large" / "e.png").read_bytes() == b"mine"
        assert (tmp_path / "large" / "c.PNG").exists()
        assert "5 images: 2 upscaled, 3 failed" in done.out

    def test_an_output_that_would_be_another_input_fails(self, run, tmp_path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"a.jpg")
        (tmp_path / "a.png").write_bytes(b"a.png")
        done = run("upscale", str(tmp_path), str(tmp_path), "--scale", "2", "--format", "png", "--force")
        assert done.code == 1
        assert done.err.count("never overwritten") == 2
        assert (tmp_path / "a.png").read_bytes() == b"a.png"

    def test_two_images_never_share_an_output(self, run, folder, tmp_path) -> None:
        (folder / "a.png").write_bytes(b"a.png")
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2", "--format", "png", "--force")
        assert done.code == 1
        assert "for another image" in done.err
        assert (tmp_path / "large" / "a.png").read_bytes() == b"large a.jpg"

    def test_a_service_that_is_away_ends_it(self, run, folder, tmp_path, fake_service) -> None:
        fake_service.abort(grpc.StatusCode.UNAVAILABLE, "down")
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2")
        assert done.code == 3

    def test_an_output_that_cannot_be_written_fails_alone(self, run, folder, tmp_path) -> None:
        (tmp_path / "large").mkdir()
        (tmp_path / "large" / "b").write_bytes(b"a file where a folder must be")
        done = run("upscale", str(folder), str(tmp_path / "large"), "--scale", "2")
        assert done.code == 5
        assert "could not be written" in done.err
        assert (tmp_path / "large" / "c.PNG").exists()


def test_items_that_failed_keep_their_failure(tmp_path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    (source / "a.png").write_bytes(b"a")
    jobs = plan_outputs(
        [Item(path=str(source / "a.png"))], str(source), str(tmp_path / "out"), output_format=None, replacement=KEEP
    )
    assert [(job.output, job.output_format, job.item.failure) for job in jobs] == [
        (tmp_path / "out" / "a.png", "png", None)
    ]
