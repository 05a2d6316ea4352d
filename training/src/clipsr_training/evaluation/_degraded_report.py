"""What an evaluation on degraded images leaves on disk, and the contact sheet of the damage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsr_training._files import write_atomically
from clipsr_training.degradation import KINDS, Kind, degrade, generator, strength_of
from clipsr_training.evaluation._backends.pixels import Route
from clipsr_training.evaluation._cells import LOG_NAME
from clipsr_training.evaluation._degraded import HEADLINE_SEVERITY, DamagedCondition, DegradedPlan, SetDamage, Way
from clipsr_training.evaluation._drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    draw_estimates,
    new_figure,
    png_bytes,
    tidy,
)
from clipsr_training.evaluation._statistics import points

_TITLES: dict[Route, str] = {"upscaled": "super-resolution", "native": "plain resize", "auto": "the service's route"}
_STYLE: dict[Way, tuple[str, str]] = {
    Way("upscaled"): (BLUE, "D"),
    Way("native"): (ORANGE, "s"),
    Way("auto"): (GREEN, "o"),
    Way("upscaled", "controller"): (RED, "D"),
    Way("native", "controller"): (GREY, "s"),
    Way("auto", "controller"): ("black", "o"),
}
_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class DegradedReport:
    """Everything that one evaluation found."""

    plan: DegradedPlan
    results: tuple[SetDamage, ...]

    def tables(self) -> str:
        """Return the accuracies as a Markdown table."""
        ways, pairs = self.plan.ways, self.plan.pairs
        heads = [text for name in self._difference_heads() for text in (name, "McNemar p")]
        lines = [
            f"| {' | '.join(('set', 'damage', 'severity', *map(_title, ways), *heads))} |",
            f"|---|---|---|{'---|' * (len(ways) + 2 * len(pairs))}",
        ]
        for result in self.results:
            for condition in result.correct:
                if condition.way != ways[0]:
                    continue
                found = [result.top1(condition._replace(way=way)).percent() for way in ways]
                where = (result.name, condition.kind or "as it is", str(condition.severity or "–"))
                tests = [result.compare(condition.kind, condition.severity, *pair) for pair in pairs]
                compared = [text for test in tests for text in (points(test.difference), f"{test.p_value:.2g}")]
                lines.append(f"| {' | '.join((*where, *found, *compared))} |")
        return "\n".join(lines)

    def headline(self) -> str:
        """Return the mean over the ten kinds as a Markdown table; nothing where a kind was left out."""
        ways, heads = self.plan.ways, self._difference_heads()
        lines = [f"| {' | '.join(('set', *map(_title, ways), *heads))} |", f"|---|{'---|' * (len(ways) + len(heads))}"]
        for result in self.results:
            found = [result.headline(way) for way in ways]
            differences = [result.headline_difference(*pair) for pair in self.plan.pairs]
            # Either all kinds were measured, in all ways, or none of these is there.
            cells = [mean.percent() for mean in found if mean is not None]
            cells += [points(difference) for difference in differences if difference is not None]
            if cells:
                lines.append(f"| {' | '.join((result.name, *cells))} |")
        return "\n".join(lines) if len(lines) > 2 else ""

    def _difference_heads(self) -> list[str]:
        """Return what the columns of differences are called."""
        if self.plan.controlled is None:
            return ["difference, points" for _ in self.plan.pairs]
        return [f"controller, {_TITLES[one.route]}: difference, points" for one, _ in self.plan.pairs]

    def markdown(self) -> str:
        """Return the whole report as a page."""
        model = self.plan.backend.describe()
        counts = ", ".join(f"{result.name} ({result.n_images:,} images)" for result in self.results)
        headline = self.headline()
        parts = [
            f"# Accuracy of {model['model']} on degraded images",
            f"{counts}; templates {', '.join(f'`{t}`' for t in self.plan.templates)}; back end {model['backend']}, "
            f"{self.plan.backend.image_size_px} px; seed {self.plan.seed}. Images are damaged at their own size. "
            "Severities 1 to 5 are the midpoints of the fifths of the training range; 6 lies a quarter beyond it.",
            *([f"Mean top-1 over the ten kinds at severity {HEADLINE_SEVERITY}:", headline] if headline else []),
            self.tables(),
            f"Cells: top-1 with Wilson's 95 % interval. Differences: {self._compared()} on the same "
            "images, with Newcombe's interval and McNemar's exact test, not corrected for the number of tests; those "
            "of means over kinds with a bootstrap over the images.",
            "![Accuracy over severity](accuracy.png)",
            f"Every image's outcome: `{LOG_NAME}`. Unrounded: `report.json`.",
        ]
        return "\n\n".join(parts) + "\n"

    def _compared(self) -> str:
        return (
            "super-resolution minus plain resize"
            if self.plan.controlled is None
            else "with the controller minus without"
        )

    def json(self) -> str:
        """Return the figures as JSON."""
        content = {
            "schema_version": 1,
            **self.plan.settings(),
            "sets": [
                {
                    "name": result.name,
                    "n_images": result.n_images,
                    "top1": [{**c.log(), **result.top1(c).json()} for c in result.correct],
                    "headline": {
                        way.label: found.json() for way in self.plan.ways if (found := result.headline(way)) is not None
                    },
                }
                for result in self.results
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_degraded_report(report: DegradedReport, folder: Path) -> None:
    """Write report.md, report.json and accuracy.png beside the log.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomically(folder / "accuracy.png", plot_severities(report))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown().encode())


