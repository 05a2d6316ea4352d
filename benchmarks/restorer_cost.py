"""What restoring costs beside classifying, for admission control: processor time of the graphs, one thread.

    python -m benchmarks.restorer_cost

Prints how many pixels and steps of `denoise` take as long as a small image through `upscale` and `image_encoder`:
`_RESTORED_PIXELS_PER_UNIT` of the gateway. Weights do not matter, so the restorer is an untrained one of the default
recipe. Processor time hardly depends on what else the machine does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from clipsr_export._repository.restorer import write_restorer
from clipsr_training.degradation import KINDS
from clipsr_training.restoration._contexts import KindContexts
from clipsr_training.restoration._module import build_restorer
from clipsr_training.restoration._recipe import RestorerRecipe

_REPOSITORY = Path("model_repository")
_SIDES_PX = (64, 128, 256)
_REPEATS = 7

Feeds = Mapping[str, npt.NDArray[np.generic]]


def measure_s(graph: Path, feeds: Feeds) -> float:
    """Return the median processor time of one run, in seconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session.run(None, dict(feeds))
    times: list[float] = []
    for _ in range(_REPEATS):
        began_s = time.process_time()
        session.run(None, dict(feeds))
        times.append(time.process_time() - began_s)
    return statistics.median(times)


def classify_s() -> float:
    """Return what a small image takes: rendered from 32 px, and embedded."""
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    render = {"canvas": canvas, "box": np.array([[0, 0, 32, 32]], np.float32)}
    side = 64
    pixels = rng.integers(0, 256, (1, 3, side, side), dtype=np.uint8)
    graphs = {"upscale": render, "image_encoder": {"pixels": pixels}}
    return sum(measure_s(_REPOSITORY / model / "1" / "model.onnx", feeds) for model, feeds in graphs.items())


def denoise_s(graph: Path, side_px: int) -> float:
    """Return what one evaluation of the restorer takes for a tile."""
    rng = np.random.default_rng(0)
    pictures = {name: rng.random((1, 3, side_px, side_px), dtype=np.float32) for name in ("state", "lq")}
    contexts = {name: np.full((1, len(KINDS)), 1 / len(KINDS), np.float32) for name in ("content", "degradation")}
    return measure_s(graph, {**pictures, "time": np.array([[50]], np.float32), **contexts})


def main() -> None:
    """Measure and print."""
    restorer = build_restorer(RestorerRecipe(contexts="kinds"), KindContexts()).eval()
    unit_s = classify_s()
    print(f"a small image: {unit_s * 1000:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        write_restorer(restorer, Path(folder), (), print)
        for side in _SIDES_PX:
            tile_s = denoise_s(Path(folder, "denoise", "1", "model.onnx"), side)
            pixels = side * side * unit_s / tile_s
            print(f"a tile of {side} px: {tile_s * 1000:.1f} ms a step; {pixels:,.0f} pixels and steps a small image")


if __name__ == "__main__":
    main()
