"""Accuracy through the running service, beside the PyTorch model on the same images.

    python -m benchmarks.accuracy --url HOST:PORT --data DIR

DIR holds `cifar10/test.parquet` and `cifar100/test.parquet` in the layout of the `datasets` package. Both sides are
measured as `clipsr-eval zeroshot` measures them, by its back ends `grpc` and `torch` (fp32): every test image as the
bytes that the file holds, with the label set and the templates that the service offers. What is done here is to write
`benchmarks/results/accuracy.json` and the table between the markers in README.md.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from benchmarks.reporting.environment import describe_environment
from benchmarks.reporting.pages import insert
from clipsr import ModelInfo
from clipsr_training._cli.eval.progress import progress_bar
from clipsr_training.clip import load_clip
from clipsr_training.data import ImageSet, open_set
from clipsr_training.evaluation._backends.base import Backend
from clipsr_training.evaluation._backends.grpc import GrpcBackend
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._zero_shot import ZeroShotPlan, ZeroShotResult, compare_with, measure_zero_shot
from clipsr_training.liif import find_upscaler, load_liif

_ROOT = Path(__file__).resolve().parents[2]
_DATA_SETS = ("cifar10", "cifar100")
_BATCH = 64
_PACKAGES = ("clipsr", "clipsr-training", "torch", "open_clip_torch", "datasets", "pillow", "grpcio")
_MARK = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 of both sides on one test split, as fractions."""

    data_set: str
    n_images: int
    service_top1: float
    torch_top1: float
    agreement: float
    service_images_per_s: float


def _open(name: str, info: ModelInfo, arguments: argparse.Namespace) -> ImageSet:
    """Open a test split with the service's labels; `--webp-quality` re-encodes its images as lossy WebP."""
    if name not in info.label_sets:
        raise ValueError(f"the service offers no label set @{name}: serve the model of checkpoints/")
    images = open_set(str(arguments.data / name / "test.parquet")).renamed(info.label_sets[name])
    images = replace(images.sample(arguments.limit), name=name)
    if arguments.webp_quality is None:
        return images
    read = images.read
    return replace(images, read=lambda i: _recompressed(read(i), arguments.webp_quality))


def _recompressed(file: bytes, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(file)).convert("RGB").save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def compare(service: Backend, reference: Backend, images: ImageSet, templates: tuple[str, ...]) -> Accuracy:
    """Measure both sides on the same images.

    Raises:
        ValueError: a side refuses an image.
        OSError: the service fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        expected = _measure(reference, images, templates, Path(folder, "reference"))
        served = _measure(service, images, templates, Path(folder, "service"))
        agreement = compare_with(served, Path(folder, "reference"))
    return Accuracy(
        data_set=images.name,
        n_images=len(images),
        service_top1=served.top(1).value,
        torch_top1=expected.top(1).value,
        agreement=agreement.same_top1,
        service_images_per_s=1000 / float(served.latency_ms.mean()),
    )


def _measure(backend: Backend, images: ImageSet, templates: tuple[str, ...], folder: Path) -> ZeroShotResult:
    folder.mkdir()
    plan = ZeroShotPlan(backend=backend, images=images, templates=templates, route="auto", batch_size=_BATCH)
    with progress_bar() as progress:
        task = progress.add_task(f"{images.name}: {backend.describe()['backend']}", total=len(images))
        return measure_zero_shot(plan, folder, resume=False, on_images=lambda n: progress.advance(task, n))


def markdown(results: Sequence[Accuracy], info: ModelInfo) -> str:
    """Return the table that the README shows."""
    rows = [
        f"| {r.data_set} test, {r.n_images:,} images | `@{r.data_set}` | {r.service_top1:.2%} | {r.torch_top1:.2%} "
        f"| {r.agreement:.2%} |"
        for r in results
    ]
    head = "| images | labels | top-1, service | top-1, PyTorch fp32 | same answer |\n|---|---|---|---|---|\n"
    caption = f"\nModel `{info.name}`, single prompt, 32 px images rendered by LIIF. Measured by `make evaluate`.\n"
    return head + "\n".join(rows) + "\n" + caption


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation; returns the exit code (0 done, 1 data, checkpoints or service are not usable)."""
    arguments = _parser().parse_args(argv)
    try:
        service = GrpcBackend(arguments.url)
        upscaler = load_liif(arguments.upscaler or find_upscaler(arguments.clip))
        reference = TorchBackend(load_clip(arguments.clip), upscaler, name=Path(arguments.clip).name)
        info = service.info
        # All of them before the first is measured, which takes minutes.
        splits = [_open(name, info, arguments) for name in _DATA_SETS]
        results = [compare(service, reference, images, (info.default_templates,)) for images in splits]
    except (OSError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    table = markdown(results, info)
    print(table)
    if arguments.limit is not None or arguments.webp_quality is not None:
        print("evaluate: not the whole test splits as they are; nothing was written", file=sys.stderr)
        return 0
    record = {
        "command": "make evaluate",
        "model": {"name": info.name, "digest": info.digest},
        "results": [asdict(result) for result in results],
        "environment": describe_environment(_PACKAGES),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "accuracy.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    insert(arguments.readme, _MARK, table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evaluate", description="Accuracy through the service, beside PyTorch.")
    parser.add_argument("--url", required=True, help="HOST:PORT of the gateway")
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10/ and cifar100/")
    parser.add_argument("--clip", type=Path, default=_ROOT / "checkpoints" / "clipsr-small", help="CLIP checkpoint")
    parser.add_argument(
        "--upscaler", type=Path, help="LIIF weights (default: those beside the model's, or else liif-fast's)"
    )
    parser.add_argument("--limit", type=int, help="only so many images of each split; writes nothing")
    parser.add_argument(
        "--webp-quality", type=int, metavar="Q", help="re-encode the images as lossy WebP first; writes nothing"
    )
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks" / "results", help="folder of the JSON")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md", help="page to put the table into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
