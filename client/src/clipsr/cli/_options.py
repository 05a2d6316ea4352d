"""Options that several commands share. What they are given is kept in click's context until the command asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from clipsr import ClassifyOptions
from clipsr.cli._classify.labels import choose_labels, choose_templates
from clipsr.cli._exits import ExitCode

Command = Callable[..., ExitCode]

_STORE = "clipsr.options"


def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keep an option's value in the context of its command; a callback of click."""
    ctx.meta.setdefault(_STORE, {})[parameter.name] = value
    return value


KEPT: dict[str, Any] = {"expose_value": False, "callback": keep}
"""What makes an option one of these, so that no command has to pass it on."""


def given() -> dict[str, Any]:
    """Return the values of these options of the command that runs, by name."""
    return click.get_current_context().meta[_STORE]


def in_order(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options, which --help then lists in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def templates_option(subject: str) -> Callable[[Command], Command]:
    """Return --templates, whose prompts hold the `subject`."""
    return click.option(
        "--templates",
        multiple=True,
        metavar="TEMPLATE",
        help=f"Prompt with {{}} where the {subject} goes, or @NAME for a set of the service; repeat for several "
        "prompts. The service has a default.",
        **KEPT,
    )


image_options = in_order(
    click.option(
        "--fit",
        type=click.Choice(["auto", "center_crop", "squash"]),
        default="auto",
        show_default=True,
        help="Look at the largest centred square, or at all of an image, squeezed into a square; auto does what the "
        "model was trained with.",
        **KEPT,
    ),
    click.option(
        "--route",
        type=click.Choice(["auto", "upscaled", "native"]),
        default="auto",
        show_default=True,
        help="Super-resolution, or plain resizing, before the image encoder; auto decides by an image's size.",
        **KEPT,
    ),
)
"""How images get to the image encoder: --fit and --route."""

classify_options = in_order(
    click.option(
        "--labels",
        multiple=True,
        metavar="LABELS",
        help="Labels with commas between them, or @NAME for a set of the service, such as @cifar10.",
        **KEPT,
    ),
    click.option(
        "--labels-file", metavar="FILE", help="A UTF-8 file with one label a line; - is standard input.", **KEPT
    ),
    templates_option("label"),
    click.option(
        "--top-k",
        type=click.IntRange(min=0),
        default=5,
        show_default=True,
        metavar="N",
        help="Predictions for each image, best first; 0 for all labels.",
        **KEPT,
    ),
    image_options,
    click.option(
        "--encoder",
        type=click.Choice(["plain", "robust", "auto"]),
        default="plain",
        show_default=True,
        help="robust for images that may be blurred, dark or noisy, where the service offers it; it names the damage, "
        "and takes about twice as long. auto asks it only about images that look damaged.",
        **KEPT,
    ),
    click.option(
        "--none-of-these",
        is_flag=True,
        help="Say of an image that it shows none of the labels where the model's own, calibrated rule says so, and how "
        "probable that is.",
        **KEPT,
    ),
    click.option(
        "--min-cosine",
        type=float,
        metavar="COSINE",
        help="Say so where the best label stays below this cosine.",
        **KEPT,
    ),
    click.option(
        "--min-probability",
        type=float,
        metavar="PROBABILITY",
        help="The same, for its probability; of several rules, one is enough.",
        **KEPT,
    ),
)
"""What is asked about every image; the command calls chosen_classify_options()."""


def chosen_classify_options(*, return_embedding: bool) -> ClassifyOptions:
    """Return what the command that runs was asked about every image.

    Raises:
        click.UsageError: there are no labels, two kinds of them, or a file that cannot be used.
    """
    values = given()
    labels, label_set = choose_labels(values["labels"], values["labels_file"])
    return ClassifyOptions(
        labels=labels,
        label_set=label_set,
        templates=choose_templates(values["templates"]),
        top_k=values["top_k"],
        fit=values["fit"],
        route=values["route"],
        encoder=values["encoder"],
        min_cosine=values["min_cosine"],
        min_probability=values["min_probability"],
        none_of_these=values["none_of_these"],
        return_embedding=return_embedding,
    )
