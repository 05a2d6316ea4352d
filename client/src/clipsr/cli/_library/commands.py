"""Commands and options of `clipsr-client library`."""

from __future__ import annotations

from pathlib import Path

import click

from clipsr import ImageChanges
from clipsr._codecs.arguments import as_texts
from clipsr._rpc.window import ADD_READ_AHEAD
from clipsr.cli._connection import connect, connection_options
from clipsr.cli._csv import csv_safe_option
from clipsr.cli._exits import ExitCode
from clipsr.cli._library.add import AddOptions, add_images
from clipsr.cli._library.export import ExportOptions, export_images
from clipsr.cli._library.list import ListOptions, list_all_libraries, list_images, show_library
from clipsr.cli._library.manage import (
    create_library,
    delete_images,
    drop_library,
    reembed_library,
    update_images,
)
from clipsr.cli._library.options import (
    chosen_filter,
    chosen_format,
    chosen_images,
    every_image_option,
    filter_options,
    format_options,
    library_argument,
    library_option,
    parse_metadata,
    selection_options,
)
from clipsr.cli._library.search import Query, SearchOptions, search_images
from clipsr.cli._options import given, image_options, templates_option

_CALL_TIMEOUT_S = 30.0  # the library's default
_LONG_TIMEOUT_S = 300.0  # removing a large library, or deleting much of it, rewrites files
_ADD_RETRIES = 12  # about half a minute: what a restart of the service takes

# \b keeps click from filling the lines into a paragraph.
_EXAMPLES = """\b
Examples:
  clipsr-client library create
  clipsr-client library add photos/ --tag holiday
  clipsr-client library search "a dog on grass"
  clipsr-client library search --image cat.jpg --html found.html
  clipsr-client library list default --newest
"""


@click.group(short_help="Keep images, find them by words or by example.", no_args_is_help=False, epilog=_EXAMPLES)
def library() -> None:
    """Keep images in libraries of the service, and find them by words or by example.

    A library has a name; commands that are given none take CLIPSR_LIBRARY, or "default".
    """


