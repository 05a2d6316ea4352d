"""What an experiment's figures say, and no more."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch

from clipsr_training._files import to_json, write_atomically
from clipsr_training.evaluation import Estimate, PairedTest, compare_paired, mean_over_seeds, wilson
from clipsr_training.evaluation._drawing import BLUE, GREY, ORANGE, new_figure, png_bytes, tidy
from clipsr_training.experiment._design import (
    ARM_TITLES,
    ARMS,
    CELLS,
    PUBLISHED_N_TEST,
    PUBLISHED_TOP1,
    Arm,
    ExperimentDesign,
    balanced_rows,
    describe_recipe,
)
from clipsr_training.experiment._run import LOG_NAME, ExperimentResult

_COLOURS: dict[Arm, str] = {"none": GREY, "bicubic": ORANGE, "liif": BLUE}
# (treatment, control), each a pair of renderings in training and at test; the first is what was published.
_CONTRASTS: tuple[tuple[str, tuple[Arm, Arm], tuple[Arm, Arm]], ...] = (
    ("LIIF in training, plain images at test (as published)", ("liif", "none"), ("none", "none")),
    ("LIIF in both", ("liif", "liif"), ("none", "none")),
    ("bicubic in both", ("bicubic", "bicubic"), ("none", "none")),
    ("LIIF in both, beside bicubic in both", ("liif", "liif"), ("bicubic", "bicubic")),
    ("LIIF at test only", ("none", "liif"), ("none", "none")),
)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A treatment beside a control, trained with the same seeds and tested on the same images.

    Attributes:
        name: what differs.
        gain: accuracy of the treatment minus that of the control, a fraction, with an interval over seeds and images.
        tests: of each seed.
    """

    name: str
    gain: Estimate
    tests: tuple[PairedTest, ...]

    @property
    def is_decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.gain.low > 0 or self.gain.high < 0

    def points(self) -> str:
        """Return the gain in percentage points with its interval."""
        return f"{100 * self.gain.value:+.2f} points ({100 * self.gain.low:+.2f} to {100 * self.gain.high:+.2f})"

    def json(self) -> dict[str, object]:
        """Return the fields for a report."""
        return {"name": self.name, "gain": self.gain.json(), "seeds": [test.json() for test in self.tests]}


