"""clipsr-serve: options, failures in one sentence, processes that start and stop in order.

Triton, the gateway and the client are small programs of this file, started by the real launcher as real processes.
tests/integration starts the real ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipsr_serving.errors import LaunchError
from clipsr_serving.images import read_image
from clipsr_serving.launcher import _options, make_parser
from clipsr_serving.launcher._options import Endpoint, Ports, UpOptions, claim_ports, parse_endpoint
from clipsr_serving.launcher._reasons import explain_gateway_log, explain_triton_log
from clipsr_serving.launcher._state import Child, State, StateDir, find_state_dir, read_start_ticks
from clipsr_serving.launcher._triton.command import build_backend_directory, find_libpython, make_triton_command
from clipsr_serving.launcher._triton.probe import make_canary_body
from clipsr_serving.launcher._triton.repository import check_repository

FAKE_TRITON = '''
import http.server, json, os, signal, sys, time
flags = dict(flag.split("=", 1) for flag in sys.argv[1:] if "=" in flag)
journal = os.environ["FAKE_JOURNAL"]
orders = journal + ".triton"  # what the test orders after the start
mode = open(orders).read() if os.path.exists(orders) else os.environ.get("FAKE_TRITON", "")
def note(word):
    with open(journal, "a") as file:
        file.write(word + "\\n")
if mode == "dies":
    reason = "Internal: ModelLoadError: model 'upscale': no file\\\\n\\\\nAt:\\\\n"
    print(f"""E1 "failed to load 'upscale' version 1: {reason}" """)
    sys.exit(1)
if mode == "crashes" or (mode == "crashes once" and not os.path.exists(journal + ".crashed")):
    open(journal + ".crashed", "w").close()
    note("triton starts")
    print("terminate called after throwing an instance of 'lock_exception'", flush=True)
    os.abort()
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, document):
        self.send_response(503 if mode == "hangs" else 200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())
    def do_GET(self):
        self.answer({})
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header = json.loads(body[: int(self.headers["Inference-Header-Content-Length"])])
        assert len(body) > len(str(header)) // 2
        note(self.path)
        values = [1.5, 0.5] if mode == "nonsense" else [0.5, 0.5]
        self.answer({"outputs": [{"name": "probability", "data": values}]})
    def log_message(self, *arguments):
        pass
def stop(number, frame):
    if mode != "ignores TERM":
        note("triton stops")
        os._exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda number, frame: note("triton got SIGINT"))
note("triton starts")
note("flags " + " ".join(sys.argv[1:]))
if "FAKE_STUB" in os.environ:
    import subprocess
    # A shell under the stub's name, which waits until its parent is gone.
    command = ["/backends/python/triton_python_backend_stub", "-c", "read line", "similarity_0_0"]
    child = subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE)
    note(f"stub {child.pid}")
http.server.ThreadingHTTPServer(("127.0.0.1", int(flags["--http-port"])), Handler).serve_forever()
'''

# It takes connections and says nothing over them: whether it serves is asked by the client below.
FAKE_GATEWAY = """
import json, os, signal, socket, sys, time
journal = os.environ["FAKE_JOURNAL"]
def note(word):
    with open(journal, "a") as file:
        file.write(word + "\\n")
def stop(number, frame):
    note("gateway stops")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
note("gateway starts " + " ".join(sys.argv[1:]))
if os.environ.get("FAKE_GATEWAY") == "dies":
    sys.exit("clipsr-gateway: no manifest")
host, _, port = sys.argv[sys.argv.index("--listen") + 1].rpartition(":")
server = socket.create_server((host, int(port)))
for status in ("NOT_SERVING", "SERVING"):
    print(json.dumps({"event": "health", "status": status}), file=sys.stderr, flush=True)
while True:
    time.sleep(0.1)
"""

# Serving as soon as the gateway has started; what it is asked goes to the journal.
FAKE_CLIENT = """
import os, sys
text = open(os.environ["FAKE_JOURNAL"]).read()
with open(os.environ["FAKE_JOURNAL"], "a") as file:
    file.write("client " + " ".join(sys.argv[1:]) + "\\n")
