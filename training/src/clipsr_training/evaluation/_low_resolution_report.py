"""What an evaluation at reduced resolutions leaves on disk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from clipsr_training._files import to_json, write_atomically
from clipsr_training.evaluation._backends.pixels import Rendering
from clipsr_training.evaluation._cells import LOG_NAME
from clipsr_training.evaluation._drawing import BLUE, GREEN, GREY, ORANGE, draw_estimates, new_figure, png_bytes, tidy
from clipsr_training.evaluation._low_resolution import (
    LowResolutionPlan,
    ReducedCondition,
    Reduction,
    SetCurves,
    set_accuracies,
)
from clipsr_training.evaluation._robustness import SetAccuracy, relative_robustness, sar, war
from clipsr_training.evaluation._statistics import points

_STYLE: dict[Rendering, tuple[str, str]] = {
    "nearest": (GREY, "o"),
    "bicubic": (ORANGE, "s"),
    "liif": (BLUE, "D"),
    "auto": (GREEN, "^"),
}
_TITLES: dict[Rendering, str] = {"nearest": "nearest", "bicubic": "bicubic", "liif": "LIIF", "auto": "auto"}
# What are compared with which, where both were measured.
_PAIRS: tuple[tuple[Rendering, Rendering], ...] = (
    ("liif", "nearest"),
    ("liif", "bicubic"),
    ("auto", "bicubic"),
)


@dataclass(frozen=True, kw_only=True)
class LowResolutionReport:
    """Everything that one evaluation found."""

    plan: LowResolutionPlan
    curves: tuple[SetCurves, ...]

    def sizes_px(self) -> list[int]:
        """Return the sizes that at least one set was measured at, ascending."""
        return sorted({size for curve in self.curves for size in curve.sizes_px()})

    def tables(self) -> str:
        """Return the accuracies as a Markdown table."""
        renderings = self.plan.renderings
        head = " | ".join(_TITLES[r] for r in renderings)
        lines = [f"| set | size, px | reduced by | {head} |", f"|---|---|---|{'---|' * len(renderings)}"]
        for curve in self.curves:
            for reduction in self.plan.reductions:
                for size in curve.sizes_px():
                    cells = [_cell(curve, ReducedCondition(size, reduction, r)) for r in renderings]
                    lines.append(f"| {curve.name} | {size} | {reduction.title} | {' | '.join(cells)} |")
            reference = " | ".join([curve.reference_top1().percent()] + ["–"] * (len(renderings) - 1))
            lines.append(f"| {curve.name} | unreduced | – | {reference} |")
        return "\n".join(lines)

    def headline(self) -> str:
        """Return LR-12 as a Markdown table; nothing where no set has all of its cells."""
        renderings = self.plan.renderings
        lines = [
            f"| set | LR-12, {' | LR-12, '.join(_TITLES[r] for r in renderings)} | LIIF − bicubic, points |",
            f"|---|{'---|' * len(renderings)}---|",
        ]
        for curve in self.curves:
            found = [curve.lr12(rendering) for rendering in renderings]
            cells = [estimate.percent() for estimate in found if estimate is not None]
            if len(cells) == len(renderings):
                difference = curve.lr12_difference("liif", "bicubic")
                lines.append(f"| {curve.name} | {' | '.join(cells)} | {points(difference) if difference else '–'} |")
        return "\n".join(lines) if len(lines) > 2 else ""

    def robustness(self) -> str:
        """Return SAR and WAR over the sets as a Markdown table."""
        lines = ["| size, px | reduced by | rendering | sets | SAR | WAR |", "|---|---|---|---|---|---|"]
        for condition, found in self._accuracies():
            names = (condition.size_px, condition.reduction.title, _TITLES[condition.rendering], len(found))
            lines.append(f"| {' | '.join(map(str, names))} | {sar(found):.4f} | {war(found):.4f} |")
        return "\n".join(lines)

    def _accuracies(self) -> list[tuple[ReducedCondition, list[SetAccuracy]]]:
        conditions = [
            ReducedCondition(size, reduction, rendering)
            for reduction in self.plan.reductions
            for size in self.sizes_px()
            for rendering in self.plan.renderings
        ]
        return [(condition, set_accuracies(self.curves, condition)) for condition in conditions]

    def comparisons(self) -> list[str]:
        """Return a sentence for every pair of renderings, set and size."""
        sentences: list[str] = []
        for curve in self.curves:
            for condition, (ours, other) in itertools.product(curve.correct, _PAIRS):
                test = curve.compare(condition._replace(rendering=ours), condition)
                if condition.rendering == other and test is not None:
                    where = f"{curve.name}, {condition.size_px} px, {condition.reduction.title}"
                    sentences.append(f"{where}: {test.sentence(_TITLES[ours], _TITLES[other])}")
        return sentences

    def notes(self) -> list[str]:
        """Return what the reader must know: sizes left out, weights that nobody published."""
        notes = [
            f"{curve.name}: {', '.join(map(str, curve.skipped_px))} px left out, its smallest image has fewer."
            for curve in self.curves
            if curve.skipped_px
        ]
        unknown = [curve.name for curve in self.curves if curve.weight is None]
        if unknown:
            notes.append(f"LR0.FM gives no weight for {', '.join(unknown)}: counted with weight 1 in WAR.")
        return notes

    def markdown(self) -> str:
        """Return the whole report as a page."""
        model = self.plan.backend.describe()
        counts = ", ".join(f"{curve.name} ({curve.n_images:,} images)" for curve in self.curves)
        parts = [
            f"# Accuracy of {model['model']} at low resolution",
            f"{counts}; templates {', '.join(f'`{t}`' for t in self.plan.templates)}; back end {model['backend']}, "
            f"{self.plan.backend.image_size_px} px. Images are cut to their centred square, reduced, "
            "saved and rendered on the encoder's grid. Unreduced images take the route that the service chooses.",
            self.tables(),
            "Cells: top-1 with Wilson's 95 % interval.",
            *self._headline_parts(),
            *self.notes(),
            "![Accuracy over size](accuracy.png)",
            "## Is LIIF better?",
            "McNemar's exact test on the same images, the difference with Newcombe's 95 % interval; not corrected for "
            "the number of tests.",
            "\n".join(f"- {sentence}" for sentence in self.comparisons()) or "Nothing to compare.",
            "## Robustness",
            "R = A_n / A_unreduced; SAR is its mean over the sets; WAR weighs R (1 − exp(−200 (A_unreduced − 1/C)²)), "
            "as LR0.FM (arXiv 2502.03950) does.",
            self.robustness(),
            f"Every image's outcome: `{LOG_NAME}`. Unrounded: `report.json`.",
        ]
        return "\n\n".join(parts) + "\n"

    def _headline_parts(self) -> list[str]:
        table = self.headline()
        explained = (
            "LR-12: mean top-1 over 8, 16, 24 and 32 px, each reduced by antialiased bicubic, the same as JPEG 75, and "
            "by bilinear interpolation without antialiasing as JPEG 90. Intervals: bootstrap over the images, 95 %."
        )
        return [table, explained] if table else []

    def json(self) -> str:
        """Return the figures as JSON."""
        content = {
            "schema_version": 1,
            **self.plan.settings(),
            "sets": [_fields(curve) for curve in self.curves],
            "robustness": [
                {**condition.log(), "n_sets": len(found), "sar": sar(found), "war": war(found)}
                for condition, found in self._accuracies()
            ],
            "notes": self.notes(),
        }
        return to_json(content, indent=2) + "\n"


def write_low_resolution_report(report: LowResolutionReport, folder: Path) -> None:
    """Write report.md, report.json and accuracy.png beside the log.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomically(folder / "accuracy.png", plot_accuracy(report.curves, report.plan))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown().encode())


