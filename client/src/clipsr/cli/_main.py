"""Commands and options of `clipsr-client`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from clipsr import ServiceUnavailableError, UpscaleFormat, UpscaleRecipe
from clipsr._rpc.window import READ_AHEAD
from clipsr.cli._classify.bulk import Output, classify_to_file
from clipsr.cli._classify.screen import classify_to_screen
from clipsr.cli._classify.stream import Job
from clipsr.cli._connection import connect, connection_options
from clipsr.cli._csv import csv_safe_option
from clipsr.cli._exits import ExitCode, QuietGroup, run_group
from clipsr.cli._info import print_info, to_json
from clipsr.cli._inputs import STDIN
from clipsr.cli._library.commands import library
from clipsr.cli._options import chosen_classify_options, classify_options, given
from clipsr.cli._pictures.restore import RestoreOptions, restore_images
from clipsr.cli._pictures.upscale import UpscaleOptions, parse_size, upscale_images
from clipsr.cli._streams import configure_stream, open_missing_streams
from clipsr.cli._ui import parse_listen, serve_pages

_NO_SERVICE = "clipsr.v1.NoService"
"""A gateway does not know it; Triton says of every name that it is SERVING."""

_HEALTH_TIMEOUT_S = 5.0  # short enough for the health check of a container
_CALL_TIMEOUT_S = 30.0  # the library's default
_UPSCALE_TIMEOUT_S = 300.0  # the largest output takes a minute or more on two cores
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
  clipsr-client upscale thumbnail.jpg large.png --scale 4 --recipe robust
  clipsr-client upscale - - --scale 2 --format png < cat.jpg > cat-large.png
"""

_RESTORE_EXAMPLES = """\b
Examples:
  clipsr-client restore foggy.jpg clear.png --remove haze
  clipsr-client restore old.jpg better.png --remove noise --remove blur --steps 10
  clipsr-client restore photos/ restored/ --format png
  clipsr-client restore thumbnail.jpg large.png --upscale 4
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    open_missing_streams()
    configure_stream(sys.stdout)
    configure_stream(sys.stderr)
    return run_group(cli, arguments, command="clipsr-client")


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
    4 authentication failed, 5 the output cannot be written.
    """


