"""`clipsr-export int8`: int8 image encoders beside the fp32 ones of an exported repository."""

# numpy ships partial types: what comes out of it is unknown to the checker.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsr_export._commands.arguments import add_command, cosine, positive, warn_of_service
from clipsr_export._errors import AgreementError, ExportError
from clipsr_export._graphs.int8 import FILE_NAME, Pixels, PreparedEncoder, compare_speed, measure_agreement
from clipsr_export._graphs.mixed import choose_parts
from clipsr_export._graphs.pictures import make_pictures
from clipsr_export._repository.manifest import (
    Agreement,
    Int8,
    Quantization,
    add_artifact,
    drop_artifact,
    graph_file,
    read_manifest,
    write_manifest,
)
from clipsr_export._repository.replace import replaced
from clipsr_export._repository.robust import (
    PLAIN_ENCODER,
    ROBUST_ENCODER,
    drop_int8_configuration,
    write_int8_configuration,
)
from clipsr_training.data import ImageSet, find_images, open_set
from clipsr_training.degradation import KINDS, degrade, generator
from clipsr_training.evaluation.exported import OnnxBackend

if TYPE_CHECKING:
    from clipsr_export._commands.arguments import Commands

# One image in four is kept from calibration, to measure the agreement on.
_HELD_OUT = 4
_LEAST_IMAGES = 8
# Levels; a photograph of a wall has more.
_LEAST_DEVIATION = 2.0
_N_PICTURES = 32
# Of the damage that the robust encoder is calibrated on: in the middle of what controllers are trained on.
_STRENGTH = 0.5
_BATCH = 64
# Cosine that 99 of 100 held-out images must exceed. It catches conversions that went wrong (0.95 is a turn by 18
# degrees); what int8 costs in accuracy only labelled images can tell, and docs/export.md says how to measure it.
DEFAULT_MIN_COSINE = 0.95
DEFAULT_LIMIT = 512


@dataclass(frozen=True, kw_only=True)
class Int8Plan:
    """What is converted, and on what it is measured.

    Attributes:
        repository: an exported model repository; the graph goes beside its fp32 one.
        images: real images, like those that will be served.
        limit: how many of them are used, drawn at random.
        min_cosine: what 99 of 100 held-out images must exceed.
        mean_cosine: what calibration images must reach on average; layers keep floating point until they do. None
            quantizes all.
        is_forced: write the graph whatever the agreement.
        report: called with one line about every step.
    """

    repository: Path
    images: ImageSet
    limit: int = DEFAULT_LIMIT
    min_cosine: float = DEFAULT_MIN_COSINE
    mean_cosine: float | None = None
    is_forced: bool = False
    report: Callable[[str], None] = lambda _: None


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "int8",
        help_line="add an int8 image encoder to an exported repository, calibrated on your images",
        description="Quantize the image encoder of an exported repository to int8, calibrated on real images, and the "
        "robust encoder where there is one. The graph is written beside the fp32 one, and `clipsr-serve up` takes it "
        "from then on where the processor has VNNI; with `--profile cpu-bf16` it does not.",
    )
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="an exported repository"
    )
    parser.add_argument(
        "--calibration",
        required=True,
        metavar="DATA",
        help="real images like those to be served: a folder of them, with or without class folders, a Parquet file or "
        "a table, as clipsr-eval takes them",
    )
    parser.add_argument(
        "--limit", type=positive, default=DEFAULT_LIMIT, metavar="N", help="images to use; a quarter is held out"
    )
    parser.add_argument(
        "--min-cosine",
        type=cosine,
        default=DEFAULT_MIN_COSINE,
        metavar="C",
        help="refuse if not 99 of 100 held-out images keep at least this cosine with fp32, or made pictures on average",
    )
    parser.add_argument(
        "--mean-cosine",
        type=cosine,
        metavar="C",
        help="leave the layers whose int8 costs most for their work in floating point until calibration images have "
        "this cosine with fp32 on average, such as 0.999; takes a minute or several",
    )
    parser.add_argument("--force", action="store_true", help="write it even so")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    warn_of_service(arguments.repository)
    plan = Int8Plan(
        repository=arguments.repository,
        images=open_calibration(arguments.calibration),
        limit=arguments.limit,
        min_cosine=arguments.min_cosine,
        mean_cosine=arguments.mean_cosine,
        is_forced=arguments.force,
        report=lambda line: print(line, flush=True),
    )
    export_int8(plan)