def plot_accuracy(curves: Sequence[SetCurves], plan: LowResolutionPlan) -> bytes:
    """Draw top-1 over the reduced size, a row a set and a column a way to reduce, and return the PNG."""
    figure = new_figure(4.8 * len(plan.reductions), 3.6 * len(curves))
    panels = figure.subplots(len(curves), len(plan.reductions), squeeze=False)
    for row, curve in zip(panels, curves, strict=True):
        for panel, reduction in zip(row, plan.reductions, strict=True):
            for rendering in plan.renderings:
                _plot_curve(panel, curve, reduction, rendering)
            reference = 100 * curve.reference_top1().value
            panel.axhline(reference, color="black", linewidth=0.8, linestyle=":", label="unreduced")
            panel.set_xscale("log", base=2)
            sizes = curve.sizes_px()
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
            title = f"{curve.name}, {curve.n_images:,} images\n{reduction.title}"
            panel.set(title=title, xlabel="side, px", ylabel="top-1, %")
            panel.set_ylim(bottom=0)
            tidy(panel)
    panels[0, 0].legend(frameon=False, loc="lower right")
    return png_bytes(figure, dpi=110)


def _plot_curve(panel: Axes, curve: SetCurves, reduction: Reduction, rendering: Rendering) -> None:
    colour, marker = _STYLE[rendering]
    sizes = curve.sizes_px()
    estimates = [curve.top1(ReducedCondition(size, reduction, rendering)) for size in sizes]
    style = {"color": colour, "marker": marker, "label": _TITLES[rendering]}
    draw_estimates(panel, sizes, [e for e in estimates if e is not None], **style)


def _cell(curve: SetCurves, condition: ReducedCondition) -> str:
    estimate = curve.top1(condition)
    return "–" if estimate is None else estimate.percent()


def _fields(curve: SetCurves) -> dict[str, object]:
    reference = float(curve.reference.mean())
    return {
        "name": curve.name,
        "n_images": curve.n_images,
        "n_classes": curve.n_classes,
        "weight": curve.weight,
        "skipped_px": list(curve.skipped_px),
        "reference": curve.reference_top1().json(),
        "top1": [
            {
                **condition.log(),
                **estimate.json(),
                "relative_robustness": relative_robustness(estimate.value, reference),
            }
            for condition in curve.correct
            if (estimate := curve.top1(condition)) is not None
        ],
        "lr12": {r: estimate.json() for r in _TITLES if (estimate := curve.lr12(r)) is not None},
    }