sys.exit(0 if "gateway starts" in text else 3)
"""


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that shares this one's packages, with the three programs in its bin."""
    home = tmp_path / "environment"
    (home / "bin").mkdir(parents=True)
    prefix = Path(sys.prefix)
    shutil.copy(prefix / "pyvenv.cfg", home / "pyvenv.cfg")
    (home / "lib").symlink_to(prefix / "lib")
    (home / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    programs = {"tritonserver": FAKE_TRITON, "clipsr-gateway": FAKE_GATEWAY, "clipsr-client": FAKE_CLIENT}
    for name, source in programs.items():
        program = home / "bin" / name
        program.write_text(f"#!{home}/bin/python\n{source}", encoding="utf-8")
        program.chmod(0o755)
    return home


class Serve:
    """Runs clipsr-serve on the three programs."""

    def __init__(self, environment, folder, repository):
        self.state_dir, self.journal = StateDir(folder / "state"), folder / "journal"
        self.journal.touch()
        self.variables: dict[str, str] = {}
        self._bin, self._repository = environment / "bin", repository

    def command(self, verb, *flags):
        return [str(self._bin / "python"), "-m", "clipsr_serving.launcher", verb, *flags]

    def up_flags(self):
        ports = [flag for name in ("http", "grpc", "metrics") for flag in (f"--triton-{name}-port", "0")]
        triton = ["--triton", "path", "--triton-path", str(self._bin / "tritonserver")]
        return [*triton, *ports, "--listen", "127.0.0.1:0", "--repository", str(self._repository), "--timeout", "60"]

    def options(self):
        # Coverage and warnings of the outer run are none of the children's business.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        return {"env": inherited | {"FAKE_JOURNAL": str(self.journal)} | self.variables, "text": True}

    def run(self, verb, *flags):
        flags = [*self.up_flags(), *flags] if verb == "up" else flags
        command = self.command(verb, "--state-dir", str(self.state_dir.path), *flags)
        return subprocess.run(command, capture_output=True, timeout=120, **self.options())

    def start(self, *flags):
        command = self.command("up", "--state-dir", str(self.state_dir.path), *self.up_flags(), *flags)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, **self.options())
        wait_for(lambda: (self.state_dir.read() or process).__dict__.get("phase") == "ready", process)
        return process

    def _lines(self):
        return self.journal.read_text(encoding="utf-8").splitlines()

    def noted(self):
        return [line for line in self._lines() if not line.startswith("flags ")]

    def triton_flags(self):
        return next(line for line in self._lines() if line.startswith("flags ")).split()[1:]

    def stub_pids(self):
        return [int(line.split()[1]) for line in self.noted() if line.startswith("stub ")]

    def order(self, mode):
        """What the next Triton does, as FAKE_TRITON."""
        Path(f"{self.journal}.triton").write_text(mode, encoding="utf-8")

    def wait_for_restart(self, process, restarts):
        def is_back():
            state = self.state_dir.read()
            return state is not None and state.phase == "ready" and state.restarts == restarts

        wait_for(is_back, process)
        return self.state_dir.read()


@pytest.fixture
def serve(environment, tmp_path, repository):
    """Stops at the end whatever still runs."""
    service = Serve(environment, tmp_path, repository)
    yield service
    down = service.run("down")
    assert down.returncode == 0, down.stderr


