"""What an exported model repository says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipsr_training.data._route_table import RouteTable


def read_manifest(repository: Path) -> Mapping[str, Any]:
    """Read the manifest of a model repository.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON.
    """
    path = repository / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no manifest.json in {repository}; export a model first (clipsr-export, make export)")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); export the model again") from error


def read_routes(repository: Path) -> RouteTable:
    """Read what decides the route of an image in the service that serves a repository.

    Raises:
        FileNotFoundError: it has no manifest.
        ValueError: the manifest does not say it.
    """
    manifest = read_manifest(repository)
    try:
        return RouteTable.make(manifest["native_min_side_px"], manifest.get("route_rules", ()))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{repository / 'manifest.json'} does not say which route images take: {error}") from error
