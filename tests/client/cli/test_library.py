"""`clipsr-client library` against a real server."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import code_pb2
from tests.client.fake_library import THUMBNAIL, refuse
from tests.client.terminal import run_in_terminal

from clipsr.cli._library.export import make_file_name
from clipsr.cli._library.thumbnails import detect_protocol, draw_picture

COMMAND = [sys.executable, "-c", "import sys; from clipsr.cli import main; sys.exit(main())"]
WAIT_S = 120
PNG = b"\x89PNG\r\n\x1a\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def kept(fake_service):
    """The service's side of the default library."""
    fake_service.library.create("default")
    return fake_service.library


@pytest.fixture
def filled(run, folder, kept):
    assert run("library", "add", str(folder), "--tag", "zoo", "--meta", "camera=left").code == 0
    return kept


def read_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


class TestCreating:
    def test_a_library(self, run, fake_service):
        done = run("library", "create", "photos", "--no-originals", "--thumbnail-side", "96")
        assert (done.code, done.err) == (0, "")
        assert done.out == f"library photos is there, for model {fake_service.info.digest}\n"
        [request] = fake_service.library.requests
        assert (request.name, request.discard_originals, request.thumbnail_side_px) == ("photos", True, 96)

    def test_the_default_one(self, run, fake_service, monkeypatch):
        assert run("library", "create").code == 0
        monkeypatch.setenv("CLIPSR_LIBRARY", "mine")
        assert run("library", "create").code == 0
        assert sorted(fake_service.library.libraries) == ["default", "mine"]

    def test_a_name_that_is_taken(self, run, kept):
        done = run("library", "create")
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1


