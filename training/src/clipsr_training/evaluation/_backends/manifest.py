"""What an exported model repository says of the routes, for models that are evaluated without it."""

from __future__ import annotations

import json
from pathlib import Path

from clipsr_training.data._route_table import RouteTable


def read_routes(repository: Path) -> RouteTable:
    """Read what decides the route of an image in the service that serves a repository.

    Raises:
        FileNotFoundError: it has no manifest.
        ValueError: the manifest is not JSON, or does not say it.
    """
    path = repository / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no manifest.json in {repository}; export a model first (clipsr-export, make export)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return RouteTable.make(manifest["native_min_side_px"], manifest.get("route_rules", ()))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say which route images take: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); export the model again") from error
