"""Changing what is said of images that are kept, and importing what was exported, against a real server."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from tests.client.cli.test_library import read_lines, sha256

A, CAT, C = (sha256(name.encode()) for name in ("a.jpg", "b/猫.webp", "c.PNG"))


@pytest.fixture
def filled(run, folder, fake_service):
    """The service's side of the default library, with three images."""
    fake_service.library.create("default")
    assert run("library", "add", str(folder), "--tag", "zoo", "--meta", "camera=left").code == 0
    return fake_service.library


def tags(kept: Any, library: str = "default") -> dict[str, list[str]]:
    return {name: list(image.tags) for name, image in kept.images[library].items()}


class TestChanging:
    def test_tags_by_hash(self, run, filled):
        done = run("library", "tag", A, "0" * 64, "--add", "new", "--remove", "zoo")
        assert (done.code, done.out) == (0, "1 images changed, 1 were not there; library default\n")
        assert tags(filled) == {A: ["new"], CAT: ["zoo"], C: ["zoo"]}
        again = run("library", "tag", A, "--add", "new", "--remove", "zoo")
        assert again.out == "0 images changed, 1 were like that; library default\n"

    def test_tags_by_filter_or_of_all(self, run, filled):
        assert run("library", "tag", A, "--clear").code == 0
        assert run("library", "tag", "--tag", "zoo", "--add", "x").out == "2 images changed; library default\n"
        assert run("library", "tag", "--all", "--clear", "--add", "y").out == "3 images changed; library default\n"
        assert tags(filled) == {A: ["y"], CAT: ["y"], C: ["y"]}

    def test_tags_of_what_standard_input_names(self, run, filled, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{A}\n{C}\n"))
        assert run("library", "tag", "-", "--add", "x").out == "2 images changed; library default\n"

    def test_values_and_source(self, run, filled):
        done = run("library", "set", A, "--value", "k=v=w", "--remove", "camera", "--new-source", "moved.jpg")
        assert (done.code, done.out) == (0, "1 images changed; library default\n")
        image = filled.images["default"][A]
        assert (dict(image.metadata), image.source, list(image.tags)) == ({"k": "v=w"}, "moved.jpg", ["zoo"])
        assert run("library", "set", "--meta", "camera=left", "--clear", "--new-source", "").code == 0
        assert [image.source for image in filled.images["default"].values()] == ["moved.jpg", "", ""]

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["tag", "--add", "x"], "Say which images"),
            (["tag", A], "Say what to change"),
            (["tag", A, "--tag", "zoo", "--add", "x"], "Give either"),
            (["tag", A, "--all", "--add", "x"], "Give either"),
            (["set", A, "--value", "k"], "--value 'k' is not KEY=VALUE"),
        ],
    )
    def test_wrong_usage(self, run, filled, arguments, complaint):
        done = run("library", *arguments)
        assert (done.code, done.out) == (2, "")
        assert complaint in done.err


class TestAddingAgain:
    def test_what_differs_is_said_and_kept(self, run, folder, filled):
        done = run("library", "add", str(folder), "--tag", "second")
        assert done.out == "3 images: 0 added, 3 there already; library default\n"
        assert "3 of those there already have other tags or values, or another source, and keep them" in done.err
        assert "--update" in done.err
        assert tags(filled)[A] == ["zoo"]

    def test_or_it_is_taken(self, run, folder, filled, tmp_path):
        results = tmp_path / "results.jsonl"
        arguments = ["library", "add", str(folder), "--tag", "second", "--update", "--results", str(results)]
        done = run(*arguments)
        assert done.out == "3 images: 0 added, 3 updated; library default\n"
        assert tags(filled) == {name: ["zoo", "second"] for name in (A, CAT, C)}
        assert {line["status"] for line in read_lines(results.read_text("utf-8"))} == {"UPDATED"}
        assert run(*arguments).out == "3 images: 0 added, 3 there already; library default\n"


class TestImporting:
    @pytest.mark.parametrize("table", ["jsonl", "csv"])
    def test_what_was_exported_is_there_again(self, run, filled, tmp_path, table):
        filled.images["default"][A].source = 'a "b"\r,c'
        filled.images["default"][A].metadata["quote"] = 'say "x",\n=1'
        out = tmp_path / "out"
        assert run("library", "export", str(out), "--table", table).code == 0
        done = run("library", "add", "--from", str(out / f"images.{table}"), "-l", "copy", "--create", "--tag", "more")
        assert (done.code, done.out) == (0, "3 images: 3 added; library copy\n")
        for name, image in filled.images["default"].items():
            copy = filled.images["copy"][name]
            assert (copy.source, dict(copy.metadata)) == (image.source, dict(image.metadata))
            assert list(copy.tags) == [*image.tags, "more"]

    def test_lines_fail_alone(self, run, filled, tmp_path):
        out = tmp_path / "out"
        assert run("library", "export", str(out), "--table", "jsonl").code == 0
        a, cat, c = (out / "images.jsonl").read_bytes().splitlines()
        (out / json.loads(cat)["file"]).write_bytes(b"something else")
        bad = [b"{", b'"text"', b"\xff", b"", b"{}", b'{"file": "gone.png"}', b'{"file": "x", "tags": "zoo"}']
        bad += [b'{"file": "x", "metadata": {"k": 1}}', b'{"file": "x", "source": 7}']
        (out / "images.jsonl").write_bytes(b"\n".join([a, *bad, cat, c]) + b"\n")
        done = run("library", "add", "--from", str(out / "images.jsonl"), "-l", "copy", "--create")
        assert (done.code, done.out) == (1, "11 images: 2 added, 9 failed; library copy\n")
        assert f"{out / 'images.jsonl'}:2: INVALID_ARGUMENT: This is no JSON object" in done.err
        assert "images.jsonl:7: gone.png: NOT_FOUND" in done.err
        assert "SHA-256 differs" in done.err
        assert set(filled.images["copy"]) == {A, C}

    def test_thumbnails_are_not_the_images(self, run, filled, tmp_path):
        out = tmp_path / "out"
        assert run("library", "export", str(out), "--table", "jsonl", "--thumbnails").code == 0
        assert run("library", "add", "--from", str(out / "images.jsonl")).code == 1

    def test_a_table_without_lines(self, run, filled, tmp_path):
        (tmp_path / "images.jsonl").write_bytes(b"")
        done = run("library", "add", "--from", str(tmp_path / "images.jsonl"))
        assert (done.code, "names no image" in done.err) == (2, True)
        assert run("library", "add", "--from", str(tmp_path / "none.jsonl")).code == 2


def test_errors_show_no_text_in_another_order_than_it_has(run, filled):
    done = run("library", "list", "\u202egnp.exe")
    assert (done.code, "\u202e" in done.err, "\\u202egnp.exe" in done.err) == (2, False, True)