@dataclass(frozen=True, kw_only=True)
class ExperimentReport:
    """Figures, tables and words of one experiment.

    Attributes:
        design: what was done.
        result: what was found.
        command: what makes the report again.
    """

    design: ExperimentDesign
    result: ExperimentResult
    command: str

    def test_sets(self) -> dict[str, np.ndarray]:
        """Return the indices of the test images that are reported on, by name: all, and as many as were published."""
        n = len(self.design.test)
        sets = {f"all {n:,} images": np.arange(n)}
        n_classes = len(self.design.test.phrases)
        n_published = PUBLISHED_N_TEST // n_classes * n_classes
        if n > n_published > 0:
            sets[f"{n_published:,} of them"] = balanced_rows(self.design.targets, n_published)
        return sets

    def top1(self, train: Arm, test: Arm, rows: np.ndarray) -> Estimate:
        """Return the mean accuracy over seeds."""
        return mean_over_seeds(self.result.correct[train, test][:, rows])

    def contrasts(self, rows: np.ndarray) -> list[Contrast]:
        """Return the comparisons on some of the test images."""
        found: list[Contrast] = []
        for name, treatment, control in _CONTRASTS:
            a, b = (self.result.correct[cell][:, rows] for cell in (treatment, control))
            tests = tuple(compare_paired(one, two) for one, two in zip(a, b, strict=True))
            found.append(Contrast(name=name, gain=mean_over_seeds(a.astype(float) - b), tests=tests))
        return found

    def conclusion(self) -> str:
        """Return what the published comparison comes to here, in words."""
        published = PUBLISHED_TOP1["liif"] - PUBLISHED_TOP1["none"]
        contrasts = self.contrasts(np.arange(len(self.design.test)))
        first, matched, _, beside_bicubic, _ = contrasts
        parts = [_verdict(first, "training on images enlarged by LIIF, tested on plain ones,")]
        if not first.gain.low <= published <= first.gain.high:
            parts.append(f"The published gain of {100 * published:+.1f} points lies outside that interval.")
        else:
            parts.append(f"The published gain of {100 * published:+.1f} points lies within that interval.")
        parts.append(_verdict(matched, "LIIF in training and at test"))
        parts.append(_verdict(beside_bicubic, "LIIF in both, beside bicubic enlargement in both,"))
        return " ".join(parts)

    def single_seeds(self) -> str:
        """Return what a study with one seed would have said."""
        name, rows = list(self.test_sets().items())[-1]
        tests = self.contrasts(rows)[0].tests
        significant = sum(test.p_value < 0.05 for test in tests)
        gains = ", ".join(f"{100 * test.difference.value:+.2f} (p = {test.p_value:.2g})" for test in tests)
        return (
            f"The published comparison with one seed on {name}: {gains} points; McNemar's test finds a difference for "
            f"{significant} of {len(tests)} seeds. It knows nothing of what another seed would change."
        )

    def markdown(self) -> str:
        """Return the report as a page."""
        design, minutes = self.design, self.result.seconds / 60
        a, b = (wilson(round(PUBLISHED_N_TEST * PUBLISHED_TOP1[arm]), PUBLISHED_N_TEST) for arm in ("none", "liif"))
        parts = [
            "# CLIP with and without LIIF",
            "A published student study trains CLIP on 10,000 CIFAR-10 images at 32×32, or on the same images enlarged "
            f"twice by LIIF, and reports {PUBLISHED_TOP1['none']:.1%} against {PUBLISHED_TOP1['liif']:.1%} on "
            f"{PUBLISHED_N_TEST:,} test images of 32×32, with one seed each. Wilson's 95 % intervals of these two "
            f"figures alone are {a.low:.1%} – {a.high:.1%} and {b.low:.1%} – {b.high:.1%}. Here: the same as a "
            "factorial, with bicubic enlargement as a control and several seeds.",
            "**" + self.conclusion() + "**",
            f"{self.single_seeds()}",
            "![Accuracy by rendering](accuracy.png)",
            f"Start: {design.start}. {design.n_trained:,} training images of {design.train.name}, the same for all; "
            f"{describe_recipe(design.recipe)}; {design.n_seeds} seeds an arm, which fix weights, order and "
            "augmentation alike in all arms. Every image is enlarged (or not), then resized and cropped as CLIP does. "
            f"Prompts at test: {', '.join(f'`{t}`' for t in design.templates)}. Nothing was tuned on the test images.",
        ]
        for name, rows in self.test_sets().items():
            parts += [f"## Top-1 on {name}", self._table(rows), "### Comparisons", self._comparisons(rows)]
        parts += [
            "Intervals are 95 %: Student's t on the variance between seeds plus that between images, so they say what "
            "another seed and other images would change. p: McNemar's exact test on the images of one seed, not "
            "corrected for the number of tests.",
            f"Made by `{self.command}` in {minutes:.0f} minutes of training and testing on {joblib.cpu_count()} cores "
            f"({platform.machine()}), PyTorch {torch.__version__}. Every answer: `{LOG_NAME}` in the output folder; "
            "figures unrounded: `report.json`.",
        ]
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Return the figures as JSON."""
        sets = [
            {
                "name": name,
                "n": len(rows),
                "top1": [
                    {
                        "train": train,
                        "test": test,
                        **self.top1(train, test, rows).json(),
                        "seeds": self.result.correct[train, test][:, rows].mean(axis=1).tolist(),
                    }
                    for train, test in CELLS
                ],
                "contrasts": [contrast.json() for contrast in self.contrasts(rows)],
            }
            for name, rows in self.test_sets().items()
        ]
        content = {
            "schema_version": 1,
            **self.design.settings(),
            "n_seeds": self.design.n_seeds,
            "test_sets": sets,
            "conclusion": self.conclusion(),
            "seconds": self.result.seconds,
            "environment": {"cores": joblib.cpu_count(), "machine": platform.machine(), "torch": torch.__version__},
            "command": self.command,
        }
        return to_json(content, indent=2) + "\n"

    def _table(self, rows: np.ndarray) -> str:
        lines = [f"| in training | {' | '.join(f'at test: {ARM_TITLES[arm]}' for arm in ARMS)} |", "|---|---|---|---|"]
        for train in ARMS:
            cells = [self.top1(train, test, rows).percent() for test in ARMS]
            lines.append(f"| {ARM_TITLES[train]} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def _comparisons(self, rows: np.ndarray) -> str:
        lines = ["| | gain over seeds | gain of each seed | p of each seed |", "|---|---|---|---|"]
        for contrast in self.contrasts(rows):
            gains = ", ".join(f"{100 * test.difference.value:+.2f}" for test in contrast.tests)
            chances = ", ".join(f"{test.p_value:.2g}" for test in contrast.tests)
            lines.append(f"| {contrast.name} | {contrast.points()} | {gains} | {chances} |")
        return "\n".join(lines)


def _verdict(contrast: Contrast, what: str) -> str:
    figures = contrast.points()
    if not contrast.is_decided:
        return f"No effect of {what} is shown: {figures}."
    sentence = f"{what} {'raises' if contrast.gain.value > 0 else 'lowers'} accuracy: {figures}."
    return sentence[0].upper() + sentence[1:]


def write_experiment_report(report: ExperimentReport, folder: Path) -> None:
    """Write report.md, report.json and accuracy.png beside the log.

    Raises:
        OSError: a file cannot be written.
    """
    rows = next(iter(report.test_sets().values()))
    write_atomically(folder / "accuracy.png", plot_accuracy(report, rows))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown().encode())


def plot_accuracy(report: ExperimentReport, rows: Sequence[int] | np.ndarray) -> bytes:
    """Draw the accuracies by rendering at test and in training, every seed as a small mark, and return the PNG."""
    figure = new_figure(6.4, 3.8)
    panel = figure.subplots()
    for offset, train in zip((-0.2, 0.0, 0.2), ARMS, strict=True):
        places = np.arange(len(ARMS)) + offset
        found = [report.top1(train, test, np.asarray(rows)) for test in ARMS]
        values = [100 * e.value for e in found]
        reach = [[100 * (e.value - e.low) for e in found], [100 * (e.high - e.value) for e in found]]
        panel.errorbar(
            places, values, yerr=reach, fmt="D", color=_COLOURS[train], capsize=3, label=f"trained: {ARM_TITLES[train]}"
        )
        for place, test in zip(places, ARMS, strict=True):
            seeds = 100 * report.result.correct[train, test][:, rows].mean(axis=1)
            panel.plot([place + 0.06] * len(seeds), seeds, "o", color=_COLOURS[train], markersize=3, alpha=0.6)
    panel.set_xticks(range(len(ARMS)), [f"test: {ARM_TITLES[arm]}" for arm in ARMS])
    panel.set(ylabel="top-1, %", title=f"{report.design.test.name}, {len(rows):,} test images")
    tidy(panel)
    panel.legend(frameon=False, fontsize=8)
    return png_bytes(figure, dpi=110)
