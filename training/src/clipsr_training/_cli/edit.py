"""`clipsr-train edit`: a photo's light and colours, moved as two texts or two pictures differ."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from clipsr_training._cli.arguments import HelpFormatter, positive, real, seed
from clipsr_training._cli.checkpoint import add_checkpoint_options, load_checkpoint, threads_for
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training._files import make_output_folder, to_json, write_atomically
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._checkpoint import bundled_config
from clipsr_training.data import check_ending, decode, encode
from clipsr_training.editing._edit import Edit, EditOptions, change_of_images, change_of_texts, edit
from clipsr_training.editing._recipe import BOUNDS, Recipe

_DEFAULTS = EditOptions()
_NOTE = (
    "note: the bundled model was taught 110 nouns and no words for light, colour or mood; for texts name an OpenCLIP "
    "model (--model NAME --weights PATH)"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "edit",
        help="edit a photo's light and colours by texts or by example",
        description=f"Move {len(BOUNDS)} bounded photographic parameters until a photo's embedding changes as two "
        "texts, or two pictures, differ. Writes the photo at its own resolution, and the recipe as JSON beside it, "
        "which --recipe applies to other photos. Interrupted, it keeps the best edit so far.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="what to edit")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("edited.png"),
        metavar="FILE",
        help="the edited photo; its ending says the format: png, jpg, webp, tiff or bmp",
    )
    direction = parser.add_argument_group("direction", "one of three: two texts, two pictures, or a recipe")
    direction.add_argument("--from", dest="from_text", metavar="TEXT", help='what the photo is: "a photo"')
    direction.add_argument("--to", dest="to_text", metavar="TEXT", help='what it is to be: "a warm evening photo"')
    direction.add_argument("--from-image", type=Path, metavar="IMAGE", help="a picture before such a change")
    direction.add_argument("--to-image", type=Path, metavar="IMAGE", help="the same picture after it")
    direction.add_argument("--recipe", type=Path, metavar="FILE.json", help="apply this recipe; no model is needed")
    model = parser.add_argument_group("model")
    add_checkpoint_options(model)
    _add_search(parser.add_argument_group("search"))
    parser.set_defaults(run=_run)


def _add_search(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--parameters", default=",".join(BOUNDS), metavar="A,B", help="those that may move, any of the default"
    )
    group.add_argument(
        "--strength",
        type=real(at_least=0, at_most=2),
        default=_DEFAULTS.strength,
        metavar="X",
        help="with texts, how far the embedding is to move, up to 2",
    )
    group.add_argument(
        "--simplicity",
        type=real(at_least=0),
        default=_DEFAULTS.simplicity,
        metavar="X",
        help="weight of moving few parameters, and those little",
    )
    group.add_argument(
        "--steps", type=positive, default=_DEFAULTS.n_steps, metavar="N", help="most steps of the search"
    )
    group.add_argument("--views", type=positive, default=_DEFAULTS.n_views, metavar="N", help="cuts to look at")
    group.add_argument("--seed", type=seed, default=_DEFAULTS.seed, help="of the cuts")


def _run(arguments: argparse.Namespace) -> Path:
    output: Path = arguments.output
    check_ending(output)
    kind = _kind_of_direction(arguments)
    photo = _read(arguments.photo)
    if output.exists() and output.samefile(arguments.photo):
        raise ValueError(f"--output is {output}, the photo itself; name another file")
    if output.is_dir():
        raise IsADirectoryError(f"--output is {output}, which is a folder; name a file")
    if kind == "recipe":
        recipe = _read_recipe(arguments.recipe)
        make_output_folder(output.parent)
        _write_photo(output, photo, recipe)
        return output
    options = _options(arguments)
    references = [_read(path) for path in (arguments.from_image, arguments.to_image)] if kind == "images" else []
    clip = load_checkpoint(arguments)
    if clip.config["model_cfg"] == bundled_config("clipsr-small")["model_cfg"]:
        print(f"clipsr-train: {_NOTE}", file=sys.stderr)
    make_output_folder(output.parent)
    wanted = (
        change_of_images(clip, references[0], references[1], options)
        if references
        else change_of_texts(clip, arguments.from_text, arguments.to_text, options)
    )
    edits, is_interrupted = _search(clip, photo, wanted, options)
    best = min(edits, key=lambda found: found.loss)
    _write_photo(output, photo, best.recipe)
    write_atomically(output.with_suffix(".json"), _to_report(arguments, options, best))
    if is_interrupted:
        raise KeyboardInterrupt(f"stopped; {output} is the best edit so far, of step {best.step}")
    return output


def _kind_of_direction(arguments: argparse.Namespace) -> str:
    """Return "texts", "images" or "recipe"; ValueError unless exactly one is given, and whole."""
    given = {
        "texts": (arguments.from_text, arguments.to_text),
        "images": (arguments.from_image, arguments.to_image),
        "recipe": (arguments.recipe,),
    }
    kinds = [kind for kind, parts in given.items() if any(part is not None for part in parts)]
    if len(kinds) != 1 or None in given[kinds[0]]:
        raise ValueError("give one direction: --from and --to, --from-image and --to-image, or --recipe")
    if kinds == ["texts"] and not (arguments.from_text.strip() and arguments.to_text.strip()):
        raise ValueError("--from and --to need a text each")
    return kinds[0]


def _options(arguments: argparse.Namespace) -> EditOptions:
    return EditOptions(
        parameters=tuple(name.strip() for name in arguments.parameters.split(",")),
        strength=arguments.strength,
        simplicity=arguments.simplicity,
        n_steps=arguments.steps,
        n_views=arguments.views,
        seed=arguments.seed,
    )


def _search(clip: ClipCheckpoint, photo: Image.Image, wanted: Tensor, options: EditOptions) -> tuple[list[Edit], bool]:
    """Return the edits up to the end or to Ctrl-C, and which of them it was.

    Raises:
        KeyboardInterrupt: there is no edit yet.
    """
    edits: list[Edit] = []
    with progress_bar() as bar, threads_for(clip):
        task = bar.add_task("editing", total=options.n_steps)
        try:
            for found in edit(clip, photo, wanted, options):
                edits.append(found)
                bar.update(task, completed=found.step)
        except KeyboardInterrupt as interruption:  # what is found is kept
            if not edits:
                raise KeyboardInterrupt("stopped before the first edit; nothing was written") from interruption
            return edits, True
    return edits, False


def _read(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    return decode(path.read_bytes(), str(path))


def _read_recipe(path: Path) -> Recipe:
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {path}")
    try:
        return Recipe.from_json(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} can't be read as a recipe: {error}") from error


def _write_photo(output: Path, photo: Image.Image, recipe: Recipe) -> None:
    edited = Image.fromarray(recipe.apply(np.asarray(photo)))
    edited.info = photo.info  # its colour profile
    write_atomically(output, encode(edited, output))


def _to_report(arguments: argparse.Namespace, options: EditOptions, best: Edit) -> bytes:
    report = {
        "parameters": best.recipe.to_mapping(),
        "from": arguments.from_text or str(arguments.from_image),
        "to": arguments.to_text or str(arguments.to_image),
        "model": arguments.model,
        "weights": arguments.weights,
        "seed": options.seed,
        "step": best.step,
        "loss": round(best.loss, 4),
    }
    return to_json(report, indent=2).encode() + b"\n"
