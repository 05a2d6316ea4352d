"""Finds a tritonserver, and makes the command and the environment that start it."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipsr_serving.cores import count_cores
from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._options import Ports, UpOptions
from clipsr_serving.launcher._triton.image_path import build_repository

_IMAGE = "clipsr/tritonserver"
_PYTHON_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
_STUB = "triton_python_backend_stub"
_OUR_BACKENDS = ("onnxruntime", "openvino")
# What changes the server or its host's files: nobody needs these while it serves, and one call would stop it (unload)
# or write a file of the caller's choice (trace, logging). Inference, health, metadata, model configuration and
# statistics stay open: the gateway and KServe clients ask for them, and they change nothing.
_CONTROL_PROTOCOLS = "model-repository,shared-memory,trace,logging"
_CLEAN_TIMEOUT_S = 30
# Time for running inferences when Triton is told to stop; the gateway has drained before that.
_EXIT_TIMEOUT_S = 10
# Numpy multiplies small matrices here (embeddings with labels' texts), and OpenBLAS's other threads go on asking for
# work for milliseconds after each product: 5 ms of processor time a call against 0.6. The engines are not concerned.
_ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class TritonCommand:
    """How to start Triton.

    Attributes:
        kind: `embedded`, `path` or `docker`.
        argv: the command.
        environment: all of its environment.
        clean: a command that removes what a killed Triton leaves running; empty if nothing.
        prepare: writes the files that it needs, before each start; raises LaunchError.
    """

    kind: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    clean: tuple[str, ...] = ()
    prepare: Callable[[], object] = lambda: None


def choose_triton(options: UpOptions) -> str:
    """Which Triton to run: `embedded`, `path` or `docker`.

    `auto` takes the one on PATH (NVIDIA's container), else the embedded one, else Docker.
    """
    if options.triton != "auto":
        return options.triton
    return "path" if options.triton_path or _find_on_path() else "embedded" if _find_package() else "docker"


def make_triton_command(options: UpOptions, *, ports: Ports, state_dir: Path) -> TritonCommand:
    """Say how to start the Triton that `choose_triton` names.

    Raises:
        LaunchError: it is not there; the text says how to get it.
    """
    kind = choose_triton(options)
    on_path = options.triton_path or _find_on_path()
    package = _find_package()
    if kind == "path":
        if on_path is None or not on_path.is_file():
            raise LaunchError(
                f"There is no tritonserver at {on_path or 'PATH'}; give --triton-path, or use --triton embedded."
            )
        return _path_command(on_path, options, ports, state_dir)
    if kind == "embedded":
        if package is None:
            raise LaunchError(
                "The embedded Triton is not installed; run `pip install 'clipsr-serving[triton]'` (Linux x86-64)."
            )
        return _embedded_command(package, options, ports, state_dir)
    if shutil.which("docker") is None:
        raise LaunchError(
            "There is neither a tritonserver on PATH, nor the embedded Triton, nor Docker; "
            "run `pip install 'clipsr-serving[triton]'` (Linux x86-64) or install Docker."
        )
    return _docker_command(options, ports, state_dir)


def _find_on_path() -> Path | None:
    found = shutil.which("tritonserver")
    return Path(found) if found else None


def _find_package() -> Path | None:
    """Return the folder of the embedded Triton, found without importing pytriton (threads, telemetry)."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "tritonserver"
    return folder if (folder / "bin" / "tritonserver").is_file() else None


def _service_digest(state_dir: Path) -> str:
    """Return a word that is different for every service on this machine."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]


def _shared_memory_prefix(state_dir: Path) -> str:
    """Prefix of Triton's files in /dev/shm."""
    return f"clipsr_{_service_digest(state_dir)}_"


def remove_leftovers(command: TritonCommand, state_dir: Path) -> None:
    """Remove what a Triton that was killed left behind; call it only when its process is gone."""
    if command.clean:
        # Its failure means that there was nothing to remove, or that the next start says what is wrong.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                command.clean, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CLEAN_TIMEOUT_S, check=False
            )
    remove_shared_memory(state_dir)


