"""The label space that the options of `classify` describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

_SET_MARK = "@"  # what starts with it names a set that the service publishes


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSpace:
    """What to choose from.

    Attributes:
        labels: the caller's own; empty if label_set is given.
        label_set: name of a published set, without "@"; empty if labels are given.
        templates: prompt templates, or one set with its "@"; empty for the service's default.
    """

    labels: tuple[str, ...]
    label_set: str
    templates: tuple[str, ...]


def make_label_space(labels: Sequence[str], labels_file: str | None, templates: Sequence[str]) -> LabelSpace:
    """Return the label space of `--labels` (each use as written), `--labels-file` and `--templates`.

    Raises:
        click.UsageError: there are no labels, two kinds of them, or a file that cannot be used.
    """
    if labels and labels_file is not None:
        raise click.UsageError("Labels come either from --labels or from --labels-file: leave one of them out.")
    if len(templates) > 1 and any(template.startswith(_SET_MARK) for template in templates):
        raise click.UsageError("A template set (@NAME) stands alone: leave the other --templates out.")
    if labels_file is not None:
        own, label_set = read_labels_file(labels_file), ""
    elif labels:
        own, label_set = split_labels(labels)
    else:
        raise click.UsageError("There are no labels: give --labels cat,dog or --labels @cifar10 or --labels-file FILE.")
    return LabelSpace(labels=own, label_set=label_set, templates=tuple(templates))


def split_labels(values: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the labels and the name of the set in the values of `--labels`; one of the two is empty.

    An empty label between commas stays: the service refuses it and says where it is.

    Raises:
        click.UsageError: there are only empty labels, or a set and something beside it.
    """
    labels = [label.strip() for value in values for label in value.split(",")]
    if not any(labels):
        raise click.UsageError("--labels is empty: give labels with commas between them, such as --labels cat,dog.")
    if not labels[0].startswith(_SET_MARK):
        return tuple(labels), ""
    if len(labels) > 1:
        raise click.UsageError(
            f"The label set {labels[0]} stands alone: leave the other labels out, "
            "or put labels that begin with @ into a --labels-file."
        )
    name = labels[0].removeprefix(_SET_MARK)
    if not name:
        raise click.UsageError("--labels @ lacks the set's name: `clipsr-client info` lists the sets.")
    return (), name


def read_labels_file(path: str) -> tuple[str, ...]:
    """Return the labels of a UTF-8 file, one a line; blank lines, a byte order mark and outer spaces do not count.

    Raises:
        click.UsageError: the file cannot be read, is not UTF-8, or holds no label.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # reads \r\n and \r as line ends
    except UnicodeDecodeError:
        raise click.UsageError(f"The labels file {path!r} is not UTF-8: save it as UTF-8.") from None
    except FileNotFoundError:
        raise click.UsageError(f"The labels file {path!r} does not exist: check the path.") from None
    except OSError as error:
        raise click.UsageError(f"The labels file {path!r} cannot be read: {error.strerror}.") from None
    labels = tuple(stripped for line in text.split("\n") if (stripped := line.strip()))
    if not labels:
        raise click.UsageError(f"The labels file {path!r} holds no label: write one a line.")
    return labels
