"""The page "Restore": a damaged image, and what it is without the damage."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from typing import Any

import gradio as gr

from clipsr import Client
from clipsr.ui import _markup
from clipsr.ui._restore_view import RestoreForm, answer_restore
from clipsr.ui._widgets import ask_model, image_field

_CALLS_AT_ONCE = 2  # of this page, all visitors together: restoring takes seconds
_BEGINNING = "Drop an image, say what to remove, and press Restore."
_NO_RESTORER = "This service restores no images: its operator can add a restorer by clipsr-export --restorer."
_MAX_SEED = 2**32 - 1


def add_restore_page(client: Client, pages: gr.Blocks, tab: gr.Tab) -> None:
    """Add the fields and what they do; what can be removed is asked for whenever the page is loaded or shown."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            image = image_field("Image to restore")
            remove = gr.CheckboxGroup([], label="Remove", visible=False)
            is_forced = gr.Checkbox(False, label="Restore it whatever is wrong with it")
            with gr.Accordion("Steps and seed", open=False):
                steps = gr.Slider(1, 20, value=5, step=1, label="Steps")
                seed = gr.Number(0, label="Seed", minimum=0, maximum=_MAX_SEED, precision=0)
            button = gr.Button("Restore", variant="primary")
        with gr.Column(min_width=300):
            outcome = gr.HTML(_markup.empty(_BEGINNING), elem_id="restored", apply_default_css=False)

    def restore(path: str | None, remove: list[str], is_forced: bool, steps: float, seed: float | None) -> str:
        form = RestoreForm(path=path, remove=remove, steps=int(steps), seed=int(seed or 0), is_forced=is_forced)
        return answer_restore(client, form)

    button.click(
        restore,
        inputs=[image, remove, is_forced, steps, seed],
        outputs=outcome,
        api_visibility="private",
        concurrency_limit=_CALLS_AT_ONCE,
    )
    for event in (pages.load, tab.select):
        event(
            lambda chosen, steps: set_choices(client, chosen, int(steps)),
            inputs=[remove, steps],
            outputs=[remove, is_forced, steps, button, outcome],
            api_visibility="private",
            show_progress="hidden",
        )


def set_choices(client: Client, chosen: list[str], steps: int) -> tuple[Any, ...]:
    """Return what can be removed and in how many steps, as it is now; as it was while the service cannot be asked.

    Args:
        client: asks the service.
        chosen: the kinds of damage to show as chosen, as far as they are there.
        steps: the number to show, as far as it is possible.
    """
    info = ask_model(client)
    if info is None:
        return (gr.skip(),) * 5
    if info.restorer is None:
        hidden = gr.update(visible=False)
        return hidden, hidden, gr.skip(), gr.update(interactive=False), _markup.empty(_NO_RESTORER)
    kinds = list(info.restorer.kinds)
    is_detecting = bool(info.degradation_kinds)
    label = "Restore it even if it looks clean" if is_detecting else "Restore it whatever is wrong with it"
    return (
        gr.update(
            choices=kinds,
            value=[kind for kind in chosen if kind in kinds],
            info="Choose nothing to remove what is detected." if is_detecting else "Choose what is wrong with it.",
            visible=True,
        ),
        gr.update(label=label, visible=True),
        gr.update(maximum=info.restorer.max_steps, value=min(steps, info.restorer.max_steps)),
        gr.update(interactive=True),
        gr.skip(),
    )