def remove_shared_memory(state_dir: Path) -> None:
    """Remove what a Triton that was killed left in /dev/shm; call it only when that Triton is gone."""
    for leftover in Path("/dev/shm").glob(f"{_shared_memory_prefix(state_dir)}*"):
        leftover.unlink(missing_ok=True)


def _server_flags(repository: str, options: UpOptions, ports: Ports) -> list[str]:
    flags = [
        f"--model-repository={repository}",
        # Our configs are complete; completion would start each Python model once more, just to ask it.
        "--disable-auto-complete-config",
        *_http_flags(options, ports),
        f"--grpc-address={options.triton_address}",
        f"--grpc-port={ports.triton_grpc}",
        f"--metrics-address={options.metrics_address}",
        f"--metrics-port={ports.triton_metrics}",
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        *_make_restrictions(has_http=ports.triton_http is not None),
    ]
    if options.profile is not None:
        flags.append(f"--model-config-name={options.profile}")
    return [*flags, *options.triton_options]


def _http_flags(options: UpOptions, ports: Ports) -> list[str]:
    """Return the flags of Triton's HTTP port, which is closed unless asked for.

    The embedded release falls over a request of very many small chunks (CVE-2025-23310, CVE-2025-23311; SECURITY.md).
    """
    if ports.triton_http is None:
        return ["--allow-http=false"]
    return [f"--http-address={options.triton_address}", f"--http-port={ports.triton_http}"]


def _make_restrictions(*, has_http: bool) -> list[str]:
    """Return flags that close Triton's control protocols with a key that nobody is told.

    A user of this machine who may read the process list sees the key; it closes the ports, not the machine.

    Source: Triton, "Limit Endpoint Access"; the same flags in 2.51 (24.10) and in current releases.
    """
    key = secrets.token_urlsafe(32)
    return [
        f"--{protocol}={_CONTROL_PROTOCOLS}:clipsr-key={key}"
        for protocol in ("grpc-restricted-protocol", *(("http-restricted-api",) if has_http else ()))
    ]


def _shared_memory_flag(state_dir: Path) -> str:
    """Names the files in /dev/shm, so that those of a killed Triton can be told from another service's."""
    return f"--backend-config=python,shm-region-prefix-name={_shared_memory_prefix(state_dir)}"


