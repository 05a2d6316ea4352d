"""Commands and options of `clipsr-client`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from clipsr import Fit, Route, UpscaleFormat
from clipsr._rpc.window import READ_AHEAD
from clipsr.cli._classify.batches import ClassifyOptions, classify_images
from clipsr.cli._classify.bulk import BulkOptions, classify_in_bulk
from clipsr.cli._classify.labels import make_label_space
from clipsr.cli._connection import connect, connection_options
from clipsr.cli._exits import ExitCode, QuietGroup, report
from clipsr.cli._info import print_info, to_json
from clipsr.cli._library.commands import library
from clipsr.cli._streams import configure_stream
from clipsr.cli._ui import parse_listen, serve_pages
from clipsr.cli._upscale.upscale import UpscaleOptions, parse_size, upscale_images

_HEALTH_TIMEOUT_S = 5.0  # short enough for the health check of a container
_CALL_TIMEOUT_S = 30.0  # the library's default
_UPSCALE_TIMEOUT_S = 300.0  # the largest output takes a minute or more on two cores
_BATCH_SIZE = 32  # keeps the service busy, and answers soon
_BULK_RETRIES = 12  # about half a minute: what a restart of the service takes

# \b keeps click from filling the lines into a paragraph.
_EXAMPLES = """\b
Examples:
  clipsr-client classify cat.jpg --labels cat,dog,bird
  clipsr-client classify photos/ --labels @cifar10 --format json
  clipsr-client classify - --labels-file labels.txt < cat.jpg
  clipsr-client classify photos/ --labels @cifar10 --output results.parquet
"""

_UPSCALE_EXAMPLES = """\b
Examples:
  clipsr-client upscale cat.jpg cat-large.png --scale 3.5
  clipsr-client upscale cat.jpg cat-large.webp --size 512x384
  clipsr-client upscale photos/ large/ --scale 4 --format png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    configure_stream(sys.stdout)
    configure_stream(sys.stderr)
    try:
        return cli.main(args=arguments, prog_name="clipsr-client", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "clipsr-client"
        report(f"{error.format_message()}\nTry `{command} --help`.")
        return ExitCode.USAGE
    except click.Abort:  # interrupted before a command had begun
        return ExitCode.INTERRUPTED


def _check_scale(ctx: click.Context, parameter: click.Parameter, scale: float | None) -> float | None:
    if scale is not None and not (math.isfinite(scale) and scale >= 1):
        raise click.BadParameter("give a factor of at least 1, such as 2 or 3.5.")
    return scale


def _parse_size(ctx: click.Context, parameter: click.Parameter, size: str | None) -> tuple[int, int] | None:
    return None if size is None else parse_size(size)


@click.group(
    cls=QuietGroup,
    no_args_is_help=False,  # a missing command is wrong usage like any other, in all versions of click
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="clipsr", prog_name="clipsr-client")
def cli() -> None:
    """Classify images with labels of your own, upscale them, or keep and search them, by a clipsr service.

    Exit codes: 0 all succeeded, 1 some images failed, 2 wrong usage, 3 the service cannot be reached or has no time,
    4 it does not let you in, 5 the output cannot be written.
    """


@cli.command(short_help="Classify image files.", epilog=_EXAMPLES)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--labels",
    multiple=True,
    metavar="LABELS",
    help="Labels with commas between them, or @NAME for a set of the service, such as @cifar10.",
)
@click.option("--labels-file", metavar="FILE", help="A UTF-8 file with one label a line.")
@click.option(
    "--templates",
    multiple=True,
    metavar="TEMPLATE",
    help="Prompt with {} where the label goes, or @NAME for a set of the service; repeat for several prompts. "
    "The service has a default.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Predictions for each image, best first; 0 for all labels.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="json is one object a line.",
)
@click.option(
    "--fit",
    type=click.Choice(["auto", "center_crop", "squash"]),
    default="auto",
    show_default=True,
    help="Look at the largest centred square, or at all of an image, squeezed into a square; auto does what the model "
    "was trained with.",
)
@click.option(
    "--route",
    type=click.Choice(["auto", "upscaled", "native"]),
    default="auto",
    show_default=True,
    help="Super-resolution, or plain resizing, before the image encoder; auto decides by an image's size.",
)
@click.option(
    "--min-cosine",
    type=float,
    metavar="COSINE",
    help="Say that an image shows none of the labels where the best one stays below this cosine.",
)
@click.option(
    "--min-probability",
    type=float,
    metavar="PROBABILITY",
    help="The same, for its probability; with both, staying below either is enough.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    show_default=f"{_BATCH_SIZE}; {READ_AHEAD} with --output",
    metavar="N",
    help="Images read and sent at a time.",
)
@click.option(
    "--output",
    metavar="FILE",
    help="Write all results to this .parquet, .csv or .jsonl file at the end, any number of images; interrupted, the "
    "same command goes on where it was.",
)
@click.option("--embeddings", "has_embeddings", is_flag=True, help="Write each image's embedding to --output, too.")
@click.option("--restart", "is_restarted", is_flag=True, help="Do all images of --output again; replace the file.")
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def classify(
    paths: tuple[str, ...],
    labels: tuple[str, ...],
    labels_file: str | None,
    templates: tuple[str, ...],
    top_k: int,
    output_format: str,
    fit: Fit,
    route: Route,
    min_cosine: float | None,
    min_probability: float | None,
    batch_size: int | None,
    output: str | None,
    has_embeddings: bool,
    is_restarted: bool,
) -> ExitCode:
    """Classify image files with the labels you name.

    PATH is an image file, a folder (searched with its subfolders, in order of names, hidden files left out), or - for
    standard input. Results come in this order, as soon as a batch is done, or into the file of --output.
    """
    label_space = make_label_space(labels, labels_file, templates)
    if output is not None:
        if click.get_current_context().get_parameter_source("output_format") is not ParameterSource.DEFAULT:
            raise click.UsageError("The ending of --output says the format: leave --format out.")
        bulk = BulkOptions(
            label_space=label_space,
            top_k=top_k,
            fit=fit,
            route=route,
            min_cosine=min_cosine,
            min_probability=min_probability,
            has_embeddings=has_embeddings,
            read_ahead=batch_size or READ_AHEAD,
            output=Path(output),
            is_restarted=is_restarted,
        )
        with connect(retries=_BULK_RETRIES) as client:
            return classify_in_bulk(client, paths, bulk)
    if has_embeddings or is_restarted:
        raise click.UsageError("--embeddings and --restart go with --output.")
    options = ClassifyOptions(
        label_space=label_space,
        top_k=top_k,
        fit=fit,
        route=route,
        min_cosine=min_cosine,
        min_probability=min_probability,
        batch_size=batch_size or _BATCH_SIZE,
        output_format=output_format,
    )
    if output_format != "table":
        configure_stream(sys.stdout, encoding="utf-8")  # what programs read is UTF-8 in every locale
    with connect() as client:
        return classify_images(client, paths, options)