@cli.command(short_help="Classify image files.", epilog=_EXAMPLES)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@classify_options
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="json is one object a line, csv one row an image.",
)
@csv_safe_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=READ_AHEAD,
    show_default=True,
    metavar="N",
    help="Images under way at once.",
)
@click.option("--embeddings", "has_embeddings", is_flag=True, help="Write each image's embedding, too.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write all results to this .parquet, .csv or .jsonl file at the end, any number of images; after an "
    "interruption the same command resumes.",
)
@click.option("--restart", "is_restarted", is_flag=True, help="Do all images of --output again; replace the file.")
@click.option(
    "--retry-failed", "retries_failed", is_flag=True, help="Do the images of --output that failed again; keep the rest."
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def classify(
    paths: tuple[str, ...],
    output_format: str,
    batch_size: int,
    has_embeddings: bool,
    output: Path | None,
    is_restarted: bool,
    retries_failed: bool,
) -> ExitCode:
    """Classify image files with the labels you name.

    PATH is an image file, a folder (searched with its subfolders, in order of names, hidden files left out), or - for
    standard input. Results come in this order, each as soon as it can, or into the file of --output.
    """
    if STDIN in paths and given()["labels_file"] == STDIN:
        raise click.UsageError("Standard input (-) is either an image or the labels file: name a file for the other.")
    options = chosen_classify_options(return_embedding=has_embeddings)
    job = Job(paths=paths, options=options, read_ahead=batch_size)
    is_csv_safe: bool = given()["is_csv_safe"]
    if output is not None:
        if click.get_current_context().get_parameter_source("output_format") is not ParameterSource.DEFAULT:
            raise click.UsageError("The ending of --output says the format: leave --format out.")
        if is_restarted and retries_failed:
            raise click.UsageError("--restart does all images again and --retry-failed some: leave one of them out.")
        file = Output(path=output, is_csv_safe=is_csv_safe, is_restarted=is_restarted, retries_failed=retries_failed)
        with connect(retries=_BULK_RETRIES) as client:
            return classify_to_file(client, job, file)
    if is_restarted or retries_failed:
        raise click.UsageError("--restart and --retry-failed go with --output.")
    if has_embeddings and output_format != "json":
        raise click.UsageError("--embeddings go with --format json, or with --output to .parquet or .jsonl.")
    if output_format != "table":
        configure_stream(sys.stdout, encoding="utf-8")  # what programs read is UTF-8 in every locale
    with connect() as client:
        return classify_to_screen(client, job, output_format=output_format, is_csv_safe=is_csv_safe)


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
    help="What all files of a folder become, instead of what their endings say; with - as OUT, what is written.",
)
@click.option(
    "--recipe",
    type=click.Choice(["clean", "robust"]),
    default="clean",
    show_default=True,
    help="clean for pictures that were reduced well; robust removes aliasing, JPEG's blocks and noise, where the "
    "service offers it.",
)
@click.option("--force", "is_forced", is_flag=True, help="Replace outputs that exist.")
@connection_options(timeout_s=_UPSCALE_TIMEOUT_S)
def upscale(
    source: str,
    target: str,
    scale: float | None,
    size_hw: tuple[int, int] | None,
    output_format: UpscaleFormat | None,
    recipe: UpscaleRecipe,
    is_forced: bool,
) -> ExitCode:
    """Upscale image files by the super-resolution model; give --scale or --size.

    IN is an image file, - for standard input, or a folder (searched with its subfolders, hidden files left out). OUT is
    the file to write, whose ending says its format: png, jpg, webp, tiff or bmp; or - for standard output, with
    --format. For a folder, OUT is a folder, and names and subfolders are kept. An input is never overwritten.
    """
    if (scale is None) == (size_hw is None):
        raise click.UsageError("Give either --scale or --size: how large shall the output be?")
    options = UpscaleOptions(
        scale=scale, size_hw=size_hw, output_format=output_format, recipe=recipe, is_forced=is_forced
    )
    with connect() as client:
        return upscale_images(client, source, target, options)


@cli.command(short_help="Remove damage from image files.", epilog=_RESTORE_EXAMPLES)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--remove",
    multiple=True,
    metavar="DAMAGE",
    help="What to remove, such as haze, noise, rain or blur; `clipsr-client info` lists all. Repeat it for more. "
    "[default: what the service detects]",
)
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="Evaluations of the network.  [default: the service's]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the noise that a restoration starts from; the same seed and image give the same result.",
)
@click.option(
    "--upscale",
    type=float,
    callback=_check_scale,
    metavar="FACTOR",
    help="Upscale the restored image by this factor on width and height, such as 4.",
)
@click.option(
    "--force",
    "is_forced",
    is_flag=True,
    help="Restore images that are judged clean, too, and where the service detects nothing, without --remove.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["png", "jpeg", "webp", "tiff", "bmp"]),
    help="What all files of a folder become, instead of what their endings say; with - as OUT, what is written.",
)
@click.option("--overwrite", "is_overwriting", is_flag=True, help="Replace outputs that exist.")
@connection_options(timeout_s=_UPSCALE_TIMEOUT_S)
def restore(source: str, target: str, **options: Any) -> ExitCode:
    """Remove damage from image files: what --remove names, or what the service detects.

    Where it detects damage, images that are judged clean come back as they are. IN and OUT are those of upscale: a
    file, a folder, or - for standard input and output. No input is overwritten.
    """
    with connect() as client:
        return restore_images(client, source, target, RestoreOptions(**options))


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
        if state == "SERVING" and client.health(service=_NO_SERVICE) == state:
            message = (
                f"What listens at {client.url} says SERVING of any service, also of those that it lacks: it is Triton "
                "or another server, and no clipsr gateway; give the gateway's address."
            )
            raise ServiceUnavailableError(message, url=client.url)
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
    help="Hand the pages on through Gradio's servers to everyone who has the link, for a week at most.",
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