def open_calibration(spec: str) -> ImageSet:
    """As `open_set`, but a folder of images will do without classes: calibration has no use for them.

    Raises:
        FileNotFoundError: there is no such thing.
        ValueError: it is not what it should be; the message says what is wrong.
    """
    folder = Path(spec)
    files = find_images(folder, recursive=False)
    if not files:
        return open_set(spec)
    return ImageSet(
        name=folder.resolve().name,
        classnames=("image",),
        targets=np.zeros(len(files), dtype=np.int64),
        names=[str(path) for path in files],
        read=lambda i: files[i].read_bytes(),
    )


def export_int8(plan: Int8Plan) -> Int8:
    """Quantize, compare with fp32 on images that calibration has not seen, then put the graphs in place.

    Raises:
        RepositoryError: nothing was exported into the repository.
        ExportError: there are too few images, or they are all alike.
        AgreementError: the plain encoder's embeddings differ by too much; the repository is as it was. A robust encoder
            whose embeddings do keeps floating point, and the rest is written.
    """
    manifest = read_manifest(plan.repository)
    models = (PLAIN_ENCODER,) if manifest.robust_encoder is None else (PLAIN_ENCODER, ROBUST_ENCODER)
    sources = {model: graph_file(plan.repository, manifest, model) for model in models}
    images = plan.images.sample(plan.limit)
    if len(images) < _LEAST_IMAGES:
        raise ExportError(f"{len(images)} images are too few to calibrate on; give at least {_LEAST_IMAGES}")
    pixels = _render(OnnxBackend(plan.repository), images)
    _require_variety(pixels, images.name)
    with replaced(plan.repository) as repository:
        found = {PLAIN_ENCODER: _add(plan, sources[PLAIN_ENCODER], repository / _graph_of(PLAIN_ENCODER), pixels)}
        if robust := manifest.robust_encoder:
            file = _graph_of(ROBUST_ENCODER)
            sizes = {"R": pixels.shape[-1], "D": manifest.image_encoder.embed_dim, "C": len(robust.kinds)}
            try:
                found[ROBUST_ENCODER] = _add(plan, sources[ROBUST_ENCODER], repository / file, _damage(pixels))
                write_int8_configuration(repository, sizes)
            except AgreementError as error:
                plan.report(f"{ROBUST_ENCODER} keeps floating point: {error}")
                (repository / file).unlink()
                drop_int8_configuration(repository)
                manifest = drop_artifact(manifest, file)
        record = Int8.model_validate(found)
        for model in found:
            manifest = add_artifact(repository, manifest, _graph_of(model), int8=record)
        write_manifest(repository, manifest)
    for model in found:
        written = plan.repository / _graph_of(model)
        size_mb = written.stat().st_size / 1e6
        plan.report(f"wrote {written}: {size_mb:.1f} MB; --profile cpu takes it now, cpu-bf16 does not")
    return record


def _graph_of(model: str) -> str:
    return f"{model}/1/{FILE_NAME}"


def _add(plan: Int8Plan, source: Path, target: Path, pixels: Pixels) -> Quantization:
    """Quantize an encoder, and measure what that costs."""
    model = target.parent.parent.name
    # It may share its content with the graph that is served.
    target.unlink(missing_ok=True)
    is_held_out = np.arange(len(pixels)) % _HELD_OUT == 0
    plan.report(f"{model}: calibrating on {int((~is_held_out).sum())} images of {plan.images.name}")
    share = _quantize(plan, source, target, pixels[~is_held_out])
    agreement = measure_agreement(source, target, pixels[is_held_out])
    plan.report(_describe(agreement))
    on_pictures = measure_agreement(source, target, make_pictures(_N_PICTURES, pixels.shape[-1]))
    plan.report(f"cosine with fp32 on {on_pictures.n_images} made pictures: mean {on_pictures.mean:.4f}")
    if not plan.is_forced:
        _require_agreement(model, agreement, on_pictures, plan.min_cosine)
    plan.report(_describe_speed(compare_speed(source, target, pixels)))
    return Quantization(
        calibration=plan.images.name,
        n_images=len(pixels),
        int8_share=share,
        cosine=agreement,
        cosine_on_pictures=on_pictures,
        onnxruntime=version("onnxruntime"),
        openvino=version("openvino"),
    )


