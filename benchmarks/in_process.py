"""Classification in this process beside the bare engines that it runs.

    python -m benchmarks.in_process --repository .bench/ViT-B-32/repository

`bare` is `upscale` and then `image_encoder` on tensors that are ready, in the sessions of the same profile; the
classifier begins with files, and ends with ranked labels. Both take turns, a batch of 32 images of 32 px each. Writes
`results/in-process.json` and the table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.liif.timing import Spread, ratio, time_interleaved
from benchmarks.load.images import MADE_UP, read_images
from benchmarks.reporting.environment import describe_environment
from benchmarks.reporting.pages import insert, require_marks
from clipsr.local import Classifier
from clipsr_serving.backends import open_model
from clipsr_serving.images import make_canvas, read_image
from clipsr_serving.manifest import read_manifest
from clipsr_serving.profiles import choose_profile, read_cpu_flags

_FOLDER = Path(__file__).parent
_PAGE, _MARK = _FOLDER / "README.md", "bench-in-process"
_BATCH = 32
_LABELS = [f"label number {number}" for number in range(100)]
_PACKAGES = ("clipsr", "clipsr-serving", "numpy", "onnxruntime", "openvino", "pillow")


def prepare_bare(repository: Path, config_name: str | None, contents: Sequence[bytes]) -> Callable[[], object]:
    """Return a call that runs both engines on the images, decoded beforehand."""
    sizes_px = read_manifest(repository).upscaler.canvas_sizes_px
    placed = [make_canvas(read_image(one), fit="center_crop", canvas_sizes_px=sizes_px) for one in contents]
    inputs = {"canvas": np.stack([canvas for canvas, _ in placed]), "box": np.stack([box for _, box in placed])}
    upscale, encoder = (open_model(repository, name, config_name=config_name) for name in ("upscale", "image_encoder"))
    return lambda: encoder.session.run({"pixels": upscale.session.run(inputs)["pixels"]})


def measure(repository: Path, profile: str, *, n_rounds: int, min_s: float) -> dict[str, Any]:
    """Return images a second of both, and the classifier's share of the bare engines'."""
    contents = read_images(MADE_UP, _BATCH)
    choice = choose_profile(profile, repository, read_manifest(repository), cpu_flags=read_cpu_flags())
    classifier = Classifier.load(repository, profile=profile)
    calls: dict[str, Callable[[], object]] = {
        "bare": prepare_bare(repository, choice.config_name, contents),
        "in process": lambda: classifier.classify(contents, _LABELS, route="upscaled"),
    }
    times_ms = time_interleaved(calls, n_rounds=n_rounds, min_s=min_s, report=lambda n: print(f"round {n}", flush=True))
    return {
        "profile": profile,
        "configuration": choice.config_name or profile,
        "images_per_s": {
            name: vars(Spread.of([1e3 * _BATCH / each for each in found])) for name, found in times_ms.items()
        },
        "share_of_bare": vars(ratio(times_ms["bare"], times_ms["in process"])),
    }


def describe(record: dict[str, Any]) -> str:
    """Return the sentences of the page."""
    lines = [
        "| profile | bare engines, images/s | in process, images/s | in process against bare |",
        "|---|---|---|---|",
    ]
    for found in record["measurements"]:
        rates = [found["images_per_s"][name] for name in ("bare", "in process")]
        shares = " – ".join(f"{found['share_of_bare'][end]:.3f}×" for end in ("low", "high"))
        lines.append(
            f"| `{found['profile']}`, as `{found['configuration']}` | {rates[0]['median']:.1f} | "
            f"{rates[1]['median']:.1f} | {found['share_of_bare']['median']:.3f}× ({shares}) |"
        )
    return "\n".join([*lines, "", f"{record['model']}, {record['environment']['processor']}.", ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the profiles one after the other."""
    description = "Measure classification in this process beside the bare engines."
    parser = argparse.ArgumentParser(prog="in_process", description=description)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--profiles", default="cpu-onnx,cpu-bf16", help="as clipsr-serve's (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn (%(default)s)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args(argv)
    require_marks(_PAGE, _MARK)
    record = {
        "model": read_manifest(arguments.repository).name,
        "environment": describe_environment(_PACKAGES),
        "measurements": [
            measure(arguments.repository, profile, n_rounds=arguments.rounds, min_s=arguments.seconds)
            for profile in arguments.profiles.split(",")
        ],
    }
    print(describe(record))
    if not arguments.no_write:
        (_FOLDER / "results" / "in-process.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        insert(_PAGE, _MARK, describe(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
