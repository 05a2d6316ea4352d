"""A repository changes as a whole or not at all, whatever happens on the way; and a service on it is named."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest

from clipsr_export._errors import ExportError
from clipsr_export._repository.replace import check_output, replaced, staging_folder
from clipsr_export._repository.running import find_service
from clipsr_export.cli import main

OLD = {"manifest.json": "old", "model/1/model.onnx": "old graph"}
NEW = {"manifest.json": "new", "model/1/model.onnx": "new graph"}


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def old(tmp_path) -> Path:
    return fill(tmp_path / "repository", OLD)


def test_the_old_one_is_whole_until_the_new_one_is(old):
    mode = old.stat().st_mode
    with replaced(old) as copy:
        assert content(copy) == OLD
        fill(copy, NEW)
        assert content(old) == OLD
    assert content(old) == NEW
    assert old.stat().st_mode == mode
    assert [path.name for path in old.parent.iterdir()] == ["repository"]


def test_a_repository_that_was_not_there(tmp_path):
    with replaced(tmp_path / "deep" / "repository") as copy:
        fill(copy, NEW)
    assert content(tmp_path / "deep" / "repository") == NEW


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), KeyboardInterrupt(), ValueError()])
def test_a_failure_leaves_the_old_one_and_nothing_else(old, error):
    def change() -> None:
        with replaced(old) as copy:
            fill(copy, NEW)
            raise error

    with pytest.raises(type(error)):
        change()
    assert content(old) == OLD
    assert [path.name for path in old.parent.iterdir()] == ["repository"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_file_that_can_not_be_written_is_said_with_the_repository(old, number):
    def change() -> None:
        with replaced(old):
            raise OSError(number, os.strerror(number))

    with pytest.raises(ExportError, match=rf"{re.escape(str(old))} can't be written: {os.strerror(number)}"):
        change()
    assert content(old) == OLD


def test_a_failed_switch_puts_the_old_one_back(old, monkeypatch):
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.parent.name.startswith(".clipsr-export-"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"), replaced(old) as copy:
        fill(copy, NEW)
    assert content(old) == OLD
    assert [path.name for path in old.parent.iterdir()] == ["repository"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_at_any_moment_leaves_one_of_both(forks, old, moment):
    """Of three renames' moments; what lies aside after "between" is put back by the next export."""
    script = f"""
import os, signal
from pathlib import Path
from clipsr_export._repository import replace
rename, n = Path.rename, 0
def counted(self, target):
    global n
    if n == {["before", "between", "after"].index(moment)}:
        os.kill(os.getpid(), signal.SIGKILL)
    n += 1
    return rename(self, target)
Path.rename = counted
replace.shutil.rmtree = lambda path, **_: {moment == "after"} and n == 2 and os.kill(os.getpid(), signal.SIGKILL)
with replace.replaced(Path({str(old)!r})) as copy:
    (copy / "manifest.json").write_text("new")
    (copy / "model/1/model.onnx").write_text("new graph")
"""
    assert forks.run(script).returncode == -signal.SIGKILL
    check_output(old)
    assert content(old) == (NEW if moment == "after" else OLD)
    with replaced(old) as copy:
        fill(copy, NEW)
    assert content(old) == NEW
    assert [path.name for path in old.parent.iterdir()] == ["repository"], "nothing is left of the killed one"


def test_only_folders_that_nobody_uses_are_leftovers(tmp_path):
    (tmp_path / ".clipsr-export-left").mkdir()
    (tmp_path / ".clipsr-export-file").write_text("of somebody else")
    with staging_folder(tmp_path) as first, staging_folder(tmp_path) as second:
        assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, ".clipsr-export-file"}
    assert [path.name for path in tmp_path.iterdir()] == [".clipsr-export-file"]


def test_a_folder_that_is_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    """By an export that starts between the making of the folder and its lock."""
    make = tempfile.mkdtemp
    lost: list[Path] = []

    def make_and_lose(**options) -> str:
        folder = make(**options)
        if not lost:
            lost.append(Path(folder))
            with staging_folder(tmp_path):
                pass
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with staging_folder(tmp_path) as folder:
        assert folder.is_dir()
        assert folder not in lost
    assert not lost[0].exists()


def test_large_files_are_not_written_again(old):
    (old / "model/1/model.onnx").write_bytes(bytes(1 << 20))
    inode = (old / "model/1/model.onnx").stat().st_ino
    with replaced(old) as copy:
        assert (copy / "model/1/model.onnx").stat().st_ino == inode
        assert (copy / "manifest.json").stat().st_ino != (old / "manifest.json").stat().st_ino


def test_an_output_that_can_not_be_is_said_in_one_sentence(old, capsys):
    with pytest.raises(ExportError, match=r"manifest\.json is a file; name a folder"):
        check_output(old / "manifest.json")
    for below in ("x", "x/y"):
        with pytest.raises(ExportError, match=r"manifest\.json is a file; name a folder"):
            check_output(old / "manifest.json" / below)
    with pytest.raises(ExportError, match="is a mount point"):
        check_output(Path("/proc"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_export_ends_with_one_line(forks, number):
    """In a process of its own: a signal that came late would end the tests' process."""
    script = f"""
import os, signal
from clipsr_export import cli
from clipsr_export._commands import clip
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
clip.load_clip = lambda _: os.kill(os.getpid(), {int(number)})
handler = signal.getsignal(signal.SIGTERM)
code = cli.main([])
assert signal.getsignal(signal.SIGTERM) == handler
raise SystemExit(code)
"""
    ended = forks.run(script)
    assert (ended.returncode, ended.stderr) == (130, "clipsr-export: interrupted; nothing was changed\n")


def test_a_service_on_the_repository_is_named(old, tmp_path, monkeypatch, capsys):
    state = fill(tmp_path / "state" / "clipsr" / "default", {"lock": ""})
    (state / "state.json").write_text(json.dumps({"pid": 42, "repository": str(old)}))
    environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert find_service(old, environment) is None, "its process is gone"
    with (state / "lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = find_service(old, environment)
        assert message is not None
        assert message.startswith(f"clipsr-serve runs on {old} (pid 42, --name default)")
        assert find_service(tmp_path / "another", environment) is None
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        assert main(["int8", "--repository", str(old), "--calibration", "nowhere"]) == 1
        assert "WARNING: clipsr-serve runs on" in capsys.readouterr().err
    assert find_service(old, {"HOME": str(tmp_path)}) is None