@library.command(short_help="Create a library.")
@library_argument
@click.option(
    "--no-originals",
    is_flag=True,
    help="Keep thumbnails and vectors only: smaller, but nothing to export, nor to embed again for another model.",
)
@click.option(
    "--thumbnail-side",
    "thumbnail_side_px",
    type=click.IntRange(min=0),
    default=0,
    show_default="the service's choice",
    metavar="PIXELS",
    help="Longest side of thumbnails.",
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def create(name: str, no_originals: bool, thumbnail_side_px: int) -> ExitCode:
    """Create an empty library for the model that is served."""
    with connect() as client:
        return create_library(client, name, keep_originals=not no_originals, thumbnail_side_px=thumbnail_side_px)


@library.command(short_help="Add image files.")
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option(
    "--from",
    "table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TABLE",
    help="Add the images of a table that `library export` wrote (images.jsonl or images.csv), with their sources, tags "
    "and values, instead of PATH.",
)
@library_option
@click.option("--create", "is_created", is_flag=True, help="Create the library first if there is none.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Give the images this tag; repeat for several.")
@click.option(
    "--meta", multiple=True, metavar="KEY=VALUE", help="Give the images this value by its key; repeat for several."
)
@click.option(
    "--update",
    "is_updating",
    is_flag=True,
    help="Give the tags, values and sources also to images that the library has already.",
)
@image_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=ADD_READ_AHEAD,
    show_default=True,
    metavar="N",
    help="Images read and sent at a time.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the outcome of each image to this file, a JSON object a line.",
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def add(
    paths: tuple[str, ...],
    table: Path | None,
    name: str,
    is_created: bool,
    tags: tuple[str, ...],
    meta: tuple[str, ...],
    is_updating: bool,
    batch_size: int,
    results: Path | None,
) -> ExitCode:
    """Add image files to a library.

    PATH is an image file or a folder, searched with its subfolders, hidden files left out. The same bytes are one image
    of a library, so after an interruption the same command adds the rest. Images that fail are printed and do not stop
    the others.
    """
    if bool(paths) == (table is not None):
        raise click.UsageError("Say what to add: PATH..., files or folders, or --from TABLE.")
    options = AddOptions(
        tags=as_texts("--tag", tags),
        metadata=parse_metadata(meta),
        fit=given()["fit"],
        route=given()["route"],
        read_ahead=batch_size,
        results=results,
        is_created=is_created,
        is_updating=is_updating,
    )
    with connect(retries=_ADD_RETRIES) as client:
        return add_images(client, name, paths, options, table=table)


@library.command(short_help="Find images by words or by example.")
@click.argument("text", required=False)
@click.option("--image", metavar="FILE", help="Search with an image file; - is standard input.")
@click.option("--like", "sha256", metavar="SHA256", help="Search with an image of the library.")
@library_option
@click.option("--top-k", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="Images to find.")
@templates_option("text")
@click.option("--min-cosine", type=float, metavar="COSINE", help="Leave out images below this cosine.")
@click.option("--exact", "is_exact", is_flag=True, help="Compare with every image instead of asking the index; slower.")
@click.option("--exclude-query", is_flag=True, help="Leave the very image that is searched with out of what is found.")
@filter_options
@format_options
@click.option(
    "--thumbnails/--no-thumbnails",
    "has_thumbnails",
    default=None,
    help="Draw pictures in the terminal; by default where it can (iTerm2, WezTerm; PNG files in kitty, Ghostty).",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a contact sheet instead: one page that needs nothing else.",
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def search(
    text: str | None,
    image: str | None,
    sha256: str | None,
    name: str,
    top_k: int,
    min_cosine: float | None,
    is_exact: bool,
    exclude_query: bool,
    has_thumbnails: bool | None,
    html: Path | None,
) -> ExitCode:
    """Find the images that fit TEXT best, or that are most like an image; best first."""
    if sum(each is not None for each in (text, image, sha256)) != 1:
        raise click.UsageError('Say what to search with: TEXT, such as "a dog on grass", or --image FILE, or --like.')
    options = SearchOptions(
        templates=given()["templates"],
        top_k=top_k,
        where=chosen_filter(),
        min_cosine=min_cosine,
        is_exact=is_exact,
        exclude_query=exclude_query,
        output_format=chosen_format(),
        is_csv_safe=given()["is_csv_safe"],
        has_thumbnails=has_thumbnails,
        html=html,
    )
    with connect() as client:
        return search_images(client, name, Query(text=text, image=image, sha256=sha256), options)


@library.command("list", short_help="List libraries, or the images of one.")
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="Images to list; 0 for all.",
)
@click.option("--page", "page_token", default="", metavar="TOKEN", help="Go on where an earlier list ended.")
@click.option("--newest", "newest_first", is_flag=True, help="Begin with the image that was added last.")
@filter_options
@format_options
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a contact sheet instead: one page that needs nothing else.",
)
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def list_(
    name: str | None,
    limit: int,
    page_token: str,
    newest_first: bool,
    html: Path | None,
) -> ExitCode:
    """List the libraries of the service, or the images of library NAME in the order in which they were added."""
    output_format = chosen_format()
    if name is None:
        if chosen_filter() is not None or page_token or newest_first or html is not None:
            raise click.UsageError("Filters, --page, --newest and --html are for the images of one library: name it.")
        with connect() as client:
            return list_all_libraries(client, output_format=output_format, is_csv_safe=given()["is_csv_safe"])
    options = ListOptions(
        where=chosen_filter(),
        limit=limit,
        page_token=page_token,
        newest_first=newest_first,
        output_format=output_format,
        is_csv_safe=given()["is_csv_safe"],
        html=html,
    )
    with connect() as client:
        return list_images(client, name, options)


@library.command(short_help="Describe a library.")
@library_argument
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
@connection_options(timeout_s=_CALL_TIMEOUT_S)
def show(name: str, is_json: bool) -> ExitCode:
    """Describe a library: its images, size, model and index."""
    with connect() as client:
        return show_library(client, name, is_json=is_json)


