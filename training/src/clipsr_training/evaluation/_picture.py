"""A picture of one image beside a bar chart of its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from clipsr_training.evaluation._drawing import BLUE, GREY, new_figure, png_bytes, tidy


def draw_answer(image: Image.Image, title: str, labels: Sequence[str], probabilities: Sequence[float]) -> bytes:
    """Draw an image beside the probabilities of its labels, and return the PNG.

    Args:
        image: RGB; shown with its own pixels, not smoothed.
        title: above the image.
        labels: best first.
        probabilities: of the labels, in [0, 1].
    """
    figure = new_figure(7.6, max(3.0, 0.6 + 0.3 * len(labels)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    left.imshow(np.asarray(image), interpolation="nearest")
    left.set_title(title, fontsize=9)
    left.set_axis_off()
    rows = np.arange(len(labels))
    bars = right.barh(rows, probabilities, color=[BLUE] + [GREY] * (len(labels) - 1))
    right.bar_label(bars, [f"{p:.1%}" for p in probabilities], padding=3, fontsize=8)
    right.set_yticks(rows, labels)
    right.invert_yaxis()
    right.set_xlim(0, 1.15)
    right.set_xticks(np.linspace(0, 1, 6))
    right.set_xlabel("probability")
    tidy(right)
    return png_bytes(figure)
