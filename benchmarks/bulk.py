"""Bulk labelling on local Ray: its rate beside the in-process path alone, and its rows beside a service's.

    python -m benchmarks.bulk --parts rate --repository .bench/ViT-B-32/repository --images 5000
    CLIPSR_PROFILE=cpu-onnx scripts/with-service.sh .venv-serve/bin .venv/bin/python -m benchmarks.bulk --parts exact

CIFAR's images lie half in local Parquet files, half as a Parquet dataset on an S3 server on loopback, where the results
of that half go, too. `rate`: two workers against one process with all cores, which does half before, half after them.
`exact`: the command is killed at random, twice in each half, and resumed; then every image must be there once, with the
top-1 of the service at CLIPSR_URL and its cosine. Writes `results/bulk.json` and the table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow
import pyarrow.parquet
from tests.object_store import object_store

from benchmarks.reporting.environment import describe_environment
from benchmarks.reporting.pages import insert, require_marks
from clipsr import Classification, Client
from clipsr.batch._storage import join, storage_of
from clipsr.local import Classifier
from clipsr_serving.manifest import read_manifest

_FOLDER = Path(__file__).parent
_PAGE, _MARK, _RECORD = _FOLDER / "README.md", "bench-bulk", _FOLDER / "results" / "bulk.json"
_COMMAND = [sys.executable, "-c", "import sys; from clipsr_client_main import batch; sys.exit(batch())", "classify"]
_LABEL_SET, _PROFILE, _WORKERS = "cifar10", "cpu-onnx", 2  # the profile of fp32
_MAX_COSINE_ERROR, _MIN_SHARE = 1e-3, 0.9
_MAX_LOAD = 1.0  # before a rate is measured; beside others, the system shares the cores out by its own rules
_KILLS = 2  # of each half
_PACKAGES = ("clipsr", "clipsr-serving", "obstore", "onnxruntime", "pyarrow", "ray", "moto")


@dataclass(frozen=True, kw_only=True)
class Half:
    """Half of the images.

    Attributes:
        source: INPUT of the command.
        output: its --output.
        names: of the images, as the output has them.
        contents: their files.
    """

    source: str
    output: str
    names: list[str]
    contents: list[bytes]


@contextmanager
def make_halves(cifar: Path, n_images: int, folder: Path) -> Iterator[tuple[Half, Half]]:
    """Write the input to a disk and to an S3 server, which runs for as long as the block takes."""
    column = pyarrow.parquet.read_table(cifar, columns=["image"]).slice(0, n_images)
    middle = n_images // 2
    with object_store() as store, patch.dict(os.environ, store.environment):
        bucket = store.make_bucket(f"bulk-{store.process.pid}")  # a name of its own: clients of buckets are kept
        yield _make_half(column.slice(0, middle), str(folder)), _make_half(column.slice(middle), bucket)


def _make_half(table: Any, root: str) -> Half:
    """Write four Parquet files."""
    source, names, contents = join(root, "cifar"), [], []
    storage_of(root).make_folder(source)
    size = -(-len(table) // 4)
    for number in range(4):
        part, name = table.slice(number * size, size), f"{number}.parquet"
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(part, buffer, row_group_size=1_000)
        storage_of(root).write(join(source, name), buffer.getvalue().to_pybytes())
        names += [f"{name}#{row}" for row in range(len(part))]
        contents += [cell["bytes"] for cell in part["image"].to_pylist()]
    return Half(source=source, output=join(root, "labelled"), names=names, contents=contents)


def count_parts(output: str) -> int:
    """Return how many partitions are done."""
    storage = storage_of(output)
    try:
        return sum(entry.name.startswith("part-") for entry in storage.list_folder(output))
    except FileNotFoundError:
        return 0


def start(half: Half, repository: Path, partition_size: int) -> subprocess.Popen[bytes]:
    """Start the command."""
    options = ["--labels", f"@{_LABEL_SET}", "--output", half.output, "--repository", str(repository)]
    options += ["--profile", _PROFILE, "--workers", str(_WORKERS), "--partition-size", str(partition_size)]
    return subprocess.Popen([*_COMMAND, half.source, *options], stdout=subprocess.DEVNULL)


def measure_ray(half: Half, repository: Path, partition_size: int) -> dict[str, float]:
    """Return seconds of the whole command, and images and seconds from its first partition to its last."""
    begin, seen = time.perf_counter(), [(0.0, 0)]
    with start(half, repository, partition_size) as process:
        while process.poll() is None:
            if (count := count_parts(half.output)) > seen[-1][1]:
                seen.append((time.perf_counter() - begin, count))
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"the command ended with {process.returncode}")
    (first_s, first), (last_s, _) = seen[1], seen[-1]
    return {
        "whole_s": time.perf_counter() - begin,
        "working_s": last_s - first_s,
        "working_images": len(half.names) - first * partition_size,
    }


def measure_rate(halves: tuple[Half, Half], repository: Path, partition_size: int) -> dict[str, Any]:
    """Return images a second of both paths, on the same images."""
    load_average = os.getloadavg()[0]
    classifier = Classifier.load(repository, profile=_PROFILE)
    classify: Callable[[list[bytes]], object] = lambda images: classifier.classify(images, label_set=_LABEL_SET)  # noqa: E731
    classify(halves[0].contents[:64])  # warm

    def time_alone(half: Half) -> float:
        begin = time.perf_counter()
        classify(half.contents)
        return time.perf_counter() - begin

    alone_s = time_alone(halves[0])
    runs = [measure_ray(half, repository, partition_size) for half in halves]
    alone_s += time_alone(halves[1])
    n_images = sum(len(half.names) for half in halves)
    alone = n_images / alone_s
    working = sum(run["working_images"] for run in runs) / sum(run["working_s"] for run in runs)
    return {
        "load_average": load_average,
        "images": n_images,
        "in_process_images_per_s": alone,
        "ray_images_per_s": working,
        "ray_with_start_images_per_s": n_images / sum(run["whole_s"] for run in runs),
        "share": working / alone,
        "runs": dict(zip(("disk", "s3"), runs, strict=True)),
    }


def label_with_kills(half: Half, repository: Path, partition_size: int, rng: random.Random) -> list[int]:
    """Run the command, killed on its way, until it ends by itself; return the partitions done at each kill."""
    n_parts, kills = -(-len(half.names) // partition_size), []
    for number in range(_KILLS):
        wanted = rng.randint(count_parts(half.output), (number + 1) * n_parts // (_KILLS + 1))
        with start(half, repository, partition_size) as process:
            while process.poll() is None and count_parts(half.output) <= wanted:
                time.sleep(0.1)
            time.sleep(rng.random())
            if process.poll() is not None:
                raise RuntimeError(f"the command ended by itself, with {process.returncode}, before it was killed")
            process.kill()
        kills.append(count_parts(half.output))
        print(f"killed after {kills[-1]} of {n_parts} partitions", flush=True)
    with start(half, repository, partition_size) as process:
        pass
    if process.returncode:
        raise RuntimeError(f"the command ended with {process.returncode}")
    return kills


def compare(half: Half, url: str, step: int) -> dict[str, Any]:
    """Return how the rows differ from the service's answers, of which every so many are asked for.

    Raises:
        RuntimeError: an image is missing, or there twice.
    """
    rows = pyarrow.parquet.read_table(half.output, columns=["path", "label", "cosine"]).to_pylist()
    if sorted(row["path"] for row in rows) != sorted(half.names):
        raise RuntimeError(f"{half.output} does not hold each image once")
    found = {row["path"]: row for row in rows}
    n_asked, n_other, worst = 0, 0, 0.0
    with Client(url, timeout_s=120) as client:
        for place, outcome in client.classify_stream(half.contents[::step], label_set=_LABEL_SET, top_k=1):
            row = found[half.names[place * step]]
            if not isinstance(outcome, Classification):
                raise RuntimeError(f"the service fails on {row['path']}: {outcome}")
            (best,) = outcome.predictions
            n_asked += 1
            n_other += best.label != row["label"]
            worst = max(worst, abs(best.cosine - row["cosine"]))
    return {"images_compared": n_asked, "other_top1": n_other, "largest_cosine_difference": worst}


def check_exact(
    halves: tuple[Half, Half], repository: Path, partition_size: int, *, url: str, n_compared: int, seed: int
) -> dict[str, Any]:
    """Label both halves, killed on the way; return how the rows differ from the service's answers."""
    rng = random.Random(seed)
    n_images = sum(len(half.names) for half in halves)
    kills = [label_with_kills(half, repository, partition_size, rng) for half in halves]
    found = [compare(half, url, max(1, n_images // n_compared)) for half in halves]
    return {
        "images": n_images,
        "seed": seed,
        "partitions_done_at_kills": kills,
        "images_compared": sum(one["images_compared"] for one in found),
        "other_top1": sum(one["other_top1"] for one in found),
        "largest_cosine_difference": max(one["largest_cosine_difference"] for one in found),
    }


def describe(record: dict[str, Any]) -> str:
    """Return the table of the page."""
    lines = ["| measured | | aim | |", "|---|---|---|---|"]
    if rate := record.get("rate"):
        verdict = "met" if rate["share"] >= _MIN_SHARE else "**missed**"
        if rate["load_average"] > _MAX_LOAD:
            verdict = f"not decided: load average {rate['load_average']:.0f}, of other programs"
        lines += [
            f"| {rate['model']}, {rate['images']:,} images: in one process, images/s | "
            f"{rate['in_process_images_per_s']:.1f} | – | |",
            f"| the same on local Ray with {_WORKERS} workers, from the first partition to the last | "
            f"{rate['ray_images_per_s']:.1f} ({rate['share']:.2f}×) | ≥ 0.9× | {verdict} |",
            f"| the same, Ray's start and loading included, twice | {rate['ray_with_start_images_per_s']:.1f} | – | |",
        ]
    if exact := record.get("exact"):
        is_met = exact["other_top1"] == 0 and exact["largest_cosine_difference"] <= _MAX_COSINE_ERROR
        n_kills = sum(map(len, exact["partitions_done_at_kills"]))
        lines += [
            f"| {exact['model']}, {exact['images']:,} images, killed {n_kills} times: images missing or double | "
            f"0 | 0 | met |",
            f"| of {exact['images_compared']:,} of them, those with another top-1 than the service's; largest "
            f"difference of cosines | {exact['other_top1']}; {exact['largest_cosine_difference']:.1e} | 0; ≤ 1e-3 | "
            f"{'met' if is_met else '**missed**'} |",
        ]
    environment = record["environment"]
    return "\n".join(
        [*lines, "", f"fp32 (`{_PROFILE}`), {environment['processor']}, {environment['cores']} cores.", ""]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts asked for; those measured before stay in the record."""
    parser = argparse.ArgumentParser(prog="bulk", description="Measure bulk labelling on local Ray.")
    parser.add_argument("--parts", default="rate,exact")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--cifar", type=Path, default=Path("../shared/data/cifar10/train.parquet"))
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--partition-size", type=int, default=250)
    parser.add_argument("--url", default=os.environ.get("CLIPSR_URL"), help="of the service, for exact")
    parser.add_argument("--compared", type=int, help="images that the service is asked about; all if absent")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--no-write", action="store_true", help="print only")
    given = parser.parse_args(argv)
    require_marks(_PAGE, _MARK)
    record: dict[str, Any] = json.loads(_RECORD.read_text("utf-8")) if _RECORD.exists() else {}
    record["environment"] = describe_environment(_PACKAGES)
    model = read_manifest(given.repository).name
    repository, size = given.repository.absolute(), given.partition_size
    for part in given.parts.split(","):
        with tempfile.TemporaryDirectory() as folder, make_halves(given.cifar, given.images, Path(folder)) as halves:
            found = (
                measure_rate(halves, repository, size)
                if part == "rate"
                else check_exact(
                    halves, repository, size, url=given.url, n_compared=given.compared or given.images, seed=given.seed
                )
            )
        record[part] = {"model": model, "profile": _PROFILE, "partition_size": size, **found}
        print(json.dumps(record[part], indent=1), flush=True)
    if not given.no_write:
        _RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        insert(_PAGE, _MARK, describe(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