def plot_severities(report: DegradedReport) -> bytes:
    """Draw top-1 over severity, a panel a kind and a block of rows a set, and return the PNG."""
    plan = report.plan
    kinds: list[Kind] = [kind for kind in plan.kinds if len(plan.severities_of(kind)) > 1] or list(plan.kinds)
    n_rows = -(-len(kinds) // _COLUMNS)
    figure = new_figure(3.0 * _COLUMNS, 2.5 * n_rows * len(report.results))
    panels = figure.subplots(n_rows * len(report.results), _COLUMNS, squeeze=False).ravel()
    for block, result in enumerate(report.results):
        own = panels[block * n_rows * _COLUMNS : (block + 1) * n_rows * _COLUMNS]
        for panel, kind in zip(own, kinds, strict=False):
            severities = plan.severities_of(kind)
            for way in plan.ways:
                found = [result.top1(DamagedCondition(kind, severity, way)) for severity in severities]
                colour, marker = _STYLE[way]
                draw_estimates(panel, severities, found, color=colour, marker=marker, label=_title(way))
                whole = 100 * result.top1(DamagedCondition(None, None, way)).value
                panel.axhline(whole, color=colour, linewidth=0.8, linestyle=":")
            panel.set(title=f"{result.name}: {kind}", xlabel="severity", ylabel="top-1, %")
            panel.set_ylim(bottom=0)
            tidy(panel)
        for panel in own[len(kinds) :]:
            panel.set_axis_off()
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    return png_bytes(figure, dpi=110)


def draw_sheet(images: Sequence[np.ndarray], severities: Sequence[int], seed: int) -> bytes:
    """Draw every kind at every severity beside the undamaged image, and return the PNG.

    Args:
        images: RGB uint8 [H, W, 3]; the kinds take them in turn, numbered from 0.
        severities: columns after the undamaged image.
        seed: of the draws.
    """
    figure = new_figure(1.5 * (len(severities) + 1), 1.55 * len(KINDS))
    panels = figure.subplots(len(KINDS), len(severities) + 1, squeeze=False)
    for row, kind in enumerate(KINDS):
        number = row % len(images)
        image = images[number]
        damaged = [degrade(image, kind, strength_of(s), generator(seed, number, kind)) for s in severities]
        for panel, pixels in zip(panels[row], (image, *damaged), strict=True):
            panel.imshow(pixels, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        panels[row, 0].set_ylabel(kind, fontsize=9)
    for panel, title in zip(panels[0], ("undamaged", *(f"severity {s}" for s in severities)), strict=True):
        panel.set_title(title, fontsize=9)
    return png_bytes(figure, dpi=110)


def _title(way: Way) -> str:
    return _TITLES[way.route] if way.encoder == "plain" else f"{_TITLES[way.route]}, {way.encoder}"
