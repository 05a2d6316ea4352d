"""How well a restorer removes damage: PSNR, SSIM and LPIPS by kind, before and after some numbers of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training._identity import digest_modules
from clipsr_training.adapt._photos import Photos
from clipsr_training.data import decode
from clipsr_training.degradation import DEGRADATIONS, Kind, degrade, generator, strength_of
from clipsr_training.evaluation._log import RunLog
from clipsr_training.evaluation._perceptual import Lpips
from clipsr_training.evaluation._statistics import Estimate, bootstrap_mean
from clipsr_training.liif._metrics import psnr, ssim
from clipsr_training.restoration import RestoreOptions, Restorer, Sampler, restore
from clipsr_training.restoration._contexts import contexts_of, embed_kinds, share_kinds
from clipsr_training.restoration._restorer import to_pixels

LOG_NAME = "restored.jsonl"
# What equal pictures count as: a `clean` one that comes back as it is would be infinite, and its mean no number.
BEST_PSNR_DB = 60.0
DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class RestorePlan:
    """What is measured.

    Attributes:
        restorer: in evaluation mode, on its device.
        name: of the restorer.
        sources: undamaged photos by the name of their source.
        kinds: of damage.
        severity: of the damage, 1 to 6.
        side_px: photos are cut to their central square and reduced to this; smaller ones keep their size.
        steps: numbers of steps.
        sampler: see `plan_steps`.
        seed: of the draws of damage and of the sampler's noise.
        batch_size: pictures restored at once.
        lpips: measures LPIPS as well; None to do without.
    """

    restorer: Restorer
    name: str
    sources: Mapping[str, Photos]
    kinds: tuple[Kind, ...]
    severity: int
    side_px: int
    steps: tuple[int, ...]
    sampler: Sampler
    seed: int
    batch_size: int
    lpips: Lpips | None = None

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what is measured: fields of `KindQuality`."""
        return ("psnr_db", "ssim") if self.lpips is None else ("psnr_db", "ssim", "lpips")

    @property
    def columns(self) -> tuple[str, ...]:
        """What is compared with the clean picture: the damaged one, and the restored ones by steps."""
        return (DAMAGED, *map(str, self.steps))

    def settings(self) -> dict[str, object]:
        """Return everything that the figures of a kind depend on, beside it."""
        restorer = self.restorer
        facts = {
            **asdict(restorer.schedule),
            "parametrization": restorer.parametrization,
            "contexts": restorer.contexts,
        }
        return {
            "restorer": digest_modules(restorer.network, facts=repr(facts)),
            "data": {name: photos.digest for name, photos in self.sources.items()},
            "severity": self.severity,
            "side_px": self.side_px,
            "steps": self.steps,
            "sampler": self.sampler,
            "seed": self.seed,
            "figures": self.figures,
        }

    def pictures(self, source: str, kind: Kind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the photos of a source, each RGB uint8 [S, S, 3] undamaged and damaged."""
        photos = self.sources[source]
        for i in range(len(photos)):
            clean = self._square(photos, i)
            yield clean, degrade(clean, kind, strength_of(self.severity), generator(self.seed, i, kind))

    def _square(self, photos: Photos, index: int) -> np.ndarray:
        image = decode(photos.read(index), photos.names[index])
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        if side > self.side_px:
            square = square.resize((self.side_px, self.side_px), Image.Resampling.BICUBIC)
        return np.asarray(square)

    def restore(self, lq: Sequence[np.ndarray], kind: Kind) -> list[list[np.ndarray]]:
        """Restore damaged pictures of one size, in each number of steps; the restorer is told their kind."""
        device = next(self.restorer.parameters()).device
        pixels = torch.from_numpy(np.stack(lq).transpose(0, 3, 1, 2).copy()).to(device)
        kinds = np.tile(share_kinds([kind]), (len(lq), 1))
        contexts = embed_kinds(contexts_of(self.restorer), pixels, kinds)

        def run(steps: int) -> Tensor:
            options = RestoreOptions(steps=steps, sampler=self.sampler, seed=self.seed)
            return restore(self.restorer, pixels / 255, contexts, options)

        return [[to_pixels(picture) for picture in run(steps)] for steps in self.steps]


@dataclass(frozen=True, kw_only=True)
class KindQuality:
    """What was found of a source with one kind of damage.

    Attributes:
        psnr_db: [N] for every column of the plan, at most `BEST_PSNR_DB`.
        ssim: [N] likewise.
        lpips: [N] likewise; None where it was not asked for.
    """

    psnr_db: Mapping[str, np.ndarray]
    ssim: Mapping[str, np.ndarray]
    lpips: Mapping[str, np.ndarray] | None = None

    def means(self, column: str) -> dict[str, float]:
        """Return the means over the photos, by the name of the figure."""
        named = {"psnr_db": self.psnr_db, "ssim": self.ssim, "lpips": self.lpips}
        return {name: float(values[column].mean()) for name, values in named.items() if values is not None}


Found = Mapping[tuple[str, Kind], KindQuality]


def measure_restoration(
    plan: RestorePlan, folder: Path, *, resume: bool, on_pictures: Callable[[int], None] = lambda _: None
) -> dict[tuple[str, Kind], KindQuality]:
    """Measure every source and kind.

    Args:
        plan: what.
        folder: gets `restored.jsonl`.
        resume: keep what the log there holds.
        on_pictures: called with the number of pictures done.

    Raises:
        ValueError: a photo can't be read, or the log holds another measurement.
        OSError: the log can't be written; it holds the kinds that are done.
    """
    found: dict[tuple[str, Kind], KindQuality] = {}
    with RunLog(folder / LOG_NAME, plan.settings(), resume=resume) as log:
        for entry in log.entries:
            figures = {name: {c: np.array(v) for c, v in entry[name].items()} for name in plan.figures}
            found[entry["source"], entry["kind"]] = KindQuality(**figures)
        for source, photos in plan.sources.items():
            for kind in plan.kinds:
                if (source, kind) in found:
                    on_pictures(len(photos))
                    continue
                quality = found[source, kind] = _measure(plan, source, kind, on_pictures)
                figures = {
                    name: {column: values.tolist() for column, values in getattr(quality, name).items()}
                    for name in plan.figures
                }
                log.append({"source": source, "kind": kind, **figures})
    return found


def _measure(plan: RestorePlan, source: str, kind: Kind, on_pictures: Callable[[int], None]) -> KindQuality:
    batches: list[np.ndarray] = []
    for batch in _batches(plan.pictures(source, kind), plan.batch_size):
        clean, lq = ([pair[i] for pair in batch] for i in range(2))
        batches.append(np.stack([_compare(column, clean, plan.lpips) for column in (lq, *plan.restore(lq, kind))]))
        on_pictures(len(batch))
    table = np.concatenate(batches, axis=2)  # [columns, figures, N]
    return KindQuality(
        **{
            name: {column: table[i, which] for i, column in enumerate(plan.columns)}
            for which, name in enumerate(plan.figures)
        }
    )


def _compare(pictures: Sequence[np.ndarray], clean: Sequence[np.ndarray], lpips: Lpips | None) -> np.ndarray:
    """Return all figures [figures, N] of pictures."""
    pairs = [
        [image.transpose(2, 0, 1).astype(np.float64) for image in pair] for pair in zip(pictures, clean, strict=True)
    ]
    found = [[min(psnr(*pair), BEST_PSNR_DB) for pair in pairs], [ssim(*pair) for pair in pairs]]
    return np.array(found if lpips is None else [*found, lpips.distances(pictures, clean)])


def _batches(
    pictures: Iterator[tuple[np.ndarray, np.ndarray]], size: int
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yield neighbours of one size together."""
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in pictures:
        if batch and (len(batch) == size or batch[0][0].shape != pair[0].shape):
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch


def mean_of_ten(found: Found, source: str, column: str) -> Estimate | None:
    """Return PSNR in dB, the mean over the ten kinds, with a bootstrap over photos; None where a kind was left out."""
    if not all((source, kind) in found for kind in DEGRADATIONS):
        return None
    return bootstrap_mean(np.mean([found[source, kind].psnr_db[column] for kind in DEGRADATIONS], axis=0))


def gain_of_ten(found: Found, source: str, column: str) -> Estimate | None:
    """Return by how many dB a column is better than the damaged pictures, likewise."""
    if not all((source, kind) in found for kind in DEGRADATIONS):
        return None
    gains = [found[source, kind].psnr_db[column] - found[source, kind].psnr_db[DAMAGED] for kind in DEGRADATIONS]
    return bootstrap_mean(np.mean(gains, axis=0))
