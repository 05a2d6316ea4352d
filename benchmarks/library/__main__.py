"""What image libraries are worth: precision of searches, the rate of adding, and search among many vectors.

    python -m benchmarks.library --url HOST:PORT --libraries DIR --data DIR [--parts precision,adding,scale]

`--libraries` is where the service at `--url` keeps its libraries, a folder of this machine or an object store (whose
variables are in the environment here, too): the many vectors of `scale` are written there past the service, for
embedding so many images would take hours. Everything measured goes through the service. `--data` holds
`cifar10/test.parquet` in the layout of the `datasets` package.

- precision: images of CIFAR-10 are added; how many of the ten best hits show the class that was asked for, by the
  ten class names and by images of the library (each without itself).
- adding: images a second that are embedded and kept, beside those that are only embedded; rounds of both in turn, each
  of them long beside the moments in which a stream begins and ends.
- scale: real embeddings among synthetic ones around them and around random centres, indexed; latency of text searches
  from the client's side, and which of the ten nearest by brute force the index finds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.load.summary import percentile
from benchmarks.reporting.environment import describe_environment
from benchmarks.reporting.pages import insert
from clipsr import AddedImage, Client, ImageEmbedding, Library, NewImage
from clipsr_gateway._library.store.maintenance import Maintenance, MaintenanceConfig
from clipsr_gateway._library.store.records import Record
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_training.data import open_set

_ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("precision", "adding", "scale")
_PACKAGES = ("clipsr", "clipsr-gateway", "lancedb", "pyarrow", "numpy", "grpcio")
_MARK = "library"
_TOP = 10
_SEED = 7

# Images of one EmbedImages call, and such calls at once: twice as many images as Triton is given at a time.
_EMBED_BATCH, _EMBED_CALLS = 32, 2
# Rows that are written at once.
_WRITE_BATCH = 5_000

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        images: images of CIFAR that are added.
        queries: images that are searched with.
        rounds: of embedding and adding in turn.
        round_images: images of one round, for each of the two.
        vectors: rows of the large library.
        texts: text searches among them.
    """

    images: int = 2_000
    queries: int = 500
    rounds: int = 4
    round_images: int = 3_000
    vectors: int = 200_000
    texts: int = 200