def wait_for(condition, process=None, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        if process is not None:
            assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


class TestLife:
    def test_detached_from_up_to_down(self, serve):
        up = serve.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        status = json.loads(serve.run("status", "--json").stdout)
        assert status["running"]
        assert status["phase"] == "ready"
        assert [child["name"] for child in status["children"]] == ["triton", "gateway"]
        assert status["url"] in up.stdout

        again = serve.run("up", "--detach")
        assert again.returncode == 1
        assert "already running" in again.stderr
        assert "clipsr-serve down" in again.stderr

        assert "triton | " not in serve.run("logs", "gateway").stdout
        assert "ready after" in serve.run("logs").stdout
        down = serve.run("down")
        assert (down.returncode, "stopped" in down.stdout) == (0, True)
        starts = [line.split()[:2] for line in serve.noted() if line.startswith(("triton", "gateway"))]
        assert starts == [["triton", "starts"], ["gateway", "starts"], ["gateway", "stops"], ["triton", "stops"]]
        after = serve.run("status")
        assert (after.returncode, "not running" in after.stdout) == (3, True)
        assert "nothing is running" in serve.run("down").stdout

    def test_the_gateway_is_told_where_everything_is(self, serve, repository):
        serve.run("up", "--detach")
        state = serve.state_dir.read()
        (line,) = [line for line in serve.noted() if line.startswith("gateway starts")]
        assert line.split()[2:] == [
            *("--listen", state.url, "--triton", state.triton["grpc"], "--repository", str(repository)),
            *("--library-uri", str(serve.state_dir.path / "libraries")),
        ]
        assert f"client health --url {state.url} --timeout 5" in serve.noted()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_stops_the_gateway_first(self, serve, number):
        process = serve.start()
        process.send_signal(number)
        assert process.wait(60) == 0
        assert [line for line in serve.noted() if line.endswith(" stops")] == ["gateway stops", "triton stops"]
        process.stderr.close()

    def test_a_signal_during_start_stops_too(self, serve):
        serve.variables["FAKE_TRITON"] = "hangs"
        command = serve.command("up", "--state-dir", str(serve.state_dir.path), *serve.up_flags())
        process = subprocess.Popen(command, stderr=subprocess.PIPE, **serve.options())
        wait_for(lambda: "triton starts" in serve.noted(), process)
        process.terminate()
        assert process.wait(60) == 0
        assert serve.noted() == ["triton starts", "triton stops"]
        process.stderr.close()

    def test_a_profile_that_nothing_has_ends_the_start(self, serve):
        up = serve.run("up", "--detach", "--profile", "nope")
        assert (up.returncode, serve.noted()) == (1, [])
        assert "There is no profile 'nope'" in up.stderr

    def test_a_profile_of_the_embedded_triton_ends_the_start_elsewhere(self, serve):
        up = serve.run("up", "--detach", "--profile", "cpu")
        assert (up.returncode, serve.noted()) == (1, [])
        assert "needs the embedded Triton" in up.stderr

    def test_without_a_gateway_the_canary_decides(self, serve):
        up = serve.run("up", "--detach", "--no-gateway")
        assert up.returncode == 0, up.stderr
        assert [line for line in serve.noted() if line.startswith("/")] == [
            "/v2/models/classify/infer",
            "/v2/models/classify_native/infer",
        ]

    def test_a_killed_supervisor_leaves_what_down_cleans_up(self, serve):
        process = serve.start()
        state = serve.state_dir.read()
        process.kill()
        process.wait()
        process.stderr.close()
        assert all(child.is_alive for child in state.children)
        up = serve.run("up", "--detach")
        assert up.returncode == 1
        assert "was killed still run" in up.stderr
        assert "not running" in serve.run("status").stdout
        down = serve.run("down")
        assert (down.returncode, "cleaned up gateway" in down.stdout) == (0, True)
        assert not any(child.is_alive for child in state.children)

    def test_a_stale_state_file_is_no_obstacle(self, serve):
        serve.state_dir.path.mkdir()
        gone = Child(name="triton", pid=os.getpid(), start_ticks=1)
        state = dict(phase="ready", url=None, triton={}, triton_kind="path", profile=None, repository="")
        serve.state_dir.write(State(pid=1, children=(gone,), **state))
        assert serve.run("up", "--detach").returncode == 0


class TestRestart:
    """A process that ends later is started again, on the same ports, while the other one goes on."""

    @pytest.mark.parametrize("name", ["triton", "gateway"])
    def test_the_one_that_is_killed_comes_back(self, serve, name):
        process = serve.start()
        before = serve.state_dir.read()
        (killed,) = [child for child in before.children if child.name == name]
        os.kill(killed.pid, signal.SIGKILL)
        after = serve.wait_for_restart(process, {"triton": 0, "gateway": 0} | {name: 1})
        assert (after.url, after.triton) == (before.url, before.triton)
        kept = [child for child in before.children if child.name != name]
        assert [child for child in after.children if child.name != name] == kept
        assert serve.run("status", "--ready").returncode == 0
        assert f"restarts: {name} 1" in serve.run("status").stdout
        process.terminate()
        assert process.wait(60) == 0
        said = process.stderr.read()
        assert f"{name} was killed by SIGKILL (by somebody, or by the kernel for lack of memory); restart 1 in" in said
        assert "ready again after" in said
        process.stderr.close()

    def test_triton_is_replaced_when_it_loses_a_model_process(self, serve):
        serve.variables["FAKE_STUB"] = "1"
        process = serve.start()
        triton = serve.state_dir.read().children[0]
        time.sleep(2.5)
        assert triton.is_alive, "a living model process is no reason to restart"
        os.kill(serve.stub_pids()[0], signal.SIGKILL)
        serve.wait_for_restart(process, {"triton": 1, "gateway": 0})
        process.terminate()
        assert process.wait(60) == 0
        assert "triton lost its model process similarity_0_0" in process.stderr.read()
        process.stderr.close()

    def test_a_killed_triton_leaves_no_model_process_and_no_shared_memory(self, serve):
        serve.variables["FAKE_STUB"] = "1"
        process = serve.start()
        (flag,) = [word for word in serve.triton_flags() if "shm-region-prefix-name" in word]
        leftover = Path("/dev/shm") / f"{flag.rpartition('=')[2]}left"
        leftover.touch()
        (orphan,) = serve.stub_pids()
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        serve.wait_for_restart(process, {"triton": 1, "gateway": 0})
        assert read_start_ticks(orphan) is None
        assert not leftover.exists()
        process.terminate()
        assert process.wait(60) == 0
        assert [read_start_ticks(pid) for pid in serve.stub_pids()] == [None, None]
        process.stderr.close()

    def test_status_follows_and_waits_grow_until_it_works(self, serve):
        process = serve.start()
        serve.order("dies")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        wait_for(lambda: serve.state_dir.read().restarts["triton"] >= 2, process)
        state = serve.state_dir.read()
        assert state.phase == "restarting"
        assert "gateway" in [child.name for child in state.children]
        assert serve.run("status", "--ready").returncode == 3
        assert serve.run("status").returncode == 0
        serve.order("")
        wait_for(lambda: serve.state_dir.read().phase == "ready", process)
        process.terminate()
        assert process.wait(60) == 0
        waits = re.findall(r"restart \d+ in ([\d.]+) s", process.stderr.read())
        assert waits[:2] == ["0.5", "1"]
        process.stderr.close()

    @pytest.mark.parametrize("moment", ["waiting", "starting"])
    def test_a_signal_during_a_restart_stops_everything(self, serve, moment):
        process = serve.start()
        serve.order("hangs" if moment == "starting" else "dies")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        # Hanging: the second Triton runs and never answers. Dying: it waits for a second before the third.
        if moment == "starting":
            wait_for(lambda: serve.noted().count("triton starts") == 2, process)
        else:
            wait_for(lambda: serve.state_dir.read().restarts["triton"] == 2, process)
        began = time.monotonic()
        process.terminate()
        assert process.wait(60) == 0
        assert time.monotonic() - began < 20  # a loaded machine; far less than the patience with a hanging process
        assert "gateway stops" in serve.noted()
        assert serve.run("status").returncode == 3
        process.stderr.close()

    def test_options_after_the_dashes_go_to_the_gateway(self, serve):
        up = serve.run("up", "--detach", "--", "--max-concurrent", "7")
        assert up.returncode == 0, up.stderr
        (line,) = [line for line in serve.noted() if line.startswith("gateway starts")]
        assert line.split()[-2:] == ["--max-concurrent", "7"]

    def test_a_gateway_with_tls_is_believed_by_its_log(self, serve):
        up = serve.run("up", "--detach", "--", "--tls-cert", "c.pem", "--tls-key", "k.pem")
        assert up.returncode == 0, up.stderr
        assert not [line for line in serve.noted() if line.startswith("client")]

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--", "--listen", "127.0.0.1:1"], "--listen of the gateway is set by clipsr-serve"),
            (["--", "--repository=x"], "--repository of the gateway is set by clipsr-serve"),
            (["--", "--tls-cert", "c.pem", "--log-level=error"], "use --log-level info or debug"),
            (["--no-gateway", "--", "--grace", "1"], "--no-gateway leaves nobody for the options"),
        ],
    )
    def test_contradictions_are_refused(self, serve, flags, message):
        up = serve.run("up", *flags)
        assert (up.returncode, message in up.stderr) == (1, True)


