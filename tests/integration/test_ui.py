"""The web pages with a real Triton and a real gateway, in a real browser, used as a person would."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser import chromium, new_context, running_ui, visiting

SAMPLES = ("cat.png", "horse.png", "bus.png")

pytestmark = pytest.mark.timeout(600)  # a browser on a busy machine


@pytest.fixture
def visit(service):
    with (
        running_ui(service.url) as address,
        chromium() as browser,
        visiting(new_context(browser), address) as visit,
    ):
        yield visit


def test_classify_keep_search_and_delete(visit, client, repo_root, tmp_path):
    page, said = visit.page, visit.page.locator("#said")
    visit.upload(repo_root / "samples" / "cat.png")
    visit.fill("Labels", "airplane, cat, horse")
    page.get_by_role("button", name="Classify", exact=True).click()
    expect(page.locator("#outcome tbody tr").first).to_contain_text("cat")
    expect(page.get_by_alt_text("As the model saw it, after super-resolution")).to_be_visible()

    visit.show("Library")
    page.get_by_role("button", name="Make or drop a library").click()
    visit.fill("Name of the new library", "seen")
    page.get_by_role("button", name="Make it").click()
    expect(said).to_contain_text("Made the library seen.")
    notes = tmp_path / "notes.png"
    notes.write_bytes(b"these are notes")
    page.get_by_role("button", name="Add images").click()
    visit.upload(*(repo_root / "samples" / name for name in SAMPLES), notes, field="Drop File Here")
    visit.fill("Tags for these images", "sample")
    page.get_by_role("button", name="Add to the library").click()
    expect(said).to_contain_text("Added 3 images. 1 image failed.")
    expect(said).to_contain_text("notes.png: ")  # with what is wrong with it
    cards = page.locator("#kept .cs-card")
    expect(cards).to_have_count(3)

    visit.show("Search")
    expect(page.get_by_role("combobox", name="Library")).to_have_value("seen")  # as on the page before
    visit.fill("What the images show", "a horse")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#found .cs-card").first).to_contain_text("horse.png")
    assert page.locator("#found img").first.evaluate("image => image.naturalWidth") > 0  # a browser reads thumbnails

    visit.show("Library")
    cards.filter(has_text="bus.png").get_by_role("checkbox").check()
    page.get_by_role("button", name="Delete ticked").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(said).to_contain_text("Deleted 1 image from seen.")
    left = {image.source for image in client.library("seen").list_images()}
    assert left == {"cat.png", "horse.png"}
    client.library("seen").drop()
