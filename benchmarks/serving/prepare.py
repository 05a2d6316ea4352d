"""Makes what the comparison needs: weights, the model repository, the environments of the baselines."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.serving.measure import log
from benchmarks.serving.systems import Folders, StartError

__all__ = ["hash_files", "make_repository", "make_weights", "prepare"]

_ROOT = Path(__file__).resolve().parents[2]
# What a repository is made from, besides the weights: the exporter, the upscaler, and the models' own files.
_SOURCES = ("export/src/**/*.py", "checkpoints/liif-fast/*", "samples/*")
_TEMPLATES = ("*/config.pbtxt", "*/configs/*.pbtxt", "*/1/*.py", "*/warmup/*")


def prepare(folders: Folders, baselines: Sequence[str]) -> None:
    """Make what is missing or out of date.

    Raises:
        StartError: a step failed.
    """
    make_weights(folders)
    make_repository(folders)
    for name in baselines:
        _run([str(_ROOT / "benchmarks" / "baselines" / "install.sh"), name, str(folders.environments / name)])


def make_weights(folders: Folders) -> None:
    """Write the random weights, in a process of its own: this one needs no PyTorch.

    Raises:
        StartError: that failed.
    """
    if (folders.weights / "fastembed" / "labels.npy").is_file():  # written last
        return
    log(f"making random weights of {folders.model}")
    _run([sys.executable, "-m", "benchmarks.baselines.weights", str(folders.weights), "--model", folders.model])


def make_repository(folders: Folders) -> None:
    """Export the random weights, anew where what they are exported with is not what it was.

    Raises:
        StartError: the export failed.
    """
    weights = folders.weights / "open_clip.safetensors"
    stamp = folders.repository.with_suffix(".stamp")
    digest = hash_files(_sources(), root=_ROOT) + f" {weights.stat().st_mtime_ns}\n"
    if (folders.repository / "manifest.json").is_file() and stamp.is_file() and stamp.read_text("utf-8") == digest:
        return
    log(f"exporting {folders.model} with random weights (minutes)")
    stamp.unlink(missing_ok=True)
    # Models that are there no more would be served, too.
    shutil.rmtree(folders.repository, ignore_errors=True)
    # This form says its activation: OpenCLIP's file does not, and published weights of some models differ in it.
    export = [str(Path(sys.executable).with_name("clipsr-export"))]
    export += ["--clip", str(folders.weights / "transformers"), "--name", f"{folders.model}-random"]
    # Random weights have no accuracy to lose; real photos keep the ranges that int8 is calibrated on plausible.
    _run([*export, "--output", str(folders.repository), "--int8", str(_ROOT / "samples")])
    stamp.write_text(digest, encoding="utf-8")


def hash_files(files: Iterable[Path], *, root: Path) -> str:
    """Return a digest of names and contents; times do not count, as an export writes equal configurations anew."""
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for root, patterns in ((_ROOT, _SOURCES), (_ROOT / "model_repository", _TEMPLATES)):
        for pattern in patterns:
            yield from (path for path in root.glob(pattern) if path.is_file())


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StartError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
