"""The model `image_path`: decoding, upscaling, image encoder and comparison in one process.

It stands for the models from `decode` to `similarity`, as `clipsr_serving.launcher` arranges it, and takes the inputs
of all of them; `native_image` is `image` on the native route.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.backends import Model, open_model, read_model_args, read_parameter, run_batched
from clipsr_serving.cores import count_cores
from clipsr_serving.images import is_small
from clipsr_serving.manifest import read_manifest
from clipsr_serving.models import _triton
from clipsr_serving.models.decode import Decoder
from clipsr_serving.models.similarity import Scorer

__all__ = ["STEPS", "ImagePathModel"]

_log = logging.getLogger(__name__)

# The steps, in order, and what each makes.
_DECODE, _UPSCALE, _ENCODE, _SCORE = STEPS = ("decode", "upscale", "image_encoder", "similarity")
_STEP_OF_OUTPUT = {
    "canvas": _DECODE,
    "box": _DECODE,
    "pixels": _UPSCALE,
    "image_embedding": _ENCODE,
    "cosine": _SCORE,
    "probability": _SCORE,
    "label_is_cut": _SCORE,
    "none_probability": _SCORE,
}

# What a request may begin with instead of images.
_TENSORS = ("canvas", "box", "pixels", "image_embedding")

# Each update of Triton's metrics page is a message to Triton.
_METRICS_PERIOD_S = 1.0


@dataclass
class _Job:
    """A request on its way.

    Attributes:
        request: as Triton gave it.
        wanted: the outputs that it asks for.
        images: the image files, a row each; empty where it begins with tensors.
        is_native: whether they take the native route.
        is_large: whether decoding them would hold up others.
        has_labels: whether there is something to compare them with.
        tensors: its other inputs, and what the steps made of them.
        error: why it goes no further.
    """

    request: Any
    wanted: frozenset[str]
    images: Sequence[tuple[bytes, ...]] = ()
    is_native: bool = False
    is_large: bool = False
    has_labels: bool = False
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    error: Exception | None = None

    def needs(self, step: str, given: str) -> bool:
        """Whether this step is to come, and what it takes is there."""
        last = max(STEPS.index(_STEP_OF_OUTPUT[name]) for name in self.wanted)
        return self.error is None and last >= STEPS.index(step) and given in self.tensors

    def answer(self) -> _triton.Answer:
        """Return what was asked for, or why not."""
        if self.error is None and (missing := self.wanted - self.tensors.keys()):
            return ValueError(f"the request lacks the inputs for {', '.join(sorted(missing))}")
        return self.error or {name: self.tensors[name] for name in self.wanted}

    @contextmanager
    def catch(self) -> Generator[None]:
        """Keep what is raised inside as this request's own answer."""
        try:
            yield
        except Exception as error:
            self.error = error


