"""What an evaluation of upscalers leaves on disk: tables, figures for programs, a plot and a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from clipsr_training._files import to_json, write_atomically
from clipsr_training.liif._evaluate import METHODS, Input, Method, Quality, Sample, ScaleQuality, SetQuality
from clipsr_training.liif._metrics import Convention, ConventionName

_CONVENTION_TEXT: Mapping[ConventionName, str] = {
    "benchmark": "Y channel, a border of `scale` pixels left out",
    "div2k": "RGB, a border of `scale + 6` pixels left out",
}
# Okabe and Ito's colours, told apart with any colour vision; the model's line is the one in front.
_STYLE: Mapping[Method, tuple[str, str]] = {
    "bicubic": ("#999999", "o"),
    "lanczos": ("#E69F00", "s"),
    "model": ("#0072B2", "D"),
}
# Sides of the comparison: on a page, details of a larger region are lost, and a narrower caption is cut.
_REGION_PX = 192
_PANEL_PX = 384
_CAPTION_PX = 28
_CAPTION_WIDTH_PX = 280


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One image and scale to be shown, with what to call them."""

    title: str
    sample: Sample
    scale: int


@dataclass(frozen=True, kw_only=True)
class SrReport:
    """Everything that one evaluation found."""

    checkpoint: str
    convention: Convention
    made: Input
    sets: tuple[SetQuality, ...]

    def tables(self) -> str:
        """Return the figures as a Markdown table."""
        lines = [
            "| set | scale | images | bicubic | Lanczos | model | gain, dB |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_row(entry.name, score) for entry in self.sets for score in entry.scores]
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """Return a sentence for every scale at which images were left out."""
        return [
            f"{entry.name} ×{score.scale}: {len(score.skipped)} of {len(score.skipped) + score.n_images} images are "
            f"too small and were left out ({_listing(score.skipped)})."
            for entry in self.sets
            for score in entry.scores
            if score.skipped
        ]

    def markdown(self, comparison: Comparison | None) -> str:
        """Return the whole report as a page."""
        parts = [
            "# Super-resolution quality",
            f"Checkpoint: `{self.checkpoint}`. Cells are PSNR in dB / SSIM: {_CONVENTION_TEXT[self.convention.name]}; "
            f"inputs reduced by {self.made.title}; gain is the model's PSNR over bicubic.",
            self.tables(),
            *self.notes(),
            "![PSNR over scale](psnr.png)",
        ]
        if comparison is not None:
            parts.append(f"![{comparison.title}: input, bicubic, model, truth](comparison.png)")
        return "\n\n".join(parts) + "\n"

    def json(self) -> str:
        """Return the figures as JSON; a PSNR that is infinite (equal images) is null."""
        content = {
            "schema_version": 1,
            "checkpoint": self.checkpoint,
            "convention": self.convention.name,
            "inputs": asdict(self.made),
            "sets": [{"name": entry.name, "scales": [_fields(s) for s in entry.scores]} for entry in self.sets],
        }
        return to_json(content, indent=2) + "\n"


def write_report(report: SrReport, comparison: Comparison | None, folder: Path) -> None:
    """Write report.md, report.json, psnr.png and, with a comparison, comparison.png.

    Raises:
        OSError: a file cannot be written.
    """
    if comparison is not None:
        write_atomically(folder / "comparison.png", _png(draw_comparison(comparison, report.convention)))
    write_atomically(folder / "psnr.png", plot_psnr(report))
    write_atomically(folder / "report.json", report.json().encode())
    # Last: whoever waits for the page finds what it shows.
    write_atomically(folder / "report.md", report.markdown(comparison).encode())


def plot_psnr(report: SrReport) -> bytes:
    """Draw PSNR over scale, a panel a set, and return the PNG."""
    figure = Figure(figsize=(4.8 * len(report.sets), 3.8), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and none of pyplot's global state
    panels = figure.subplots(1, len(report.sets), squeeze=False)[0]
    for panel, entry in zip(panels, report.sets, strict=True):
        scores = [score for score in entry.scores if score.quality]
        scales = [score.scale for score in scores]
        for method in METHODS:
            colour, marker = _STYLE[method]
            values = [score.quality[method].psnr_db for score in scores]
            panel.plot(scales, values, color=colour, marker=marker, markersize=5, label=method)
        panel.set_xscale("log")
        panel.set_xticks(scales, [f"×{scale}" for scale in scales])
        panel.minorticks_off()
        panel.set(title=entry.name, xlabel="scale", ylabel="PSNR, dB")
        panel.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def draw_comparison(comparison: Comparison, convention: Convention) -> Image.Image:
    """Draw input, bicubic, model and truth side by side: the central region, every pixel repeated alike."""
    sample = comparison.sample
    # The input as it is, each of its pixels a block; the other panels are then its neighbours pixel for pixel.
    blocks = sample.lr.repeat(comparison.scale, axis=0).repeat(comparison.scale, axis=1)
    panels = {f"input, 1/{comparison.scale}": blocks}
    for method in ("bicubic", "model"):
        psnr_db, ssim = convention.compare(sample.sr[method], sample.hr, comparison.scale)
        panels[f"{method}  {psnr_db:.2f} dB / {ssim:.4f}"] = sample.sr[method]
    panels["truth"] = sample.hr
    regions = {caption: _centre(pixels) for caption, pixels in panels.items()}
    height, width = regions["truth"].shape[:2]
    factor = max(1, _PANEL_PX // max(height, width))
    gap = 8
    column = max(width * factor, _CAPTION_WIDTH_PX) + gap
    sheet = Image.new("RGB", (4 * column + gap, height * factor + _CAPTION_PX + 2 * gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for i, (caption, pixels) in enumerate(regions.items()):
        left = gap + i * column
        draw.text((left, gap), caption, fill="black", font=font)
        enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
        sheet.paste(Image.fromarray(enlarged), (left, gap + _CAPTION_PX))
    return sheet


def _centre(pixels: np.ndarray) -> np.ndarray:
    top, left = (max(0, (n - _REGION_PX) // 2) for n in pixels.shape[:2])
    return pixels[top : top + _REGION_PX, left : left + _REGION_PX]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _row(name: str, score: ScaleQuality) -> str:
    if not score.quality:
        return f"| {name} | ×{score.scale} | 0 | – | – | – | – |"
    cells = [_cell(score.quality[method]) for method in METHODS]
    gain = score.quality["model"].psnr_db - score.quality["bicubic"].psnr_db
    return f"| {name} | ×{score.scale} | {score.n_images} | {' | '.join(cells)} | {gain:+.2f} |"


def _cell(quality: Quality) -> str:
    return f"{quality.psnr_db:.2f} / {quality.ssim:.4f}"


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _fields(score: ScaleQuality) -> dict[str, object]:
    return {
        "scale": score.scale,
        "n_images": score.n_images,
        "skipped": list(score.skipped),
        "methods": {
            method: {
                "psnr_db": quality.psnr_db if math.isfinite(quality.psnr_db) else None,
                "ssim": quality.ssim,
            }
            for method, quality in score.quality.items()
        },
    }