def _damage(pixels: Pixels) -> Pixels:
    """Damage images [M, 3, R, R] as the robust encoder meets them: in another way in turn, one in eleven in none."""
    found: list[Pixels] = []
    for i, image in enumerate(pixels):
        kind = KINDS[i % len(KINDS)]
        found.append(degrade(image.transpose(1, 2, 0), kind, _STRENGTH, generator(0, i, kind)).transpose(2, 0, 1))
    return np.stack(found)


def _quantize(plan: Int8Plan, source: Path, target: Path, pixels: Pixels) -> float:
    """Write the int8 graph; return the share of the work that is in int8."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = PreparedEncoder(source, Path(folder))
        if plan.mean_cosine is None:
            encoder.quantize(target, pixels)
            return 1.0
        chosen = choose_parts(encoder, pixels, mean_cosine=plan.mean_cosine, report=plan.report)
        encoder.quantize(target, pixels, keep=chosen.keep)
        return chosen.int8_share


def _describe_speed(ratio: float) -> str:
    line = f"a batch takes {ratio:.2f} times as long as with --profile cpu-bf16 on this machine"
    return line if ratio < 1 else f"{line}: int8 gains nothing here, serve that"


def _require_agreement(model: str, held_out: Agreement, on_pictures: Agreement, min_cosine: float) -> None:
    cure = "leave layers in floating point (--mean-cosine), lower --min-cosine, or write it even so (--force)"
    if held_out.p1 < min_cosine:
        raise AgreementError(
            f"int8 costs {model} too much: 1 held-out image in 100 has a cosine with fp32 below {held_out.p1:.4f}, and "
            f"{min_cosine:g} is asked for; calibrate on more images like those to be served (--calibration, --limit), "
            f"{cure}",
            measured=held_out.p1,
            bound=min_cosine,
        )
    if on_pictures.mean < min_cosine:
        raise AgreementError(
            f"int8 costs {model} too much on pictures other than the calibration's: their mean cosine with fp32 is "
            f"{on_pictures.mean:.4f}, and {min_cosine:g} is asked for; calibrate on images of more kinds and colours "
            f"(--calibration), {cure}",
            measured=on_pictures.mean,
            bound=min_cosine,
        )


def _require_variety(pixels: Pixels, name: str) -> None:
    """Make sure that ranges can be measured on the images at all.

    Raises:
        ExportError: too few of them differ and show more than one colour.
    """
    varied = {image.tobytes() for image in pixels if image.std() >= _LEAST_DEVIATION}
    if len(varied) < _LEAST_IMAGES:
        raise ExportError(
            f"of {len(pixels)} images of {name} only {len(varied)} differ and show more than one colour; calibrate "
            f"on at least {_LEAST_IMAGES} real ones"
        )


def _render(backend: OnnxBackend, images: ImageSet) -> Pixels:
    """Return what the encoder sees of the images in service: small ones go through `upscale`, others are resized."""
    batches = [range(i, min(i + _BATCH, len(images))) for i in range(0, len(images), _BATCH)]
    return np.concatenate(
        [
            backend.render([images.read(i) for i in rows], [images.names[i] for i in rows], route="auto")
            for rows in batches
        ]
    )


def _describe(agreement: Agreement) -> str:
    line = (
        f"cosine with fp32 on {agreement.n_images} held-out images: mean {agreement.mean:.4f}, "
        f"99 of 100 at least {agreement.p1:.4f}, least {agreement.least:.4f}"
    )
    if agreement.same_kind is None:
        return line
    return f"{line}; the same kind of damage on {100 * agreement.same_kind:.1f} % of them"
