"""Command line of the evaluation: `clipsr-eval`; a command is a module of `_cli/eval`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from clipsr_training._cli.arguments import describe, plain_warnings
from clipsr_training._cli.eval import (
    degraded,
    drawings,
    experiment,
    image,
    linear_probe,
    low_resolution,
    none_of_these,
    restore,
    routes,
    sr,
    zero_shot,
)
from clipsr_training.interrupts import interrupted_by_sigterm

_COMMANDS = (
    sr,
    zero_shot,
    linear_probe,
    low_resolution,
    routes,
    none_of_these,
    degraded,
    restore,
    image,
    drawings,
    experiment,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipsr-eval`; returns the exit code (0 done, 1 bad data, model or output, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    try:
        with interrupted_by_sigterm(), plain_warnings("clipsr-eval"):
            arguments.run(arguments)
    except (OSError, ValueError) as error:
        print(f"clipsr-eval: {describe(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"clipsr-eval: {arguments.on_interrupt}", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `clipsr-eval` with all its commands."""
    parser = argparse.ArgumentParser(prog="clipsr-eval", description="Measure the models that clipsr serves.")
    parser.set_defaults(on_interrupt="interrupted; nothing was written")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
