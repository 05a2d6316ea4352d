"""What `clipsr-client restore` does once its options are understood."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr import Client, RestoredImage, UpscaleFormat
from clipsr._display.text import escape_controls
from clipsr.cli._exits import ExitCode
from clipsr.cli._pictures.outputs import Replacement
from clipsr.cli._pictures.session import Picture, Work, process_images


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreOptions:
    """What to make of each image.

    Attributes:
        remove: the damage, in the service's names or words.
        steps: evaluations of the network; None takes the service's default.
        seed: of the noise.
        upscale: factor on width and height; None leaves the size.
        is_forced: whether images that are judged clean are restored, and those of which nothing is known.
        output_format: the kind of all files of a folder, or of standard output; None goes by their endings.
        is_overwriting: whether files that exist are replaced.
    """

    remove: tuple[str, ...]
    steps: int | None
    seed: int
    upscale: float | None
    is_forced: bool
    output_format: UpscaleFormat | None
    is_overwriting: bool


def restore_images(client: Client, source: str, target: str, options: RestoreOptions) -> ExitCode:
    """Restore one image or a folder of them; see process_images."""

    def ask(content: bytes, output_format: UpscaleFormat) -> RestoredImage:
        return client.restore(
            content,
            remove=options.remove,
            steps=options.steps,
            seed=options.seed,
            force=options.is_forced,
            upscale=options.upscale,
            output_format=output_format,
        )

    return process_images(
        client,
        source,
        target,
        Work(ask=ask, describe=_describe, doing="restoring", done="restored"),
        output_format=options.output_format,
        replacement=Replacement(option="--overwrite", is_given=options.is_overwriting),
    )


def _describe(answer: Picture) -> str:
    assert isinstance(answer, RestoredImage)
    (height, width), (rows, columns) = answer.size_hw, answer.output_hw
    size = f"; {width} x {height} -> {columns} x {rows}" if answer.output_hw != answer.size_hw else ""
    return f"{_describe_change(answer)}{size}"


def _describe_change(answer: RestoredImage) -> str:
    likeliest = answer.detected[0] if answer.detected else None
    found = "" if likeliest is None else f"{escape_controls(likeliest.kind)} {likeliest.probability:.0%}"
    if answer.unchanged:
        return f"unchanged: {found}" if found else "unchanged"
    if answer.removed:
        detected = f" (detected: {found})" if found else ""
        return f"removed: {', '.join(map(escape_controls, answer.removed))}{detected}; steps: {answer.steps}"
    return f"detected: {found}; steps: {answer.steps}" if found else f"removed: whatever it was; steps: {answer.steps}"