class TestFailure:
    @pytest.mark.parametrize("detach", [[], ["--detach"]])
    def test_triton_dies_at_start(self, serve, detach):
        serve.variables["FAKE_TRITON"] = "dies"
        up = serve.run("up", *detach)
        assert up.returncode == 1
        assert "triton ended with code 1: model 'upscale': no file. The whole log is" in up.stderr
        assert len(up.stderr.splitlines()) <= 3

    def test_a_crash_at_start_is_forgiven_once(self, serve):
        serve.variables["FAKE_TRITON"] = "crashes once"
        up = serve.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        log = serve.state_dir.log("serve").read_text(encoding="utf-8")
        assert "triton was ended by SIGABRT: terminate called" in log
        assert "; starting it once more" in log

    def test_a_second_crash_at_start_ends_it(self, serve):
        serve.variables["FAKE_TRITON"] = "crashes"
        up = serve.run("up")
        assert up.returncode == 1
        assert "triton was ended by SIGABRT: terminate called" in up.stderr.splitlines()[-1]
        assert serve.noted() == ["triton starts", "triton starts"]

    def test_the_gateway_dies_at_start(self, serve):
        serve.variables["FAKE_GATEWAY"] = "dies"
        up = serve.run("up")
        assert up.returncode == 1
        assert "gateway ended with code 1: clipsr-gateway: no manifest" in up.stderr
        assert serve.noted()[-1] == "triton stops"

    def test_without_restarts_the_first_death_ends_it(self, serve):
        process = serve.start("--max-restarts", "0")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        assert process.wait(60) == 1
        said = process.stderr.read()
        assert "triton was killed by SIGKILL" in said
        assert "not started again after 0 restarts" in said
        assert serve.noted()[-1] == "gateway stops"
        process.stderr.close()

    def test_it_gives_up_after_as_many_restarts_as_allowed(self, serve):
        process = serve.start("--max-restarts", "1")
        serve.order("dies")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        assert process.wait(60) == 1
        said = process.stderr.read().splitlines()
        assert "triton was killed by SIGKILL" in said[2]
        assert "restart 1 in 0.5 s" in said[2]
        assert "model 'upscale': no file. It is not started again after 1 restarts in a row" in said[-1]
        process.stderr.close()

    def test_it_never_becomes_ready(self, serve):
        serve.variables["FAKE_TRITON"] = "hangs"
        up = serve.run("up", "--timeout", "1")
        assert up.returncode == 1
        assert "Triton is not ready after 1 s" in up.stderr
        assert "--timeout" in up.stderr

    def test_the_canary_answers_nonsense(self, serve):
        serve.variables["FAKE_TRITON"] = "nonsense"
        up = serve.run("up", "--no-gateway")
        assert up.returncode == 1
        assert "classify answers" in up.stderr

    def test_a_program_is_not_installed(self, serve, environment):
        (environment / "bin" / "clipsr-gateway").unlink()
        serve.variables["PATH"] = "/usr/bin:/bin"
        up = serve.run("up")
        assert up.returncode == 1
        assert "clipsr-gateway is not installed; run `pip install clipsr-gateway`" in up.stderr
        assert serve.noted() == []

    def test_a_port_is_taken(self, serve):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            up = serve.run("up", "--triton-http-port", str(port))
        assert up.returncode == 1
        assert re.search(
            rf"Port {port} of 127\.0\.0\.1 cannot be used .*choose another with --triton-http-port", up.stderr
        )

    @pytest.mark.parametrize(
        "flags",
        [
            ["--listen", "localhost"],
            ["--listen", "a:99999"],
            ["--triton-http-port", "x"],
            ["--timeout", "-1"],
            ["--max-restarts", "-1"],
        ],
    )
    def test_wrong_usage_is_exit_code_2(self, serve, flags):
        assert serve.run("up", *flags).returncode == 2

    def test_only_up_takes_options_of_the_gateway(self, serve):
        assert serve.run("status", "--", "--grace", "1").returncode == 2

    def test_logs_of_nothing(self, serve):
        logs = serve.run("logs")
        assert (logs.returncode, "There are no logs" in logs.stderr) == (1, True)


