"""Checks a model repository before Triton is started on it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from clipsr_serving.errors import ArtifactError, LaunchError
from clipsr_serving.manifest import Manifest, read_manifest

_PLAIN_PATH = re.compile(r"[\w/.+=@,:%-]+")


def check_repository(repository: Path) -> Manifest:
    """Make sure that what export writes is there and whole; returns its manifest.

    Raises:
        LaunchError: the folder, the manifest or an artifact is missing, an artifact has another size, or a folder is no
            model.
    """
    if not (repository / "classify" / "config.pbtxt").is_file():
        raise LaunchError(
            f"There is no model repository at {repository}; run clipsr-serve in the project's folder, or give "
            "--repository DIR."
        )
    for folder in sorted(repository.iterdir()):
        # Triton takes every folder for a model, and does not start if one is none.
        if folder.is_dir() and not (folder / "config.pbtxt").is_file():
            raise LaunchError(
                f"{folder} is not a model; if an export is running, wait for its end, else delete the folder."
            )
    try:
        manifest = read_manifest(repository)
    except ArtifactError as error:
        raise LaunchError(f"{error}.") from error
    for name, artifact in manifest.artifacts.items():
        path = repository / name
        if not path.is_file():
            raise LaunchError(f"{path} is missing; run `make export` to write the model artifacts.")
        if path.stat().st_size != artifact.size_bytes:
            raise LaunchError(
                f"{path} has {path.stat().st_size:,} bytes, but manifest.json says {artifact.size_bytes:,}; "
                "run `make export` to write both again."
            )
    return manifest


def require_plain_paths(repository: Path, state_dir: Path, *, triton_kind: str) -> None:
    """Make sure that Triton can start its model processes.

    Its Python backend starts them by a shell command without quotes, made of these paths; a blank in one ends in a
    timeout.

    Raises:
        LaunchError: naming the path.
    """
    paths = {"--repository": repository}
    if triton_kind == "embedded":
        paths |= {"--state-dir": state_dir, "the virtual environment": Path(sys.prefix)}
    for name, path in paths.items():
        if triton_kind != "docker" and not _PLAIN_PATH.fullmatch(str(path)):
            raise LaunchError(
                f"{path} ({name}) holds a blank or another character that Triton's Python backend cannot pass on; "
                "move it to a path of letters, digits and the characters / . _ - + = @ , : %."
            )
