"""`clipsr-export clip` and `clipsr-export checkpoints`: a CLIP model and an upscaler into a model repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clipsr_export._commands.arguments import (
    add_clip_options,
    add_command,
    add_repository_options,
    find_samples,
    warn_of_service,
)
from clipsr_export._commands.int8 import Int8Plan, export_int8, open_calibration
from clipsr_export._errors import ExportError
from clipsr_export._repository.export import ExportPlan, export_repository
from clipsr_export._repository.manifest import Recipe, sha256
from clipsr_training.adapt import (
    RULES_NAME,
    OtherWeightsError,
    RouteRule,
    measure_routes,
    read_nouns,
    read_rules,
)
from clipsr_training.clip import ClipCheckpoint, load_clip, load_open_clip
from clipsr_training.controller import ControlledClip, load_controller, load_daclip
from clipsr_training.liif import BUNDLED_UPSCALER, Upscaler, find_upscaler, load_liif
from clipsr_training.none_of_these import (
    CALIBRATION_NAME,
    Calibration,
    calibrate_checkpoint,
    read_calibration,
)
from clipsr_training.restoration import load_restorer

if TYPE_CHECKING:
    from clipsr_export._commands.arguments import Commands

# What runs where no command is given, and `make export` with it.
DEFAULT_COMMAND = "checkpoints"
_BUNDLED = Path("checkpoints/clipsr-small")

_RANDOM_WARNING = (
    "clipsr-export: WARNING: the weights are RANDOM. Every answer of this model will be meaningless; "
    "it can measure speed and memory, and nothing else. Its name ends in -random."
)


def add_parser(commands: Commands) -> None:
    """Add both commands."""
    _add_checkpoints(commands)
    _add_clip(commands)


def _add_checkpoints(commands: Commands) -> None:
    parser = add_command(
        commands,
        DEFAULT_COMMAND,
        help_line="export a CLIP folder and an upscaler, by default those that come with clipsr",
        description="Export a CLIP checkpoint folder (open_clip_config.json beside its weights) and a LIIF.",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        metavar="DIR",
        help="checkpoint in OpenCLIP's layout, or a CLIP or SigLIP of transformers "
        f"(default: {_BUNDLED}, or the model in the file of --controller)",
    )
    add_clip_options(parser)
    add_repository_options(parser)
    parser.set_defaults(run=_run_checkpoints)


def _add_clip(commands: Commands) -> None:
    parser = add_command(
        commands,
        "clip",
        help_line="export a model that OpenCLIP knows by name, with your weights",
        description="Export a model that OpenCLIP knows by name, with weights from a file or from a hub.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="OpenCLIP model name, for example ViT-B-32")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="PATH|TAG",
        help="file of its weights (OpenAI's archive, OpenCLIP's .pt, .safetensors), a tag that OpenCLIP downloads "
        "(laion2b_s34b_b79k), or 'random': untrained weights, for measuring speed only",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="folder with tokenizer.json, tokenizer_config.json and, for a text tower of transformers, config.json "
        "(default: from the hub; CLIP's own tokenizer needs none)",
    )
    parser.add_argument(
        "--preprocess",
        metavar="TAG",
        help="published weights that the given file descends from: images are prepared and activations chosen as for "
        "them (default: where all published weights of the model agree, as they do)",
    )
    add_clip_options(parser)
    add_repository_options(parser)
    parser.set_defaults(run=_run_clip)


def _run_checkpoints(arguments: argparse.Namespace) -> None:
    path: Path | None = arguments.controller
    if path is not None and path.is_file():
        if arguments.clip is not None:
            raise ExportError(f"{path} is a model and its controller at once; leave out --clip")
        controlled = load_daclip(path)
        _export(arguments, controlled.clip, path.stem, controlled)
        return
    folder: Path = arguments.clip or _BUNDLED
    clip = load_clip(folder)
    if arguments.none_of_these is None and (beside := folder / CALIBRATION_NAME).is_file():
        arguments.none_of_these = str(beside)
    _export(arguments, clip, folder.resolve().name, _load_controller(path, clip))


def _load_controller(path: Path | None, clip: ClipCheckpoint) -> ControlledClip | None:
    return None if path is None else load_controller(path, clip)


def _run_clip(arguments: argparse.Namespace) -> None:
    path: Path | None = arguments.controller
    if path is not None and path.is_file():
        raise ExportError(f"{path} is a model and its controller at once: clipsr-export --controller {path}")
    clip = load_open_clip(
        arguments.model,
        arguments.weights,
        tokenizer=arguments.tokenizer,
        preprocess=arguments.preprocess,
        report=_print,
    )
    name = arguments.model.replace("/", "-")
    if clip.is_random:
        name = f"{name}-random"
        arguments.name = f"{arguments.name}-random" if arguments.name else None
        print(_RANDOM_WARNING, file=sys.stderr)
    _export(arguments, clip, name, _load_controller(path, clip))


def _export(
    arguments: argparse.Namespace,
    clip: ClipCheckpoint,
    name: str,
    controlled: ControlledClip | None = None,
) -> None:
    warn_of_service(arguments.output)
    calibration = open_calibration(arguments.int8) if arguments.int8 else None  # minutes before it is needed
    default_side = clip.config.get("clipsr_cfg", {}).get("native_min_side_px", clip.image_size_px // 2)
    upscaler, recipes = _load_upscalers(arguments)
    plan = ExportPlan(
        name=arguments.name or name,
        clip=clip,
        upscaler=upscaler,
        controlled=controlled,
        recipes=recipes,
        restorer=None if arguments.restorer is None else load_restorer(arguments.restorer),
        template=arguments.template,
        output=arguments.output,
        samples=find_samples(arguments.samples),
        native_min_side_px=arguments.native_min_side or default_side,
        route_rules=_find_rules(arguments, clip, upscaler),
        none_of_these=_find_calibration(arguments.none_of_these, clip, upscaler),
        has_text_banks=not arguments.no_text_banks,
        report=_print,
    )
    export_repository(plan)
    if calibration is not None:
        export_int8(Int8Plan(repository=arguments.output, images=calibration, report=_print))


def _folder(arguments: argparse.Namespace) -> Path:
    """Return the checkpoint folder, in which files about its model may lie, or a path where there is nothing."""
    if arguments.command != DEFAULT_COMMAND:
        return Path(arguments.model)
    controller: Path | None = arguments.controller
    if controller is not None and controller.is_file():  # it is the model, too
        return controller
    return arguments.clip or _BUNDLED


def _find_rules(
    arguments: argparse.Namespace, clip: ClipCheckpoint, upscaler: Upscaler
) -> tuple[RouteRule, ...] | None:
    """Measure the rules of --photos, or read those of --route-rules, or of the checkpoint's folder."""
    if arguments.photos is not None:
        rules = measure_routes(clip, upscaler, [arguments.photos], read_nouns(arguments.anchors))
        for rule in rules:
            noise = "" if rule.max_noise is None else f", noise up to {rule.max_noise:g}"
            _print(
                f"route up to {rule.max_side_px} px, {'JPEG' if rule.is_lossy else 'lossless'}{noise}: {rule.route} "
                f"(agreement {rule.upscaled_agreement:.1%} upscaled, {rule.native_agreement:.1%} native)"
            )
        return rules
    if arguments.route_rules is not None:
        return read_rules(arguments.route_rules, clip, upscaler)
    beside = _folder(arguments) / RULES_NAME
    if not beside.is_file():
        return None
    try:
        return read_rules(beside, clip, upscaler)
    except OtherWeightsError:
        _print(f"{beside} was measured with another upscaler: the shorter side decides the route; see --photos")
        return None


