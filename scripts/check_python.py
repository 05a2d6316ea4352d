#!/usr/bin/env python3
"""Say whether the Python that runs this can build clipsr's environments.

    python3 scripts/check_python.py             a sentence on standard output and exit code 1 if it cannot
    python3 scripts/check_python.py --packages  the Debian packages that it lacks, if any

Runs before anything is installed, also on Pythons that are too old, so it uses the standard library only and no syntax
later than 3.6.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

# The embedded Triton needs numpy 1, whose last wheels are for 3.12.
OLDEST = (3, 10)
NEWEST = (3, 12)


def name(version):  # noqa: ANN001, ANN201 (runs on Pythons that are too old for our annotations)
    """Short name of a version: `3.11`."""
    return "{}.{}".format(*version)


def has_venv():  # noqa: ANN201
    """Whether virtual environments can be made: Debian splits this off."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


def has_libpython():  # noqa: ANN201
    """Whether the shared libpython is there, which Triton's Python backend links: Debian splits this off too."""
    library = f"libpython{name(sys.version_info[:2])}.so.1.0"
    folders = [
        sysconfig.get_config_var("LIBDIR"),
        str(Path(sys.base_prefix) / "lib"),
        "/usr/lib/{}".format(sysconfig.get_config_var("MULTIARCH")),
        "/usr/lib64",
    ]
    return any(folder and (Path(folder) / library).is_file() for folder in folders)


def missing_packages(version):  # noqa: ANN001, ANN201
    """Debian packages that complete this Python."""
    packages = []
    if not has_venv():
        packages.append(f"python{name(version)}-venv")
    if not has_libpython():
        packages.append(f"libpython{name(version)}")
    return packages


def objection(version):  # noqa: ANN001, ANN201
    """Why this Python will not do, with the cure, or nothing."""
    if not OLDEST <= version <= NEWEST:
        supported = f"{name(OLDEST)} to {name(NEWEST)}"
        return f"is Python {name(version)}; clipsr needs {supported}: install one of these and set PYTHON to it"
    packages = missing_packages(version)
    if packages:
        command = "apt-get install " + " ".join(packages)
        return f"is incomplete: `{command}` on Debian and Ubuntu, or set PYTHON to a complete one"
    return ""


if __name__ == "__main__":
    if sys.argv[1:] == ["--packages"]:
        print(" ".join(missing_packages(sys.version_info[:2])))
    else:
        sentence = objection(sys.version_info[:2])
        if sentence:
            print(sentence)
            sys.exit(1)