class TestAdding:
    def test_a_folder(self, run, folder, kept):
        done = run(
            "library", "add", str(folder), "--tag", "a", "--tag", "b", "--meta", "camera=left", "--fit", "squash"
        )
        assert (done.code, done.err) == (0, "clipsr-client: left out of folders: hidden 2, .txt 1\n")
        assert done.out == "3 images: 3 added; library default\n"
        sources = [str(folder / name) for name in ("a.jpg", "b/猫.webp", "c.PNG")]
        assert [image.source for image in kept.added[0]] == sources
        assert list(kept.added[0][0].tags) == ["a", "b"]
        assert dict(kept.added[0][0].metadata) == {"camera": "left"}

    @pytest.mark.parametrize(("option", "value"), [("--tag", "caf\udce9"), ("--meta", "place=caf\udce9")])
    def test_what_is_said_of_all_images_is_checked_once(self, run, folder, kept, option, value):
        done = run("library", "add", str(folder), option, value)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"clipsr-client: {option}")
        assert "is not UTF-8" in done.err
        assert not kept.added

    def test_again(self, run, folder, filled):
        (folder / "d.png").write_bytes(b"d")
        assert run("library", "add", str(folder)).out == "4 images: 1 added, 3 there already; library default\n"

    def test_into_a_new_library(self, run, folder, fake_service):
        done = run("library", "add", str(folder), "--library", "new")
        assert (done.code, "'new'" in done.err) == (2, True)
        for _ in range(2):
            assert run("library", "add", str(folder), "--library", "new", "--create").code == 0

    def test_what_is_no_file_takes_no_neighbour_along(self, run, folder, kept):
        os.mkfifo(folder / "pipe.png")
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "loop.png").symlink_to(folder / "loop.png")
        done = run("library", "add", str(folder))
        assert done.code == 1
        assert "pipe.png: INVALID_ARGUMENT: This is a named pipe" in done.err
        assert "loop.png: DATA_LOSS" in done.err
        assert done.out == "5 images: 3 added, 2 failed; library default\n"

    def test_failures_stand_alone(self, run, folder, kept, fake_service, tmp_path):
        fake_service.fail_image(b"a.jpg", message="Ends early.")
        kept.failures = fake_service._failures
        (folder / "b").chmod(0)
        (folder / "gone.png").symlink_to("nowhere")
        results = tmp_path / "results.jsonl"
        try:
            done = run("library", "add", str(folder), "--results", str(results))
        finally:
            (folder / "b").chmod(0o755)
        assert done.code == 1
        assert f"{folder / 'a.jpg'}: INVALID_ARGUMENT: Ends early." in done.err
        assert "gone.png: NOT_FOUND" in done.err
        written = {Path(each["path"]).name: each for each in read_lines(results.read_text("utf-8"))}
        assert written["a.jpg"]["reason"] == "IMAGE_TRUNCATED"
        assert written["c.PNG"] == {"path": str(folder / "c.PNG"), "status": "ADDED", "sha256": sha256(b"c.PNG")}
        failed = len(done.err.splitlines()) - 1  # one counts what was left out
        assert f"{len(written)} images: {len(written) - failed} added, {failed} failed" in done.out

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["{tmp}/nothing"], "does not exist"),
            (["-"], "Standard input"),
            (["{empty}"], "holds no image"),
            (["{photos}", "--meta", "camera"], "KEY=VALUE"),
            (["{photos}", "--meta", "a=1", "--meta", "a=2"], "twice"),
            ([], "Say what to add"),
            (["{photos}", "--from", "{photos}/a.jpg"], "Say what to add"),
        ],
    )
    def test_wrong_usage(self, run, folder, tmp_path, kept, arguments, complaint):
        (tmp_path / "empty").mkdir()
        names = {"tmp": tmp_path, "empty": tmp_path / "empty", "photos": folder}
        done = run("library", "add", *(each.format(**names) for each in arguments))
        assert (done.code, done.out) == (2, "")
        assert complaint in done.err

    def test_results_that_cannot_be_written(self, run, folder, tmp_path, kept):
        done = run("library", "add", str(folder), "--results", str(tmp_path / "no" / "results.jsonl"))
        assert (done.code, "--results" in done.err) == (5, True)
        done = run("library", "add", str(folder), "--results", "/dev/full")
        assert (done.code, "no room left" in done.err) == (5, True)

    def test_full_storage(self, run, folder, kept):
        def fill(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 2:
                refuse(context, code_pb2.RESOURCE_EXHAUSTED, "LIBRARY_STORAGE_FULL", "It is full: make room.")

        kept.on_add = fill
        done = run("library", "add", str(folder))
        assert (done.code, done.out) == (3, "")
        assert "2 images are in the library; the same command adds the rest" in done.err
        assert "It is full: make room." in done.err

    def test_another_model(self, run, folder, filled):
        filled.model_digest = "sha256:" + "cd" * 32
        for arguments in (["add", str(folder)], ["search", "cat"]):
            done = run("library", *arguments)
            assert (done.code, done.out) == (2, "")
            assert "clipsr-client library reembed default" in done.err
        done = run("library", "reembed")
        assert done.out == f"3 images embedded; library default, model {filled.model_digest}\n"
        assert run("library", "search", "cat").code == 0

    @pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
    def test_interrupted_the_same_command_adds_the_rest(self, run, tmp_path, kept, fake_service, by):
        photos = tmp_path / "photos"
        photos.mkdir()
        for index in range(200):
            (photos / f"{index:03}.png").write_bytes(b"%d" % index)
        kept.on_add = lambda answered, context: time.sleep(0.005)
        command = [*COMMAND, "library", "add", str(photos), "--url", fake_service.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end_s = time.monotonic() + WAIT_S
        while len(kept.images["default"]) < 20:
            assert time.monotonic() < end_s
            time.sleep(0.002)
        process.send_signal(by)
        _, said = process.communicate(timeout=WAIT_S)
        assert process.returncode == (-by if by is signal.SIGKILL else 130)
        assert by is signal.SIGKILL or "the same command adds the rest" in said
        kept.on_add = None
        done = run("library", "add", str(photos))
        assert done.code == 0
        assert "200 images: " in done.out
        assert len(kept.images["default"]) == 200

    def test_a_bar_on_a_terminal(self, tmp_path, folder, kept, fake_service):
        kept.on_add = lambda answered, context: time.sleep(0.3)
        command = [*COMMAND, "library", "add", str(folder), "--url", fake_service.url]
        done = run_in_terminal(command, timeout_s=WAIT_S, keeps_output=True)
        assert done.out == b"3 images: 3 added; library default\n"
        assert "adding" in done.shown
        assert "3/3" in done.shown
        assert "images/s" in done.shown


class TestSearching:
    def test_by_words(self, run, folder, filled):
        done = run("library", "search", "c.PNG", "--top-k", "2")
        assert (done.code, done.err) == (0, "")
        header, best, other = done.out.splitlines()
        assert header.split() == ["rank", "cosine", "source", "size", "tags", "sha256"]
        size = "48 × 32, 5 bytes"
        assert best.split("  ")[0].strip() == "1" or best.split()[0] == "1"
        assert [
            part for part in ("0.500", str(folder / "c.PNG"), size, "zoo", sha256(b"c.PNG")) if part not in best
        ] == []
        assert other.split()[0] == "2"

    def test_json(self, run, folder, filled):
        for arguments in (["--json"], ["--format", "json"]):
            best, *_ = read_lines(run("library", "search", "猫", *arguments).out)
            assert best["add_time"].startswith("2023-11-14T")
            del best["add_time"]
            assert best == {
                "rank": 1,
                "cosine": 0.5,
                "sha256": sha256("b/猫.webp".encode()),
                "source": str(folder / "b" / "猫.webp"),
                "tags": ["zoo"],
                "metadata": {"camera": "left"},
                "width": 48,
                "height": 32,
                "size_bytes": 10,
                "media_type": "image/png",
                "route": "upscaled",
                "has_original": True,
                "model": filled.model_digest,
            }

    @pytest.mark.parametrize("command", [("search", "a.jpg"), ("list", "default")])
    def test_csv_of_names_with_line_ends_and_formulas(self, run, tmp_path, kept, command, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("=x\rz.png").write_bytes(b"x")
        assert run("library", "add", "=x\rz.png").code == 0
        for options, source in [((), "=x\rz.png"), (("--csv-safe",), "'=x\rz.png")]:
            done = run("library", *command, "--csv", *options)
            [row] = csv.DictReader(io.StringIO(done.out, newline=""))
            assert row["source"] == source

    def test_csv(self, run, filled):
        rows = list(csv.DictReader(io.StringIO(run("library", "search", "a.jpg", "--csv").out)))
        assert len(rows) == 3
        assert (rows[0]["rank"], rows[0]["cosine"], rows[0]["sha256"]) == ("1", "0.5", sha256(b"a.jpg"))
        assert (rows[0]["tags"], rows[0]["metadata"]) == ('["zoo"]', '{"camera": "left"}')
        assert rows[0]["has_original"] == "true"

    def test_by_example(self, run, folder, filled, monkeypatch):
        def first(*arguments: str) -> str:
            return read_lines(run("library", "search", *arguments, "--json").out)[0]["source"]

        path = str(folder / "c.PNG")
        assert first("--image", path) == path
        assert first("--like", sha256(b"c.PNG")) == path
        assert first("--like", sha256(b"c.PNG"), "--exclude-query") == str(folder / "a.jpg")
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"c.PNG"), isatty=lambda: False))
        assert first("--image", "-") == path

    def test_every_option_reaches_the_service(self, run, filled):
        options = (
            "--exact --min-cosine 0.25 --tag a --tag b --any-tag c --meta k=v --source photos/ --templates @simple"
        )
        assert (
            run(
                "library", "search", "cat", *options.split(), "--since", "2026-01-02", "--before", "2026-03-04T05:06"
            ).code
            == 0
        )
        request = filled.requests[-1]
        wanted = request.options.filter
        assert (request.options.is_exact, request.options.min_cosine) == (True, 0.25)
        assert list(request.templates) == ["@simple"]
        assert (list(wanted.all_tags), list(wanted.any_tags), dict(wanted.metadata)) == (["a", "b"], ["c"], {"k": "v"})
        assert wanted.source_prefix == "photos/"
        local = time.localtime(wanted.added_before.seconds)
        assert (local.tm_mon, local.tm_mday, local.tm_hour, local.tm_min) == (3, 4, 5, 6)
        assert wanted.added_from.seconds < wanted.added_before.seconds

    def test_a_query_that_the_model_does_not_know(self, run, filled):
        done = run("library", "search", "草地上的狗", "--json")
        assert done.code == 0
        assert len(read_lines(done.out)) == 3
        assert done.err == "clipsr-client: The model knows no word of it; ask in English.\n"

    def test_nothing(self, run, kept):
        done = run("library", "search", "cat")
        assert (done.code, done.out, done.err) == (0, "", "clipsr-client: nothing was found in library default\n")

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ([], "what to search with"),
            (["cat", "--image", "x.png"], "what to search with"),
            (["--image", "nothing.png"], "gone"),
            (["cat", "--json", "--csv"], "one of"),
            (["cat", "--thumbnails"], "--html"),
            (["cat", "--since", "yesterday"], "does not match"),
            (["cat", "--library", "nobody"], "no library 'nobody'"),
            (["cat", "--meta", "x"], "KEY=VALUE"),
        ],
    )
    def test_wrong_usage(self, run, kept, arguments, complaint):
        done = run("library", "search", *arguments)
        assert (done.code, done.out) == (2, "")
        assert complaint in done.err


