"""The page "Library": what is kept; more of it, or less."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from clipsr import Client
from clipsr.ui import _markup
from clipsr.ui._library_view import (
    FIRST_PAGE,
    Start,
    add_images,
    create_library,
    delete_images,
    drop_library,
    view_page,
)
from clipsr.ui._widgets import library_update, share_choice

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_TICKED = (
    "name => [name, [...document.querySelectorAll('#kept input[name=picked]:checked')].map(box => box.value).join(' ')]"
)
"""What the browser sends for the hidden field: the names of the ticked images. Ticking alone asks nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shelf:
    """The fields that show images: which library, which page of it.

    Attributes:
        library: name of the library.
        tags: filter.
        starts: where each page from the first to the shown one begins, and the one after it if there is one.
        number: of the shown page, from 1.
        kept: the images.
        newer: goes a page back.
        older: goes a page on.
    """

    library: gr.Dropdown
    tags: gr.Textbox
    starts: gr.State
    number: gr.State
    kept: gr.HTML
    newer: gr.Button
    older: gr.Button

    def shown(self) -> list[Any]:
        """Return what a turn of the page changes."""
        return [self.starts, self.number, self.kept, self.newer, self.older]


def add_library_page(client: Client, tab: gr.Tab, chosen: gr.Textbox) -> None:
    """Add the fields and what they do; all is asked for again whenever the tab is opened.

    Args:
        client: asks the service.
        tab: where the page is.
        chosen: name of the library that was chosen last on any page.
    """
    with gr.Row(equal_height=True):
        library = gr.Dropdown([], label="Library", min_width=200)
        tags = gr.Textbox("", label="Only images with the tags", placeholder="all images", max_lines=1, min_width=200)
    said = gr.HTML(elem_id="said", apply_default_css=False)
    kept = gr.HTML(_markup.empty("Asking the service …"), elem_id="kept", apply_default_css=False)
    with gr.Row():
        newer = gr.Button("← Newer", size="md", min_width=90, interactive=False)
        older = gr.Button("Older →", size="md", min_width=90, interactive=False)
        delete = gr.Button("Delete ticked …", size="md", min_width=140)
    shelf = _Shelf(
        library=library,
        tags=tags,
        starts=gr.State([FIRST_PAGE]),
        number=gr.State(1),
        kept=kept,
        newer=newer,
        older=older,
    )
    turn = _turner(client)
    first = {
        "fn": lambda name, tags: turn(name, tags, [FIRST_PAGE], 1),
        "inputs": [library, tags],
        "outputs": shelf.shown(),
    }

    _add_paging(shelf, turn)
    _add_deleting(client, shelf, delete, said, first)
    _add_adding(client, shelf, said, first)
    _add_making(client, shelf, said, first)
    share_choice(library, chosen)
    tab.select(lambda name: library_update(client, name), inputs=chosen, outputs=library, **_QUIET).then(
        **first, **_QUIET
    )
    gr.on([library.input, tags.submit], **first, **_QUIET)


def _turner(client: Client) -> Callable[[str | None, str, list[Start], int], tuple[Any, ...]]:
    """Return the function that shows page `number`, whose beginning is in `starts`, and says where the next begins."""

    def turn(name: str | None, tags: str, starts: list[Start], number: int) -> tuple[Any, ...]:
        view = view_page(client, name, tags=tags, start=starts[number - 1])
        known = [*starts[:number], *([view.next_start] if view.next_start else [])]
        return (
            known,
            number,
            view.html,
            gr.update(interactive=number > 1),
            gr.update(interactive=view.next_start is not None),
        )

    return turn


def _add_paging(shelf: _Shelf, turn: Callable[[str | None, str, list[Start], int], tuple[Any, ...]]) -> None:
    inputs = [shelf.library, shelf.tags, shelf.starts, shelf.number]
    for button, step in ((shelf.newer, -1), (shelf.older, 1)):

        def go(name: str | None, tags: str, starts: list[Start], number: int, step: int = step) -> tuple[Any, ...]:
            return turn(name, tags, starts, max(1, min(number + step, len(starts))))

        button.click(go, inputs=inputs, outputs=shelf.shown(), **_QUIET)