def up_options(repository, **changes):
    values = dict(
        repository=repository,
        listen=Endpoint(host="127.0.0.1", port=0),
        triton="auto",
        triton_path=None,
        triton_address="127.0.0.1",
        triton_http_port=0,
        triton_grpc_port=0,
        triton_metrics_port=0,
        profile=None,
        has_gateway=True,
        timeout_s=1,
        verbose=False,
    )
    return UpOptions(**values | changes)


PORTS = Ports(gateway=1, triton_http=2, triton_grpc=3, triton_metrics=4)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A folder that looks like nvidia-pytriton's, found as the installed one."""
    package = tmp_path / "site-packages" / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        f"python_backend_stubs/{version}/triton_python_backend_stub",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name, encoding="utf-8")
    monkeypatch.setattr("clipsr_serving.launcher._triton.command._find_package", lambda: package)
    return package


class TestTritonCommand:
    @pytest.fixture(autouse=True)
    def empty_path(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        (tmp_path / "bin").mkdir()

    def put_on_path(self, tmp_path, name):
        program = tmp_path / "bin" / name
        program.touch()
        program.chmod(0o755)
        return program

    def make(self, repository, tmp_path, **changes):
        return make_triton_command(up_options(repository, **changes), ports=PORTS, state_dir=tmp_path / "state")

    def test_auto_prefers_path_then_embedded_then_docker(self, repository, tmp_path, wheel, monkeypatch):
        assert self.make(repository, tmp_path).kind == "embedded"
        self.put_on_path(tmp_path, "docker")
        assert self.make(repository, tmp_path).kind == "embedded"
        server = self.put_on_path(tmp_path, "tritonserver")
        assert self.make(repository, tmp_path).argv[0] == str(server)
        server.unlink()
        monkeypatch.setattr("clipsr_serving.launcher._triton.command._find_package", lambda: None)
        command = self.make(repository, tmp_path)
        assert command.kind == "docker"
        assert f"--volume={repository}:/models:ro" in command.argv

    def test_everything_listens_on_loopback(self, repository, tmp_path, wheel):
        argv = self.make(repository, tmp_path).argv
        for name, port in (("http", 2), ("grpc", 3), ("metrics", 4)):
            assert f"--{name}-address=127.0.0.1" in argv
            assert f"--{name}-port={port}" in argv

    def test_the_metrics_alone_may_listen_elsewhere(self, repository, tmp_path, wheel):
        argv = self.make(repository, tmp_path, triton_metrics_address="0.0.0.0").argv
        assert {"--metrics-address=0.0.0.0", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"} <= set(argv)

    @pytest.mark.parametrize("flag", ["grpc-restricted-protocol", "http-restricted-api"])
    def test_control_protocols_are_closed_with_a_key_of_this_start(self, repository, tmp_path, wheel, flag):
        values = []
        for _ in range(2):
            argv = self.make(repository, tmp_path).argv
            (value,) = [word.partition("=")[2] for word in argv if word.startswith(f"--{flag}=")]
            protocols, _, key = value.partition(":")
            assert set(protocols.split(",")) == {"model-repository", "shared-memory", "trace", "logging"}
            values.append(key)
        assert values[0] != values[1]
        assert all(re.fullmatch(r"clipsr-key=[\w-]{40,}", value) for value in values)

    def test_more_options_of_triton_come_last(self, repository, tmp_path, wheel):
        argv = self.make(repository, tmp_path, triton_options=("--log-verbose=1",)).argv
        assert argv.index("--log-verbose=1") > argv.index("--http-port=2")

    def test_a_container_is_removed_by_its_name(self, repository, tmp_path):
        self.put_on_path(tmp_path, "docker")
        command = self.make(repository, tmp_path, triton="docker")
        (name,) = [word.partition("=")[2] for word in command.argv if word.startswith("--name=")]
        assert command.clean == ("docker", "rm", "--force", name)

    @pytest.mark.parametrize(("profile", "has_gpus"), [("gpu-onnx", True), ("cpu", False), (None, False)])
    def test_a_container_gets_the_gpus_that_its_profile_needs(self, repository, tmp_path, profile, has_gpus):
        self.put_on_path(tmp_path, "docker")
        command = self.make(repository, tmp_path, triton="docker", profile=profile)
        assert ("--gpus=all" in command.argv) == has_gpus

    def test_a_profile_becomes_the_config_name(self, repository, tmp_path, wheel):
        assert "--model-config-name=cpu" in self.make(repository, tmp_path, profile="cpu").argv
        assert not any("model-config-name" in flag for flag in self.make(repository, tmp_path).argv)

    @pytest.mark.parametrize("kind", ["path", "docker"])
    @pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (16, 8)])
    def test_nvidias_onnxruntime_gets_one_pool_of_what_is_allowed(
        self, repository, tmp_path, monkeypatch, kind, cores, threads
    ):
        monkeypatch.setattr("clipsr_serving.launcher._triton.command.count_cores", lambda: cores)
        for name in ("tritonserver", "docker"):
            self.put_on_path(tmp_path, name)
        argv = self.make(repository, tmp_path, triton=kind).argv
        flags = [word.removeprefix("--backend-config=onnxruntime,") for word in argv if "=onnxruntime," in word]
        assert flags == ["enable-global-threadpool=1", f"intra_op_thread_count={threads}", "inter_op_thread_count=1"]

    def test_threads_of_the_users_own_replace_the_pool(self, repository, tmp_path):
        self.put_on_path(tmp_path, "tritonserver")
        own = "--backend-config=onnxruntime,intra_op_thread_count=3"
        argv = self.make(repository, tmp_path, triton="path", triton_options=(own,)).argv
        assert [word for word in argv if "=onnxruntime," in word] == [own]

    def test_our_own_backends_share_cores_by_themselves(self, repository, tmp_path, wheel):
        assert not any("=onnxruntime," in word for word in self.make(repository, tmp_path).argv)

    def test_the_embedded_environment_finds_libraries_and_packages(self, repository, tmp_path, wheel, monkeypatch):
        monkeypatch.setenv("PYTHONHOME", "/elsewhere")
        environment = self.make(repository, tmp_path).environment
        libraries = environment["LD_LIBRARY_PATH"].split(":")
        assert libraries[0] == str(wheel.parents[1] / "nvidia_pytriton.libs")
        assert (Path(libraries[1]) / find_libpython().name).is_file()
        assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
        assert "PYTHONHOME" not in environment

    @pytest.mark.parametrize("kind", ["embedded", "path", "docker"])
    def test_numpy_multiplies_in_one_thread_unless_told_otherwise(self, repository, tmp_path, wheel, monkeypatch, kind):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        for name in ("tritonserver", "docker"):
            self.put_on_path(tmp_path, name)
        command = self.make(repository, tmp_path, triton=kind)
        if kind == "docker":
            assert "--env=OPENBLAS_NUM_THREADS=1" in command.argv
            return
        assert command.environment["OPENBLAS_NUM_THREADS"] == "1"
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
        assert self.make(repository, tmp_path, triton=kind).environment["OPENBLAS_NUM_THREADS"] == "2"

    def test_the_backend_directory_holds_copies_of_all_three(self, wheel, tmp_path):
        (tmp_path / "backends" / "stale").mkdir(parents=True)
        target = build_backend_directory(wheel, tmp_path / "backends")
        files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        assert files == {
            "python/libtriton_python.so",
            "python/triton_python_backend_utils.py",
            "python/triton_python_backend_stub",
            "onnxruntime/model.py",
            "openvino/model.py",
        }
        assert not any(path.is_symlink() for path in target.rglob("*"))

    def test_a_python_without_a_stub(self, wheel, tmp_path):
        stubs = wheel / "python_backend_stubs"
        next(stubs.iterdir()).rename(stubs / "2.7")
        with pytest.raises(LaunchError, match=r"no stub for Python .*, only for 2\.7"):
            build_backend_directory(wheel, tmp_path / "backends")

    def test_a_python_without_libpython(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "is_file", lambda path: False)
        with pytest.raises(LaunchError, match=r"needs libpython3\.\d+\.so\.1\.0, .*apt-get install libpython3"):
            find_libpython({"LIBDIR": str(tmp_path)})

    @pytest.mark.parametrize(
        ("triton", "message"),
        [
            ("path", "There is no tritonserver at PATH"),
            ("embedded", r"run `pip install 'clipsr-serving\[triton\]'`"),
            ("docker", "nor Docker"),
            ("auto", "nor Docker"),
        ],
    )
    def test_what_is_missing_is_named_with_the_cure(self, repository, tmp_path, monkeypatch, triton, message):
        monkeypatch.setattr("clipsr_serving.launcher._triton.command._find_package", lambda: None)
        with pytest.raises(LaunchError, match=message):
            self.make(repository, tmp_path, triton=triton)


