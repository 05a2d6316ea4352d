"""The page "Classify": an image, labels, and how likely each is."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from typing import Any

import gradio as gr

from clipsr import Client, Fit, Route
from clipsr.ui import _markup
from clipsr.ui._classify_view import ClassifyForm, answer_classify
from clipsr.ui._widgets import ask_model, image_field, template_choices

_TYPED = ""  # in place of a label set's name: the labels are typed
_CALLS_AT_ONCE = 4  # of this page, all visitors together; gradio's default is 1
_BEGINNING = "Drop an image, name some labels, and press Classify."


def add_classify_page(client: Client, pages: gr.Blocks) -> None:
    """Add the fields and what they do; the sets to choose from are asked for whenever the page is loaded."""
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
            template, route, fit, top_k = _add_options()
            button = gr.Button("Classify", variant="primary")
        with gr.Column(min_width=300):
            outcome = gr.HTML(_markup.empty(_BEGINNING), elem_id="outcome", apply_default_css=False)

    def classify(
        path: str | None, label_set: str, typed: str, template: str | None, route: Route, fit: Fit, top_k: float
    ) -> str:
        form = ClassifyForm(
            path=path,
            label_set=label_set,
            typed_labels=typed,
            template=template or "",
            route=route,
            fit=fit,
            top_k=int(top_k),
        )
        return answer_classify(client, form)

    gr.on(
        [button.click, typed.submit],
        classify,
        inputs=[image, label_set, typed, template, route, fit, top_k],
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
    pages.load(
        lambda: _choices(client), outputs=[label_set, template], api_visibility="private", show_progress="hidden"
    )


def _choices(client: Client) -> tuple[dict[str, Any], dict[str, Any]]:
    info = ask_model(client)
    sets = {} if info is None else info.label_sets
    named = [(f"@{name}: {len(labels)} labels", name) for name, labels in sets.items()]
    return gr.update(choices=[("Labels that I type", _TYPED), *named]), gr.update(choices=template_choices(info))


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