@cli.command(short_help="Upscale image files.", epilog=_UPSCALE_EXAMPLES)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--scale", type=float, callback=_check_scale, metavar="FACTOR", help="Factor on width and height, such as 3.5."
)
@click.option(
    "--size",
    "size_hw",
    callback=_parse_size,
    metavar="WIDTHxHEIGHT",
    help="Width and height of the output in pixels, such as 512x384; the aspect ratio may change.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["png", "jpeg", "webp", "tiff", "bmp"]),
    help="What all files of a folder become, instead of what their endings say.",
)
@click.option("--force", "is_forced", is_flag=True, help="Replace outputs that exist.")
@connection_options(timeout_s=_UPSCALE_TIMEOUT_S)
def upscale(
    source: str,
    target: str,
    scale: float | None,
    size_hw: tuple[int, int] | None,
    output_format: UpscaleFormat | None,
    is_forced: bool,
) -> ExitCode:
    """Upscale image files by the super-resolution model; give --scale or --size.

    IN is an image file, - for standard input, or a folder (searched with its subfolders, hidden files left out). OUT is
    the file to write, whose ending says its format: png, jpg, webp, tiff or bmp. For a folder, OUT is a folder, and
    names and subfolders are kept. An input is never overwritten.
    """
    if (scale is None) == (size_hw is None):
        raise click.UsageError("Give either --scale or --size: how large shall the output be?")
    options = UpscaleOptions(scale=scale, size_hw=size_hw, output_format=output_format, is_forced=is_forced)
    with connect() as client:
        return upscale_images(client, source, target, options)


@cli.command(short_help="Describe the model that answers.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output.",
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def info(output_format: str) -> ExitCode:
    """Describe the model that answers: its sizes, label and template sets, limits and files."""
    with connect() as client:
        model = client.model_info()
    if output_format == "json":
        configure_stream(sys.stdout, encoding="utf-8")
        click.echo(to_json(model))
    else:
        print_info(model, url=client.url, console=Console(file=sys.stdout, markup=False, highlight=False, emoji=False))
    return ExitCode.OK


@cli.command(short_help="Ask whether the service can work.")
@connection_options(timeout_s=_HEALTH_TIMEOUT_S, has_retries=False)
def health() -> ExitCode:
    """Print the service's state; exit with 0 if it is SERVING, and with 3 otherwise."""
    with connect() as client:
        state = client.health()
    click.echo(state)
    return ExitCode.OK if state == "SERVING" else ExitCode.UNREACHABLE


@cli.command(short_help="Show the service in a browser.")
@click.option(
    "--listen",
    default="127.0.0.1:7860",
    show_default=True,
    metavar="HOST:PORT",
    callback=parse_listen,
    help="Where the pages are served; port 0 takes a free one.",
)
@click.option(
    "--share",
    "is_shared",
    is_flag=True,
    help="Hand the pages on through Gradio's servers to whoever has the link, for a week at most.",
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def ui(listen: tuple[str, int], is_shared: bool) -> ExitCode:
    """Show web pages that classify, search and describe what the service knows, until Ctrl-C.

    They need the extra: pip install 'clipsr[ui]'. They call the service with the options given here, for everyone who
    can open them; by default that is this machine only.
    """
    with connect() as client:
        return serve_pages(client, listen, is_shared=is_shared)


cli.add_command(library)
