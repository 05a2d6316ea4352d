"""The page "Search": words or an example, and what a library has that fits."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

import gradio as gr

from clipsr import Client
from clipsr.ui import _markup
from clipsr.ui._search_view import SearchForm, answer_search
from clipsr.ui._widgets import ask_model, image_field, library_update, share_choice, template_choices, template_update

_BY_TEXT, _BY_IMAGE = "words", "an image"
_CALLS_AT_ONCE = 4  # of this page, all visitors together; gradio's default is 1


def add_search_page(client: Client, tab: gr.Tab, chosen: gr.Textbox) -> None:
    """Add the fields and what they do; the libraries to choose from are asked for whenever the tab is opened.

    Args:
        client: asks the service.
        tab: where the page is.
        chosen: name of the library that was chosen last on any page.
    """
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280, scale=2):
            library = gr.Dropdown([], label="Library")
            kind = gr.Radio([_BY_TEXT, _BY_IMAGE], value=_BY_TEXT, label="Search by")
            text = gr.Textbox("", label="What the images show", placeholder="a dog on grass", max_lines=1)
            image = image_field("Example image", visible=False)
            options = _add_options()
            template = options[0]
            button = gr.Button("Search", variant="primary")
        with gr.Column(min_width=300, scale=3):
            outcome = gr.HTML(
                _markup.empty("Say what the images shall show, and press Search."),
                elem_id="found",
                apply_default_css=False,
            )

    gr.on(
        [button.click, text.submit],
        lambda *fields: answer_search(client, _read_form(*fields)),
        inputs=[library, kind, text, image, *options],
        outputs=outcome,
        api_visibility="private",
        concurrency_limit=_CALLS_AT_ONCE,
    )
    kind.change(
        lambda kind: (gr.update(visible=kind == _BY_TEXT), gr.update(visible=kind == _BY_IMAGE)),
        inputs=kind,
        outputs=[text, image],
        api_visibility="private",
        show_progress="hidden",
    )
    share_choice(library, chosen)
    tab.select(
        lambda name: (library_update(client, name), template_update(ask_model(client))),
        inputs=chosen,
        outputs=[library, template],
        api_visibility="private",
        show_progress="hidden",
    )


def _add_options() -> tuple[gr.Dropdown, gr.Textbox, gr.Textbox, gr.Slider, gr.Slider, gr.Checkbox]:
    with gr.Accordion("Filters and options", open=False):
        tags = gr.Textbox("", label="Tags", info="An image must have all of them; commas between.", max_lines=1)
        source_prefix = gr.Textbox("", label="Source begins with", max_lines=1)
        min_cosine = gr.Slider(-1, 1, value=-1, step=0.01, label="Least cosine")
        top_k = gr.Slider(1, 60, value=12, step=1, label="Images to show")
        template = gr.Dropdown(
            template_choices(None),
            value="",
            label="Prompt templates",
            info="A set, or a prompt of your own with {} where the words go.",
            allow_custom_value=True,
        )
        is_exact = gr.Checkbox(label="Compare with every image: slower in a large library, misses nothing")
    return template, tags, source_prefix, min_cosine, top_k, is_exact


def _read_form(
    library: str | None,
    kind: str,
    text: str,
    path: str | None,
    template: str | None,
    tags: str,
    source_prefix: str,
    min_cosine: float,
    top_k: float,
    is_exact: bool,
) -> SearchForm:
    """Return the form, from the fields in the order of the page."""
    return SearchForm(
        library=library,
        text=text,
        path=path,
        is_by_image=kind == _BY_IMAGE,
        template=template or "",
        tags=tags,
        source_prefix=source_prefix,
        min_cosine=min_cosine,
        top_k=int(top_k),
        is_exact=is_exact,
    )
