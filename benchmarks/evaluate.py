"""Accuracy through the running service, beside the PyTorch model on the same images.

    python -m benchmarks.evaluate --url HOST:PORT --data DIR

DIR holds `cifar10/test.parquet` and `cifar100/test.parquet` in the layout of the `datasets` package. Every test image
goes through the gateway as the bytes that the file holds; PyTorch renders and encodes the same images in fp32 from the
checkpoints. Writes `benchmarks/results/accuracy.json` and the table between the markers in README.md.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image, load_dataset
from PIL import Image as PilImage
from rich.progress import track
from torch.nn import functional

from benchmarks.environment import describe_environment
from benchmarks.pages import insert
from clipsr import Classification, Client, ModelInfo
from clipsr_training.clip import ClipCheckpoint, load_clip
from clipsr_training.liif import Upscaler, load_liif

_ROOT = Path(__file__).resolve().parents[1]
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


@dataclass(frozen=True, kw_only=True)
class TestSplit:
    """Encoded images and their class indices, in the file's order."""

    files: list[bytes]
    targets: np.ndarray


def read_split(path: Path, limit: int | None, webp_quality: int | None) -> TestSplit:
    """Read a Parquet file; its images stay as they are stored unless `webp_quality` re-encodes them as lossy WebP."""
    table = load_dataset("parquet", data_files=str(path), split="train").cast_column("image", Image(decode=False))
    assert isinstance(table, Dataset)
    if limit is not None:
        table = table.shuffle(seed=0).select(range(min(limit, len(table))))
    files = [row["bytes"] for row in table["image"]]
    if webp_quality is not None:
        files = [_recompressed(file, webp_quality) for file in files]
    return TestSplit(files=files, targets=np.array(table["label"]))


def _recompressed(file: bytes, quality: int) -> bytes:
    buffer = io.BytesIO()
    PilImage.open(io.BytesIO(file)).convert("RGB").save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def batches(files: Sequence[bytes], description: str) -> Iterator[Sequence[bytes]]:
    """Yield the files in batches, with a progress bar."""
    starts = range(0, len(files), _BATCH)
    for start in track(starts, description=description):
        yield files[start : start + _BATCH]


def through_service(client: Client, split: TestSplit, label_set: str, labels: Sequence[str]) -> np.ndarray:
    """Return the index of the best label of every image; fails on the first image that the service refuses."""
    predicted: list[int] = []
    for files in batches(split.files, f"{label_set}: service"):
        for outcome in client.classify(files, label_set=label_set, top_k=1, timeout_s=120):
            if not isinstance(outcome, Classification):
                raise SystemExit(f"evaluate: the service refused a test image: {outcome.message}")
            predicted.append(labels.index(outcome.predictions[0].label))
    return np.array(predicted)


@torch.inference_mode()
def through_torch(
    clip: ClipCheckpoint, upscaler: Upscaler, split: TestSplit, texts: Sequence[str], description: str
) -> np.ndarray:
    """Return the index of the best label of every image, computed from the checkpoints in fp32."""
    text_features = functional.normalize(clip.encode_text(clip.tokenizer(list(texts))), dim=-1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (clip.mean, clip.std))
    size_hw = (clip.image_size_px, clip.image_size_px)
    predicted: list[np.ndarray] = []
    for files in batches(split.files, description):
        images = [np.asarray(PilImage.open(io.BytesIO(file)).convert("RGB")) for file in files]
        lr = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        pixels = (upscaler.upscale(lr, size_hw).clamp(0, 1) * 255).round() / 255
        image_features = clip.encode_image((pixels - mean) / std)
        predicted.append((image_features @ text_features.T).argmax(dim=1).numpy())
    return np.concatenate(predicted)


def evaluate(client: Client, info: ModelInfo, arguments: argparse.Namespace) -> list[Accuracy]:
    """Measure both sides on every test split."""
    clip, upscaler = load_clip(arguments.clip), load_liif(arguments.upscaler)
    (template,) = info.template_sets[info.default_templates.removeprefix("@")]
    results: list[Accuracy] = []
    for name in _DATA_SETS:
        split = read_split(arguments.data / name / "test.parquet", arguments.limit, arguments.webp_quality)
        labels = info.label_sets[name]
        start = time.perf_counter()
        service = through_service(client, split, name, labels)
        rate = len(split.files) / (time.perf_counter() - start)
        prompts = [template.replace("{}", label) for label in labels]
        reference = through_torch(clip, upscaler, split, prompts, f"{name}: PyTorch")
        results.append(
            Accuracy(
                data_set=name,
                n_images=len(split.files),
                service_top1=float((service == split.targets).mean()),
                torch_top1=float((reference == split.targets).mean()),
                agreement=float((service == reference).mean()),
                service_images_per_s=rate,
            )
        )
    return results


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


def main() -> int:
    """Run the evaluation; returns the exit code."""
    arguments = _parser().parse_args()
    with Client(arguments.url) as client:
        info = client.model_info()
        results = evaluate(client, info, arguments)
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
        "--upscaler", type=Path, default=_ROOT / "checkpoints" / "liif-fast" / "liif.safetensors", help="LIIF weights"
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