class ImagePathModel:
    """Whatever a step can begin with, to the outputs of this step and of those after it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engines as the models that this one stands for are configured, and warm them up."""
        _triton.set_up_logging()
        repository = Path(read_parameter(args, "repository"))
        config_name = read_parameter(args, "config_name", default="") or None
        manifest = read_manifest(repository)
        self._decoder = Decoder(manifest)
        self._upscale, self._image_encoder = (
            open_model(repository, name, config_name=config_name) for name in (_UPSCALE, _ENCODE)
        )
        self._scorer = Scorer(repository, manifest, read_model_args(repository, _SCORE, config_name=config_name))
        self._seconds = _triton.Counters(
            "clipsr_image_path_seconds_total", "Time that the steps of the image path took", label="step"
        )
        self._spent_s: dict[str, float] = dict.fromkeys(STEPS, 0.0)
        self._exported_s = -_METRICS_PERIOD_S
        # Sessions run one batch at a time, on all cores.
        self._engines = threading.Lock()
        self._large = ThreadPoolExecutor(count_cores(), thread_name_prefix="large")
        self._warm_up(manifest.upscaler.canvas_sizes_px)

    def _warm_up(self, canvas_sizes_px: Sequence[int]) -> None:
        """Run the smallest and the largest batch of each size, so that no request pays for planning memory."""
        side = self._image_encoder.spec.inputs[0].shape[-1]
        for rows in (1, max(1, self._image_encoder.spec.max_batch_size)):
            for size in canvas_sizes_px:
                box = np.tile(np.array([0, 0, size, size], dtype=np.float32), (rows, 1))
                self._upscale.session.run({"canvas": np.zeros((rows, 3, size, size), np.uint8), "box": box})
            self._image_encoder.session.run({"pixels": np.zeros((rows, 3, side, side), np.uint8)})

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests; those with large images later, from threads of their own."""
        jobs = [_read(request) for request in requests]
        for job in jobs:
            if job.is_large:
                self._large.submit(self._answer_later, job, job.request.get_response_sender())
        self._run([job for job in jobs if not job.is_large])
        return [None if job.is_large else _triton.respond(job.answer()) for job in jobs]

    def _answer_later(self, job: _Job, sender: Any) -> None:
        with job.catch():
            _triton.raise_if_cancelled(job.request)
            self._run([job])
        try:
            _triton.send(sender, job.answer())
        except Exception:
            _log.exception("an answer could not be sent")

    def _run(self, jobs: Sequence[_Job]) -> None:
        began_s = time.monotonic()
        for job in jobs:
            self._decode(job)
        decoded_s = time.monotonic() - began_s
        with self._engines:
            self._spent_s[_DECODE] += decoded_s
            self._infer(_UPSCALE, self._upscale, [job for job in jobs if job.needs(_UPSCALE, "canvas")])
            self._infer(_ENCODE, self._image_encoder, [job for job in jobs if job.needs(_ENCODE, "pixels")])
            self._score([job for job in jobs if job.has_labels and job.needs(_SCORE, "image_embedding")])
            self._export_metrics()

    def _decode(self, job: _Job) -> None:
        if not job.images:
            return
        with job.catch():
            make = self._decoder.make_pixels if job.is_native else self._decoder.make_canvases
            job.tensors |= make(job.images, _triton.read_byte_rows(job.request, "fit"))

    def _infer(self, step: str, model: Model, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        with self._clock(step):
            inputs = [{tensor.name: job.tensors[tensor.name] for tensor in model.spec.inputs} for job in jobs]
            _take(jobs, run_batched(inputs, model.session.run, batches=True))

    def _score(self, jobs: Sequence[_Job]) -> None:
        if jobs:
            with self._clock(_SCORE):
                _take(jobs, self._scorer.score([(job.request, job.tensors["image_embedding"]) for job in jobs]))

    @contextmanager
    def _clock(self, step: str) -> Generator[None]:
        began_s = time.monotonic()
        yield
        self._spent_s[step] += time.monotonic() - began_s

    def _export_metrics(self) -> None:
        if (now_s := time.monotonic()) - self._exported_s >= _METRICS_PERIOD_S:
            self._exported_s = now_s
            for step, seconds in self._spent_s.items():
                self._seconds.advance_to(seconds, step)


def _read(request: Any) -> _Job:
    given = {tensor.name(): tensor for tensor in request.inputs()}
    is_native = "native_image" in given
    source = "native_image" if is_native else "image"
    images = _triton.read_byte_rows(request, source) if source in given else ()
    return _Job(
        request=request,
        wanted=frozenset(request.requested_output_names()),
        images=images,
        is_native=is_native,
        is_large=not all(is_small(content) for (content,) in images),
        has_labels={"labels", "templates"} <= given.keys(),
        tensors={name: given[name].as_numpy() for name in _TENSORS if name in given},
    )


def _take(jobs: Sequence[_Job], answers: Sequence[_triton.Answer]) -> None:
    """Give each request what a step made of it."""
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, Exception):
            job.error = answer
        else:
            job.tensors |= answer
