"""What `clipsr-client ui` does once its options are understood."""

from __future__ import annotations

import click

from clipsr import Client
from clipsr.cli._exits import ExitCode, report


def parse_listen(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; the host of IPv6 without its brackets.

    Raises:
        click.BadParameter: it is written otherwise.
    """
    host, colon, port = value.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if is_bracketed else host
    is_plain = name != "" and (is_bracketed or ":" not in name)
    if not colon or not is_plain or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT: write it as 127.0.0.1:7860.")
    return name, int(port)


def serve_pages(client: Client, listen: tuple[str, int], *, is_shared: bool) -> ExitCode:
    """Serve the web pages until the command is interrupted.

    Raises:
        click.UsageError: the extra is not installed, or the address cannot be used.
    """
    try:
        from clipsr.ui._server import AddressError, UiOptions, serve  # imports gradio: seconds long, and an extra
    except ModuleNotFoundError as error:
        raise click.UsageError(f"The web pages need {error.name}: pip install 'clipsr[ui]'.") from error
    host, port = listen
    options = UiOptions(host=host, port=port, is_shared=is_shared)
    if not options.is_local:
        report("everyone who reaches these pages uses the service with your key: there is no login.")
    try:
        serve(client, options, announce=lambda url: click.echo(f"clipsr is at {url}  (Ctrl-C ends it)"))
    except AddressError as error:
        raise click.UsageError(f"{host}:{port} cannot be listened on: {error}. Give another --listen.") from error
    return ExitCode.OK
