"""Does a service run on a model repository? Read from what `clipsr-serve` leaves in its state folders.

While it lives, `clipsr-serve up` keeps `state.json` and holds a lock on the file `lock` in
`$XDG_STATE_HOME/clipsr/NAME`. A service with a `--state-dir` elsewhere is not found.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def find_service(repository: Path, environment: Mapping[str, str]) -> str | None:
    """Return a sentence about the service that runs on a repository; None if none is known.

    Args:
        repository: the model repository.
        environment: gives `XDG_STATE_HOME`, else `HOME`.
    """
    base = environment.get("XDG_STATE_HOME") or f"{environment.get('HOME', '')}/.local/state"
    for path in sorted(Path(base).glob("clipsr/*/state.json")):
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            is_here = Path(state["repository"]).resolve() == repository.resolve()
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if is_here and _is_locked(path.with_name("lock")):
            return (
                f"clipsr-serve runs on {repository} (pid {state.get('pid')}, --name {path.parent.name}); it answers "
                "with the model that it has loaded until `clipsr-serve down` and `up`, or a crash"
            )
    return None


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
