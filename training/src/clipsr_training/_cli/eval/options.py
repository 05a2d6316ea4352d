"""What the commands on CLIP models share: which model, by which back end, on which data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipsr_training import prompts
from clipsr_training._cli.arguments import PREPROCESS_HELP, parse_labels, positive
from clipsr_training._cli.checkpoint import add_upscaler_option, load_checkpoint, load_upscaler
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.controller import Controller, load_controller, load_daclip
from clipsr_training.data import ImageSet, SetOptions, check_images, open_set
from clipsr_training.evaluation._backends.base import Backend, resolve_templates
from clipsr_training.evaluation._backends.manifest import read_routes
from clipsr_training.evaluation._backends.pixels import ROUTES
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.liif import Upscaler

Backends = Sequence[str]
ALL_BACKENDS: Backends = ("torch", "onnx", "grpc")
_DATA_HELP = (
    "labelled images: a Parquet file, a folder of class folders, ImageNet's flat validation folder, a CSV or TSV file "
    "of paths and labels, WebDataset shards with .cls, a folder that datasets saved, a copied repository of the hub, "
    "cifar10, cifar100, or hub:OWNER/NAME"
)


def add_model_options(parser: argparse.ArgumentParser, backends: Backends = ALL_BACKENDS) -> None:
    """Add the options that choose a model and how it runs."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--backend",
        choices=backends,
        default="torch",
        help="torch: checkpoints; onnx: the files of a model repository"
        + ("; grpc: a running service" if "grpc" in backends else ""),
    )
    group.add_argument(
        "--model",
        default="checkpoints/clipsr-small",
        metavar="FOLDER|NAME",
        help="torch: a checkpoint folder in OpenCLIP's layout, or a name that OpenCLIP knows, with --weights",
    )
    group.add_argument("--weights", metavar="FILE|TAG", help="torch: weights of a named model: a file, or a tag")
    group.add_argument("--preprocess", metavar="TAG", help=f"torch: {PREPROCESS_HELP}")
    add_upscaler_option(group, "torch: weights that render small images")
    group.add_argument(
        "--route-rules",
        type=Path,
        metavar="DIR",
        help="torch: a model repository, whose manifest then decides the route auto as it does in the service; absent: "
        "the shorter side decides",
    )
    group.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="onnx: an exported repository"
    )
    if "grpc" in backends:
        group.add_argument("--url", default="localhost:50051", metavar="HOST:PORT", help="grpc: the gateway")
    group.add_argument("--device", default="cpu", help="torch, onnx: where the model runs: cpu, cuda, ...")
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="torch: of the encoders; bf16 is autocast"
    )
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images at once")


def add_templates_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses prompts."""
    names = ", ".join(f"@{name}" for name in prompts.template_sets())
    parser.add_argument(
        "--templates",
        nargs="+",
        default=["@simple"],
        metavar="TEXT",
        help=f"prompts with one {{}} where the label goes, or one set: {names}",
    )


def add_route_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses how images reach the encoder."""
    parser.add_argument(
        "--route",
        choices=ROUTES,
        default="auto",
        help="auto: what the service chooses, by the manifest's route_rules or else by size: images that are too small "
        "for the encoder are upscaled",
    )