class Page(HTMLParser):
    """What a browser would show, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.images, self.tags, self.sources = "", [], set(), []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestContactSheets:
    def test_of_a_search(self, run, folder, filled, tmp_path):
        (folder / "c.PNG").write_bytes(PNG)
        sheet = tmp_path / "found.html"
        done = run("library", "search", "--image", str(folder / "c.PNG"), "--html", str(sheet))
        assert (done.code, done.out) == (0, f"{sheet}\n")
        page = Page(sheet.read_text("utf-8"))
        query, *found = page.images
        assert query["src"].startswith("data:image/png;base64,")
        assert len(found) == 3
        assert all(image["src"].startswith("data:image/webp;base64,") and image["alt"] for image in found)
        assert f"{folder / 'a.jpg'}, zoo" in [image["alt"] for image in found]
        assert "cosine 0.500" in page.text
        assert "camera: left" in page.text

    def test_what_an_image_says_is_text(self, run, kept, tmp_path):
        evil = tmp_path / '"><script>alert(1)</script>.png'
        evil.parent.mkdir(exist_ok=True)
        folder = tmp_path / '"><img src=x onerror=alert(1)>'
        folder.mkdir()
        (folder / "a&amp;b\u202egnp.exe.png").write_bytes(b"a")
        assert run("library", "add", str(folder), "--tag", "<b>bold</b>", "--meta", "k=<i>").code == 0
        assert run("library", "search", "<script>草\u2067", "--html", str(tmp_path / "found.html")).code == 0
        text = (tmp_path / "found.html").read_text("utf-8")
        page = Page(text)
        assert not {"script", "b>", "i", "link", "iframe"} & page.tags
        assert len(page.images) == 1
        assert f"{folder / 'a&amp;b'}\\u202egnp.exe.png, <b>bold</b>" == page.images[0]["alt"]
        assert r"<script>草\u2067" in page.text
        assert not {"\u202e", "\u2067"} & set(text)
        assert "ask in English" in page.text

    def test_a_link_stays_a_link(self, run, filled, tmp_path):
        (tmp_path / "target.html").write_text("old")
        (tmp_path / "link.html").symlink_to("target.html")
        assert run("library", "list", "default", "--html", str(tmp_path / "link.html")).code == 0
        assert (tmp_path / "link.html").is_symlink()
        assert "Library default" in (tmp_path / "target.html").read_text("utf-8")

    def test_nothing_is_fetched(self, run, filled, tmp_path):
        assert run("library", "list", "default", "--html", str(tmp_path / "all.html")).code == 0
        text = (tmp_path / "all.html").read_text("utf-8")
        page = Page(text)
        assert len(page.sources) == 3
        assert all(source.startswith("data:") for source in page.sources)
        assert "url(" not in text
        assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
        assert 'name="viewport"' in text

    def test_a_file_that_cannot_be_written(self, run, filled):
        done = run("library", "search", "cat", "--html", "/proc/nothing/found.html")
        assert (done.code, done.out) == (5, "")
        assert "--html" in done.err


class TestPictures:
    @pytest.mark.parametrize(
        ("environment", "protocol"),
        [
            ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
            ({"TERM_PROGRAM": "WezTerm", "TERM": "xterm-256color"}, "iterm2"),
            ({"LC_TERMINAL": "iTerm2", "TERM": "xterm"}, "iterm2"),
            ({"TERM": "xterm-kitty"}, "kitty"),
            ({"KITTY_WINDOW_ID": "1", "TERM": "xterm"}, "kitty"),
            ({"TERM_PROGRAM": "ghostty"}, "kitty"),
            ({"TERM": "xterm-256color"}, None),
            ({"TERM_PROGRAM": "Apple_Terminal"}, None),
            ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux"}, None),
            ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, None),
            ({}, None),
        ],
    )
    def test_terminals(self, environment, protocol):
        assert detect_protocol(environment) == protocol

    def test_iterm2(self):
        assert draw_picture(b"abc", "iterm2") == (
            "\x1b]1337;File=inline=1;size=3;height=4;preserveAspectRatio=1:YWJj\a\n"
        )

    def test_kitty_takes_chunks(self):
        parts = draw_picture(PNG + bytes(7_000), "kitty").split("\x1b\\")
        assert parts[0].startswith("\x1b_Ga=T,f=100,q=2,r=4,m=1;iVBORw0KGgo")
        assert [part.partition(";")[0] for part in parts[1:3]] == ["\x1b_Gm=1", "\x1b_Gm=0"]
        assert parts[3:] == ["\n"]
        assert all(len(part.partition(";")[2]) <= 4_096 for part in parts)

    @pytest.mark.parametrize("protocol", ["iterm2", "kitty"])
    def test_above_each_line(self, tmp_path, kept, fake_service, protocol, monkeypatch):
        (tmp_path / "a.png").write_bytes(PNG)
        add = [*COMMAND, "library", "add", str(tmp_path / "a.png"), "--url", fake_service.url]
        assert subprocess.run(add, capture_output=True, timeout=WAIT_S, check=False).returncode == 0
        for variable in ("TMUX", "TERM_PROGRAM"):
            monkeypatch.delenv(variable, raising=False)
        is_kitty = protocol == "kitty"
        environment = {"TERM": "xterm-kitty"} if is_kitty else {"TERM": "xterm", "TERM_PROGRAM": "iTerm.app"}
        search = [*COMMAND, "library", "search", "a", "--url", fake_service.url]
        done = run_in_terminal(search, timeout_s=WAIT_S, environment=environment)
        assert done.code == 0
        content = PNG if is_kitty else THUMBNAIL + PNG
        picture, line = done.shown.replace("\r\n", "\n").splitlines()
        assert picture + "\n" == draw_picture(content, protocol)
        assert line.startswith("1.  0.500  ")


class TestListing:
    def test_libraries(self, run, filled, fake_service):
        fake_service.library.create("other")
        header, default, other = run("library", "list").out.splitlines()
        assert header.split() == ["library", "images", "size", "created", "model"]
        assert default.split()[:2] == ["default", "3"]
        assert other.split()[:2] == ["other", "0"]
        assert [each["name"] for each in read_lines(run("library", "list", "--json").out)] == ["default", "other"]
        rows = list(csv.DictReader(run("library", "list", "--csv").out.splitlines()))
        assert [(row["name"], row["image_count"], row["keep_originals"]) for row in rows] == [
            ("default", "3", "true"),
            ("other", "0", "true"),
        ]

    def test_a_pipe_has_no_edge(self, run, fake_service):
        fake_service.library.create("n" * 64)
        _, row = run("library", "list").out.splitlines()
        assert row.startswith("n" * 64 + " ")
        assert row.endswith("as served")

    @pytest.mark.parametrize("options", [("--tag", "x"), ("--newest",), ("--page", "2"), ("--html", "x.html")])
    def test_options_for_images_need_a_library(self, run, filled, options):
        done = run("library", "list", *options)
        assert (done.code, done.out) == (2, "")
        assert "name it" in done.err

    def test_no_libraries(self, run):
        done = run("library", "list")
        assert (done.code, done.out) == (0, "")
        assert "library create" in done.err

    def test_images(self, run, folder, filled):
        done = run("library", "list", "default")
        names = [line.split()[0] for line in done.out.splitlines()]
        assert names == ["source", *(str(folder / name) for name in ("a.jpg", "b/猫.webp", "c.PNG"))]
        assert done.err == "clipsr-client: 3 of 3 images\n"
        rows = read_lines(run("library", "list", "default", "--newest", "--json").out)
        assert [Path(row["source"]).name for row in rows] == ["c.PNG", "猫.webp", "a.jpg"]
        assert len(run("library", "list", "default", "--csv").out.splitlines()) == 4

    def test_pages(self, run, filled):
        filled.page_size = 1
        done = run("library", "list", "default", "--limit", "2")
        assert done.err == "clipsr-client: 2 of 3 images; the next ones: --page 2, all: --limit 0\n"
        assert len(read_lines(run("library", "list", "default", "--page", "2", "--json").out)) == 1
        assert len(read_lines(run("library", "list", "default", "--limit", "0", "--json").out)) == 3
        assert len(run("library", "list", "default", "--limit", "0", "--csv").out.splitlines()) == 4  # one header

    def test_what_is_known_of_one(self, run, filled):
        lines = run("library", "show").out.splitlines()
        assert "images      3, 3 of them with their files" in lines
        assert json.loads(run("library", "show", "default", "--json").out)["image_count"] == 3
        done = run("library", "show", "nobody")
        assert (done.code, "(default)" in done.err) == (2, True)


class TestExporting:
    def test_files_and_table(self, run, filled, tmp_path):
        done = run("library", "export", str(tmp_path / "out"))
        assert (done.code, done.err) == (0, "")
        assert done.out == f"3 images: 3 files; {tmp_path / 'out' / 'images.csv'}\n"
        with (tmp_path / "out" / "images.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == [
            f"{stem}-{sha256(name.encode())[:16]}.png"
            for stem, name in (("a", "a.jpg"), ("猫", "b/猫.webp"), ("c", "c.PNG"))
        ]
        for row in rows:
            assert sha256((tmp_path / "out" / row["file"]).read_bytes()) == row["sha256"]
        assert len(list((tmp_path / "out").iterdir())) == 4

    def test_thumbnails_and_embeddings(self, run, filled, tmp_path):
        out = tmp_path / "out"
        assert run("library", "export", str(out), "--thumbnails", "--table", "jsonl", "--embeddings").code == 0
        rows = read_lines((out / "images.jsonl").read_text("utf-8"))
        assert rows[0]["embedding"] == pytest.approx([0.6, 0.8])
        assert (out / rows[0]["file"]).read_bytes() == THUMBNAIL + b"a.jpg"
        assert rows[0]["file"].endswith(".webp")

    def test_what_has_no_file_is_counted(self, run, filled, tmp_path):
        filled.images["default"][sha256(b"a.jpg")].ClearField("original")
        done = run("library", "export", str(tmp_path / "out"))
        assert done.code == 1
        assert "3 images: 2 files, 1 without a file" in done.out

    def test_what_is_there_stays(self, run, filled, tmp_path):
        assert run("library", "export", str(tmp_path / "out"), "--tag", "zoo").code == 0
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
        assert run("library", "export", str(tmp_path / "out")).code == 0
        assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}

    def test_refusals(self, run, filled, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        assert run("library", "export", str(tmp_path / "file")).code == 2
        assert run("library", "export", str(tmp_path / "out"), "--embeddings").code == 2
        assert run("library", "export", str(tmp_path / "out"), "--library", "nobody").code == 2
        assert not (tmp_path / "out").exists()
        assert run("library", "export", "/proc/nothing").code == 5

    @pytest.mark.parametrize(
        ("source", "stem"),
        [
            ("photos/cat.jpg", "cat"),
            ("../../etc/passwd", "passwd"),
            ("C:\\photos\\cat.jpg", "cat"),
            ("/", ""),
            ("..", ""),
            ("", ""),
            ("a b/c d?.png", "c_d"),
            ("x" * 300 + ".png", "x" * 50),
            ("id 7\n\x1b[31m", "id_7_31m"),
        ],
    )
    def test_names_are_safe(self, source, stem):
        image = SimpleNamespace(source=source, sha256="ab" * 32, media_type="image/jpeg")
        assert make_file_name(image, is_thumbnail=False) == (f"{stem}-" if stem else "") + "ab" * 8 + ".jpg"

    @pytest.mark.parametrize(
        ("media_type", "ending"),
        [("image/mpo", ".jpg"), ("image/heic", ".heic"), ("image/avif", ".avif"), ("image/tiff", ".tiff")],
    )
    def test_every_kind_of_file_has_its_ending(self, media_type, ending):
        image = SimpleNamespace(source="a", sha256="ab" * 32, media_type=media_type)
        assert make_file_name(image, is_thumbnail=False).endswith(ending)


class TestRemoving:
    def test_by_hash(self, run, filled):
        done = run("library", "delete", sha256(b"a.jpg"), sha256(b"nothing"))
        assert (done.code, done.out) == (0, "1 images deleted, 1 were not there; library default\n")

    def test_from_standard_input(self, run, filled, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{sha256(b'a.jpg')}\n{sha256(b'c.PNG')}\n"))
        assert run("library", "delete", "-").out == "2 images deleted; library default\n"

    def test_by_filter_only_when_it_is_meant(self, run, filled, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        done = run("library", "delete", "--tag", "zoo")
        assert (done.code, "--yes" in done.err) == (2, True)
        assert run("library", "delete", "--tag", "zoo", "--yes").out == "3 images deleted; library default\n"

    @pytest.mark.parametrize("arguments", [[], ["ab", "--tag", "zoo"]])
    def test_what_to_delete_must_be_said(self, run, filled, arguments):
        assert run("library", "delete", *arguments).code == 2
        assert len(filled.images["default"]) == 3

    def test_a_library_only_when_it_is_meant(self, run, filled, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        done = run("library", "drop", "default")
        assert (done.code, "--yes" in done.err) == (2, True)
        assert "default" in filled.libraries
        assert run("library", "drop", "default", "--yes").out == "library default is removed, with 3 images\n"
        assert not filled.libraries

    @pytest.mark.parametrize(("answer", "is_removed"), [("y\n", True), ("n\n", False), ("\n", False)])
    def test_it_asks_on_a_terminal(self, run, filled, monkeypatch, answer, is_removed):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        done = run("library", "drop", "default")
        assert ("default" not in filled.libraries) is is_removed
        assert "with its 3 images for good?" in done.err
        assert done.code == (0 if is_removed else 130)


def test_embedding_anew_without_files(run, filled):
    def decline(request, context) -> None:
        refuse(context, code_pb2.FAILED_PRECONDITION, "LIBRARY_ORIGINALS_MISSING", "2 images have no file.")

    filled.before = decline
    done = run("library", "reembed")
    assert (done.code, done.out, done.err) == (2, "", "clipsr-client: 2 images have no file.\n")


def test_a_command_is_needed(run):
    done = run("library")
    assert done.code == 2
    assert "Missing command" in done.err
