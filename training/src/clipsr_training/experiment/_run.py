"""Trains every arm with every seed and asks each model about every rendering of the test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from clipsr_training._fit import FitOptions
from clipsr_training._precision import autocast, has_bf16
from clipsr_training.clip import load_clip
from clipsr_training.clip._rendering import Renderer, render_to_cache
from clipsr_training.clip._train import train_on_pairs
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._log import RunLog
from clipsr_training.experiment._design import ARMS, CELLS, Arm, ExperimentDesign

LOG_NAME = "models.jsonl"
_BATCH = 250
_TIMED_STEPS = 3
_TIMED_IMAGES = 32

Correct = Mapping[tuple[Arm, Arm], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an experiment takes.

    Attributes:
        seconds: estimated from a few steps and images.
        disk_bytes: of rendered images.
    """

    seconds: float
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """What was found.

    Attributes:
        correct: [S, N] whether the model trained with a seed is right about a test image, for each pair (rendering in
            training, rendering at test).
        seconds: training and testing of all models, those of earlier calls included.
    """

    correct: Correct
    seconds: float


def estimate_cost(design: ExperimentDesign) -> Cost:
    """Time some training steps and renderings, and work out what everything takes."""
    checkpoint = design.make_checkpoint(0)
    side, recipe = checkpoint.image_size_px, design.recipe
    steps = design.n_trained // recipe.batch_size * recipe.epochs
    trainings = len(ARMS) * design.n_seeds * steps * _seconds_per_step(checkpoint.model, side, recipe.batch_size)
    n_images = len(design.train) + len(design.test)
    images = [design.train.image(i) for i in range(min(_TIMED_IMAGES, len(design.train)))]
    rendering = 0.0
    for arm in ARMS:
        renderer = Renderer(design.rendering(arm), checkpoint)
        began = time.perf_counter()
        renderer(images)
        rendering += (time.perf_counter() - began) / len(images) * n_images
    return Cost(seconds=trainings + rendering, disk_bytes=len(ARMS) * n_images * 3 * side**2)


def _seconds_per_step(model: torch.nn.Module, side_px: int, batch_size: int) -> float:
    """Time the image tower, which takes nearly all of a step."""
    tower = model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    pixels = torch.rand(batch_size, 3, side_px, side_px).contiguous(memory_format=torch.channels_last)
    began = 0.0
    for step in range(1 + _TIMED_STEPS):
        if step == 1:  # the first one compiles kernels
            began = time.perf_counter()
        with autocast():
            features = tower.encode_image(pixels)  # pyright: ignore[reportCallIssue]
        features.float().square().mean().backward()
    return (time.perf_counter() - began) / _TIMED_STEPS


def run_experiment(
    design: ExperimentDesign, folder: Path, *, resume: bool, say: Callable[[str], None] = lambda _: None
) -> ExperimentResult:
    """Train and test; what an interrupted call has done is not done again.

    Args:
        design: what to do.
        folder: gets `models.jsonl`, a folder for each training, and rendered images.
        resume: go on with what the folder holds.
        say: told what begins.

    Raises:
        FileExistsError: the folder holds an experiment, and `resume` is not set.
        ValueError: the folder holds another experiment, or an image can't be decoded.
        OSError: a file can't be written.
    """
    found: dict[tuple[int, Arm], dict[Arm, np.ndarray]] = {}
    seconds = 0.0
    with RunLog(folder / LOG_NAME, design.settings(), resume=resume) as log:
        for entry in log.entries:
            found[entry["seed"], entry["train"]] = {arm: _from_hex(entry["correct"][arm], design) for arm in ARMS}
            seconds += entry["seconds"]
        # Seeds in the outer loop: whatever is interrupted has compared whole sets of arms.
        todo: list[tuple[int, Arm]] = [(seed, arm) for seed in range(design.n_seeds) for arm in ARMS]
        todo = [key for key in todo if key not in found]
        for number, (seed, arm) in enumerate(todo, start=1):
            say(f"training {number} of {len(todo)}: seed {seed}, {arm}")
            began = time.perf_counter()
            found[seed, arm] = _train_and_test(design, seed, arm, folder)
            took = time.perf_counter() - began
            seconds += took
            correct = {test: _to_hex(rows) for test, rows in found[seed, arm].items()}
            log.append({"seed": seed, "train": arm, "seconds": round(took, 1), "correct": correct})
    seeds = range(design.n_seeds)
    correct = {cell: np.stack([found[seed, cell[0]][cell[1]] for seed in seeds]) for cell in CELLS}
    return ExperimentResult(correct=correct, seconds=seconds)


def _train_and_test(design: ExperimentDesign, seed: int, arm: Arm, folder: Path) -> dict[Arm, np.ndarray]:
    run, cache = folder / f"{arm}-{seed}", folder / "rendered"
    options = FitOptions(output=run, seed=seed, devices="1")
    # A training that had ended before a kill goes on with its last step and writes its weights anew, whole.
    options = replace(options, resume=options.last_checkpoint.is_file())
    options.seed_everything()
    trained = train_on_pairs(
        design.make_checkpoint(seed), [design.train], design.make_recipe(arm), options, cache=cache
    )
    checkpoint = load_clip(trained)
    backend = TorchBackend(checkpoint, None, name=run.name, precision="bf16" if has_bf16() else "fp32")
    texts = backend.embed_labels(design.test.phrases, design.templates)
    correct: dict[Arm, np.ndarray] = {}
    for test in ARMS:
        pixels = render_to_cache(design.test, Renderer(design.rendering(test), checkpoint), cache)
        parts = [backend.encode_pixels(np.array(pixels[i : i + _BATCH])) for i in range(0, len(pixels), _BATCH)]
        correct[test] = (np.concatenate(parts) @ texts.T).argmax(axis=1) == design.targets
    return correct


def _to_hex(correct: np.ndarray) -> str:
    return np.packbits(correct).tobytes().hex()


def _from_hex(text: str, design: ExperimentDesign) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=len(design.test))
    return bits.astype(bool)
