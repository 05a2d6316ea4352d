"""What a linear probe leaves on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipsr_training._files import to_json, write_atomically
from clipsr_training.evaluation._drawing import BLUE, ORANGE, new_figure, png_bytes, tidy
from clipsr_training.evaluation._probe import ProbeResult, probe_tables


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """Everything that one probe found.

    Attributes:
        settings: model, data and route.
        train: name of the training set.
        test: name of the test set.
        result: what was found.
    """

    settings: Mapping[str, object]
    train: str
    test: str
    result: ProbeResult

    def tables(self) -> str:
        """Return the figures as Markdown."""
        return probe_tables(self.result)

    def notes(self) -> list[str]:
        """Return what the reader must know."""
        if self.result.has_converged:
            return []
        return ["The final fit stopped at its limit of iterations: more might give another figure."]

    def markdown(self) -> str:
        """Return the whole report as a page."""
        model = self.settings["model"]
        assert isinstance(model, dict)
        result = self.result
        parts = [
            f"# Linear probe of {model['model']} on {self.test}",
            f"Logistic regression (scikit-learn, L-BFGS) on L2-normalized embeddings, back end {model['backend']}. "
            f"C chosen on {result.n_validation:,} of {result.n_train:,} training images, then fitted on all of them; "
            f"{len(result.correct):,} test images.",
            self.tables(),
            *self.notes(),
            "![Validation accuracy over C](validation.png)",
        ]
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Return the figures as JSON."""
        result = self.result
        content = {
            "schema_version": 1,
            **self.settings,
            "accuracy": {
                "top1": result.top1.json(),
                "top5": result.top5.json(),
                "mean_per_class": result.mean_per_class.json(),
            },
            "c": result.chosen,
            "has_converged": result.has_converged,
            "n_train": result.n_train,
            "n_validation": result.n_validation,
            "n_test": len(result.correct),
            "validation": [
                {"c": fit.c, "top1": fit.validation_top1, "has_converged": fit.has_converged} for fit in result.fits
            ],
        }
        return to_json(content, indent=2) + "\n"


def write_probe_report(report: ProbeReport, folder: Path) -> None:
    """Write report.md, report.json and validation.png.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomically(folder / "validation.png", plot_validation(report.result))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown().encode())


def plot_validation(result: ProbeResult) -> bytes:
    """Draw validation top-1 over C, and return the PNG."""
    figure = new_figure(5.4, 3.6)
    panel = figure.subplots()
    values = [100 * fit.validation_top1 for fit in result.fits]
    panel.plot([fit.c for fit in result.fits], values, color=BLUE, marker="o", markersize=4)
    panel.axvline(result.chosen, color=ORANGE, linestyle="--", label=f"chosen: C = {result.chosen:.3g}")
    panel.set_xscale("log")
    panel.set(xlabel="C", ylabel="validation top-1, %")
    panel.legend(frameon=False)
    tidy(panel)
    return png_bytes(figure)
