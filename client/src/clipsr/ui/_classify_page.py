"""The page "Classify": an image, labels, and how likely each is."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from typing import Any

import gradio as gr

from clipsr import Client, Encoder, Fit, Route
from clipsr.ui import _markup
from clipsr.ui._classify_view import ClassifyForm, answer_classify
from clipsr.ui._widgets import ask_model, image_field, template_choices, template_update

_TYPED = ""  # in place of a label set's name: the labels are typed
_PLAIN, _ROBUST, _AUTO = ("Plain", "plain"), ("Robust", "robust"), ("Robust where the image looks damaged", "auto")
_CALLS_AT_ONCE = 4  # of this page, all visitors together; gradio's default is 1
_BEGINNING = "Drop an image, name some labels, and press Classify."


def add_classify_page(client: Client, pages: gr.Blocks, tab: gr.Tab) -> None:
    """Add the fields and what they do.

    The sets to choose from are asked for whenever the page is loaded or shown, and after an answer: a page that was
    loaded while the service was away has them then.
    """
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            image = image_field("Image")
            label_set = gr.Dropdown([("Labels that I type", _TYPED)], value=_TYPED, label="Choose from")
            typed = gr.Textbox(
                "cat, dog, bird, horse, airplane, car",
                label="Labels",
                info="With commas between them.",
                lines=1,
                max_lines=6,
            )
            encoder = _add_encoder()
            template, route, fit, top_k = _add_options()
            button = gr.Button("Classify", variant="primary")
        with gr.Column(min_width=300):
            outcome = gr.HTML(_markup.empty(_BEGINNING), elem_id="outcome", apply_default_css=False)

    answered = gr.on(
        [button.click, typed.submit],
        lambda *fields: answer_classify(client, _read_form(*fields)),
        inputs=[image, label_set, typed, template, route, fit, top_k, encoder],
        outputs=outcome,
        api_visibility="private",
        concurrency_limit=_CALLS_AT_ONCE,
    )
    label_set.change(
        lambda name: gr.update(visible=name == _TYPED),
        inputs=label_set,
        outputs=typed,
        api_visibility="private",
        show_progress="hidden",
    )
    for event in (pages.load, tab.select, answered.then):
        event(
            lambda chosen, encoder: set_choices(client, chosen, encoder),
            inputs=[label_set, encoder],
            outputs=[label_set, template, encoder],
            api_visibility="private",
            show_progress="hidden",
        )


def set_choices(
    client: Client, chosen: str | None, encoder: Encoder = "plain"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return label sets, template sets and encoders as they are now; as they were while the service cannot be asked.

    Args:
        client: asks the service.
        chosen: the label set to show, if it is still there; otherwise the labels are typed.
        encoder: the one to show, if it is still offered.
    """
    info = ask_model(client)
    if info is None:
        return gr.skip(), gr.skip(), gr.skip()
    named = [(f"@{name}: {len(labels)} labels", name) for name, labels in info.label_sets.items()]
    value = chosen if chosen in info.label_sets else _TYPED
    sets = gr.update(choices=[("Labels that I type", _TYPED), *named], value=value)
    offered = [_PLAIN, *([_ROBUST] if info.degradation_kinds else []), *([_AUTO] if info.has_auto_encoder else [])]
    kept = encoder if encoder in [value for _, value in offered] else "plain"
    return sets, template_update(info), gr.update(choices=offered, value=kept, visible=len(offered) > 1)


def _read_form(
    path: str | None,
    label_set: str,
    typed: str,
    template: str | None,
    route: Route,
    fit: Fit,
    top_k: float,
    encoder: Encoder,
) -> ClassifyForm:
    """Return the form, from the fields in the order of the page."""
    return ClassifyForm(
        path=path,
        label_set=label_set,
        typed_labels=typed,
        template=template or "",
        route=route,
        fit=fit,
        top_k=int(top_k),
        encoder=encoder,
    )


def _add_encoder() -> gr.Radio:
    """Add the choice of the encoder, which is shown where there is one."""
    return gr.Radio(
        [_PLAIN],
        value="plain",
        label="Image encoder",
        info="Robust is for images that may be blurred, dark or noisy, and names the damage.",
        visible=False,
    )


def _add_options() -> tuple[gr.Dropdown, gr.Radio, gr.Radio, gr.Slider]:
    with gr.Accordion("More options", open=False):
        template = gr.Dropdown(
            template_choices(None),
            value="",
            label="Prompt templates",
            info="A set, or a prompt of your own with {} where the label goes.",
            allow_custom_value=True,
        )
        route = gr.Radio(
            [("By the image's size", "auto"), ("Super-resolution", "upscaled"), ("Plain resizing", "native")],
            value="auto",
            label="Route to the image encoder",
        )
        fit = gr.Radio(
            [("As trained", "auto"), ("Centred square", "center_crop"), ("All, squeezed", "squash")],
            value="auto",
            label="An image that is not square",
        )
        top_k = gr.Slider(1, 20, value=6, step=1, label="Labels to show")
    return template, route, fit, top_k
