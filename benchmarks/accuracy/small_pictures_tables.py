"""What the report on small pictures says of its measurements: pure functions on right and wrong answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from clipsr_training._files import to_json
from clipsr_training.evaluation._backends.pixels import Rendering
from clipsr_training.evaluation._low_resolution import (
    LR12_REDUCTIONS,
    LR12_SIZES_PX,
    ReducedCondition,
    Reduction,
)
from clipsr_training.evaluation._statistics import (
    Estimate,
    bootstrap_mean,
    compare_paired,
    mean_over_seeds,
    points,
)

Correct = Mapping[ReducedCondition, np.ndarray]
_CELLS = [(size, reduction) for size in LR12_SIZES_PX for reduction in LR12_REDUCTIONS]
_OWN = (64, Reduction())
# Of non-inferiority, in fractions; one-sided at 97.5 %, as the lower end of a 95 % interval is.
_MARGIN = 0.005
# Steps of halving between the confidences 0 and 1.
_P_VALUE_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All arms on the stand-in.

    Attributes:
        before: R0 and R1, the renderings bicubic and liif.
        adapted: each further arm with its pool ("R2, own") by seed, the rendering liif; bicubic, too, where the tower
            is tuned.
        n_images: N.
    """

    before: Correct
    adapted: Mapping[str, Mapping[int, Correct]]
    n_images: int

    def cell(self, own: Correct, size: int, reduction: Reduction, rendering: Rendering = "liif") -> np.ndarray:
        """Return [N] whether each image is right in a cell, as fractions."""
        return own[ReducedCondition(size, reduction, rendering)].astype(np.float64)

    def lr12(self, own: Correct, rendering: Rendering = "liif") -> np.ndarray:
        """Return each image's share [N] of right answers over the twelve cells."""
        return np.mean([self.cell(own, *cell, rendering) for cell in _CELLS], axis=0)

    def better_before(self) -> np.ndarray:
        """Return the same of the better of R0 and R1 in each cell."""
        arms: tuple[Rendering, ...] = ("bicubic", "liif")
        pairs = [[self.cell(self.before, *cell, arm) for arm in arms] for cell in _CELLS]
        return np.mean([max(pair, key=lambda correct: correct.mean()) for pair in pairs], axis=0)

    def gains(self, arm: str) -> np.ndarray:
        """Return [S, N] LR-12 of an arm's seeds minus that of the better arm before."""
        return np.stack([self.lr12(own) for own in self.adapted[arm].values()]) - self.better_before()

    def gain_at(self, arm: str, size: int, reduction: Reduction, rendering: Rendering = "liif") -> np.ndarray:
        """Return [S, N] right answers in a cell minus those of R0."""
        own = np.stack([self.cell(own, size, reduction, rendering) for own in self.adapted[arm].values()])
        return own - self.cell(self.before, size, reduction, "bicubic")

    def is_tuned(self, arm: str) -> bool:
        """Say whether an arm has a tower of its own."""
        return all(ReducedCondition(*_OWN, "bicubic") in own for own in self.adapted[arm].values())

    def worst_cell(self, arm: str) -> tuple[str, float]:
        """Return the cell of LR-12 that loses most, or gains least, against R0, and by how much."""
        gains = {f"{size} px, {r.title}": float(self.gain_at(arm, size, r).mean()) for size, r in _CELLS}
        return min(gains.items(), key=lambda item: item[1])


class Row(NamedTuple):
    """A set of the bundled model's table; `correct` holds [N] by liif, bicubic and auto."""

    title: str
    correct: Mapping[str, np.ndarray]

    def gain(self) -> Estimate:
        """Return top-1 by the chosen route minus that by plain resize."""
        return compare_paired(self.correct["auto"], self.correct["bicubic"]).difference


@dataclass(frozen=True, kw_only=True)
class AsServed:
    """The bundled model as it is served: what it is, and a row a set."""

    model: Mapping[str, object]
    rows: tuple[Row, ...]


def p_value(values: np.ndarray) -> float:
    """Return the two-sided p of a mean over seeds and images [S, N] being 0: where the interval begins to hold it."""
    low, high = 0.0, 1.0
    for _ in range(_P_VALUE_STEPS):
        confidence = (low + high) / 2
        found = mean_over_seeds(values, confidence=confidence)
        if found.low <= 0 <= found.high:
            high = confidence
        else:
            low = confidence
    return 1 - high


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number. Source: Holm 1979."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, (len(p_values) - i) * p))
        adjusted[name] = least
    return adjusted


def report_markdown(
    comparison: Comparison, served: AsServed | None, configuration: Mapping[str, Any], notes: Sequence[str]
) -> str:
    """Return the whole report as a page."""
    parts = [
        "# Small pictures: upscaler and tower adapted without labels",
        *notes,
        f"{configuration['test']['set']}; {comparison.n_images:,} images measured. Top-1 in per cent, 95 % intervals.",
        "## LR-12",
        _arms(comparison),
        "Of one arm: bootstrap over the images. Differences: images paired, seeds by Student's t; p adjusted by Holm.",
        "## What was promised",
        _promises(comparison, configuration),
        "R2 changes the weights of the upscaler and nothing else; its native route is R0's by construction.",
        "## By cell",
        _cells(comparison),
    ]
    if served is not None:
        parts += ["## The bundled model as it is served", _served(served)]
    return "\n\n".join(parts) + "\n"


