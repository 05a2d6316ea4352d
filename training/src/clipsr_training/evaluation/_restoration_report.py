"""Report of the evaluation of a restorer: tables, and a contact sheet."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsr_training._files import write_atomically
from clipsr_training.degradation import Kind
from clipsr_training.evaluation._drawing import new_figure, png_bytes
from clipsr_training.evaluation._restoration import (
    BEST_PSNR_DB,
    DAMAGED,
    LOG_NAME,
    Found,
    RestorePlan,
    gain_of_ten,
    mean_of_ten,
)
from clipsr_training.evaluation._statistics import Estimate

SHEET = "sheet.png"
# By the last figure.
_CELLS = {"ssim": "PSNR in dB and SSIM", "lpips": "PSNR in dB, SSIM and LPIPS (AlexNet; 0 is alike)"}


@dataclass(frozen=True, kw_only=True)
class RestoreReport:
    """Everything that one evaluation found."""

    plan: RestorePlan
    found: Found

    def tables(self) -> str:
        """Return all figures as a Markdown table, a row a kind, and the mean over the ten kinds."""
        plan = self.plan
        titles = [DAMAGED, *(f"{steps} step{'s' * (steps > 1)}" for steps in plan.steps)]
        lines = [f"| photos | damage | {' | '.join(titles)} |", f"|---|---|{'---|' * len(titles)}"]
        for source in plan.sources:
            for kind in plan.kinds:
                lines.append(f"| {source} | {kind} | {' | '.join(self._cell(source, kind, c) for c in plan.columns)} |")
            means = [mean_of_ten(self.found, source, column) for column in plan.columns]
            if all(mean is not None for mean in means):
                lines.append(f"| {source} | mean of ten | {' | '.join(_decibels(m) for m in means if m)} |")
                gains = [gain_of_ten(self.found, source, str(steps)) for steps in plan.steps]
                lines.append(f"| {source} | gain | – | {' | '.join('+' + _decibels(g) for g in gains if g)} |")
        return "\n".join(lines)

    def _cell(self, source: str, kind: Kind, column: str) -> str:
        psnr_db, *others = self.found[source, kind].means(column).values()
        return " / ".join((f"{psnr_db:.2f}", *(f"{value:.3f}" for value in others)))

    def markdown(self) -> str:
        """Return the whole report as a page."""
        plan = self.plan
        counts = ", ".join(f"{name} ({len(photos):,} photos)" for name, photos in plan.sources.items())
        told = "is told the kind of damage" if plan.restorer.contexts is not None else "is told nothing"
        parts = [
            f"# Restoration by {plan.name}",
            f"{counts}; central squares of at most {plan.side_px} px; severity {plan.severity}; sampler "
            f"{plan.sampler}; seed {plan.seed}. The restorer {told}.",
            self.tables(),
            f"Cells: {_CELLS[plan.figures[-1]]}, means over the photos, RGB, no border left out; equal pictures count "
            f"as {BEST_PSNR_DB:g} dB. Means of ten and gains: PSNR with a bootstrap over the photos.",
            f"![Contact sheet]({SHEET})",
            f"Every photo's figures: `{LOG_NAME}`. Unrounded: `report.json`.",
        ]
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Return the figures as JSON."""
        plan = self.plan
        content = {
            "schema_version": 1,
            "name": plan.name,
            **plan.settings(),
            "sources": [
                {
                    "name": source,
                    "n_photos": len(photos),
                    "kinds": {
                        kind: {column: self.found[source, kind].means(column) for column in plan.columns}
                        for kind in plan.kinds
                    },
                    "mean_of_ten_psnr_db": {
                        column: mean.json()
                        for column in plan.columns
                        if (mean := mean_of_ten(self.found, source, column)) is not None
                    },
                }
                for source, photos in plan.sources.items()
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_restore_report(report: RestoreReport, folder: Path) -> None:
    """Write report.md, report.json and sheet.png beside the log.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomically(folder / SHEET, draw_restored(report.plan))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: a reader that waits for the page finds the sheet beside it.
    write_atomically(folder / "report.md", report.markdown().encode())


def draw_restored(plan: RestorePlan) -> bytes:
    """Draw one photo a kind: damaged, restored in each number of steps, undamaged; return the PNG."""
    titles = (DAMAGED, *(f"{steps} step{'s' * (steps > 1)}" for steps in plan.steps), "undamaged")
    figure = new_figure(1.6 * len(titles), 1.65 * len(plan.kinds))
    panels = figure.subplots(len(plan.kinds), len(titles), squeeze=False)
    source, photos = next(iter(plan.sources.items()))
    for row, kind in enumerate(plan.kinds):
        # The kinds take the photos in turn.
        clean, lq = next(itertools.islice(plan.pictures(source, kind), row % len(photos), None))
        restored = [pictures[0] for pictures in plan.restore([lq], kind)]
        for panel, pixels in zip(panels[row], (lq, *restored, clean), strict=True):
            panel.imshow(np.asarray(pixels), interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        panels[row, 0].set_ylabel(kind, fontsize=9)
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=9)
    return png_bytes(figure, dpi=110)


def _decibels(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"
