"""The README's code runs as it stands, against a service at another address."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
import trustme
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from PIL import Image
from tests.serving.conftest import make_repository

README = Path(__file__).resolve().parents[2] / "client" / "README.md"
LIBRARY_PAGE = README.parents[1] / "docs" / "library.md"
ADDRESS = "localhost:50051"


def samples(page: Path = README) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(code: str, url: str, address: str = ADDRESS) -> None:
    assert address in code
    exec(compile(code.replace(address, url), str(README), "exec"), {"__name__": "__main__"})


def test_the_first_example(fake_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"photo")
    run(samples()[0], fake_service.url)
    assert capsys.readouterr().out == "cat 0.50, by the upscaled route\n"
    fake_service.fail_image(b"photo", reason="IMAGE_TRUNCATED", message="It ends early.")
    run(samples()[0], fake_service.url)
    assert capsys.readouterr().out == "IMAGE_TRUNCATED It ends early.\n"


def test_the_streaming_example(fake_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        (Path("photos") / name).write_bytes(b"photo")
    run(samples()[1], fake_service.url)
    assert sorted(capsys.readouterr().out.splitlines()) == ["0 cat", "1 cat"]


def test_the_embedding_example(fake_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"photo")
    run(samples()[2], fake_service.url)
    assert float(capsys.readouterr().out) == pytest.approx(0.6 * 16 - 0.8 * 0.5, abs=1e-4)


def test_the_example_of_access(fake_service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPSR_API_KEY", "secret")
    trustme.CA().cert_pem.write_to_path("ca.pem")
    run(samples()[3], fake_service.url)


def test_the_upscaling_example(fake_service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"photo")
    run(samples()[4], fake_service.url)
    assert Path("large.png").read_bytes() == b"large photo"


def test_the_library_example(fake_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"photo")
    run(samples()[5], fake_service.url)
    added, found = capsys.readouterr().out.splitlines()
    assert added.startswith("0 AddedImage(sha256=")
    assert found == "0.500 photo.png"


def test_the_page_of_libraries(fake_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "other.png"):
        Path(name).write_bytes(name.encode())
    run(samples(LIBRARY_PAGE)[0], fake_service.url)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 1 + 2
    assert lines[2] == "0.500 camera 7 (32, 48)"
    assert not fake_service.library.libraries


def test_the_example_without_a_service(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "red").save("photo.png")
    run(samples()[6], str(make_repository(tmp_path / "exported")), address="model_repository")
    label, cosine = capsys.readouterr().out.splitlines()
    assert label in ("cat", "dog", "ship")
    assert -1 <= float(cosine) <= 1


def test_the_asynchronous_example(fake_service, capsys):
    run(samples()[7], fake_service.url)
    assert capsys.readouterr().out.startswith("clipsr-test: Classification(predictions=(Prediction(label='cat'")


def test_the_errors(fake_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(b"photo")
    said = []
    for code, detail in [
        (grpc.StatusCode.INVALID_ARGUMENT, error_details_pb2.ErrorInfo(reason="LABEL_DUPLICATE", domain="clipsr")),
        (grpc.StatusCode.UNAVAILABLE, error_details_pb2.ErrorInfo(reason="BACKEND_UNAVAILABLE", domain="clipsr")),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, error_details_pb2.RetryInfo(retry_delay=Duration(seconds=99))),
        (grpc.StatusCode.UNAUTHENTICATED, error_details_pb2.ErrorInfo(reason="API_KEY_INVALID", domain="clipsr")),
        (grpc.StatusCode.DEADLINE_EXCEEDED, error_details_pb2.ErrorInfo(reason="DEADLINE_EXCEEDED", domain="clipsr")),
        (grpc.StatusCode.NOT_FOUND, error_details_pb2.ErrorInfo(reason="LIBRARY_UNKNOWN", domain="clipsr")),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            error_details_pb2.ErrorInfo(reason="LIBRARY_OF_OTHER_MODEL", domain="clipsr"),
        ),
        (grpc.StatusCode.INTERNAL, error_details_pb2.RequestInfo(request_id="0123abcd")),
    ]:
        fake_service.abort(code, "No.", detail)
        run(samples()[8], fake_service.url)
        said.append(capsys.readouterr().out)
    assert said == [
        "LABEL_DUPLICATE ()\n",
        f"{fake_service.url} None\n",
        "99.0\n",
        "UNAUTHENTICATED\n",
        "30.0\n",
        "LIBRARY_UNKNOWN\n",
        "No.\n",
        "INTERNAL 0123abcd\n",
    ]


def test_no_sample_is_left_out():
    assert len(samples()) == 9
    assert len(samples(LIBRARY_PAGE)) == 1