def report_json(comparison: Comparison, served: AsServed | None, notes: Sequence[str]) -> str:
    """Return the figures for programs."""
    content = {
        "schema_version": 1,
        "notes": list(notes),
        "n_images": comparison.n_images,
        "lr12": {
            "R0": bootstrap_mean(comparison.lr12(comparison.before, "bicubic")).json(),
            "R1": bootstrap_mean(comparison.lr12(comparison.before)).json(),
            **{
                f"{arm}, seed {seed}": bootstrap_mean(comparison.lr12(own)).json()
                for arm, seeds in comparison.adapted.items()
                for seed, own in seeds.items()
            },
        },
        "gain": {
            arm: {**mean_over_seeds(comparison.gains(arm)).json(), "p": p_value(comparison.gains(arm))}
            for arm in comparison.adapted
        },
        "served": None
        if served is None
        else {
            "model": served.model,
            "rows": [
                {
                    "set": row.title,
                    **{name: float(own.mean()) for name, own in row.correct.items()},
                    "auto_minus_bicubic": row.gain().json(),
                }
                for row in served.rows
            ],
        },
    }
    return to_json(content, indent=2) + "\n"


def _arms(comparison: Comparison) -> str:
    lines = ["| arm | LR-12 | over the better of R0 and R1, points | p |", "|---|---|---|---|"]
    before: tuple[tuple[str, Rendering], ...] = (("R0, bicubic", "bicubic"), ("R1, LIIF before", "liif"))
    for name, rendering in before:
        lines.append(f"| {name} | {bootstrap_mean(comparison.lr12(comparison.before, rendering)).percent()} | – | – |")
    better = bootstrap_mean(comparison.better_before()).percent()
    lines.append(f"| the better of both in each cell | {better} | – | – |")
    adjusted = holm({arm: p_value(comparison.gains(arm)) for arm in comparison.adapted})
    for arm, seeds in comparison.adapted.items():
        for seed, own in seeds.items():
            lines.append(f"| {arm}, seed {seed} | {bootstrap_mean(comparison.lr12(own)).percent()} | | |")
        gain = mean_over_seeds(comparison.gains(arm))
        lr12 = mean_over_seeds(np.stack([comparison.lr12(own) for own in seeds.values()]))
        counted = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        cells = (f"**{arm}, {counted}**", f"**{lr12.percent()}**", f"**{points(gain)}**")
        lines.append(f"| {' | '.join(cells)} | {adjusted[arm]:.2g} |")
    return "\n".join(lines)


def _promises(comparison: Comparison, configuration: Mapping[str, Any]) -> str:
    secondary = configuration["secondary"]
    lines = ["| | promised, points | measured | |", "|---|---|---|---|"]
    for arm in comparison.adapted:
        gain = mean_over_seeds(comparison.gains(arm))
        where, worst = comparison.worst_cell(arm)
        own = mean_over_seeds(comparison.gain_at(arm, *_OWN))
        not_worse = "not worse than R0" if own.low > -_MARGIN else "**not shown to be no worse than R0**"
        target = configuration["target_points"][arm.partition(",")[0]]
        rows = [
            ("LR-12 over the better before", target, gain.value, points(gain)),
            (
                f"worst cell against R0 ({where})",
                secondary["worst_cell_against_R0_points"],
                worst,
                f"{100 * worst:+.2f}",
            ),
            (
                "its own 64 px against R0",
                secondary["its_own_64_px_against_R0_points"],
                own.value,
                f"{points(own)}; {not_worse}, margin {100 * _MARGIN:g}",
            ),
        ]
        if comparison.is_tuned(arm):
            native = mean_over_seeds(comparison.gain_at(arm, *_OWN, "bicubic"))
            aim = secondary["native_route_points"]
            rows.append(("its own 64 px by the native route against R0", aim, native.value, points(native)))
        for name, aim, value, text in rows:
            lines.append(f"| {arm}: {name} | {aim:+g} | {text} | {'met' if 100 * value >= aim else '**missed**'} |")
    return "\n".join(lines)


def _cells(comparison: Comparison) -> str:
    arms = list(comparison.adapted)
    head = " | ".join(arms)
    lines = [f"| cell | R0 | R1 | {head} |", f"|---|---|---|{'---|' * len(arms)}"]
    for size, reduction in [*_CELLS, *((_OWN[0], reduction) for reduction in LR12_REDUCTIONS)]:
        before: tuple[Rendering, ...] = ("bicubic", "liif")
        found = [comparison.cell(comparison.before, size, reduction, rendering).mean() for rendering in before]
        for arm in arms:
            own = [comparison.cell(one, size, reduction).mean() for one in comparison.adapted[arm].values()]
            found.append(np.mean(own))
        lines.append(f"| {size} px, {reduction.title} | {' | '.join(f'{100 * value:.1f}' for value in found)} |")
    return "\n".join(lines)


def _served(served: AsServed) -> str:
    head = "| pictures | super-resolution | plain resize | auto | auto − plain resize, points |"
    lines = [head, "|---|---|---|---|---|"]
    for row in served.rows:
        values = [f"{100 * row.correct[name].mean():.1f}" for name in ("liif", "bicubic", "auto")]
        lines.append(f"| {row.title} | {' | '.join(values)} | {points(row.gain())} |")
    gains = [row.gain().value for row in served.rows]
    worst = "met" if min(gains) >= -_MARGIN else "**missed**"
    lines.append(f"\nWorst row {100 * min(gains):+.2f} (promised −0.5: {worst}), mean {100 * np.mean(gains):+.2f}.")
    mean = "met" if np.mean(gains) >= 0.02 else "**missed**"
    return "\n".join(lines)[:-1] + f" (promised +2: {mean})."
