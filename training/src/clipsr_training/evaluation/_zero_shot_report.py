"""What a zero-shot evaluation leaves on disk."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsr_training._files import to_json, write_atomically
from clipsr_training.evaluation._drawing import new_figure, png_bytes
from clipsr_training.evaluation._statistics import Estimate, wilson
from clipsr_training.evaluation._zero_shot import LOG_NAME, TOP_K, Agreement, ZeroShotPlan, ZeroShotResult

_PERCENTILES = (50, 90, 99)
# More names than this can't be read along an axis.
_MAX_NAMED_CLASSES = 30
_N_WORST = 10


@dataclass(frozen=True, kw_only=True)
class ZeroShotReport:
    """Everything that one evaluation found.

    Attributes:
        plan: what was measured.
        result: what was found.
        agreement: the comparison with an earlier measurement, if one was asked for.
        notes: sentences that the reader must see.
    """

    plan: ZeroShotPlan
    result: ZeroShotResult
    agreement: Agreement | None = None
    notes: tuple[str, ...] = ()

    def figures(self) -> dict[str, Estimate]:
        """Return the accuracies by what a table calls them."""
        found = {"top-1": self.result.top(1)}
        if len(self.result.classnames) > TOP_K:
            found["top-5"] = self.result.top(TOP_K)
        found["mean per class"] = self.result.mean_per_class()
        found["classes resampled"] = self.result.mean_of_classes()
        return found

    def latency(self) -> dict[str, float]:
        """Return mean and percentiles of the time per image, in ms."""
        times = self.result.latency_ms
        named = {f"p{p}": float(np.percentile(times, p)) for p in _PERCENTILES}
        return {"mean": float(times.mean()), **named}

    def tables(self) -> str:
        """Return the figures as Markdown."""
        latency = self.latency()
        lines = ["| accuracy | | 95 % interval |", "|---|---|---|"]
        lines += [f"| {name} | {e.value:.2%} | {e.low:.2%} – {e.high:.2%} |" for name, e in self.figures().items()]
        lines += ["", f"| time per image, ms | {' | '.join(latency)} |", f"|---|{'---|' * len(latency)}"]
        lines += [f"| batches of {self.plan.batch_size} | {' | '.join(f'{v:.2f}' for v in latency.values())} |"]
        return "\n".join(lines)

    def comparison(self) -> str | None:
        """Return the comparison in words."""
        if self.agreement is None:
            return None
        found = self.agreement
        return (
            f"Beside {found.other}, {found.other_model}: same top-1 on {found.same_top1:.2%} of the images, cosines at "
            f"most {found.max_cosine_difference:.1e} apart. {found.test.sentence('this model', 'the other')}"
        )

    def markdown(self) -> str:
        """Return the whole report as a page."""
        plan, model = self.plan, self.plan.backend.describe()
        templates = ", ".join(f"`{template}`" for template in plan.templates)
        details = ", ".join(f"{key} {value}" for key, value in model.items() if key not in ("model", "backend"))
        parts = [
            f"# Zero-shot accuracy of {model['model']} on {plan.images.name}",
            f"{len(plan.images):,} images, {len(plan.images.classnames)} classes, templates {templates}, route "
            f"{plan.route}. Back end {model['backend']} ({details}).",
            self.tables(),
            "Intervals: Wilson's for top-1 and top-5, a bootstrap stratified by class for the mean per class; in the "
            "row below it classes are drawn, as if others of their kind had been asked for. The time of an image is "
            "that of its batch divided by the batch's size, decoding included.",
            *self.notes,
        ]
        if (text := self.comparison()) is not None:
            parts.append(text)
        parts += [
            "## Classes that are hardest",
            _class_table(self.result),
            "![Confusion matrix](confusion.png)",
            f"Every image: `{LOG_NAME}`. Counts: `confusion.csv`. Unrounded: `report.json`.",
        ]
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Return the figures as JSON."""
        right, n = self.result.class_counts()
        per_class = {
            name: {"n": int(count), "correct": int(hits)}
            for name, count, hits in zip(self.result.classnames, n, right, strict=True)
        }
        agreement = self.agreement
        content = {
            "schema_version": 1,
            **self.plan.settings(),
            "n_images": len(self.plan.images),
            "accuracy": {name.replace(" ", "_").replace("-", ""): e.json() for name, e in self.figures().items()},
            "latency_ms": self.latency(),
            "per_class": per_class,
            "comparison": None
            if agreement is None
            else {
                "other": agreement.other,
                "other_model": agreement.other_model,
                "same_top1": agreement.same_top1,
                "max_cosine_difference": agreement.max_cosine_difference,
                **agreement.test.json(),
            },
            "notes": list(self.notes),
        }
        return to_json(content, indent=2) + "\n"


def write_zero_shot_report(report: ZeroShotReport, folder: Path) -> None:
    """Write report.md, report.json, confusion.png and confusion.csv beside the log.

    Raises:
        OSError: a file cannot be written.
    """
    confusion = report.result.confusion()
    write_atomically(folder / "confusion.csv", _confusion_csv(confusion, report.result.classnames).encode())
    write_atomically(folder / "confusion.png", plot_confusion(confusion, report.result.classnames))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown().encode())


def plot_confusion(confusion: np.ndarray, classnames: tuple[str, ...]) -> bytes:
    """Draw the matrix as shares of the true class, and return the PNG."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    is_named = len(classnames) <= _MAX_NAMED_CLASSES
    side = 3.2 + 0.3 * len(classnames) if is_named else 7.0
    figure = new_figure(side + 0.8, side)
    panel = figure.subplots()
    picture = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    panel.set(xlabel="predicted", ylabel="true")
    if is_named:
        ticks = range(len(classnames))
        panel.set_xticks(ticks, classnames, rotation=90)
        panel.set_yticks(ticks, classnames)
        for row, column in np.argwhere(shares >= 0.01):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, label="share of the true class", shrink=0.8)
    return png_bytes(figure)


def _confusion_csv(confusion: np.ndarray, classnames: tuple[str, ...]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["true \\ predicted", *classnames])
    writer.writerows([name, *row] for name, row in zip(classnames, confusion.tolist(), strict=True))
    return buffer.getvalue()


def _class_table(result: ZeroShotResult) -> str:
    confusion = result.confusion()
    right, n = result.class_counts()
    present = np.flatnonzero(n)
    worst = present[np.argsort(right[present] / n[present], kind="stable")][:_N_WORST]
    lines = ["| class | images | accuracy | most often taken for |", "|---|---|---|---|"]
    for c in worst:
        others = confusion[c].copy()
        others[c] = 0
        mistaken = f"{result.classnames[others.argmax()]} ({others.max()})" if others.any() else "–"
        lines.append(
            f"| {result.classnames[c]} | {n[c]:,} | {wilson(int(right[c]), int(n[c])).percent()} | {mistaken} |"
        )
    return "\n".join(lines)
