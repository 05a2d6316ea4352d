"""Scripts that run in forks of one process, which has imported already what takes seconds to import.

A script finds what `python -c` finds and may patch modules, get signals and die: the next one starts from the imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A child ends without the interpreter's own cleaning up, which takes as long as the imports did.
_SERVER = """
import gc, importlib, json, os, sys, traceback
for module in sys.argv[1:]:
    importlib.import_module(module)
gc.freeze()
for line in sys.stdin:
    script, arguments, folder, *files = json.loads(line)
    child = os.fork()
    if child == 0:
        for descriptor, path in enumerate((os.devnull, *files)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
os.chdir(folder)
sys.argv = ["-c", *arguments]
code = 0
try:
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
except SystemExit as ended:
    code = ended.code or 0
except BaseException:
    traceback.print_exc()
    code = 1
finally:
    sys.stdout.flush()
    sys.stderr.flush()
os._exit(code)
"""

TRAIN = "import sys; from clipsr_training._cli.train import main; sys.exit(main(sys.argv[1:]))"
"""`clipsr-train` as a script."""


class Forks:
    """Runs scripts one after the other."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._n = 0

    def run(self, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a script; returns its exit code, -N after signal N, and what it printed."""
        self._n += 1
        output, errors = (self._folder / f"{self._n}.{name}" for name in ("out", "err"))
        order = [script, [str(argument) for argument in arguments], str(Path.cwd()), str(output), str(errors)]
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(order), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(script, code, output.read_text("utf-8"), errors.read_text("utf-8"))


@contextmanager
def forking(folder: Path, *modules: str) -> Iterator[Forks]:
    """Start the process that imports modules, and end it.

    Args:
        folder: where what scripts print is kept.
        modules: to be imported before any script.
    """
    command = [sys.executable, "-W", "ignore", "-c", _SERVER, *modules]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        yield Forks(server, folder)
