"""What `clipsr-client upscale` does once its options are understood."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click

from clipsr import Client, UpscaledImage, UpscaleFormat, UpscaleRecipe
from clipsr.cli._exits import ExitCode
from clipsr.cli._pictures.outputs import Replacement
from clipsr.cli._pictures.session import Picture, Work, process_images

_SIZE = re.compile(r"([0-9]{1,9})[xX×]([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaleOptions:
    """What to make of each image.

    Attributes:
        scale: factor on width and height; None where size_hw says it.
        size_hw: rows and columns of the output; None where scale says it.
        output_format: the kind of all files of a folder, or of standard output; None goes by their endings.
        recipe: how; one that the service offers.
        is_forced: whether files that exist are replaced.
    """

    scale: float | None
    size_hw: tuple[int, int] | None
    output_format: UpscaleFormat | None
    recipe: UpscaleRecipe
    is_forced: bool


def parse_size(text: str) -> tuple[int, int]:
    """Return rows and columns of WIDTHxHEIGHT.

    Raises:
        click.BadParameter: it is written otherwise, or a side is 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size_hw = (int(match[2]), int(match[1])) if match else (0, 0)
    if 0 in size_hw:
        raise click.BadParameter(f"{text!r} is not WIDTHxHEIGHT in pixels: write it as 512x384.")
    return size_hw


def upscale_images(client: Client, source: str, target: str, options: UpscaleOptions) -> ExitCode:
    """Upscale one image or a folder of them; see process_images."""

    def ask(content: bytes, output_format: UpscaleFormat) -> UpscaledImage:
        return client.upscale(
            content,
            scale=options.scale,
            size_hw=options.size_hw,
            output_format=output_format,
            recipe=options.recipe,
        )

    return process_images(
        client,
        source,
        target,
        Work(ask=ask, describe=_describe, doing="upscaling", done="upscaled"),
        output_format=options.output_format,
        replacement=Replacement(option="--force", is_given=options.is_forced),
    )


def _describe(answer: Picture) -> str:
    assert isinstance(answer, UpscaledImage)
    (height, width), (rows, columns) = answer.input_hw, answer.output_hw
    return f"{width} x {height} -> {columns} x {rows}"
