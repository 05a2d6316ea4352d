"""The processes of a service that `clipsr-serve up` runs on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Service"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service, by the launcher's state folder.

    Attributes:
        state_dir: the folder.
        command: the launcher's executable.
    """

    state_dir: Path
    command: Path

    def status(self) -> dict[str, object]:
        """Return what `clipsr-serve status --json` says."""
        arguments = [str(self.command), "status", "--json", "--state-dir", str(self.state_dir)]
        return json.loads(subprocess.run(arguments, capture_output=True, text=True, check=False).stdout)

    @property
    def url(self) -> str:
        """HOST:PORT of the gateway."""
        return str(self.status()["url"])

    def http_ports(self) -> dict[str, str]:
        """HOST:PORT of Triton's ports that speak HTTP, by name: metrics, and http where it is open."""
        ports: dict[str, str] = self.status()["triton"]  # type: ignore[assignment]
        return {name: address for name, address in ports.items() if name != "grpc"}

    def pids(self) -> dict[str, int]:
        """Process ids by name: serve, triton, gateway."""
        status = self.status()
        children: list[dict[str, object]] = status["children"]  # type: ignore[assignment]
        return {"serve": int(str(status["pid"])), **{str(child["name"]): int(str(child["pid"])) for child in children}}

    def process_tree(self) -> dict[str, int]:
        """Process ids of all processes, those that Triton runs models in included, by a name that outlives restarts."""
        named = self.pids()
        found = dict(named)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError):  # it ended meanwhile
                continue
            if parent == named["triton"]:
                instance = next(
                    (word.decode() for word in arguments if re.fullmatch(rb"\w+_\d+_\d+", word)), folder.name
                )
                found[f"triton/{instance}"] = int(folder.name)
        return found

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of every process."""
        sizes: dict[str, int] = {}
        for name, pid in self.process_tree().items():
            try:
                fields = Path(f"/proc/{pid}/statm").read_text().split()
            except OSError:
                continue
            sizes[name] = int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
        return sizes

    def gateway_log(self) -> list[dict[str, object]]:
        """Return the gateway's log since it was started."""
        lines = (self.state_dir / "gateway.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]
