"""The sample photos, by what the bundled model knows of them."""

from __future__ import annotations

from pathlib import Path

_KNOWN = ("airplane", "automobile", "bus", "cat", "clock", "horse")


def known_samples(root: Path) -> list[Path]:
    """Return the samples in `root` that show what `clipsr-small` was taught, and that it names right."""
    return sorted(path for path in (root / "samples").glob("*.png") if label(path) in _KNOWN)


def label(path: Path) -> str:
    """Return what a sample shows, by its name."""
    return path.stem.partition("-")[0]
