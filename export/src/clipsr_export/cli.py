"""Command line of the export: `clipsr-export`.

A command is a module with `add_parser(commands)`, which adds its options and sets `run`: a function of the parsed
arguments that does the work or raises one of `_FAILURES`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from clipsr_export._commands import clip, int8, tensorrt, upscaler
from clipsr_export._commands.arguments import HelpFormatter
from clipsr_export._errors import ExportError
from clipsr_training.interrupts import interrupted_by_sigterm
from clipsr_training.liif import CheckpointFormatError

_COMMANDS = (clip, upscaler, int8, tensorrt)
# What a user can cause; anything else is a defect and shows its traceback.
_FAILURES = (ExportError, CheckpointFormatError, OSError, ValueError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipsr-export`; returns the exit code (0 done, 1 not exported, 130 interrupted)."""
    arguments = build_parser().parse_args(_with_command(sys.argv[1:] if argv is None else argv))
    try:
        with interrupted_by_sigterm():
            arguments.run(arguments)
    except KeyboardInterrupt:
        print("clipsr-export: interrupted; nothing was changed", file=sys.stderr)
        return 130
    except _FAILURES as error:
        print(f"clipsr-export: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line, for documentation and tests too."""
    parser = argparse.ArgumentParser(
        prog="clipsr-export",
        description="Export checkpoints into a model repository that clipsr-serve runs. Without a command: "
        f"'{clip.DEFAULT_COMMAND}', which takes the options that come first.",
        formatter_class=HelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def _with_command(argv: Sequence[str]) -> list[str]:
    """Name the default command where the first argument is an option of it."""
    is_bare = not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help"))
    return [clip.DEFAULT_COMMAND, *argv] if is_bare else list(argv)
