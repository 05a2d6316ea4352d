"""The table of `classify`: printed row by row while answers arrive, so its columns are measured before the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from clipsr import Classification, FailedImage, Prediction
from clipsr._display.text import escape_controls
from clipsr.cli._text import fit_left, fit_right, measure

_GAP = "  "
_BAR_WIDTH = 10
_PROBABILITY_WIDTH = 6  # "100.0%"
_COSINE_WIDTH = 6  # "-0.123"
_ROUTE_WIDTH = 8  # "upscaled"
_LABEL_WIDTH_MAX = 24
_PATH_WIDTH_MAX = 60
_PATH_WIDTH_MIN = 16
_RUNNERS_WIDTH_MIN = 12
_BAR_FROM_WIDTH = 100  # narrower terminals need the room for the runners-up
_ROUTE_FROM_WIDTH = 72
_CLEAN = "clean"  # the service's word for no damage
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Widths of the columns, in columns of the terminal.

    Attributes:
        path: of the path.
        label: of the best label.
        has_bar: whether a bar stands before the probability.
        has_route: whether cosine and route are shown.
        damage: of the likeliest damage and its probability, 0 where none is told.
        runners: of the runners-up, 0 to leave them out; None if they may take what they need.
    """

    path: int
    label: int
    has_bar: bool
    has_route: bool
    damage: int
    runners: int | None

    @property
    def is_cut(self) -> bool:
        """Whether what is too long for its column is cut; in a pipe nothing is."""
        return self.runners is not None


