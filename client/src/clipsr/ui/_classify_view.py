"""What the pages answer to a filled-in form: calls of the service and HTML, no gradio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsr import Classification, Client, ClipsrError, Encoder, FailedImage, Fit, ModelInfo, Route
from clipsr._display.description import describe_libraries, describe_limits, describe_model, describe_sets, format_bytes
from clipsr._display.text import escape_html
from clipsr.ui import _markup
from clipsr.ui._form_errors import FormError, check_file, explain, split_labels

# Of an input that travels back to the browser inside the page; the input field shows it, too.
_MAX_SHOWN_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyForm:
    """The fields of the page "Classify".

    Attributes:
        path: the uploaded file; None before there is one.
        label_set: name of a published set; empty for typed labels.
        typed_labels: with commas or line ends between them.
        template: a prompt with {}, a published set with "@", or empty for the service's default.
        route: the path to the image encoder.
        fit: how an image that is not square is fitted.
        top_k: predictions to show.
        encoder: what embeds the image.
    """

    path: str | None
    label_set: str
    typed_labels: str
    template: str
    route: Route
    fit: Fit
    top_k: int
    encoder: Encoder = "plain"


def answer_classify(client: Client, form: ClassifyForm) -> str:
    """Return the classification of an uploaded image, or a sentence that says why there is none."""
    try:
        if form.path is None:
            raise FormError("There is no image: drop one into the field, or choose a file.")
        labels = () if form.label_set else split_labels(form.typed_labels)
        info = client.model_info()
        check_file(form.path, info.limits)
        content = Path(form.path).read_bytes()
        template = form.template.strip()
        [outcome] = client.classify(
            [content],
            labels,
            label_set=form.label_set,
            templates=[template] if template else [],
            top_k=form.top_k,
            route=form.route,
            fit=form.fit,
            none_of_these=info.none_of_these is not None,
            encoder=form.encoder,
            return_encoder_input=True,
        )
    except (ClipsrError, FormError) as error:
        return _markup.alert(explain(error))
    if isinstance(outcome, FailedImage):
        return _markup.alert(outcome.message)
    return _show_classification(content, outcome)


def _show_classification(content: bytes, outcome: Classification) -> str:
    best = outcome.predictions[0]
    rows, columns = outcome.input_hw
    took = "super-resolution" if outcome.route == "upscaled" else "plain resizing"
    pictures: list[str] = []
    if len(content) <= _MAX_SHOWN_BYTES:
        pictures.append(_markup.picture(content, caption=f"As sent, {columns} × {rows} px"))
    if outcome.encoder_input is not None:
        pictures.append(_markup.picture(outcome.encoder_input, caption=f"As the model saw it, after {took}"))
    return _markup.panel(
        *(_markup.caution(warning.message) for warning in outcome.warnings),
        f'<div class="cs-pictures">{"".join(pictures)}</div>',
        *_caution_of_none(outcome),
        *map(_markup.damage_chip, outcome.degradations[:1]),
        _markup.bars(outcome.predictions, caption=f"Most likely: {best.label}, {best.probability:.1%}"),
        _markup.quiet(
            f"{took} · {outcome.inference_ms:,.0f} ms in the model, {outcome.queue_ms:,.0f} ms waiting · "
            f"model {outcome.model_digest.removeprefix('sha256:')[:12]}"
        ),
    )


def _caution_of_none(outcome: Classification) -> Iterator[str]:
    if outcome.none_of_these and outcome.none_probability is not None:
        yield _markup.caution(f"None of these labels seems to fit (probability {outcome.none_probability:.1%}).")


def describe_service(client: Client, *, timeout_s: float) -> str:
    """Return the service's state, its model and its limits, or a sentence that says why they are not known."""
    try:
        state = client.health(timeout_s=timeout_s)
        info = client.model_info(timeout_s=timeout_s)
    except ClipsrError as error:
        return _markup.alert(explain(error))
    return _markup.panel(*_service_parts(state, info, client.url))


def _service_parts(state: str, info: ModelInfo, url: str) -> Iterator[str]:
    kind = "cs-up" if state == "SERVING" else "cs-down"
    word = {"SERVING": "serving", "NOT_SERVING": "not serving: look at its log"}.get(state, state)
    yield f'<p class="cs-state {kind}">{escape_html(info.name)} at {escape_html(url)} is {escape_html(word)}.</p>'
    yield '<div class="cs-columns">'
    yield _markup.facts("Model", describe_model(info))
    yield _markup.facts("Limits of one request", describe_limits(info))
    yield _markup.facts("Limits of libraries", describe_libraries(info))
    yield _markup.facts("Label sets", describe_sets(info.label_sets))
    yield _markup.facts("Template sets", describe_sets(info.template_sets))
    yield "</div>"
    files = ((item.path, f"{format_bytes(item.size_bytes)}, sha256 {item.sha256}") for item in info.artifacts)
    yield f'<details class="cs-more"><summary>Files that are served</summary>{_markup.facts("Files", files)}</details>'