def _thread_flags(options: UpOptions) -> list[str]:
    """Return flags that give NVIDIA's ONNX Runtime backend one pool of threads for all models.

    By itself it starts a thread for every core of the host in every model instance, spinning and pinned, whatever the
    quota or the affinity: 16 of them on 2 cores made 1.5 images/s of 120. Spinning cannot be turned off there, so half
    of the cores are left to the threads that call the models. Options of the user's own for this backend replace these.

    Source: triton-inference-server/onnxruntime_backend r26.06, README, "Command line options for ONNX Runtime backend".
    """
    prefix = "--backend-config=onnxruntime,"
    if any(option.startswith(prefix) for option in options.triton_options):
        return []
    values = {
        "enable-global-threadpool": 1,
        "intra_op_thread_count": max(1, count_cores() // 2),
        "inter_op_thread_count": 1,
    }
    return [f"{prefix}{key}={value}" for key, value in values.items()]


def _path_command(server: Path, options: UpOptions, ports: Ports, state_dir: Path) -> TritonCommand:
    flags = [*_thread_flags(options), *_server_flags(str(options.repository), options, ports)]
    argv = (str(server), *flags, _shared_memory_flag(state_dir))
    return TritonCommand(kind="path", argv=argv, environment=_ONE_BLAS_THREAD | os.environ)


def _docker_command(options: UpOptions, ports: Ports, state_dir: Path) -> TritonCommand:
    # A killed client leaves its container running; the name is what finds it again.
    name = f"clipsr-{_service_digest(state_dir)}"
    argv = (
        # The client forwards SIGTERM to the container; host networking keeps the addresses those of the flags.
        *("docker", "run", "--rm", f"--name={name}", "--network=host", "--shm-size=256m"),
        "--log-driver=none",  # triton.log has the output, and is bounded; Docker's own copy would not be
        *(("--gpus=all",) if (options.profile or "").startswith("gpu-") else ()),
        *(f"--env={name}={value}" for name, value in _ONE_BLAS_THREAD.items()),
        *(f"--volume={options.repository.resolve()}:/models:ro", "--entrypoint=tritonserver", _IMAGE),
        *_thread_flags(options),
        *_server_flags("/models", options, ports),
    )
    clean = ("docker", "rm", "--force", name)
    return TritonCommand(kind="docker", argv=argv, environment=dict(os.environ), clean=clean)


def _embedded_command(package: Path, options: UpOptions, ports: Ports, state_dir: Path) -> TritonCommand:
    backends = state_dir / "backends"
    libraries = (package.parents[1] / "nvidia_pytriton.libs", find_libpython().parent)
    environment = _ONE_BLAS_THREAD | os.environ
    # The stub's interpreter finds this environment's packages through the python3 that PATH names first.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(
        [*map(str, libraries), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    )
    environment.pop("PYTHONHOME", None)
    is_shared = options.processes == "shared"
    models = state_dir / "models" if is_shared else options.repository
    argv = (
        str(package / "bin" / "tritonserver"),
        *_server_flags(str(models), options, ports),
        f"--backend-directory={backends}",
        _shared_memory_flag(state_dir),
    )

    # Before each start and not once: a cleaner of old files may have emptied the state folder meanwhile.
    def prepare() -> None:
        build_backend_directory(package, backends)
        if is_shared:
            build_repository(options.repository, models, config_name=options.profile)

    return TritonCommand(kind="embedded", argv=argv, environment=environment, prepare=prepare)


def build_backend_directory(package: Path, target: Path) -> Path:
    """Put together what `--backend-directory` needs: Triton's Python backend, and our Python-based ones beside it.

    Files are copied: Triton refuses a backend library that is a link to somewhere else. Those that are there already
    stay, for a restart must not depend on free space.

    Raises:
        LaunchError: the wheel carries no stub for the running Python version, or a file can't be written.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        have = ", ".join(sorted(folder.name for folder in stub.parents[1].iterdir()))
        raise LaunchError(
            f"The embedded Triton has no stub for Python {version}, only for {have}; "
            "make the virtual environment with one of these."
        )
    ours = Path(__file__).parents[2] / "triton_backends"
    files = {f"python/{name}": package / "backends" / "python" / name for name in _PYTHON_BACKEND_FILES}
    files |= {f"python/{_STUB}": stub} | {f"{name}/model.py": ours / name / "model.py" for name in _OUR_BACKENDS}
    try:
        for name, source in files.items():
            _copy_unless_there(source, target / name)
    except OSError as error:
        raise LaunchError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def _copy_unless_there(source: Path, target: Path) -> None:
    if target.is_file() and filecmp.cmp(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a process may run from it
    shutil.copy2(source, target)


def find_libpython(variables: Mapping[str, object] | None = None) -> Path:
    """Find the shared libpython that the stub is linked against.

    Args:
        variables: the interpreter's build variables; its own by default.

    Raises:
        LaunchError: this Python comes without one.
    """
    variables = sysconfig.get_config_vars() if variables is None else variables
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    multiarch = str(variables.get("MULTIARCH") or "x86_64-linux-gnu")
    folders = [variables.get("LIBDIR"), Path(str(variables.get("installed_base") or sys.base_prefix)) / "lib"]
    folders += [Path("/usr/lib") / multiarch, "/usr/lib64", Path("/lib") / multiarch]
    for folder in folders:
        if folder and (Path(str(folder)) / name).is_file():
            return Path(str(folder)) / name
    raise LaunchError(
        f"The embedded Triton needs {name}, which this Python does not have; run `apt-get install libpython{version}`, "
        "or make the virtual environment with a Python that was built with --enable-shared (uv, conda and "
        "python.org's installers are)."
    )
