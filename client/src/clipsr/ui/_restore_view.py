"""What the page "Restore" answers: calls of the service and HTML, no gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsr import Client, ClipsrError, RestoredImage
from clipsr._display.data_uri import data_uri
from clipsr.ui import _markup
from clipsr.ui._form_errors import FormError, check_file, explain

# Of pictures that travel to the browser inside the page, both together.
_MAX_SHOWN_BYTES = 24 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreForm:
    """The fields of the page "Restore".

    Attributes:
        path: the uploaded file; None before there is one.
        remove: kinds of damage; empty for what is detected.
        steps: evaluations of the network.
        seed: of the noise.
        is_forced: whether an image that is judged clean is restored as well.
    """

    path: str | None
    remove: Sequence[str]
    steps: int
    seed: int
    is_forced: bool


def answer_restore(client: Client, form: RestoreForm) -> str:
    """Return an uploaded image beside what it was, or a sentence that says why it cannot be restored."""
    try:
        if form.path is None:
            raise FormError("There is no image: drop one into the field, or choose a file.")
        check_file(form.path, client.model_info().limits)
        content = Path(form.path).read_bytes()
        restored = client.restore(
            content, remove=form.remove, steps=form.steps, seed=form.seed, force=form.is_forced, output_format="webp"
        )
    except (ClipsrError, FormError) as error:
        return _markup.alert(explain(error))
    return _show(content, restored)


def _show(content: bytes, restored: RestoredImage) -> str:
    rows, columns = restored.size_hw
    steps = f"{restored.steps} steps · " if restored.steps else ""
    return _markup.panel(
        _markup.heading(_say_what_happened(restored)),
        *_show_pictures(content, restored, f"{columns} × {rows} px"),
        _markup.bars(restored.detected, caption="What was detected") if restored.detected else "",
        _markup.quiet(
            f"{steps}{restored.inference_ms:,.0f} ms in the models, {restored.queue_ms:,.0f} ms waiting · "
            f"model {restored.model_digest.removeprefix('sha256:')[:12]}"
        ),
    )


def _say_what_happened(restored: RestoredImage) -> str:
    if restored.unchanged and not restored.steps:
        return "Nothing is wrong with it: it stays as it is"
    if restored.unchanged:
        return "Every pixel stayed as it was"
    if restored.removed:
        return f"Removed: {', '.join(restored.removed)}"
    return "Restored from what was detected" if restored.detected else "Restored from whatever it may have been"


def _show_pictures(content: bytes, restored: RestoredImage, caption: str) -> Sequence[str]:
    if len(content) + len(restored.content) > _MAX_SHOWN_BYTES:
        return (_markup.caution("It is too large to be shown here: clipsr-client restore writes it into a file."),)
    if data_uri(content) is None or restored.unchanged:
        shown = _markup.picture(restored.content, caption=caption)
    else:
        shown = _markup.compare(content, restored.content, caption=caption)
    return shown, _markup.download(restored.content, name="restored.webp")
