"""All pages of the web interface, put together."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

import gradio as gr

from clipsr import Client
from clipsr.ui._classify_page import add_classify_page
from clipsr.ui._library_page import add_library_page
from clipsr.ui._restore_page import add_restore_page
from clipsr.ui._search_page import add_search_page
from clipsr.ui._service_page import add_service_page

_HEAD = "<header class='cs-head'><h1>clipsr</h1><p>What is in this low-resolution image?</p></header>"
_SCRIPT = """() => {
  // Each tab has an address (#search), so that it can be linked to, and Back leads to the tab before.
  const tabs = () => [...document.querySelectorAll("button[role=tab]")];
  const address = tab => "#" + tab.textContent.trim().toLowerCase();
  const here = () => location.hash || address(tabs()[0]);
  const show = () => tabs().find(tab => address(tab) === here())?.click();
  document.addEventListener("click", event => {
    const tab = event.target.closest("button[role=tab]");
    if (tab && address(tab) !== here()) history.pushState(null, "", address(tab));
  });
  // As of the ARIA pattern "Tabs": the arrows lead along them, round the ends, Home and End to the ends.
  document.addEventListener("keydown", event => {
    const shown = tabs().filter(tab => tab.offsetParent), at = shown.indexOf(event.target);
    const steps = { ArrowRight: at + 1, ArrowLeft: at - 1 + shown.length, Home: 0, End: shown.length - 1 };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = shown[steps[event.key] % shown.length];
    next.click();
    next.focus();
  });
  addEventListener("popstate", show);
  if (location.hash) show();
  // gradio names fields for files otherwise than what is seen on them (WCAG 2.2, 2.5.3); what is seen says enough.
  const rename = () => document.querySelectorAll("button.upload-container[aria-label]").forEach(
    field => field.removeAttribute("aria-label"));
  const changes = { childList: true, subtree: true, attributeFilter: ["aria-label"] };
  new MutationObserver(rename).observe(document.body, changes);
  rename();
}"""
_TIDY_S = (600, 3600)  # every ten minutes, delete uploads older than an hour


def make_pages(client: Client) -> gr.Blocks:
    """Return the pages; they ask `client` whenever somebody uses them, and nothing before."""
    with gr.Blocks(title="clipsr", analytics_enabled=False, delete_cache=_TIDY_S, fill_width=True) as pages:
        gr.HTML(_HEAD, apply_default_css=False)
        # Name of the library that was chosen last, on whichever page. A field, since the browser holds what is in one:
        # the next page has it at once.
        chosen = gr.Textbox("", visible=False)
        with gr.Tabs():
            with gr.Tab("Classify") as classify:
                add_classify_page(client, pages, classify)
            with gr.Tab("Restore") as restore:
                add_restore_page(client, pages, restore)
            with gr.Tab("Search") as search:
                add_search_page(client, search, chosen)
            with gr.Tab("Library") as library:
                add_library_page(client, library, chosen)
            with gr.Tab("Service"):
                add_service_page(client, pages)
        pages.load(None, js=_SCRIPT)
    return pages