def _find_calibration(given: str | None, clip: ClipCheckpoint, upscaler: Upscaler) -> Calibration | None:
    """Read the rule of --none-of-these, or make it from the images that are named there."""
    if given is None:
        return None
    if Path(given).suffix == ".json":
        return read_calibration(Path(given))
    calibration = calibrate_checkpoint(clip, upscaler, given)
    _print(
        f"none of these: AUROC {calibration.auroc:.3f}, calibration error {calibration.expected_calibration_error:.1%}"
    )
    return calibration


def _load_upscalers(arguments: argparse.Namespace) -> tuple[Upscaler, dict[Recipe, Upscaler]]:
    """Load the encoder's upscaler and those of the recipes; equal files are one object."""
    loaded: dict[str, Upscaler] = {}

    def load(path: Path) -> Upscaler:
        upscaler = load_liif(path)
        return loaded.setdefault(sha256(path), upscaler)

    given: Path | None = arguments.upscaler
    upscaler = load(given or find_upscaler(_folder(arguments)))
    recipes: dict[Recipe, Upscaler] = {"clean": load(arguments.picture_upscaler or given or BUNDLED_UPSCALER)}
    if arguments.robust_upscaler is not None:
        recipes["robust"] = load(arguments.robust_upscaler)
    return upscaler, recipes


def _print(line: str) -> None:
    print(line, flush=True)
