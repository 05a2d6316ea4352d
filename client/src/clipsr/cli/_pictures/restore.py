"""What `clipsr-client restore` does once its options are understood."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr import Client, RestoredImage, UpscaleFormat
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
        is_forced: whether images are restored without anything in `remove`.
        output_format: the kind of all files of a folder, or of standard output; None goes by their endings.
        is_overwriting: whether files that exist are replaced.
    """

    remove: tuple[str, ...]
    steps: int | None
    seed: int
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
    if answer.unchanged:
        return "unchanged"
    return f"removed: {', '.join(answer.removed) or 'whatever it was'}; steps: {answer.steps}"