def plan_layout(
    paths: Iterable[str], labels: Iterable[str], *, terminal_width: int | None, kinds: Sequence[str] = ()
) -> Layout:
    """Return the widths for these paths, labels and kinds of damage; terminal_width is None outside of a terminal."""
    path = max((measure(escape_controls(path)) for path in paths), default=0)
    label = min(max([measure("best label"), *(measure(escape_controls(label)) for label in labels)]), _LABEL_WIDTH_MAX)
    path = max(path, measure("image"))
    damage = max((measure(kind) + 1 + _PROBABILITY_WIDTH for kind in kinds), default=0)
    if terminal_width is None:
        path = min(path, _PATH_WIDTH_MAX)
        return Layout(path=path, label=label, has_bar=True, has_route=True, damage=damage, runners=None)
    has_bar, has_route = terminal_width >= _BAR_FROM_WIDTH, terminal_width >= _ROUTE_FROM_WIDTH
    path = min(path, max(_PATH_WIDTH_MIN, terminal_width // 3))
    widths = [path, label, _PROBABILITY_WIDTH + (_BAR_WIDTH + 1 if has_bar else 0)]
    widths += [_COSINE_WIDTH, _ROUTE_WIDTH] if has_route else []
    widths += [damage] if damage else []
    rest = terminal_width - sum(widths) - len(_GAP) * len(widths)
    return Layout(
        path=path,
        label=label,
        has_bar=has_bar,
        has_route=has_route,
        damage=damage,
        runners=rest if rest >= _RUNNERS_WIDTH_MIN else 0,
    )


def draw_bar(probability: float) -> str:
    """Return a bar of fixed width, filled by eighths of a character."""
    eighths = round(min(max(probability, 0.0), 1.0) * _BAR_WIDTH * len(_EIGHTHS))
    full, part = divmod(eighths, len(_EIGHTHS))
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(_BAR_WIDTH)


class TableWriter:
    """Prints a row an image, and a line that counts them at the end."""

    def __init__(self, console: Console, layout: Layout) -> None:
        self._console = console
        self._layout = layout
        self._succeeded = 0
        self._failed = 0

    def begin(self) -> None:
        """Print the names of the columns."""
        layout = self._layout
        probability = (_BAR_WIDTH + 1 if layout.has_bar else 0) + _PROBABILITY_WIDTH
        cells = [
            fit_right("image", layout.path, is_cut=False),
            fit_right("best label", layout.label, is_cut=False),
            ("probability" if layout.has_bar else "prob.").rjust(probability),
        ]
        if layout.has_route:
            cells += ["cosine".rjust(_COSINE_WIDTH), "route".ljust(_ROUTE_WIDTH)]
        if layout.damage:
            cells.append("damage".ljust(layout.damage))
        if layout.runners != 0:
            cells.append("runners-up")
        self._print(Text(_GAP.join(cells).rstrip(), style="bold"))

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Print one image's row."""
        name = fit_left(escape_controls(path), self._layout.path, is_cut=self._layout.is_cut)
        if isinstance(outcome, FailedImage):
            self._failed += 1
            self._write_failure(name, outcome)
        else:
            self._succeeded += 1
            self._write_predictions(name, outcome)

    def finish(self) -> None:
        """Print how many images there were, unless it was a single one."""
        if self._succeeded + self._failed < 2:
            return
        line = Text(f"\n{self._succeeded + self._failed} images: {self._succeeded} classified", style="dim")
        if self._failed:
            line.append(f", {self._failed} failed", style="red")
        self._print(line)

    def _write_predictions(self, name: str, outcome: Classification) -> None:
        layout = self._layout
        if not outcome.predictions:
            self._print(Text(name.rstrip()))
            return
        best, *others = outcome.predictions
        color = "dim" if outcome.none_of_these else _pick_color(best.probability)
        row = Text(name + _GAP)
        label = f"none ({best.label})" if outcome.none_of_these else best.label
        row.append(fit_right(escape_controls(label), layout.label, is_cut=layout.is_cut), style=f"bold {color}")
        row.append(_GAP)
        if layout.has_bar:
            row.append(draw_bar(best.probability), style=color)
            row.append(" ")
        row.append(f"{best.probability:{_PROBABILITY_WIDTH}.1%}")
        if layout.has_route:
            row.append(f"{_GAP}{best.cosine:{_COSINE_WIDTH}.3f}{_GAP}")
            row.append(outcome.route.ljust(_ROUTE_WIDTH), style="cyan" if outcome.route == "upscaled" else "blue")
        if layout.damage:
            # None where auto took the plain encoder.
            shown = [
                (each.kind, f"{escape_controls(each.kind)} {each.probability:.1%}") for each in outcome.degradations
            ]
            kind, text = shown[0] if shown else ("", "")
            row.append(_GAP + text.ljust(layout.damage), style="dim" if kind == _CLEAN else "yellow")
        if others and layout.runners != 0:
            row.append(_GAP + self._list_runners(others), style="dim")
        row.rstrip()
        self._print(row)

    def _list_runners(self, others: Sequence[Prediction]) -> str:
        """Return the other predictions; on a terminal as many as fit, none of them cut in its number."""
        entries = [f"{escape_controls(other.label)} {other.probability:.1%}" for other in others]
        text, width = ", ".join(entries), self._layout.runners
        if width is None or measure(text) <= width:
            return text
        for count in range(len(entries) - 1, 0, -1):
            text = ", ".join(entries[:count]) + ", …"
            if measure(text) <= width:
                return text
        return fit_right(entries[0], width, is_cut=True)

    def _write_failure(self, name: str, failure: FailedImage) -> None:
        """Print the failure beside the path; on a terminal it continues below itself."""
        text = Text(f"✗ {failure.code}: {escape_controls(failure.message)}", style="red")
        indent = measure(name) + len(_GAP)
        lines: Iterable[Text] = [text]
        if self._layout.is_cut:
            lines = text.wrap(self._console, max(self._console.width - indent, _PATH_WIDTH_MIN))
        for index, line in enumerate(lines):
            line.rstrip()
            self._print(Text((name + _GAP) if index == 0 else " " * indent).append_text(line))

    def _print(self, text: Text) -> None:
        """Print as it stands: no markup, no wrapping."""
        self._console.print(text, soft_wrap=True)
        self._console.file.flush()


def _pick_color(probability: float) -> str:
    """Green for a clear answer, yellow for the likeliest of several, magenta for hardly a choice at all."""
    if probability >= 0.75:
        return "green"
    return "yellow" if probability >= 0.4 else "magenta"
