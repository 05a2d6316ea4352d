"""The labels and templates that the options of `classify` name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clipsr.cli._inputs import STDIN

_SET_MARK = "@"  # what starts with it names a set that the service publishes


def choose_labels(labels: Sequence[str], labels_file: str | None) -> tuple[tuple[str, ...], str]:
    """Return the labels of `--labels` (each use as written) or `--labels-file`, and the name of the set.

    Raises:
        click.UsageError: there are no labels, two kinds of them, or a file that cannot be used.
    """
    if labels and labels_file is not None:
        raise click.UsageError("Labels come either from --labels or from --labels-file: leave one of them out.")
    if labels_file is not None:
        return read_labels_file(labels_file), ""
    if labels:
        return split_labels(labels)
    raise click.UsageError("There are no labels: give --labels cat,dog or --labels @cifar10 or --labels-file FILE.")


def choose_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates as they are.

    Raises:
        click.UsageError: there is a set and something beside it.
    """
    if len(templates) > 1 and any(template.startswith(_SET_MARK) for template in templates):
        raise click.UsageError("A template set (@NAME) stands alone: leave the other --templates out.")
    return tuple(templates)


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
    name = "standard input (-)" if path == STDIN else repr(path)
    if path == STDIN and sys.stdin.isatty():
        raise click.UsageError("Standard input (-) is a terminal: redirect a labels file into it.")
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"The labels file {name} is not UTF-8: save it as UTF-8.") from None
    except FileNotFoundError:
        raise click.UsageError(f"The labels file {name} does not exist: check the path.") from None
    except OSError as error:
        raise click.UsageError(f"The labels file {name} cannot be read: {error.strerror}.") from None
    lines = text.replace("\r", "\n").split("\n")
    labels = tuple(stripped for line in lines if (stripped := line.strip()))
    if not labels:
        raise click.UsageError(f"The labels file {name} holds no label: write one a line.")
    return labels
