"""The page "Service": what answers, how it is, and what it accepts."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

import gradio as gr

from clipsr import Client
from clipsr.ui import _markup
from clipsr.ui._classify_view import describe_service
from clipsr.ui._widgets import INFO_TIMEOUT_S


def add_service_page(client: Client, pages: gr.Blocks) -> None:
    """Add what the service says of itself, asked whenever the page is loaded or the button is pressed."""
    facts = gr.HTML(_markup.empty("Asking the service …"), elem_id="service", apply_default_css=False)
    button = gr.Button("Ask again", size="md", elem_classes="cs-small")

    def describe() -> str:
        return describe_service(client, timeout_s=INFO_TIMEOUT_S)

    pages.load(describe, outputs=facts, api_visibility="private", show_progress="hidden")
    button.click(describe, outputs=facts, api_visibility="private")
