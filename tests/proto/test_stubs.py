"""The committed stubs are what the contract generates, and import under the protobuf that tritonclient needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from clipsr.v1 import classifier_pb2, embedding_pb2, library_pb2, restorer_pb2, types_pb2, upscaler_pb2

REPO_ROOT = Path(__file__).resolve().parents[2]
COMMITTED = REPO_ROOT / "client" / "src" / "clipsr" / "v1"
SERVICES = ("classifier", "embedding", "library", "restorer", "upscaler")
STUBS = {f"{name}_{kind}" for name in SERVICES for kind in ("pb2.py", "pb2.pyi", "pb2_grpc.py")}
STUBS |= {"types_pb2.py", "types_pb2.pyi"}
MODULES = (classifier_pb2, embedding_pb2, library_pb2, restorer_pb2, types_pb2, upscaler_pb2)

# Installs a compiler, which a busy machine makes slow.
pytestmark = pytest.mark.timeout(900)


def generate(proto: Path, output: Path) -> None:
    """Runs the generator that stands in the folder `proto`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([proto / "generate.sh", output], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def differences(generated: Path, committed: Path) -> list[str]:
    """Names the stubs that are not the same in both folders."""
    names = {path.name for folder in (generated, committed) for path in folder.glob("*_pb2*.py*")}
    return sorted(name for name in names if read(generated / name) != read(committed / name))


def read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs made now."""
    output = tmp_path_factory.mktemp("stubs")
    generate(REPO_ROOT / "proto", output)
    return output / "clipsr" / "v1"


def test_the_committed_stubs_are_up_to_date(generated):
    assert {path.name for path in generated.iterdir()} == STUBS
    assert differences(generated, COMMITTED) == [], "run 'make proto' and commit client/src/clipsr/v1"


def test_stale_stubs_are_found(generated, tmp_path):
    """What the check above would say had a field been added without `make proto`, or a file been forgotten."""
    for path in generated.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"max_texts", b"max_tests"))
    (tmp_path / "classifier_pb2.pyi").unlink()
    assert differences(generated, tmp_path) == ["classifier_pb2.pyi", "types_pb2.py", "types_pb2.pyi"]


def names_in_source(text: str) -> set[str]:
    """Names of messages, enums, fields, values and methods in a .proto file, by a reading of our own."""
    code = re.sub(r"//.*", "", text)
    return {
        *re.findall(r"\b(?:message|enum|service|rpc)\s+(\w+)", code),
        *re.findall(r"\b(\w+)\s*=\s*\d+;", code),
    }


def names_in_descriptor(file: descriptor_pb2.FileDescriptorProto) -> set[str]:
    return {
        *(each.name for kind in (file.message_type, file.enum_type, file.service) for each in kind),
        *(field.name for message in file.message_type for field in message.field),
        *(value.name for enum in file.enum_type for value in enum.value),
        *(method.name for service in file.service for method in service.method),
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_imported_descriptors_hold_every_name_of_the_contract(module):
    """Needs no compiler, so it also guards where nothing can be downloaded."""
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    text = (REPO_ROOT / "proto" / file.name).read_text(encoding="utf-8")
    assert names_in_descriptor(file) == names_in_source(text)
    assert "Added" in names_in_source(text + "\nmessage Added {}")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_stubs_run_under_protobuf_6(module):
    gencode = re.search(r"Protobuf Python Version: (\d+)\.", Path(module.__file__).read_text(encoding="utf-8"))
    assert gencode is not None
    assert gencode[1] == "6"


def generated_with() -> dict[str, str]:
    """The versions that the stubs demand of their runtimes."""
    grpc_stub = (COMMITTED / "classifier_pb2_grpc.py").read_text(encoding="utf-8")
    messages = (COMMITTED / "classifier_pb2.py").read_text(encoding="utf-8")
    return {
        "grpcio": re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", grpc_stub)[0],
        "protobuf": re.findall(r"Protobuf Python Version: ([\d.]+)", messages)[0],
    }


@pytest.mark.parametrize("name", ["grpcio", "protobuf"])
def test_the_clients_lower_bounds_are_what_the_stubs_demand(name):
    text = (REPO_ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(rf'"{name}>=([\d.]+)', text) == [generated_with()[name]]