def add_data_options(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """Add the options that choose labelled images."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", required=True, metavar="DATA", help=_DATA_HELP, nargs="+" if several else None)
    group.add_argument("--split", default="test", help="of a data set that has several")
    group.add_argument("--image-column", metavar="NAME", help="of a table; image, img, ... if absent")
    group.add_argument("--label-column", metavar="NAME", help="of a table; label, fine_label, ... if absent")
    group.add_argument(
        "--labels",
        metavar="A,B|@SET",
        help="names for the classes, in their order: with commas, or a set such as @cifar10; labels that are numbers "
        "have none of their own",
    )
    group.add_argument("--devkit", type=Path, metavar="DIR", help="ImageNet: the unpacked ILSVRC2012_devkit_t12")
    group.add_argument(
        "--held-out",
        choices=tuple(prompts.held_out_things()),
        help="only the classes that clipsr-train --hold-out leaves out, told apart from each other: tier1, which "
        "ImageNet has, so that backbones saw their pictures; tier2, which it has not",
    )
    group.add_argument("--limit", type=positive, metavar="N", help="only so many images, drawn at random, always alike")
    group.add_argument(
        "--no-check", action="store_true", help="don't decode every image once before the measuring starts"
    )


def add_output_options(parser: argparse.ArgumentParser, files: str) -> None:
    """Add the options of a measurement that can be resumed."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"gets {files}")
    parser.add_argument("--resume", action="store_true", help="go on with the measurement in the output folder")
    parser.set_defaults(on_interrupt="interrupted; go on with --resume")


def open_model(arguments: argparse.Namespace) -> Backend:
    """Open the back end that the options choose.

    Raises:
        OSError: a file is missing, or the service does not answer.
        ValueError: the model, its files or the device can't be used.
    """
    try:
        if arguments.backend == "onnx":
            from clipsr_training.evaluation._backends.onnx import OnnxBackend

            return OnnxBackend(arguments.repository, device=arguments.device)
        if arguments.backend == "grpc":
            from clipsr_training.evaluation._backends.grpc import GrpcBackend

            return GrpcBackend(arguments.url)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return _torch_backend(arguments, load_checkpoint(arguments), load_upscaler(arguments), Path(arguments.model).name)


def add_controller_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a controller."""
    parser.add_argument(
        "--controller",
        type=Path,
        metavar="FOLDER|FILE",
        help="torch: measure the model with this controller as well: a folder of clipsr-train controller, or a "
        "DA-CLIP checkpoint, which is the model, too",
    )


def open_with_controller(arguments: argparse.Namespace) -> tuple[Backend, Backend | None]:
    """Return the model that the options choose, and the same with the controller that they name.

    Raises:
        OSError: a file is missing, or the service does not answer.
        ValueError: the model, the controller, their files or the device can't be used.
    """
    if arguments.controller is None:
        return open_model(arguments), None
    if arguments.backend != "torch":
        raise ValueError(f"a controller runs by PyTorch alone: leave out --backend {arguments.backend}")
    path: Path = arguments.controller
    upscaler = load_upscaler(arguments)
    controlled = load_daclip(path) if path.is_file() else load_controller(path, load_checkpoint(arguments))
    name = path.name if path.is_file() else Path(arguments.model).name
    return (
        _torch_backend(arguments, controlled.clip, upscaler, name),
        _torch_backend(arguments, controlled.clip, upscaler, f"{name}, controlled", controlled.controller),
    )


def _torch_backend(
    arguments: argparse.Namespace,
    clip: ClipCheckpoint,
    upscaler: Upscaler | None,
    name: str,
    controller: Controller | None = None,
) -> TorchBackend:
    return TorchBackend(
        clip,
        upscaler,
        name=name,
        device=arguments.device,
        precision=arguments.precision,
        routes=None if arguments.route_rules is None else read_routes(arguments.route_rules),
        controller=controller,
    )


def open_images(arguments: argparse.Namespace, spec: str) -> ImageSet:
    """Open and check one data set.

    Raises:
        OSError: it is missing.
        ValueError: it is not what it should be, or an image can't be decoded.
    """
    options = SetOptions(
        split=arguments.split,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        devkit=arguments.devkit,
        labels=None if arguments.labels is None else parse_labels(arguments.labels),
    )
    images = open_set(spec, options)
    if arguments.held_out is not None:
        images = images.of_classes(lambda name: prompts.is_name_of_tier(name, arguments.held_out))
    images = images.sample(arguments.limit)
    if not arguments.no_check:
        with progress_bar() as progress:
            task = progress.add_task(f"checking {images.name}", total=len(images))
            check_images(images, on_image=lambda: progress.advance(task))
    return images


def open_several(arguments: argparse.Namespace) -> tuple[ImageSet, ...]:
    """Open and check all data sets; see `open_images`; ValueError where two have one name."""
    sets = tuple(open_images(arguments, spec) for spec in arguments.data)
    names = [images.name for images in sets]
    if len(set(names)) != len(names):
        raise ValueError(f"two data sets have one name ({', '.join(names)}), so a report could not tell them apart")
    return sets


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates, after looking at them; ValueError where they are not usable."""
    resolve_templates(templates)
    return tuple(templates)
