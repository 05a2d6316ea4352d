"""Makes the pictures of docs/ui.md anew: a browser visits the web pages of a running service and uses them.

    make screenshots

The service is that of CLIPSR_URL. A library of a name that nobody uses is made there, and dropped at the end.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from clipsr import Client
from tests.browser import PHONE, WIDE, Visit, chromium, new_context, running_ui, visiting

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ui.md"
FOLDER = PAGE.parent / "images"
BLOCK = re.compile(r"(<!-- pictures:begin -->\n).*?(<!-- pictures:end -->)", re.DOTALL)
SAMPLES = sorted((ROOT / "samples").glob("*.png"))
LIBRARY = "samples"
QUALITY = 88  # of WebP: no artefacts to be seen around letters
PICTURES = {
    "classify": "The page Classify: an image as sent and as the model saw it, and a bar for each label's probability",
    "search": "The page Search: images of a library that fit the words “a horse”, with their cosines",
    "library": "The page Library: images to tick, and the question before two of them are deleted",
    "service": "The page Service: the model, its limits and its sets",
    "error": "A file that is no image: the page says what is wrong and what to send",
    "phone": "The page Classify on a screen of 375 pixels",
}


def save(visit: Visit, name: str) -> None:
    """Write the whole page as it is shown now."""
    visit.page.mouse.move(0, 0)
    visit.page.evaluate("document.activeElement.blur()")
    visit.page.wait_for_timeout(600)  # transitions end
    path = FOLDER / f"ui-{name}.webp"
    Image.open(io.BytesIO(visit.page.screenshot(full_page=True))).save(path, quality=QUALITY, method=6)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def classify(visit: Visit) -> None:
    """Classify a sample with labels of one's own."""
    visit.upload(ROOT / "samples" / "cat.png")
    visit.page.get_by_label("Labels").first.fill("cat, dog, bird, horse, airplane, automobile")
    visit.page.get_by_role("button", name="Classify", exact=True).click()
    expect(visit.page.locator("#outcome table")).to_be_visible()


def show_library(visit: Visit) -> None:
    """Show the library, with two images ticked and the question that follows."""
    visit.show("Library")
    cards = visit.page.locator("#kept .cs-card")
    expect(cards).to_have_count(len(SAMPLES))
    for index in (1, 4):
        cards.nth(index).get_by_role("checkbox").check()
    visit.page.get_by_role("button", name="Delete ticked").click()
    expect(visit.page.get_by_text(re.compile("Delete 2 images of .* for good"))).to_be_visible()


def search(visit: Visit) -> None:
    """Search by words."""
    visit.show("Search")
    expect(visit.page.get_by_label("Library")).to_have_value(LIBRARY)
    visit.page.get_by_label("What the images show").fill("a horse")
    visit.page.get_by_role("button", name="Search", exact=True).click()
    expect(visit.page.locator("#found .cs-card").first).to_be_visible()


def fail(visit: Visit) -> None:
    """Send what is no image."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "notes.png"
        note.write_text("These are notes.\n", encoding="utf-8")
        visit.upload(note)
    visit.page.get_by_role("button", name="Classify", exact=True).click()
    expect(visit.page.get_by_role("alert")).to_be_visible()


def visit_all(url: str) -> None:
    """Make every picture."""
    with running_ui(url) as address, chromium() as browser:
        wide = new_context(browser, size=WIDE)
        with visiting(wide, address) as visit:
            classify(visit)
            save(visit, "classify")
            search(visit)
            save(visit, "search")
            show_library(visit)
            save(visit, "library")
            visit.show("Service")
            expect(visit.page.locator("#service .cs-state")).to_be_visible()
            save(visit, "service")
        with visiting(wide, address) as visit:
            fail(visit)
            save(visit, "error")
        phone = new_context(browser, size=PHONE, has_touch=True, is_mobile=True)
        with visiting(phone, address) as visit:
            classify(visit)
            save(visit, "phone")


def show_on_page() -> None:
    """Let docs/ui.md show the pictures."""
    shown = "\n\n".join(f"![{text}](images/ui-{name}.webp)" for name, text in PICTURES.items())
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda block: f"{block[1]}{shown}\n{block[2]}", page), encoding="utf-8")


def main() -> int:
    """Fill a library, make the pictures, show them on the page, and drop the library again."""
    url = os.environ.get("CLIPSR_URL")
    if not url:
        print("screenshots: set CLIPSR_URL to a running service, or run `make screenshots`", file=sys.stderr)
        return 2
    with Client(url, timeout_s=120) as client:
        library = client.library(LIBRARY)
        library.create()
        try:
            for _ in library.add(str(path) for path in SAMPLES):
                pass
            visit_all(url)
            show_on_page()
        finally:
            library.drop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
