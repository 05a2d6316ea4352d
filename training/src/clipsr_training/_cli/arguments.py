"""What the command lines of this package share: how help is printed, and an option of several."""

from __future__ import annotations

import argparse

PREPROCESS_HELP = (
    "tag of the published weights that the file of --weights descends from, where those of the model differ in "
    "activation or in how images are prepared"
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: not that a flag is off, or that an option is absent."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)