def _add_deleting(client: Client, shelf: _Shelf, delete: gr.Button, said: gr.HTML, first: dict[str, Any]) -> None:
    """Wire deletion, which takes two steps: the ticked images are counted, and only then deleted."""
    ticked = gr.Textbox("", visible=False)
    meant = gr.State(("", []))
    with gr.Column(visible=False, elem_classes="cs-question") as question:
        asked = gr.HTML(apply_default_css=False)
        with gr.Row():
            confirm = gr.Button("Yes, delete", variant="stop", size="md")
            cancel = gr.Button("No, keep them", size="md")

    def ask(name: str | None, hashes: str) -> tuple[Any, ...]:
        picked = hashes.split()
        if not name or not picked:
            return ("", []), gr.update(visible=False), "", _markup.caution("Tick the images to delete first.")
        text = f"Delete {_markup.count_images(len(picked))} of {name} for good?"
        return (name, picked), gr.update(visible=True), _markup.heading(text), ""

    def do(meant: tuple[str, Sequence[str]]) -> tuple[Any, str]:
        name, hashes = meant
        return gr.update(visible=False), delete_images(client, name, hashes)

    delete.click(ask, inputs=[shelf.library, ticked], outputs=[meant, question, asked, said], js=_TICKED, **_QUIET)
    cancel.click(lambda: gr.update(visible=False), outputs=question, **_QUIET)
    confirm.click(do, inputs=meant, outputs=[question, said], **_QUIET).then(**first, **_QUIET)


def _add_adding(client: Client, shelf: _Shelf, said: gr.HTML, first: dict[str, Any]) -> None:
    with gr.Accordion("Add images", open=False):
        files = gr.File(label="Image files", file_count="multiple", file_types=["image"], height=160)
        tags = gr.Textbox(
            "", label="Tags for these images", info="With commas between them; may be empty.", max_lines=1
        )
        button = gr.Button("Add to the library", variant="primary")

    def add(name: str | None, paths: list[str] | None, tags: str) -> Iterator[str]:
        yield from add_images(client, name, paths or [], tags)

    button.click(
        add,
        inputs=[shelf.library, files, tags],
        outputs=said,
        api_visibility="private",
        show_progress="minimal",
        concurrency_limit=2,  # streams of many images; two keep the service busy
    ).then(lambda: None, outputs=files, **_QUIET).then(**first, **_QUIET)


def _add_making(client: Client, shelf: _Shelf, said: gr.HTML, first: dict[str, Any]) -> None:
    with gr.Accordion("Make or drop a library", open=False), gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            name = gr.Textbox("", label="Name of the new library", info="Of a-z, 0-9, - and _.", max_lines=1)
            is_keeping = gr.Checkbox(True, label="Keep the images' files: needed when the model changes")
            make = gr.Button("Make it")
        with gr.Column(min_width=240):
            confirmation = gr.Textbox(
                "", label="Name of the library to drop", info="The one chosen above, typed once more.", max_lines=1
            )
            drop = gr.Button("Drop it with all of its images", variant="stop")

    def create(name: str, is_keeping: bool, chosen: str | None) -> tuple[str, Any]:
        said = create_library(client, name, keep_originals=is_keeping)
        return said, library_update(client, name.strip(), otherwise=chosen)

    def remove(chosen: str | None, confirmation: str) -> tuple[str, Any]:
        return drop_library(client, chosen, confirmation=confirmation), library_update(client, chosen)

    gr.on(
        [make.click, name.submit],
        create,
        inputs=[name, is_keeping, shelf.library],
        outputs=[said, shelf.library],
        **_QUIET,
    ).then(**first, **_QUIET)
    drop.click(remove, inputs=[shelf.library, confirmation], outputs=[said, shelf.library], **_QUIET).then(
        **first, **_QUIET
    )
