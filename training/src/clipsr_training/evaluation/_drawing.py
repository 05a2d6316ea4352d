"""What the plots of the evaluation share: a figure without a display, one palette, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clipsr_training.evaluation._statistics import Estimate

# Okabe and Ito's colours, told apart with any colour vision.
BLUE, ORANGE, GREEN, GREY, RED = "#0072B2", "#E69F00", "#009E73", "#999999", "#D55E00"


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure: no display, and none of pyplot's global state."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(panel: Axes) -> None:
    """Draw a light grid and leave out the frame's upper and right side."""
    panel.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def draw_estimates(
    panel: Axes, x: Sequence[float], estimates: Sequence[Estimate], *, color: str, marker: str, label: str
) -> None:
    """Draw shares in per cent as a line with their intervals."""
    values = [100 * e.value for e in estimates]
    reach = [[100 * (e.value - e.low) for e in estimates], [100 * (e.high - e.value) for e in estimates]]
    style = {"color": color, "marker": marker, "markersize": 5, "capsize": 2, "linewidth": 1.4}
    panel.errorbar(x, values, yerr=reach, label=label, **style)


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """Return the figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
