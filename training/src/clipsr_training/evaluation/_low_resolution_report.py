"""What an evaluation at reduced resolutions leaves on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsr_training._files import to_json, write_atomically
from clipsr_training.evaluation._backends.pixels import Rendering
from clipsr_training.evaluation._drawing import BLUE, GREY, ORANGE, new_figure, png_bytes, tidy
from clipsr_training.evaluation._low_resolution import LOG_NAME, LowResolutionPlan, SetCurves, set_accuracies
from clipsr_training.evaluation._robustness import relative_robustness, sar, war

_STYLE: dict[Rendering, tuple[str, str]] = {
    "nearest": (GREY, "o"),
    "bicubic": (ORANGE, "s"),
    "liif": (BLUE, "D"),
}
_TITLES: dict[Rendering, str] = {"nearest": "nearest", "bicubic": "bicubic", "liif": "LIIF"}


@dataclass(frozen=True, kw_only=True)
class LowResolutionReport:
    """Everything that one evaluation found."""

    plan: LowResolutionPlan
    curves: tuple[SetCurves, ...]

    def sizes_px(self) -> list[int]:
        """Return the sizes that at least one set was measured at, ascending."""
        return sorted({size for curve in self.curves for size, _ in curve.correct})

    def tables(self) -> str:
        """Return the accuracies as a Markdown table."""
        renderings = self.plan.renderings
        head = " | ".join(_TITLES[r] for r in renderings)
        lines = [f"| set | size, px | {head} |", f"|---|---|{'---|' * len(renderings)}"]
        for curve in self.curves:
            for size in sorted({size for size, _ in curve.correct}):
                cells = [_cell(curve, size, rendering) for rendering in renderings]
                lines.append(f"| {curve.name} | {size} | {' | '.join(cells)} |")
            reference = curve.reference_top1().percent()
            lines.append(f"| {curve.name} | unreduced | {' | '.join([reference] + ['–'] * (len(renderings) - 1))} |")
        return "\n".join(lines)

    def robustness(self) -> str:
        """Return SAR and WAR over the sets as a Markdown table."""
        lines = ["| size, px | rendering | sets | SAR | WAR |", "|---|---|---|---|---|"]
        for size in self.sizes_px():
            for rendering in self.plan.renderings:
                found = set_accuracies(self.curves, size, rendering)
                row = (size, _TITLES[rendering], len(found), f"{sar(found):.4f}", f"{war(found):.4f}")
                lines.append(f"| {' | '.join(map(str, row))} |")
        return "\n".join(lines)

    def comparisons(self) -> list[str]:
        """Return a sentence for LIIF beside each other rendering, for every set and size."""
        sentences: list[str] = []
        for curve in self.curves:
            for size in sorted({size for size, _ in curve.correct}):
                for other in self.plan.renderings:
                    test = None if other == "liif" else curve.compare(size, "liif", other)
                    if test is not None:
                        sentences.append(f"{curve.name}, {size} px: {test.sentence('LIIF', _TITLES[other])}")
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
            f"{self.plan.backend.image_size_px} px. Images are cut to their centred square, reduced by antialiased "
            "bicubic and rendered on the encoder's grid. Unreduced images take the route that the service chooses.",
            self.tables(),
            "Cells: top-1 with Wilson's 95 % interval.",
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

    def json(self) -> str:
        """Return the figures as JSON."""
        content = {
            "schema_version": 1,
            **self.plan.settings(),
            "sets": [_fields(curve) for curve in self.curves],
            "robustness": [
                {"size_px": size, "rendering": rendering, "n_sets": len(found), "sar": sar(found), "war": war(found)}
                for size in self.sizes_px()
                for rendering in self.plan.renderings
                if (found := set_accuracies(self.curves, size, rendering))
            ],
            "notes": self.notes(),
        }
        return to_json(content, indent=2) + "\n"


def write_low_resolution_report(report: LowResolutionReport, folder: Path) -> None:
    """Write report.md, report.json and accuracy.png beside the log.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomically(folder / "accuracy.png", plot_accuracy(report.curves, report.plan.renderings))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown().encode())


def plot_accuracy(curves: Sequence[SetCurves], renderings: Sequence[Rendering]) -> bytes:
    """Draw top-1 over the reduced size, a panel a set, and return the PNG."""
    figure = new_figure(4.8 * len(curves), 3.6)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, curve in zip(panels, curves, strict=True):
        sizes = sorted({size for size, _ in curve.correct})
        for rendering in renderings:
            colour, marker = _STYLE[rendering]
            found = [estimate for size in sizes if (estimate := curve.top1(size, rendering)) is not None]
            values = [100 * e.value for e in found]
            reach = [[100 * (e.value - e.low) for e in found], [100 * (e.high - e.value) for e in found]]
            style = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2, "linewidth": 1.4}
            panel.errorbar(sizes, values, yerr=reach, label=_TITLES[rendering], **style)
        reference = 100 * curve.reference_top1().value
        panel.axhline(reference, color="black", linewidth=0.8, linestyle=":", label="unreduced")
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
        panel.set(title=f"{curve.name}, {curve.n_images:,} images", xlabel="side, px", ylabel="top-1, %")
        panel.set_ylim(bottom=0)
        tidy(panel)
    panels[0].legend(frameon=False, loc="lower right")
    return png_bytes(figure, dpi=110)


def _cell(curve: SetCurves, size_px: int, rendering: Rendering) -> str:
    estimate = curve.top1(size_px, rendering)
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
                "size_px": size,
                "rendering": rendering,
                **estimate.json(),
                "relative_robustness": relative_robustness(estimate.value, reference),
            }
            for size, rendering in curve.correct
            if (estimate := curve.top1(size, rendering)) is not None
        ],
    }
