"""Files appear in full or not at all, and what is no regular file is never replaced."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clipsr._files import describe_unwritable, open_atomically, open_text_atomically, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_after(write, content) -> None:
    write(content)
    raise RuntimeError


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out.bin"
    with open_atomically(path, is_durable=True) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert names(tmp_path) == ["out.bin"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        fail_after(file.write, b"after")
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["out.bin"]


def test_a_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "out.bin"
    path.touch(mode=0o600)
    write_atomically(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    path = tmp_path / "out.csv"
    with open_text_atomically(path) as file:
        file.write("猫\udcff\r\n")
    assert path.read_bytes() == "猫\\udcff\r\n".encode()


def test_text_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), open_text_atomically(tmp_path / "out.csv") as file:
        fail_after(file.write, "half")
    assert names(tmp_path) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_a_link(tmp_path, is_there):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "out.bin", tmp_path / "link"
    if is_there:
        target.write_bytes(b"before")
    link.symlink_to("real/out.bin")
    write_atomically(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"


def test_a_pipe_is_written_through(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join()
    assert read == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "link"])
def test_standard_output_is_appended_to(tmp_path, name):
    (tmp_path / "link").symlink_to("/dev/stdout")
    out = tmp_path / "out"
    out.write_bytes(b"before ")
    script = f"from clipsr._files import *; write_atomically(Path({name!r}), b'after')"
    with out.open("ab") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True, cwd=tmp_path)
    assert out.read_bytes() == b"before after"
    assert names(tmp_path) == ["link", "out"]


def test_a_full_disk_says_so():
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at below
        write_atomically(Path("/dev/full"), b"content")
    assert caught.value.errno == errno.ENOSPC
    assert describe_unwritable(Path("/dev/full"), caught.value) == (
        "'/dev/full' could not be written: there is no room left; make room, or choose another disk."
    )


def make_loop(folder):
    (folder / "loop").symlink_to("loop")
    return "loop"


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda folder: "x" * 300, "its name is too long"),
        (lambda folder: "absent/out", "its folder does not exist"),
        (lambda folder: ".", "it is a folder"),
        (make_loop, "its link leads back to itself"),
        (lambda folder: "/dev/null/out", "its folder is a file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, make, cause):
    path = tmp_path / make(tmp_path)
    before = names(tmp_path)
    with pytest.raises(OSError) as caught, open_atomically(path):  # noqa: PT011 - the message is of our own
        pytest.fail("the work began")
    assert cause in describe_unwritable(path, caught.value)
    assert names(tmp_path) == before


def test_a_closed_output_says_so(tmp_path):
    script = "from clipsr._files import *; write_atomically(Path('/dev/stdout'), b'')"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert "FileNotFoundError" in done.stderr
    assert "it is closed" in describe_unwritable(Path("/dev/stdout"), FileNotFoundError(errno.ENOENT, "No such file"))


def test_an_error_of_another_kind_is_named_as_the_system_does():
    assert describe_unwritable(Path("out"), OSError(errno.EIO, "Input/output error")) == (
        "'out' could not be written: Input/output error."
    )
