"""The clients of docs/clients.md run as they stand, against the running service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from clipsr import Client

LABELS = "cat,dog,horse,bus,airplane"


@pytest.fixture(scope="session")
def node(repo_root) -> Path:
    """The folder of the Node.js client, with what its lock file names."""
    folder = repo_root / "docs" / "clients" / "node"
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run(
            ["npm", "ci", *options], cwd=folder, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr
        installed.touch()
    return folder


def run_node(node: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "main.js", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=node,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def read_lines(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestNode:
    def test_a_file(self, node, service, repo_root):
        file = repo_root / "samples" / "cat.png"
        done = run_node(node, service.url, "classify", file, LABELS)
        [answer] = read_lines(done)
        with Client(service.url) as client:
            [expected] = client.classify([file], LABELS.split(","), top_k=1)
        assert done.returncode == 0
        assert answer["label"] == expected.predictions[0].label
        assert answer["cosine"] == pytest.approx(expected.predictions[0].cosine, abs=1e-4)
        assert answer["route"] == f"ROUTE_{expected.route.upper()}"

    def test_a_folder_of_more_files_than_are_in_memory(self, node, service, repo_root, tmp_path):
        images = sorted((repo_root / "samples").glob("*.png"))
        for index in range(100):
            (tmp_path / f"{index:03}.png").symlink_to(images[index % len(images)])
        (tmp_path / "link").mkdir()
        for index in range(100):
            (tmp_path / "link" / f"{index:03}.png").write_bytes(images[index % len(images)].read_bytes())
        (tmp_path / "link" / "bad.png").write_bytes(b"no image")
        answers = read_lines(run_node(node, service.url, "stream", tmp_path, LABELS))
        by_name = {Path(answer["file"]).name: answer for answer in answers}
        assert len(answers) == len(by_name) == 101  # links are left alone
        assert by_name["bad.png"]["error"]["reason"] == "IMAGE_UNRECOGNIZED"
        with Client(service.url) as client:
            [expected] = client.classify([images[0]], LABELS.split(","), top_k=1)
        assert by_name["000.png"]["label"] == expected.predictions[0].label

    def test_embeddings(self, node, service):
        [cat, dog, again] = read_lines(run_node(node, service.url, "embed", "cat", "dog", "cat"))
        with Client(service.url) as client:
            [expected] = client.embed_texts(["cat"])
        assert cat == again != dog
        assert cat == pytest.approx(expected.values, abs=1e-4)

    @pytest.mark.parametrize("command", ["classify", "stream"])
    def test_a_refusal_says_where(self, node, service, repo_root, command):
        target = repo_root / "samples" / ("cat.png" if command == "classify" else "")
        done = run_node(node, service.url, command, target, "cat,cat")
        [answer] = read_lines(done)
        assert done.returncode == 1
        assert (answer["error"]["code"], answer["error"]["reason"]) == ("INVALID_ARGUMENT", "LABEL_DUPLICATE")
        [violation] = answer["error"]["violations"]
        assert violation["field"].endswith("label_space.labels[1]")
        assert "cat" in violation["description"]

    def test_nobody_at_the_address(self, node, repo_root):
        done = run_node(node, "127.0.0.1:1", "classify", repo_root / "samples" / "cat.png", LABELS)
        [answer] = read_lines(done)
        assert answer["error"]["code"] == "UNAVAILABLE"

    def test_the_contract_that_it_carries_is_the_one_that_the_stubs_use(self, node):
        """Only comments may differ, as the upstream files are worded anew from time to time."""
        installed = Path(str(distribution("googleapis-common-protos").locate_file("google/rpc")))
        for name in ("status.proto", "error_details.proto"):
            ours, theirs = ((folder / name).read_text("utf-8") for folder in (node / "google" / "rpc", installed))
            assert re.sub(r"//.*", "", ours) == re.sub(r"//.*", "", theirs)

    def test_versions_are_exact(self, node):
        versions = json.loads((node / "package.json").read_text("utf-8"))["dependencies"]
        assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())


class TestKserve:
    def run(self, repo_root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, repo_root / "docs" / "clients" / "kserve.py", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def test_files(self, service, repo_root):
        files = sorted((repo_root / "samples").glob("*.png"))[:4]
        done = self.run(repo_root, service.triton["grpc"], LABELS, *files)
        assert done.returncode == 0, done.stderr
        with Client(service.url) as client:
            results = client.classify(files, LABELS.split(","), templates=["@simple"], route="upscaled", top_k=1)
        for line, file, result in zip(done.stdout.splitlines(), files, results, strict=True):
            best = result.predictions[0]
            name, _, answer = line.rpartition(": ")
            label, probability = answer.split()
            assert (name, label) == (str(file), best.label)
            assert float(probability) == pytest.approx(best.probability, abs=2e-3)

    def test_an_error_names_its_reason(self, service, repo_root, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"no image")
        done = self.run(repo_root, service.triton["grpc"], LABELS, tmp_path / "bad.png")
        assert done.returncode == 1
        assert "clipsr:IMAGE_UNRECOGNIZED: " in done.stdout
