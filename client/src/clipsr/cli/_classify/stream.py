"""The one way of images through `classify`: walked, read and streamed, their outcomes handed to a sink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from clipsr import AnswerWarning, Classification, ClassifyOptions, Client, FailedImage, ModelInfo
from clipsr._display.text import escape_controls
from clipsr.cli._exits import report
from clipsr.cli._inputs import read_item, report_left_out, walk_images

Outcome = Classification | FailedImage


class Sink(Protocol):
    """Where outcomes go: the screen or a file."""

    def claim(self, path: str, place: int) -> bool:
        """Return whether the next image is to be classified; called in the stream's own thread, in order."""
        ...

    def put(self, index: int, path: str, outcome: Outcome) -> None:
        """Take an outcome; `index` counts the claimed images from 0, and outcomes come in any order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to classify.

    Attributes:
        paths: files and folders of the command line.
        options: what is asked about every image.
        read_ahead: images under way at once.
    """

    paths: Sequence[str]
    options: ClassifyOptions
    read_ahead: int


def classify_into(sink: Sink, client: Client, job: Job, info: ModelInfo) -> None:
    """Classify the images that the sink claims; report what the service warns of, and what folders hold besides.

    Raises:
        ClipsrError: the service could not be asked, or refused the request as a whole.
    """
    under_way: dict[int, str] = {}
    warned: set[AnswerWarning] = set()
    left_out: Counter[str] = Counter()

    def read() -> Iterator[bytes | FailedImage]:
        index = 0
        for place, item in enumerate(walk_images(job.paths, left_out)):
            if sink.claim(item.path, place):
                under_way[index] = item.path
                index += 1
                yield read_item(item, max_bytes=info.limits.max_image_bytes)

    for index, outcome in client.classify_stream(read(), options=job.options, read_ahead=job.read_ahead):
        sink.put(index, under_way.pop(index), outcome)
        for warning in outcome.warnings if isinstance(outcome, Classification) else ():
            if warning not in warned:
                warned.add(warning)
                report(escape_controls(warning.message))
    report_left_out(left_out)
