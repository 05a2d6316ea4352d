"""`manifest.json`: digests of the artifacts, and what later steps add to an exported repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipsr_export._errors import RepositoryError

NAME = "manifest.json"


def read_manifest(repository: Path) -> dict[str, Any]:
    """Read the manifest of an exported repository.

    Raises:
        RepositoryError: there is none, or it can't be read.
    """
    path = repository / NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RepositoryError(f"{path} is missing; export a model into {repository} first") from error
    except ValueError as error:
        raise RepositoryError(f"{path} is not JSON ({error}); export the model again") from error
    return manifest


def write_manifest(repository: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest in one step: a reader sees the old one or the new one."""
    path = repository / NAME
    staged = path.with_name(f".{NAME}")
    staged.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    staged.replace(path)


def add_artifact(repository: Path, manifest: dict[str, Any], file: str) -> None:
    """Add a file of the repository to its manifest, whose digest changes with it.

    Args:
        repository: the model repository.
        manifest: changed in place.
        file: path inside the repository.
    """
    artifacts: dict[str, Any] = {**manifest["artifacts"], file: describe_file(repository / file)}
    manifest["artifacts"] = dict(sorted(artifacts.items()))
    manifest["digest"] = digest_of(manifest["artifacts"])


def graph_file(repository: Path, manifest: Mapping[str, Any], model: str) -> Path:
    """Return the graph of a model.

    Raises:
        RepositoryError: it is missing, or not what the manifest describes.
    """
    name = f"{model}/1/model.onnx"
    path = repository / name
    if not path.is_file() or sha256(path) != manifest["artifacts"].get(name, {}).get("sha256"):
        raise RepositoryError(f"{path} is missing or not what the manifest describes; export the model again")
    return path


def describe_file(path: Path) -> dict[str, Any]:
    """Return digest and size."""
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def digest_of(artifacts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the digest of the whole model: over names and digests of its artifacts, in their order."""
    lines = "".join(f"{path} {item['sha256']}\n" for path, item in artifacts.items())
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def sha256(path: Path) -> str:
    """Return the digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
