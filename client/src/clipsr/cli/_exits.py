"""How the command ends: exit codes, and one sentence on standard error instead of a traceback."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Sequence
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


def run_group(group: click.Group, arguments: Sequence[str] | None, *, command: str) -> int:
    """Run the command line; return the exit code.

    Args:
        group: of the commands.
        arguments: of the command line; None takes this process's.
        command: its name, in messages.
    """
    try:
        return group.main(args=arguments, prog_name=command, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else command
        report(f"{error.format_message()}\nTry `{path} --help`.", command=command)
        return ExitCode.USAGE
    except click.Abort:  # interrupted before a command had begun
        return ExitCode.INTERRUPTED
    except OSError as error:  # --help or --version could not be written
        return report_unwritable(error, command=command)
    except SystemExit:  # click's way to end when the reader of --help is gone
        return ExitCode.BROKEN_PIPE


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


def report(message: str, *, command: str | None = None) -> None:
    """Print a sentence on standard error, if that can be written; it may hold what somebody else wrote.

    Args:
        message: the sentence.
        command: whose it is; None takes the one that runs.
    """
    context = click.get_current_context(silent=True)
    command = command or (context and context.find_root().info_name) or _COMMAND
    lines = "\n".join(escape_controls(line) for line in message.split("\n"))
    with contextlib.suppress(OSError):
        click.echo(f"{command}: {lines}", err=True)


def report_unwritable(error: OSError, *, command: str | None = None) -> ExitCode:
    """Print what could not be written, standard output unless the error names a file, and return the exit code for it.

    What is read fails with errors of its own, so an OSError that nobody else expected is one of writing.
    """
    _discard_output()
    report(describe_unwritable(Path(error.filename or "standard output"), error), command=command)
    return ExitCode.OUTPUT_FAILED


def report_error(error: ClipsrError) -> ExitCode:
    """Print what went wrong with a whole call and return the exit code for it."""
    code, message = describe_error(error)
    report(message)
    return code


def describe_error(error: ClipsrError) -> tuple[ExitCode, str]:
    """Return the exit code for what went wrong with a whole call, and what to say of it."""
    if isinstance(error, InvalidRequestError):
        details = [f"\n  {field}: {text}" for field, text in error.violations if text not in str(error)]
        return ExitCode.USAGE, str(error) + "".join(details)
    if isinstance(error, (AlreadyExistsError, ModelMismatchError, NotFoundError)):
        return ExitCode.USAGE, str(error)
    if isinstance(error, AuthenticationError):
        return ExitCode.NOT_ALLOWED, f"{error} (--api-key-file, --tls, --ca, --cert)"
    return ExitCode.UNREACHABLE, f"{error} (--timeout)" if isinstance(error, DeadlineError) else str(error)


def _discard_output() -> None:
    """Send what is still buffered to nowhere, or the interpreter would complain about it at its exit."""
    with contextlib.suppress(OSError):  # io.UnsupportedOperation: a stream without a file
        output = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output)
        os.close(null)