class TestRepositoryCheck:
    def test_a_whole_one_passes(self, repository):
        check_repository(repository)

    def test_no_folder(self, tmp_path):
        with pytest.raises(LaunchError, match="There is no model repository at"):
            check_repository(tmp_path)

    @pytest.mark.parametrize("name", ["manifest.json", "upscale/1/model.onnx", "text_encoder/tokenizer.json"])
    def test_a_missing_artifact(self, make_model_repository, tmp_path, name):
        (make_model_repository(tmp_path) / name).unlink()
        with pytest.raises(LaunchError, match=rf"{name} is missing; run `make export`"):
            check_repository(tmp_path)

    def test_a_folder_that_is_no_model(self, make_model_repository, tmp_path):
        (make_model_repository(tmp_path) / ".export-1").mkdir()
        with pytest.raises(LaunchError, match=r"\.export-1 is not a model; if an export is running, wait"):
            check_repository(tmp_path)

    def test_an_artifact_of_another_export(self, make_model_repository, tmp_path):
        model = make_model_repository(tmp_path) / "upscale" / "1" / "model.onnx"
        model.write_bytes(model.read_bytes() + b"x")
        with pytest.raises(LaunchError, match=r"manifest\.json says .*make export"):
            check_repository(tmp_path)


class TestReasons:
    def test_the_first_model_that_failed(self):
        log = (
            'I1 "loading"\n'
            "E1 \"failed to load 'decode' version 1: Internal: ArtifactError: /m/manifest.json is missing"
            '\\n\\nAt:\\n  x"\n'
            "E1 \"failed to load 'upscale' version 1: Not found: no backend\"\n"
        )
        assert explain_triton_log(log) == "model 'decode': /m/manifest.json is missing (and 1 more)"

    @pytest.mark.parametrize(
        "line",
        [
            "tritonserver: error while loading shared libraries: libfoo.so: cannot open shared object file",
            "Socket '127.0.0.1:8000' already in use",
            "docker: Cannot connect to the Docker daemon.",
            "Poll failed for model directory '.export-1': failed to open text file",
        ],
    )
    def test_other_fatal_lines(self, line):
        assert explain_triton_log(f"I1 fine\n{line}\nI1 closing") in line

    def test_the_last_line_otherwise(self):
        assert explain_triton_log("one\ntwo\n\n") == "two"
        assert explain_gateway_log("Traceback\nValueError: no\n") == "ValueError: no"
        assert explain_gateway_log("") == "it wrote nothing to its log"
        assert len(explain_gateway_log("x" * 5000)) < 600