@library.command(short_help="Write images and what is known about them into a folder.")
@click.argument("folder", type=click.Path(path_type=Path))
@library_option
@click.option("--thumbnails", "is_thumbnails", is_flag=True, help="Write thumbnails instead of the files.")
@click.option(
    "--table",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="The kind of table that lists the images.",
)
@csv_safe_option
@click.option("--embeddings", "has_embeddings", is_flag=True, help="Write embeddings into a jsonl table, too.")
@filter_options
@connection_options(timeout_s=_LONG_TIMEOUT_S)
def export(folder: Path, name: str, is_thumbnails: bool, table: str, has_embeddings: bool) -> ExitCode:
    """Write the images of a library, and a table of what is known about them, into FOLDER.

    Files are named by their sources and hashes. What is there already stays, so after an interruption the same command
    resumes.
    """
    options = ExportOptions(
        folder=folder,
        is_thumbnails=is_thumbnails,
        is_json=table == "jsonl",
        has_embeddings=has_embeddings,
        is_csv_safe=given()["is_csv_safe"],
        where=chosen_filter(),
    )
    with connect() as client:
        return export_images(client, name, options)


@library.command(short_help="Add and remove tags of images.")
@selection_options
@every_image_option
@click.option("--add", "add_tags", multiple=True, metavar="TAG", help="Add this tag; repeat for several.")
@click.option("--remove", "remove_tags", multiple=True, metavar="TAG", help="Remove this tag; repeat for several.")
@click.option("--clear", "clear_tags", is_flag=True, help="Remove all tags first.")
@connection_options(timeout_s=_LONG_TIMEOUT_S)
def tag(name: str, add_tags: tuple[str, ...], remove_tags: tuple[str, ...], clear_tags: bool) -> ExitCode:
    """Change the tags of images: those named by SHA256, or all that filters find.

    - reads the names from standard input. The images of a thousand names, or of the filters, change together or not at
    all, and repeating the command changes nothing more.
    """
    changes = ImageChanges(add_tags=add_tags, remove_tags=remove_tags, clear_tags=clear_tags)
    with connect() as client:
        return update_images(client, name, chosen_images(), changes)


@library.command("set", short_help="Set values and sources of images.")
@selection_options
@every_image_option
@click.option("--value", "values", multiple=True, metavar="KEY=VALUE", help="Set this value; repeat for several.")
@click.option("--remove", "remove_keys", multiple=True, metavar="KEY", help="Remove this value; repeat for several.")
@click.option("--clear", "clear_metadata", is_flag=True, help="Remove all values first.")
@click.option("--new-source", metavar="TEXT", help="Set the source.")
@connection_options(timeout_s=_LONG_TIMEOUT_S)
def set_(
    name: str, values: tuple[str, ...], remove_keys: tuple[str, ...], clear_metadata: bool, new_source: str | None
) -> ExitCode:
    """Change the values by key, or the source, of images: those named by SHA256, or all that filters find.

    - reads the names from standard input. The images of a thousand names, or of the filters, change together or not at
    all, and repeating the command changes nothing more.
    """
    changes = ImageChanges(
        source=new_source,
        set_metadata=parse_metadata(values, option="--value"),
        remove_metadata=remove_keys,
        clear_metadata=clear_metadata,
    )
    with connect() as client:
        return update_images(client, name, chosen_images(), changes)


@library.command(short_help="Delete images.")
@selection_options
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask before deleting by filters.")
@connection_options(timeout_s=_LONG_TIMEOUT_S)
def delete(name: str, is_confirmed: bool) -> ExitCode:
    """Delete images: those named by SHA256, or all that filters find; - reads the names from standard input."""
    with connect() as client:
        return delete_images(client, name, chosen_images(), is_confirmed=is_confirmed)


@library.command(short_help="Remove a library.")
@click.argument("name")
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask.")
@connection_options(timeout_s=_LONG_TIMEOUT_S)
def drop(name: str, is_confirmed: bool) -> ExitCode:
    """Remove library NAME with everything in it."""
    with connect() as client:
        return drop_library(client, name, is_confirmed=is_confirmed)


@library.command(short_help="Embed a library with the model that is served.")
@library_argument
@click.option(
    "--drop-without-original", is_flag=True, help="Leave out images whose files were not kept, instead of refusing."
)
@connection_options(timeout_s=_LONG_TIMEOUT_S)
def reembed(name: str, drop_without_original: bool) -> ExitCode:
    """Embed all images of a library with the model that is served, so that it can be searched and added to again.

    Until it is done the library stays as it is. After an interruption the same command resumes.
    """
    with connect(retries=_ADD_RETRIES) as client:
        return reembed_library(client, name, drop_without_original=drop_without_original)
