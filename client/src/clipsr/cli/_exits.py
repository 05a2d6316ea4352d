"""How the command ends: exit codes, and one sentence on standard error instead of a traceback."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from pathlib import Path

import click

from clipsr import (
    AlreadyExistsError,
    AuthenticationError,
    ClipsrError,
    DeadlineError,
    InvalidRequestError,
    ModelMismatchError,
    NotFoundError,
)
from clipsr._display.text import escape_controls
from clipsr._files import describe_unwritable

_COMMAND = "clipsr-client"


class ExitCode(enum.IntEnum):
    """Exit codes of all commands; docs/cli.md lists them."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    OUTPUT_FAILED = 5
    INTERRUPTED = 130  # 128 + SIGINT, as shells count
    BROKEN_PIPE = 141  # 128 + SIGPIPE


class QuietGroup(click.Group):
    """A group whose commands end without a traceback when they are interrupted, cut off or refused.

    click would print "Aborted!" and exit 1 for an interrupt, and exit 1 for a closed pipe; here 1 means failed images.
    """

    def invoke(self, ctx: click.Context) -> int:
        """Run the command and return its exit code."""
        try:
            code: int = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except BrokenPipeError:
            _discard_output()
            return ExitCode.BROKEN_PIPE
        except OSError as error:
            return report_unwritable(error)
        except ClipsrError as error:
            return report_error(error)
        return code


def report(message: str) -> None:
    """Print a sentence on standard error, if that can be written; it may hold what somebody else wrote."""
    lines = "\n".join(escape_controls(line) for line in message.split("\n"))
    with contextlib.suppress(OSError):
        click.echo(f"{_COMMAND}: {lines}", err=True)


def report_unwritable(error: OSError) -> ExitCode:
    """Print what could not be written, standard output unless the error names a file, and return the exit code for it.

    What is read fails with errors of its own, so an OSError that nobody else expected is one of writing.
    """
    _discard_output()
    report(describe_unwritable(Path(error.filename or "standard output"), error))
    return ExitCode.OUTPUT_FAILED


def report_error(error: ClipsrError) -> ExitCode:
    """Print what went wrong with a whole call and return the exit code for it."""
    if isinstance(error, InvalidRequestError):
        details = [f"\n  {field}: {text}" for field, text in error.violations if text not in str(error)]
        report(str(error) + "".join(details))
        return ExitCode.USAGE
    if isinstance(error, (AlreadyExistsError, ModelMismatchError, NotFoundError)):
        report(str(error))
        return ExitCode.USAGE
    if isinstance(error, AuthenticationError):
        report(f"{error} (--api-key-file, --tls, --ca, --cert)")
        return ExitCode.NOT_ALLOWED
    report(f"{error} (--timeout)" if isinstance(error, DeadlineError) else str(error))
    return ExitCode.UNREACHABLE


def _discard_output() -> None:
    """Send what is still buffered to nowhere, or the interpreter would complain about it at its exit."""
    with contextlib.suppress(OSError):  # io.UnsupportedOperation: a stream without a file
        output = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output)
        os.close(null)
