"""What the command lines of this package share: how they print their help, and how they read what is typed."""

from __future__ import annotations

import argparse

from clipsr_training import prompts

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


def parse_labels(text: str) -> tuple[str, ...]:
    """Read the labels of "a,b,c", or of "@name" for a published set; ValueError for anything else."""
    if text.startswith("@"):
        known = prompts.label_sets()
        if text[1:] not in known:
            names = ", ".join(f"@{name}" for name in known)
            raise ValueError(f"no label set {text}; known: {names}")
        return tuple(known[text[1:]])
    labels = tuple(label.strip() for label in text.split(",") if label.strip())
    if len(set(labels)) != len(labels) or not labels:
        raise ValueError(f"labels must be named, with commas between them, each once; got {text!r}")
    return labels
