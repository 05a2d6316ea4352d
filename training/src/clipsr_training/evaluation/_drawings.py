"""Whether other models see in drawings what they were drawn for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipsr_training.data import ImageSet
from clipsr_training.evaluation._backends.base import Classifier
from clipsr_training.evaluation._statistics import Estimate, wilson


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge says of one drawing.

    Attributes:
        label: what was drawn.
        first: the label with the largest cosine.
        first_cosine: that cosine.
        cosine: with what was drawn.
    """

    label: str
    first: str
    first_cosine: float
    cosine: float

    @property
    def is_named(self) -> bool:
        """Whether the drawing is taken for what was drawn."""
        return self.first == self.label


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge says of all drawings.

    Attributes:
        judge: what it is called.
        verdicts: one a drawing.
        accuracy: its top-1 on labelled images of these labels; None if not measured.
    """

    judge: str
    verdicts: tuple[Verdict, ...]
    accuracy: Estimate | None = None

    @property
    def n_named(self) -> int:
        """Number of drawings that are taken for what was drawn."""
        return sum(verdict.is_named for verdict in self.verdicts)

    def json(self) -> dict[str, object]:
        """Return the fields for a report."""
        return {
            "judge": self.judge,
            "named": self.n_named,
            "accuracy": None if self.accuracy is None else self.accuracy.json(),
            "verdicts": [{**vars(verdict), "named": verdict.is_named} for verdict in self.verdicts],
        }


def judge_drawings(classifier: Classifier, drawings: Mapping[str, bytes]) -> tuple[Verdict, ...]:
    """Classify drawings among all their labels.

    Args:
        classifier: with the labels of the drawings, in their order.
        drawings: image files by label.
    """
    labels = list(drawings)
    ranking = classifier.rank(list(drawings.values()), labels, route="auto", k=len(labels))
    return tuple(
        Verdict(
            label=label,
            first=labels[int(indices[0])],
            first_cosine=float(cosines[0]),
            cosine=float(cosines[indices.tolist().index(row)]),
        )
        for row, (label, indices, cosines) in enumerate(zip(labels, ranking.indices, ranking.cosines, strict=True))
    )


def measure_top1(classifier: Classifier, images: ImageSet, batch_size: int) -> Estimate:
    """Measure the share of labelled images whose label comes first."""
    n_right = 0
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        files, names = [images.read(i) for i in rows], [images.names[i] for i in rows]
        ranking = classifier.rank(files, names, route="auto", k=1)
        n_right += int((ranking.indices[:, 0] == images.targets[rows.start : rows.stop]).sum())
    return wilson(n_right, len(images))


def to_markdown(judgements: Sequence[Judgement]) -> str:
    """Return a sentence for each judge, and a table of drawings by judges."""
    lines: list[str] = []
    for judgement in judgements:
        accuracy = "" if judgement.accuracy is None else f"; its top-1 on images is {judgement.accuracy.percent()}"
        n = len(judgement.verdicts)
        lines.append(f"- {judgement.judge} names {judgement.n_named} of {n} drawings (chance 1){accuracy}.")
    head = "".join(f" {judgement.judge} | cosine |" for judgement in judgements)
    lines += ["", f"| drawing |{head}", f"|---|{'---|---|' * len(judgements)}"]
    for verdicts in zip(*(judgement.verdicts for judgement in judgements), strict=True):
        cells = "".join(f" {_cell(verdict)} |" for verdict in verdicts)
        lines.append(f"| {verdicts[0].label} |{cells}")
    return "\n".join(lines)


def _cell(verdict: Verdict) -> str:
    if verdict.is_named:
        return f"**{verdict.first}** | {verdict.cosine:.2f}"
    return f"{verdict.first} | {verdict.cosine:.2f} ({verdict.first_cosine:.2f} with {verdict.first})"
