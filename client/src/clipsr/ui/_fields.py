"""Fields that several pages have."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from typing import Any

import gradio as gr

from clipsr import Client, ClipsrError, ModelInfo

__all__ = ["INFO_TIMEOUT_S", "ask_model", "keep_as_uploaded", "template_choices"]

INFO_TIMEOUT_S = 5.0  # a page that loads shows soon that nobody answers


def keep_as_uploaded(field: gr.Image) -> gr.Image:
    """Let the field hand on the path of the file as it was uploaded, and return it.

    gradio would decode the file first, and where that fails no handler runs; here the service decodes it and says what
    is wrong with it. A subclass would do the same, but gradio writes a stub file beside the module of each subclass.
    """

    def preprocess(payload: Any) -> str | None:
        return None if payload is None else payload.path

    field.preprocess = preprocess
    return field


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
    sets = [(f"@{name}: {_count(values)}", f"@{name}") for name, values in info.template_sets.items()]
    return [(f"The service's default: {info.default_templates}", ""), *sets]


def _count(values: tuple[str, ...]) -> str:
    return f"“{values[0]}”" if len(values) == 1 else f"{len(values)} templates"
