"""A real browser that visits the web pages of `clipsr-client ui`, as a person would.

Playwright drives Debian's Chromium; nothing is downloaded. The browser and its loop end with the
fixture that made them: while they run, no other test of the same process may use asyncio.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, TimeoutError, expect, sync_playwright

COMMAND = [sys.executable, "-c", "import sys; from clipsr.cli import main; sys.exit(main())", "ui"]
NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDE = (1100, 820)
PHONE = (375, 720)
WAIT_MS = 90_000  # a busy machine takes half a minute to show the first page
# Gradio draws parts of a page again when their data comes; what was typed or pressed just before may be lost.
_SETTLING_MS = 300
_DIALOGUE_MS = 3_000
_TRIES = 10
_ADDRESS = re.compile(r"clipsr is at (http://\S+?)/?\s")


@contextmanager
def running_ui(url: str, *options: object, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The web pages for the service at `url`, served by a process of their own; gives their address."""
    command = [*COMMAND, "--url", url, "--listen", "127.0.0.1:0", *map(str, options)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        with process, process.stdout:
            line = process.stdout.readline()
            found = _ADDRESS.search(line)
            errors.seek(0)
            assert found, line + errors.read()
            try:
                yield found[1]
                errors.seek(0)
                said = errors.read()
                assert "Traceback" not in said, said
            finally:  # requests that this cuts off may leave tracebacks of gradio's
                process.terminate()
                process.wait(timeout=60)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped where there is none."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("Chromium is not here: apt-get install chromium, or scripts/install-system.sh chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """One page that is open, with what it asked for.

    Attributes:
        page: Playwright's page.
        origin: scheme, host and port of the server.
        elsewhere: addresses beyond it that the page asked for.
        problems: exceptions of the page's own code.
    """

    page: Page
    origin: str
    elsewhere: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note_request(self, request: Any) -> None:
        """Keep the address of a request to anywhere else."""
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.elsewhere.append(request.url)

    def show(self, name: str) -> None:
        """Go to one of the tabs."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def fill(self, label: str, text: str, *, exact: bool = False, key: str | None = None) -> None:
        """Type into a field, and press a key there, as a person does who sees what was typed vanish: again."""
        typed = self.page.get_by_label(label, exact=exact).first
        for _ in range(_TRIES):
            typed.fill(text)
            if key is not None:
                typed.press(key)
            self.page.wait_for_timeout(_SETTLING_MS)
            if typed.input_value() == text:
                return
        raise AssertionError(f"{label!r} does not keep {text!r}")

    def choose(self, *paths: Path, field: str = "Drop Image Here", press: Callable[[], None] | None = None) -> None:
        """Choose files as a person does: press the field, once more if nothing opens, and pick them in the dialogue."""
        button = self.page.locator("button:visible").filter(has_text=field).first
        for left in reversed(range(_TRIES)):
            try:
                with self.page.expect_file_chooser(timeout=_DIALOGUE_MS if left else None) as opened:
                    (press or button.click)()
            except TimeoutError:
                if not left:
                    raise
            else:
                opened.value.set_files([str(path) for path in paths])
                return

    def upload(self, *paths: Path, field: str = "Drop Image Here") -> None:
        """The same, and wait until the server has them."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST" and "/upload" in answer.url):
            self.choose(*paths, field=field)

    def is_too_wide(self) -> bool:
        """Whether the page scrolls to the side."""
        return self.page.evaluate("(root => root.scrollWidth > root.clientWidth)(document.documentElement)")

    def unnamed_fields(self) -> list[str]:
        """What can be filled in or pressed, is shown, and has no name for those who do not see it."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, select, button')]
                .filter(field => field.checkVisibility() && field.type !== 'file')
                .filter(field => ![field.getAttribute('aria-label'), field.title, field.innerText,
                                   ...[...(field.labels ?? [])].map(label => label.innerText),
                                   ...(field.getAttribute('aria-labelledby') ?? '').split(' ')
                                      .map(id => document.getElementById(id)?.innerText)].some(text => text?.trim()))
                .map(field => field.outerHTML.slice(0, 200))"""
        )

    def misnamed_fields(self) -> list[str]:
        """What is pressed by another name than is seen on it, so that nobody can say or search for what they see."""
        return self.page.evaluate(
            """() => {
                const plain = text => text.replace(/\\s+/g, ' ').trim().toLowerCase();
                return [...document.querySelectorAll('button[aria-label]')]
                    .filter(field => field.checkVisibility())
                    .filter(field => !plain(field.ariaLabel).includes(plain(field.innerText)))
                    .map(field => field.outerHTML.slice(0, 200));
            }"""
        )

    def heading_levels(self) -> list[int]:
        """The levels of the headings that are shown, from above."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')]
                .filter(heading => heading.checkVisibility()).map(heading => Number(heading.tagName[1]))"""
        )


def new_context(browser: Browser, *, size: tuple[int, int] = WIDE, **options: Any) -> BrowserContext:
    """A fresh profile; its pages share what they loaded, so the second one is there at once."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    return context


@contextmanager
def visiting(context: BrowserContext, url: str) -> Iterator[Visit]:
    """The pages at `url`; fails if the page's own code fails."""
    visit = Visit(page=context.new_page(), origin=url.rstrip("/"))
    visit.page.on("request", visit.note_request)
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    visit.page.goto(url)
    visit.page.get_by_role("button", name="Classify", exact=True).wait_for()
    yield visit
    visit.page.close()
    assert visit.problems == []
