"""The options that say where the service is and who is calling, the same for all commands."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from clipsr import Client
from clipsr._rpc.retry import DEFAULT_RETRIES
from clipsr.cli._options import KEPT, Command, given, in_order, keep

_DEFAULT_URL = "localhost:50051"  # the gateway's default port
_KEY_VARIABLE = "CLIPSR_API_KEY"


def connection_options(*, timeout_s: float, has_retries: bool = True) -> Callable[[Command], Command]:
    """Return a decorator that adds the options to a command, which then uses connect().

    Args:
        timeout_s: default of --timeout, in seconds.
        has_retries: whether the command makes calls that are worth another attempt.
    """
    options = [
        click.option(
            "--url",
            envvar="CLIPSR_URL",
            default=_DEFAULT_URL,
            show_default=True,
            show_envvar=True,
            metavar="HOST:PORT",
            help="Address of the service.",
            **KEPT,
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=float,
            default=timeout_s,
            show_default=True,
            metavar="SECONDS",
            help="How long one answer may take, attempts included.",
            expose_value=False,
            callback=_keep_timeout,
        ),
        click.option(
            "--tls",
            is_flag=True,
            envvar="CLIPSR_TLS",
            show_envvar=True,
            help="Connect by TLS; trust the public authorities.",
            **KEPT,
        ),
        _file_option("--ca", "Connect by TLS; trust this authority (PEM)."),
        _file_option("--cert", "Certificate to show to the service (PEM); needs --key."),
        _file_option("--key", "Its private key (PEM)."),
        _file_option("--api-key-file", f"File with the API key; or put the key into {_KEY_VARIABLE}."),
        click.option(
            "--allow-insecure-key", is_flag=True, help="Send the API key without TLS to another machine, too.", **KEPT
        ),
    ]

    if has_retries:
        retries = click.option(
            "--retries",
            type=click.IntRange(min=0),
            show_default=str(DEFAULT_RETRIES),
            metavar="N",
            help="Retries while the service is unavailable or asks to wait.",
            **KEPT,
        )
        options.insert(2, retries)

    return in_order(*options)


def connect(*, retries: int = DEFAULT_RETRIES) -> Client:
    """Return a client for the options of the command that runs.

    Args:
        retries: where --retries is not given.

    Raises:
        click.UsageError: the API key's file cannot be used.
        InvalidRequestError: the options contradict each other.
    """
    return Client(**read_connection(retries=retries))


def read_connection(*, retries: int) -> dict[str, Any]:
    """Return the arguments of a client for the options of the command that runs.

    Args:
        retries: where --retries is not given.

    Raises:
        click.UsageError: the API key's file cannot be used.
    """
    values = given()
    return {
        "url": values["url"],
        "timeout_s": values["timeout_s"],
        "retries": retries if (asked := values.get("retries")) is None else asked,
        "tls": values["ca"] or values["tls"],
        "cert_file": values["cert"],
        "key_file": values["key"],
        "api_key": _read_api_key(values["api_key_file"]),
        "allow_insecure_key": values["allow_insecure_key"],
    }


def _keep_timeout(ctx: click.Context, parameter: click.Parameter, timeout_s: float) -> float:
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise click.BadParameter("give a number of seconds above 0.")
    return keep(ctx, parameter, timeout_s)


def _file_option(name: str, text: str) -> Callable[[Command], Command]:
    variable = "CLIPSR_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, metavar="FILE", envvar=variable, show_envvar=True, help=text, **KEPT)


def _read_api_key(path: str | None) -> str | None:
    """Return the key; an option of its own would show in the list of processes."""
    if path is None:
        return os.environ.get(_KEY_VARIABLE) or None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"The API key's file {path!r} cannot be read: {cause}.") from None
    key = text.strip()
    if not key or len(key.split()) > 1:
        raise click.UsageError(f"The file {path!r} must hold one API key and nothing else.")
    return key
