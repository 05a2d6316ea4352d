"""What `clipsr-client classify` does once its options are understood."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from clipsr import (
    Classification,
    Client,
    ClipsrError,
    DeadlineError,
    FailedImage,
    Fit,
    ModelInfo,
    Route,
    ServiceError,
)
from clipsr.cli._classify.formats import CsvWriter, JsonWriter, ResultWriter
from clipsr.cli._classify.labels import LabelSpace
from clipsr.cli._classify.table import TableWriter, plan_layout
from clipsr.cli._exits import ExitCode
from clipsr.cli._inputs import Batch, Item, find_images, read_batches

Outcome = Classification | FailedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyOptions:
    """What to ask for and how to show it.

    Attributes:
        label_space: the labels or their set, and the templates.
        top_k: predictions an image; 0 for all labels.
        fit: how images that are not square are fitted.
        route: the path to the image encoder.
        min_cosine: threshold of "none of these".
        min_probability: threshold of "none of these".
        batch_size: images read and sent at a time.
        output_format: "table", "json" or "csv".
    """

    label_space: LabelSpace
    top_k: int
    fit: Fit
    route: Route
    min_cosine: float | None
    min_probability: float | None
    batch_size: int
    output_format: str

    @property
    def has_threshold(self) -> bool:
        """Whether an image may show none of the labels."""
        return self.min_cosine is not None or self.min_probability is not None


def classify_images(client: Client, paths: Sequence[str], options: ClassifyOptions) -> ExitCode:
    """Classify what the paths name and print the outcomes as batches finish.

    Raises:
        click.UsageError: a path cannot be used.
        ClipsrError: the service could not be asked, or refused the request as a whole.
    """
    items = find_images(paths)
    info = client.model_info()  # its limits bound what is read, its label sets the table's columns
    writer = _make_writer(items, info, options)
    session = _Session(client, options)
    code = ExitCode.OK
    for batch_index, batch in enumerate(read_batches(items, info.limits, batch_size=options.batch_size)):
        outcomes = session.classify(batch)
        if batch_index == 0:  # after the first answer: a refused request leaves standard output empty
            writer.begin()
        for path, outcome in zip(batch.paths, outcomes, strict=True):
            writer.write(path, outcome)
            if isinstance(outcome, FailedImage):
                code = ExitCode.SOME_FAILED
    writer.finish()
    return code


class _Session:
    """Asks for one batch after another and remembers whether the service has answered any."""

    def __init__(self, client: Client, options: ClassifyOptions) -> None:
        self._client = client
        self._options = options
        self._has_answer = False

    def classify(self, batch: Batch) -> list[Outcome]:
        """Return the outcomes of a batch in its order; images that could not be read keep their failure."""
        images = [outcome for outcome in batch.outcomes if isinstance(outcome, bytes)]
        answers = iter(self._ask(images) if images else [])
        return [next(answers) if isinstance(outcome, bytes) else outcome for outcome in batch.outcomes]

    def _ask(self, images: Sequence[bytes]) -> Sequence[Outcome]:
        options, space = self._options, self._options.label_space
        try:
            answers = self._client.classify(
                images,
                space.labels,
                label_set=space.label_set,
                templates=space.templates,
                top_k=options.top_k,
                fit=options.fit,
                route=options.route,
                min_cosine=options.min_cosine,
                min_probability=options.min_probability,
            )
        except DeadlineError as error:
            if not self._has_answer:  # nothing suggests that the next batch would be faster
                raise
            return _fail_all(images, "DEADLINE_EXCEEDED", error)
        except ServiceError as error:
            return _fail_all(images, error.code, error)
        self._has_answer = True
        return answers


def _fail_all(images: Sequence[bytes], code: str, error: ClipsrError) -> list[Outcome]:
    return [FailedImage(code=code, reason="", message=str(error)) for _ in images]


def _make_writer(items: Sequence[Item], info: ModelInfo, options: ClassifyOptions) -> ResultWriter:
    if options.output_format == "json":
        return JsonWriter(sys.stdout, has_threshold=options.has_threshold)
    if options.output_format == "csv":
        return CsvWriter(sys.stdout, has_threshold=options.has_threshold)
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    labels = options.label_space.labels or info.label_sets.get(options.label_space.label_set, ())
    width = console.width if sys.stdout.isatty() else None
    return TableWriter(console, plan_layout((item.path for item in items), labels, terminal_width=width))
