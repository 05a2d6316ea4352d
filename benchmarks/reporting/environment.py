"""Where and with what a figure was measured; goes into every committed result."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def describe_environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return processor, core count, memory, operating system, and versions of the named distributions that are here."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "system": platform.platform(aliased=True),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def machine() -> dict[str, Any]:
    """Return what figures have in common that may stand beside each other."""
    described = describe_environment(())
    return {key: described[key] for key in ("processor", "cores")}


def versions_in(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Return versions in another environment; none if its interpreter does not answer."""
    try:
        answer = subprocess.run(
            [str(python), "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True, timeout=60
        )
        return json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # onnxruntime has another name where there is a GPU
        return ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    flags = named.get("flags", "").split()
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{named.get('model name', platform.machine())} ({', '.join(extensions)})"
