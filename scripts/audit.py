#!/usr/bin/env python3
"""Ask pip-audit whether the pinned versions have known vulnerabilities, and answer so that a script can tell.

    scripts/audit.py [--requirement FILE] [OPTION of pip-audit ...]

Exit codes: 0, no pin has a known vulnerability; 1, some have, one line each; 3, the vulnerability service could not be
asked, or knows not one of the pins, so nothing is said about them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PIP_AUDIT = Path(sys.executable).with_name("pip-audit")  # beside this interpreter, whatever PATH says

VULNERABLE = 1
UNKNOWN = 3  # 2 is a wrong command line


def judge(report: str) -> tuple[int, list[str]]:
    """Return the exit code, and what to print, for what pip-audit wrote; empty if it could not do its work."""
    try:
        pins: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        return UNKNOWN, ["The vulnerability service cannot be asked: nothing is known about the pins."]
    asked = [pin for pin in pins if "skip_reason" not in pin]
    if not asked:  # pip-audit itself takes that for a clean bill
        return UNKNOWN, [f"The vulnerability service knows none of the {len(pins)} pins: nothing is known about them."]
    lines = [
        f"{pin['name']} {pin['version']}: {' '.join([found['id'], *found.get('aliases', [])])}, "
        f"fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for pin in asked
        for found in pin["vulns"]
    ]
    skipped = [pin["name"] for pin in pins if "skip_reason" in pin]
    lines += [f"not known to the service: {', '.join(skipped)}"] if skipped else []
    is_vulnerable = any(pin["vulns"] for pin in asked)
    return (VULNERABLE if is_vulnerable else 0), [*lines, f"{len(asked)} pins audited"]


def main() -> int:
    """Run pip-audit over the pins and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requirement", type=Path, default=_ROOT / "constraints.txt", help="the pins")
    options, others = parser.parse_known_args()
    command = [_PIP_AUDIT, "--requirement", options.requirement, "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run(
        [*map(str, command), "--aliases", "on", "--progress-spinner", "off", *others],
        capture_output=True,
        text=True,
        check=False,
    )
    code, lines = judge(done.stdout)
    if code == UNKNOWN and done.stderr.strip():
        lines.append(done.stderr.strip().splitlines()[-1])
    print("\n".join(f"audit: {line}" for line in lines), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
