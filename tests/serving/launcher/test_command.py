"""The command that starts Triton, the checks before it, and what is said where something is missing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.launcher.conftest import make_up_options as up_options
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from clipsr_serving.errors import LaunchError
from clipsr_serving.images import read_image
from clipsr_serving.launcher import _options, make_parser
from clipsr_serving.launcher._gateway import find_guard_options
from clipsr_serving.launcher._options import Endpoint, Ports, claim_ports, parse_endpoint
from clipsr_serving.launcher._reasons import explain_gateway_log, explain_triton_log
from clipsr_serving.launcher._state import find_state_dir, read_start_ticks
from clipsr_serving.launcher._supervisor.service import without_proxy
from clipsr_serving.launcher._triton.command import build_backend_directory, find_libpython, make_triton_command
from clipsr_serving.launcher._triton.probe import make_canary_inputs
from clipsr_serving.launcher._triton.repository import check_repository, require_plain_paths
from clipsr_serving.launcher._triton.wire import decode_infer_response, encode_infer_request

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


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ((), 20),
        (("--grace", "5"), 5),
        (("--shutdown-delay=4",), 24),
        (("--grace=5", "--shutdown-delay", "4"), 9),
        (("--shutdown-delay", "soon"), 20),
    ],
)
def test_the_gateway_has_the_time_to_stop_that_its_options_give_it(repository, options, seconds):
    assert up_options(repository, gateway_options=options).gateway_stop_s == seconds


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

    def test_http_is_closed_unless_asked_for(self, repository, tmp_path, wheel):
        ports = Ports(gateway=1, triton_http=None, triton_grpc=3, triton_metrics=4)
        argv = make_triton_command(up_options(repository), ports=ports, state_dir=tmp_path / "state").argv
        assert "--allow-http=false" in argv
        assert not [word for word in argv if word.startswith("--http-")]
        assert not [word for word in self.make(repository, tmp_path).argv if word.startswith("--allow-http")]

    def test_more_options_of_triton_come_last(self, repository, tmp_path, wheel):
        argv = self.make(repository, tmp_path, triton_options=("--log-verbose=1",)).argv
        assert argv.index("--log-verbose=1") > argv.index("--http-port=2")

    def test_a_container_is_removed_by_its_name(self, repository, tmp_path):
        self.put_on_path(tmp_path, "docker")
        command = self.make(repository, tmp_path, triton="docker")
        (name,) = [word.partition("=")[2] for word in command.argv if word.startswith("--name=")]
        assert command.clean == ("docker", "rm", "--force", name)
        assert "--log-driver=none" in command.argv  # Docker's own copy of triton.log would grow for ever

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

    def test_a_restart_needs_no_room_for_the_backends(self, wheel, tmp_path, monkeypatch):
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        target = tmp_path / "backends"
        with monkeypatch.context() as full:
            full.setattr(shutil, "copy2", fail)
            with pytest.raises(LaunchError, match="backends cannot be written: No space left on device"):
                build_backend_directory(wheel, target)
        build_backend_directory(wheel, target)
        with monkeypatch.context() as full:
            full.setattr(shutil, "copy2", fail)
            build_backend_directory(wheel, target)
        (wheel / "backends" / "python" / "libtriton_python.so").write_text("of another version")
        build_backend_directory(wheel, target)
        assert (target / "python" / "libtriton_python.so").read_text() == "of another version"

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
        assert explain_gateway_log('{"event": "failed", "message": "no manifest"}\n') == "no manifest"
        uncaught = {"event": "uncaught", "message": "no", "exception": "Traceback:\n  x\nValueError: no"}
        assert explain_gateway_log(f"{json.dumps(uncaught)}\n") == "ValueError: no"
        assert explain_gateway_log('["text"]') == '["text"]'
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
        assert claim_ports(up_options(repository)).triton_http is None
        ports = claim_ports(up_options(repository, triton_http_port=0))
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
        port = claim_ports(up_options(repository)).triton_grpc
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


class TestWire:
    """Messages by hand, against the stubs of tritonclient, which serving itself may not import."""

    def test_the_canary_is_a_request_that_triton_understands(self):
        request = service_pb2.ModelInferRequest.FromString(encode_infer_request("classify", make_canary_inputs()))
        assert request.model_name == "classify"
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [
            ("image", "BYTES", [1, 1]),
            ("fit", "BYTES", [1, 1]),
            ("labels", "BYTES", [1, 2]),
            ("templates", "BYTES", [1, 1]),
        ]
        values = [deserialize_bytes_tensor(raw).tolist() for raw in request.raw_input_contents]
        assert values[1:] == [[b"center_crop"], [b"canary", b"coal mine"], [b"a photo of a {}."]]
        assert read_image(values[0][0]).size == (32, 32)

    def test_an_answer_is_read(self):
        response = service_pb2.ModelInferResponse(model_name="m" * 300, model_version="1", id="x")
        for name in ("cosine", "probability"):
            response.outputs.add(name=name, datatype="FP32", shape=[1, 200])
            response.raw_output_contents.append(name.encode() * 200)
        response.parameters["key"].bool_param = True
        assert decode_infer_response(response.SerializeToString()) == {
            "cosine": b"cosine" * 200,
            "probability": b"probability" * 200,
        }

    @pytest.mark.parametrize("message", [b"\x2a", b"\x2a\x05ab", b"\x0b", b"\x80"])
    def test_what_is_no_answer_is_refused(self, message):
        with pytest.raises(ValueError, match=r"ends early|is not used"):
            decode_infer_response(message)


class TestPlainPaths:
    @pytest.mark.parametrize("path", ["/a b/models", "/a'b", "/a;b", "/a$b", "/a\nb"])
    def test_what_triton_cannot_pass_to_its_shell_is_refused(self, path):
        with pytest.raises(LaunchError, match="holds a blank or another character"):
            require_plain_paths(Path(path), Path("/state"), triton_kind="path")
        with pytest.raises(LaunchError, match=r"\(--state-dir\) holds a blank"):
            require_plain_paths(Path("/models"), Path(path), triton_kind="embedded")
        require_plain_paths(Path(path), Path(path), triton_kind="docker")

    def test_ordinary_paths_pass(self):
        require_plain_paths(Path("/srv/m_1-2.3+4/é"), Path("/home/a@b/.local"), triton_kind="embedded")


def test_no_proxy_stands_between_gateway_and_triton():
    changed = without_proxy({"no_proxy": "intranet", "http_proxy": "http://proxy:1"}, "10.0.0.7:8001")
    assert changed["no_proxy"] == "intranet,localhost,127.0.0.1,::1,10.0.0.7"
    assert changed["NO_PROXY"] == "localhost,127.0.0.1,::1,10.0.0.7"
    assert changed["http_proxy"] == "http://proxy:1"


def test_keys_and_tls_come_from_the_environment_too():
    variables = {"CLIPSR_API_KEYS": "theirs.json", "CLIPSR_TLS_CERT": "c.pem", "CLIPSR_TLS_KEY": "", "CLIPSR_KEY": "k"}
    assert find_guard_options([], variables) == ("--api-keys=theirs.json", "--tls-cert=c.pem")
    for given in (["--api-keys=mine.json"], ["--api-keys", "mine.json"]):
        assert find_guard_options(given, variables) == ("--tls-cert=c.pem",)


def test_the_launcher_needs_no_library():
    # `status` in a shell loop should not wait for numpy; and a broken wheel should not stop `down`.
    code = "import sys, clipsr_serving.launcher; print({*'numpy PIL tokenizers pydantic'.split()} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