QUICK = Plan(images=200, queries=20, rounds=2, round_images=50, vectors=3_000, texts=20)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Files with the names of their classes."""

    files: list[bytes]
    labels: list[str]

    def take(self, start: int, count: int) -> Labelled:
        """Return a part of them."""
        return Labelled(files=self.files[start : start + count], labels=self.labels[start : start + count])


def read_cifar(data: Path, count: int) -> Labelled:
    """Return the first images of the test split, which is in no order.

    Raises:
        OSError, ValueError: the file is not there, or has too few.
    """
    images = open_set(str(data / "cifar10" / "test.parquet"))
    if len(images) < count:
        raise ValueError(f"{data} has {len(images):,} images, {count:,} are needed")
    return Labelled(
        files=[images.read(index) for index in range(count)],
        labels=[images.classnames[images.targets[index]] for index in range(count)],
    )


def add(client: Client, name: str, images: Labelled) -> float:
    """Create a library of images, tagged with their labels; return the seconds that adding took.

    Raises:
        RuntimeError: an image was not added.
    """
    library = client.library(name)
    library.create()
    began_s = time.perf_counter()
    new = [NewImage(content=file, tags=(label,)) for file, label in zip(images.files, images.labels, strict=True)]
    for index, outcome in library.add(new):
        if not isinstance(outcome, AddedImage):
            raise RuntimeError(f"image {index} was not added: {outcome}")
    return time.perf_counter() - began_s


def embed(client: Client, files: Sequence[bytes]) -> Float32:
    """Embed images with a steady load.

    Raises:
        RuntimeError: an image was refused.
    """
    batches = [files[start : start + _EMBED_BATCH] for start in range(0, len(files), _EMBED_BATCH)]
    with ThreadPoolExecutor(_EMBED_CALLS) as threads:
        results = [result for batch in threads.map(client.embed_images, batches) for result in batch]
    rows = [result.values for result in results if isinstance(result, ImageEmbedding)]
    if len(rows) < len(files):
        raise RuntimeError("an image could not be embedded")
    return np.asarray(rows, np.float32)


def measure_precision(client: Client, images: Labelled, plan: Plan) -> dict[str, object]:
    """Search a library of images by their class names and by themselves."""
    name = "bench-precision"
    add(client, name, images)
    library = client.library(name)
    by_class = {}
    for label in sorted(set(images.labels)):
        hits = library.search_text(label, top_k=_TOP).hits
        by_class[label] = sum(label in hit.image.tags for hit in hits) / _TOP
    by_image = []
    for stored in random.Random(_SEED).sample(list(library.list_images()), plan.queries):
        hits = library.search_image(sha256=stored.sha256, top_k=_TOP, exclude_query=True).hits
        by_image.append(sum(hit.image.tags == stored.tags for hit in hits) / _TOP)
    library.drop()
    return {
        "images": len(images.files),
        "text_precision_at_10": statistics.fmean(by_class.values()),
        "text_precision_by_class": by_class,
        "image_precision_at_10": statistics.fmean(by_image),
        "image_queries": plan.queries,
    }


def measure_adding(client: Client, images: Labelled, plan: Plan) -> dict[str, object]:
    """Embed images and adds the same ones to a new library, in turn, after a warm-up."""
    images = images.take(0, plan.round_images)
    embed(client, images.files)
    embedding, adding = [], []
    for number in range(plan.rounds):
        began_s = time.perf_counter()
        embed(client, images.files)
        embedding.append(plan.round_images / (time.perf_counter() - began_s))
        adding.append(plan.round_images / add(client, f"bench-adding-{number}", images))
        client.library(f"bench-adding-{number}").drop()
    shares = [added / embedded for added, embedded in zip(adding, embedding, strict=True)]
    return {
        "images_per_round": plan.round_images,
        "embedding_images_per_s": statistics.median(embedding),
        "adding_images_per_s": statistics.median(adding),
        "adding_share": statistics.median(shares),
        "adding_share_by_round": shares,
    }


def synthesize(real: Float32, count: int, *, seed: int = _SEED) -> Float32:
    """Make vectors that lie as embeddings do: in clusters of all sizes, a narrow cone of the sphere.

    The real ones come first. Half of the others lie around real ones, half around random centres of the same cone.

    Args:
        real: [N, D] L2-normalized.
        count: rows of the result, at least N.
        seed: decides the others.

    Returns:
        [count, D] L2-normalized.
    """
    generator = np.random.default_rng(seed)
    mean, spread = real.mean(axis=0), real.std(axis=0)
    n_near = (count - len(real)) // 2
    n_far = count - len(real) - n_near
    near = real[generator.integers(len(real), size=n_near)]
    centres = mean + spread * generator.normal(size=(max(1, n_far // 500), real.shape[1]))
    far = centres[generator.zipf(1.5, size=n_far) % len(centres)]
    rows = np.concatenate([near, far]).astype(np.float32)
    rows += 0.5 * spread.astype(np.float32) * generator.normal(size=rows.shape).astype(np.float32)
    return np.concatenate([real, rows / np.linalg.norm(rows, axis=1, keepdims=True)]).astype(np.float32)


async def write_rows(libraries: str, name: str, vectors: Float32, *, quick: bool) -> float:
    """Put vectors into a library that the service created, and build its indexes; return the seconds of that."""
    store = LibraryStore(libraries, max_libraries=64)
    table = await store.open(name)
    settings = await table.settings()
    for start in range(0, len(vectors), _WRITE_BATCH):
        batch = vectors[start : start + _WRITE_BATCH]
        await table.insert([_record(start + row, values, settings.model_digest) for row, values in enumerate(batch)])
    began_s = time.perf_counter()
    config = MaintenanceConfig(scalar_index_rows=500, vector_index_rows=1_000) if quick else MaintenanceConfig()
    await Maintenance(config).tidy(table)
    await store.close()
    return time.perf_counter() - began_s


def _record(number: int, values: Float32, model_digest: str) -> Record:
    return Record(
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        source=f"synthetic/{number}",
        tags=(f"shard-{number % 10}",),
        metadata={},
        size_hw=(32, 32),
        size_bytes=0,
        media_type="image/png",
        model_digest=model_digest,
        fit="",
        route="upscaled",
        is_route_forced=False,
        has_original=False,
        thumbnail=b"",
        embedding=values,
    )


def make_queries(client: Client, count: int) -> list[str]:
    """Return texts that people might search with: class names in several sentences."""
    sets = client.model_info().label_sets
    names = [name.replace("_", " ") for name in sets.get("cifar100") or sets["cifar10"]]
    sentences = ("{}", "a small {}", "{} on a field", "two of {}", "a photo of {} at night")
    texts = [sentence.format(name) for sentence in sentences for name in names]
    return random.Random(_SEED).sample(texts, min(count, len(texts)))


def measure_scale(client: Client, libraries: str, images: Labelled, plan: Plan, *, quick: bool) -> dict[str, object]:
    """Search among many vectors."""
    name = "bench-scale"
    library = client.library(name)
    library.create(keep_originals=False)
    vectors = synthesize(embed(client, images.files), plan.vectors)
    index_s = asyncio.run(write_rows(libraries, name, vectors, quick=quick))
    info = library.info()
    if not info.is_indexed:
        raise RuntimeError("the library was not indexed")
    texts = make_queries(client, plan.texts)
    for text in texts[: len(texts) // 10]:  # connections, and the pages of the index
        library.search_text(text, top_k=_TOP)
    new = [_timed(library, text) for text in texts]
    repeated = [_timed(library, text) for text in texts]
    exact = [_timed(library, text, is_exact=True) for text in texts]
    hits = sum(len(one.hashes & all_.hashes) for one, all_ in zip(new, exact, strict=True))
    library.drop()
    return {
        "vectors": len(vectors),
        "embed_dim": int(vectors.shape[1]),
        "queries": len(texts),
        "index_seconds": index_s,
        "recall_at_10": hits / (_TOP * len(texts)),
        "new_text_ms": _percentiles(new),
        "repeated_text_ms": _percentiles(repeated),
        "exact_ms": _percentiles(exact),
    }


@dataclass(frozen=True, kw_only=True)
class _Search:
    hashes: frozenset[str]
    latency_ms: float


def _timed(library: Library, text: str, *, is_exact: bool = False) -> _Search:
    began_s = time.perf_counter()
    hits = library.search_text(text, top_k=_TOP, is_exact=is_exact).hits
    latency_ms = (time.perf_counter() - began_s) * 1000
    return _Search(hashes=frozenset(hit.image.sha256 for hit in hits), latency_ms=latency_ms)


def _percentiles(searches: Sequence[_Search]) -> dict[str, float]:
    ordered = sorted(search.latency_ms for search in searches)
    return {"p50": percentile(ordered, 0.5), "p95": percentile(ordered, 0.95)}


def markdown(results: dict[str, dict[str, Any]], environment: dict[str, object]) -> str:
    """Return the table for docs/library.md."""
    lines = ["| measured | value | aim |", "|---|---|---|", *_rows(results), ""]
    lines.append(f"Measured on {environment['processor']}, {environment['cores']} cores, by `make bench-library`.")
    return "\n".join(lines) + "\n"


def _rows(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    if precision := results.get("precision"):
        images = f"{precision['images']:,} images of CIFAR-10"
        yield f"| precision@10 of the ten class names, {images} | {precision['text_precision_at_10']:.3f} | ≥ 0.9 |"
        yield f"| precision@10 of search by image, same images | {precision['image_precision_at_10']:.3f} | ≥ 0.85 |"
    if adding := results.get("adding"):
        rates = f"{adding['adding_images_per_s']:.1f} against {adding['embedding_images_per_s']:.1f} images/s"
        yield f"| adding, against embedding alone | {adding['adding_share']:.0%} ({rates}) | ≥ 80% |"
    if scale := results.get("scale"):
        where = f"{scale['vectors']:,} vectors of {scale['embed_dim']} dimensions"
        new, repeated, exact = (scale[f"{kind}_ms"] for kind in ("new_text", "repeated_text", "exact"))
        yield f"| recall@10 of text search, {where} | {scale['recall_at_10']:.3f} | ≥ 0.95 |"
        yield f"| text search, a new text, p50 (p95) | {new['p50']:.1f} ms ({new['p95']:.1f} ms) | ≤ 30 ms |"
        yield f"| … a text that was asked before | {repeated['p50']:.1f} ms ({repeated['p95']:.1f} ms) | |"
        yield f"| … comparing all vectors | {exact['p50']:.1f} ms ({exact['p95']:.1f} ms) | |"
        yield f"| building the indexes | {scale['index_seconds']:.0f} s | |"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and writes; returns the exit status."""
    arguments = _parser().parse_args(argv)
    changed = {name: getattr(arguments, name) for name in ("images", "round_images", "vectors", "texts")}
    plan = replace(
        QUICK if arguments.quick else Plan(), **{name: count for name, count in changed.items() if count is not None}
    )
    parts = arguments.parts.split(",")
    if unknown := sorted(set(parts) - set(_PARTS)):
        print(f"library: there is no part {', '.join(unknown)}; choose of {', '.join(_PARTS)}", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    try:
        needed = max(plan.images, plan.round_images if "adding" in parts else 0)
        images = read_cifar(arguments.data, needed)
        with Client(arguments.url, timeout_s=300) as client:
            info = client.model_info()
            for part in parts:
                print(f"library: {part} …", file=sys.stderr)
                results[part] = _measure(part, client, images, plan, arguments)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"library: {error}", file=sys.stderr)
        return 1
    environment = describe_environment(_PACKAGES)
    table = markdown(results, environment)
    print(table)
    if plan != Plan() or set(parts) != set(_PARTS):
        print("library: not everything was measured; nothing was written", file=sys.stderr)
        return 0
    record = {
        "command": "make bench-library",
        "model": {"name": info.name, "digest": info.digest},
        "results": results,
        "plan": asdict(plan),
        "environment": environment,
    }
    (arguments.output / "library.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    insert(arguments.page, _MARK, table)
    return 0


def _measure(
    part: str, client: Client, images: Labelled, plan: Plan, arguments: argparse.Namespace
) -> dict[str, object]:
    if part == "precision":
        return measure_precision(client, images.take(0, plan.images), plan)
    if part == "adding":
        return measure_adding(client, images, plan)
    return measure_scale(client, arguments.libraries, images.take(0, plan.images), plan, quick=arguments.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="library", description="Measure image libraries through a running service.")
    parser.add_argument("--url", required=True, help="HOST:PORT of the gateway")
    parser.add_argument(
        "--libraries", required=True, help="the service's folder of libraries, or its s3://bucket/folder"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10/")
    parser.add_argument("--parts", default=",".join(_PARTS), help="what to measure (default: all, and write it down)")
    parser.add_argument("--quick", action="store_true", help="does everything run? writes nothing")
    parser.add_argument("--images", type=int, help="real images of precision and scale, for slow models")
    parser.add_argument("--vectors", type=int, help="rows of scale")
    parser.add_argument("--texts", type=int, help="text searches of scale")
    parser.add_argument(
        "--round-images", type=int, help="images of a round of adding; with any of these, nothing is written"
    )
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks" / "results", help="folder of the JSON")
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "library.md", help="page to put the table into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