class TestOptions:
    @pytest.mark.parametrize(("text", "host", "port"), [("a:1", "a", 1), ("[::1]:50051", "::1", 50051)])
    def test_endpoints(self, text, host, port):
        assert parse_endpoint(text) == Endpoint(host=host, port=port)
        assert str(parse_endpoint(text)) == text

    @pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:-1", "host:65536", "host:x"])
    def test_what_is_no_endpoint(self, text):
        with pytest.raises(ValueError, match="is not HOST:PORT"):
            parse_endpoint(text)

    def test_free_ports_are_picked_and_differ(self, repository):
        ports = claim_ports(up_options(repository))
        numbers = [ports.gateway, ports.triton_http, ports.triton_grpc, ports.triton_metrics]
        assert len({*numbers}) == 4
        assert all(10_000 <= number < 30_000 for number in numbers)

    def test_where_all_that_would_be_picked_are_taken_the_system_chooses(self, repository, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            monkeypatch.setattr(_options, "_PICKED_PORTS", [taken.getsockname()[1]] * 20)
            ports = claim_ports(up_options(repository))
            assert taken.getsockname()[1] not in (ports.gateway, ports.triton_http, ports.triton_grpc)

    def test_a_host_that_is_not_here(self, repository):
        with pytest.raises(LaunchError, match=r"Port 0 of 192\.0\.2\.1 cannot be used .*--listen HOST:PORT"):
            claim_ports(up_options(repository, listen=Endpoint(host="192.0.2.1", port=0)))

    def test_one_port_twice(self, repository):
        port = claim_ports(up_options(repository)).triton_http
        with pytest.raises(LaunchError, match="--triton-grpc-port"):
            claim_ports(up_options(repository, triton_http_port=port, triton_grpc_port=port))

    def test_the_state_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/someone")
        assert find_state_dir(None, name="x", environment={}) == Path("/home/someone/.local/state/clipsr/x")
        assert find_state_dir(None, name="x", environment={"XDG_STATE_HOME": "/s"}) == Path("/s/clipsr/x")
        assert find_state_dir(tmp_path, name="x", environment={"XDG_STATE_HOME": "/s"}) == tmp_path

    def test_start_times_tell_processes_apart(self):
        assert read_start_ticks(os.getpid()) == read_start_ticks(os.getpid())
        assert read_start_ticks(2**22 + 1) is None

    def test_the_verbs(self):
        text = make_parser().format_help()
        assert all(verb in text for verb in ("up", "down", "status", "logs"))


def test_the_canary_is_a_request_that_triton_understands():
    body, header_length = make_canary_body()
    header = json.loads(body[:header_length])
    image = header["inputs"][0]
    assert image["parameters"]["binary_data_size"] == len(body) - header_length
    assert read_image(body[header_length + 4 :]).size == (32, 32)
    assert int.from_bytes(body[header_length : header_length + 4], "little") == len(body) - header_length - 4
    assert [entry["name"] for entry in header["inputs"]] == ["image", "fit", "labels", "templates"]


def test_the_launcher_needs_no_library():
    # `status` in a shell loop should not wait for numpy; and a broken wheel should not stop `down`.
    code = "import sys, clipsr_serving.launcher; print({*'numpy PIL tokenizers pydantic'.split()} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
