#!/usr/bin/env python3
"""Write the client for code that waits from the one for asyncio: `_sync/` follows `_async/`, file by file.

Names are translated token by token. Texts are not: docstrings and messages say what holds for both. What differs
otherwise (channel.py, stream.py) is written twice, behind the same names. ruff tidies the result.
"""

from __future__ import annotations

import argparse
import io
import itertools
import subprocess
import sys
import tokenize
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_FILES = ("client.py", "connection.py", "library.py", "searches.py", "service.py")
_DROPPED = {"async", "await"}
_NAMES = {
    "_async": "_sync",
    "AsyncClient": "Client",
    "AsyncConnection": "Connection",
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "AsyncLibrary": "Library",
    "AsyncSearches": "Searches",
    "AsyncServiceClient": "ServiceClient",
    "TaskStream": "ThreadStream",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclosing": "closing",
}
RUFF = Path(sys.executable).with_name("ruff")  # beside this interpreter, whatever PATH says


def translate(source: str) -> str:
    """Return the code without its waiting; the line breaks are still those of the source."""
    lines = source.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token, following in reversed(list(itertools.pairwise(tokens))):
        if token.type != tokenize.NAME or token.string not in _DROPPED | _NAMES.keys():
            continue
        (row, start), end = token.start, token.end[1] if token.string in _NAMES else following.start[1]
        line = lines[row - 1]
        lines[row - 1] = line[:start] + _NAMES.get(token.string, "") + line[end:]
    return "".join(lines)


def tidy(code: str, name: str) -> str:
    """Return the code as ruff writes it: imports sorted, loops and unions without waiting written as usual."""
    config = ["--quiet", "--config", str(_ROOT / "pyproject.toml"), "--stdin-filename", name, "-"]
    for command in (["check", "--fix-only", "--select", "I,PYI016,UP028", "--unsafe-fixes"], ["format"]):
        done = subprocess.run([RUFF, *command, *config], input=code, capture_output=True, text=True, check=True)
        code = done.stdout
    return code


def main() -> int:
    """Write the files, or only say which ones differ."""
    parser = argparse.ArgumentParser(description="Write client/src/clipsr/_sync from _async.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    parser.add_argument("--package", type=Path, default=_ROOT / "client/src/clipsr", help="the folder of both")
    arguments = parser.parse_args()
    is_stale = False
    for name in _FILES:
        source, target = arguments.package / "_async" / name, arguments.package / "_sync" / name
        header = f"# Written by scripts/unasync.py from _async/{name}: change that one.\n"
        code = tidy(header + translate(source.read_text(encoding="utf-8")), name)
        if target.is_file() and target.read_text(encoding="utf-8") == code:
            continue
        is_stale = True
        print(f"_sync/{name} " + ("is not what scripts/unasync.py writes: run it." if arguments.check else "written"))
        if not arguments.check:
            target.write_text(code, encoding="utf-8")
    return 1 if arguments.check and is_stale else 0


if __name__ == "__main__":
    sys.exit(main())
