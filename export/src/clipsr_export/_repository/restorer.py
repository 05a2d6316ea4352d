"""A restorer in a model repository: the graph `denoise`, and for `restore` the steps of its sampler."""

# torch ships partial types: what comes out of it is unknown to the checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clipsr_export._errors import ExportError, TemplateError
from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.denoise import DenoiseGraph
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._repository.dims import fill_dims
from clipsr_export._repository.manifest import to_json
from clipsr_training.data import read_image
from clipsr_training.degradation import KINDS, Kind
from clipsr_training.restoration import Restorer, plan_steps

RESTORER_MODELS = ("denoise", "restore")
DEFAULT_STEPS, MAX_STEPS = 5, 20
# Attention and normalization see a whole tile, so tiles stay near the 64 px of the training: twice their side. Memory
# and work of self-attention grow with the fourth power of it.
_TILE_PX, _OVERLAP_PX = 128, 32
_SAMPLER = "ode-2"
# The only contexts that the service can make: see `clipsr_training.restoration._contexts`.
_CONTEXTS = "kinds"
# Other names of the kinds of damage, for what users write.
_WORDS: Mapping[Kind, tuple[str, ...]] = {
    "shadowed": ("shadow", "shadows"),
    "low-light": ("low light", "dark", "darkness", "underexposure", "underexposed"),
    "hazy": ("haze", "fog", "mist", "smog"),
    "rainy": ("rain", "rain streaks"),
    "snowy": ("snow", "snowflakes"),
    "raindrop": ("raindrops", "drops", "droplets"),
    "motion-blurry": ("blur", "blurry", "motion blur"),
    "noisy": ("noise", "grain"),
    "jpeg-compressed": ("jpeg", "compression", "compression artifacts", "artifacts"),
    "uncompleted": ("scratches", "holes", "missing parts"),
}


def check_restorer(restorer: Restorer) -> None:
    """Refuse a restorer that the service can't run.

    Raises:
        ExportError: it has other contexts than kinds of damage, or predicts noise.
    """
    if restorer.contexts != _CONTEXTS:
        raise ExportError(
            f"this restorer has contexts {restorer.contexts or 'none'!r}, and the service makes only {_CONTEXTS!r}: "
            "train one with clipsr-train restorer --contexts kinds"
        )
    if restorer.parametrization != "residual":
        raise ExportError(f"this restorer predicts {restorer.parametrization}, and the service runs only residuals")


def describe_restorer(restorer: Restorer) -> dict[str, object]:
    """Return the manifest's entry."""
    config = restorer.network.config
    return {
        "architecture": f"conditional-unet ({config.width} x {', '.join(map(str, config.multipliers))})",
        "kinds": [{"name": kind, "words": _WORDS.get(kind, ())} for kind in KINDS],
        "default_steps": DEFAULT_STEPS,
        "max_steps": MAX_STEPS,
    }


def restorer_template(template: Path) -> Path:
    """Return the folder of the optional models' configurations, which lies beside the template.

    Raises:
        TemplateError: it lacks them.
    """
    folder = template.resolve().with_name(f"{template.resolve().name}_optional")
    for model in RESTORER_MODELS:
        if not (folder / model / "config.pbtxt").is_file():
            raise TemplateError(f"{folder} holds no {model}/config.pbtxt; it comes with clipsr's model_repository")
    return folder


def restorer_configurations(template: Path, restorer: Restorer) -> dict[Path, str]:
    """Return the configurations, filled in, by path inside the repository.

    Raises:
        TemplateError: they are missing.
    """
    folder, sizes = restorer_template(template), {"C": _context_dim(restorer)}
    paths = [Path(model, "config.pbtxt") for model in RESTORER_MODELS]
    return {path: fill_dims((folder / path).read_text(encoding="utf-8"), sizes) for path in paths}


def write_restorer(restorer: Restorer, staging: Path, samples: Sequence[Path], report: Callable[[str], None]) -> None:
    """Write the graph, compared with PyTorch, and the sampler.

    Raises:
        ParityError: the graph does not compute what PyTorch computes.
    """
    for model in RESTORER_MODELS:
        (staging / model / "1").mkdir(parents=True)
    path, graph = staging / "denoise" / "1" / "model.onnx", DenoiseGraph(restorer).eval()
    multiple = restorer.network.config.multiple_px
    picture = {0: "batch", 2: f"{multiple}*rows", 3: f"{multiple}*columns"}
    row = {0: "batch"}
    axes = {"state": picture, "lq": picture, "time": row, "content": row, "degradation": row}
    example = {name: torch.from_numpy(array) for name, array in next(_states(restorer, samples)).items()}
    write_onnx(graph, example, ("clean",), path, axes)
    difference = check_graph("denoise", graph, path, _states(restorer, samples))
    (staging / "restore" / "1" / "sampler.json").write_text(to_json(describe_sampler(restorer)), encoding="utf-8")
    report(f"denoise: {path.stat().st_size / 1e6:.1f} MB, largest difference from PyTorch {difference:.2g}")


def describe_sampler(restorer: Restorer) -> dict[str, object]:
    """Return what `restore` needs: tiles, the noise of the first state, and the steps of runs of 1, 2, … steps."""
    plans = [plan_steps(restorer.schedule, _SAMPLER, n) for n in range(1, MAX_STEPS + 1)]
    fields = ("time", "state", "clean", "previous", "lq")
    return {
        "noise_level": restorer.schedule.noise_level,
        "multiple_px": restorer.network.config.multiple_px,
        "tile_px": _TILE_PX,
        "overlap_px": _OVERLAP_PX,
        "plans": [[{name: getattr(step, name) for name in fields} for step in plan] for plan in plans],
    }


def _context_dim(restorer: Restorer) -> int:
    dim = restorer.network.config.context_dim
    assert dim is not None, "a restorer with contexts"
    return dim


def _states(restorer: Restorer, samples: Sequence[Path]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield random pictures of several sizes, then real ones, at times from the first to the last."""
    rng, multiple = np.random.default_rng(0), restorer.network.config.multiple_px
    n_times, dim = restorer.schedule.n_times, _context_dim(restorer)
    sizes = ((3, 4, 5), (1, 8, 8), (2, 1, 1), (1, 3, 12))
    pictures = [rng.random((n, 3, rows * multiple, columns * multiple)) for n, rows, columns in sizes]
    for path in samples:
        side = 8 * multiple
        image = Image.fromarray(read_image(path)).resize((side, side), Image.Resampling.BICUBIC)
        pictures.append(np.asarray(image).transpose(2, 0, 1)[None] / 255)
    for i, lq in enumerate(pictures):
        n = len(lq)
        contexts = rng.dirichlet(np.ones(dim), n)
        tensors = {
            "state": lq + restorer.schedule.noise_level * rng.standard_normal(lq.shape),
            "lq": lq,
            "time": np.full((n, 1), n_times * (1 - i / len(pictures))),
            "content": contexts,
            "degradation": contexts,
        }
        yield {name: array.astype(np.float32) for name, array in tensors.items()}
