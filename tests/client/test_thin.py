"""`pip install clipsr` stays thin: installed for real into an empty virtual environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
MAX_MIB = 45  # grpcio, protobuf, rich with pygments, and little else
HEAVY = ("numpy", "torch", "tritonclient", "PIL", "pyarrow", "gradio", "ray")
BROUGHT_BY_VENV = ("pip", "setuptools", "_distutils_hack", "pkg_resources")

# Builds and installs, which takes 15 s on an idle machine and minutes on a busy one.
pytestmark = pytest.mark.timeout(900)


def heavy_packages(site_packages: Path) -> list[str]:
    """The packages that a thin client must not bring."""
    return [name for name in HEAVY if (site_packages / name).exists() or (site_packages / f"{name}.py").exists()]


def size_mib(site_packages: Path) -> float:
    """Size of what was installed, without what every virtual environment holds."""
    files = (
        path
        for top in site_packages.iterdir()
        if top.name.split("-")[0] not in BROUGHT_BY_VENV
        for path in (top.rglob("*") if top.is_dir() else [top])
    )
    return sum(path.stat().st_size for path in files if path.is_file()) / 2**20


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the client, built from a copy so that no build folder stays behind."""
    folder = tmp_path_factory.mktemp("thin")
    source = folder / "client"
    shutil.copytree(REPO_ROOT / "client", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    constraints = REPO_ROOT / "constraints.txt"
    pip = environment / "bin" / "pip"
    run(
        pip,
        "install",
        "--quiet",
        "--no-input",
        "--no-compile",
        "--disable-pip-version-check",
        "-c",
        constraints,
        source,
    )
    return environment


@pytest.fixture(scope="module")
def site_packages(clean: Path) -> Path:
    [found] = (clean / "lib").glob("python*/site-packages")
    return found


def test_importing_the_client_imports_nothing_heavy(clean):
    script = "import json, sys, clipsr, clipsr.cli; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(run(clean / "bin" / "python", "-I", "-c", script))
    assert "clipsr" in modules
    assert not set(HEAVY) & set(modules)


def test_the_command_runs(clean):
    assert "classify" in run(clean / "bin" / "clipsr-client", "--help")


def test_nothing_heavy_is_installed(site_packages):
    assert (site_packages / "grpc").is_dir()
    assert heavy_packages(site_packages) == []


def test_it_is_small(site_packages):
    assert 5 < size_mib(site_packages) < MAX_MIB


def test_types_and_stubs_are_installed_with_it(site_packages):
    assert (site_packages / "clipsr" / "py.typed").is_file()
    assert (site_packages / "clipsr" / "v1" / "classifier_pb2.pyi").is_file()


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_package_would_be_found(tmp_path, name):
    (tmp_path / "grpc").mkdir()
    (tmp_path / name).mkdir()
    assert heavy_packages(tmp_path) == [name]


def test_an_installation_too_large_would_be_found(tmp_path):
    for top in ("numpy", "pip", "setuptools-65.5.0.dist-info"):
        (tmp_path / top).mkdir()
        with (tmp_path / top / "data").open("wb") as file:
            file.truncate((MAX_MIB + 1) * 2**20)  # sparse: takes no room on the disk
    assert size_mib(tmp_path) == MAX_MIB + 1
