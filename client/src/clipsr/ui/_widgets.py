"""Fields that several pages have."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from typing import Any

import gradio as gr

from clipsr import Client, ClipsrError, ModelInfo
from clipsr._display.text import escape_controls
from clipsr.ui._library_view import library_names

INFO_TIMEOUT_S = 5.0  # a page that loads shows soon that nobody answers


def image_field(label: str, *, visible: bool = True) -> gr.Image:
    """Return a field for an image, which hands on the path of the file as it was uploaded.

    gradio would decode the file first, and where that fails no handler runs; here the service decodes it and says what
    is wrong with it. A subclass would do the same, but gradio writes a stub file beside the module of each subclass.
    """
    field = gr.Image(
        label=label,
        type="filepath",
        sources=["upload", "clipboard"],
        height=240,
        buttons=[],
        visible=visible,
        elem_classes="cs-input",
    )

    def preprocess(payload: Any) -> str | None:
        return None if payload is None else payload.path

    field.preprocess = preprocess
    return field


def library_update(client: Client, chosen: str | None, *, otherwise: str | None = None) -> dict[str, Any]:
    """Return the choices of a field for libraries as they are now; as they were while the service cannot be asked.

    Args:
        client: asks the service.
        chosen: the library to show, if it is there.
        otherwise: the one to show if it is not; the first one if that is not there either.
    """
    names = library_names(client, timeout_s=INFO_TIMEOUT_S)
    if names is None:
        return gr.skip()
    wanted = next((name for name in (chosen, otherwise, *names) if name in names), None)
    return gr.update(choices=names, value=wanted)


def share_choice(library: gr.Dropdown, chosen: gr.Textbox) -> None:
    """Let the other pages begin with the library that is chosen here, by the visitor or by what was made or dropped.

    Args:
        library: the page's field.
        chosen: the name for all pages, which the browser sets itself: the visitor may be on the way to another one.
    """
    library.change(None, inputs=library, outputs=chosen, js="name => name ?? ''", api_visibility="private")


def ask_model(client: Client) -> ModelInfo | None:
    """Return what the service says of itself, None if it does not; the page "Service" shows why."""
    try:
        return client.model_info(timeout_s=INFO_TIMEOUT_S)
    except ClipsrError:
        return None


def template_choices(info: ModelInfo | None) -> list[tuple[str, str]]:
    """Return the choices of prompt templates: what is shown, what is sent."""
    if info is None:
        return [("The service's default", "")]
    sets = [(escape_controls(f"@{name}: {_count(values)}"), f"@{name}") for name, values in info.template_sets.items()]
    return [(escape_controls(f"The service's default: {info.default_templates}"), ""), *sets]


def template_update(info: ModelInfo | None) -> dict[str, Any]:
    """Return the choices of a field for templates as they are now; as they were where the service did not answer."""
    return gr.skip() if info is None else gr.update(choices=template_choices(info))


def _count(values: tuple[str, ...]) -> str:
    return f"“{values[0]}”" if len(values) == 1 else f"{len(values)} templates"
