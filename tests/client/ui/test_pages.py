"""The web pages in a real browser, with a service whose answers the tests decide."""

from __future__ import annotations

import http.client
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from tests.browser import COMMAND, PHONE, Visit, chromium, new_context, running_ui, visiting
from tests.client import fake_library

from clipsr.v1 import classifier_pb2, types_pb2

NOBODY = "http://192.0.2.1/"  # an address for documentation (RFC 5737)
TABS = ("Classify", "Restore", "Search", "Library", "Service")

# Starts a process, a browser, or both; seconds on an idle machine.
pytestmark = pytest.mark.timeout(600)


def png(side_px: int, *, rgb: tuple[int, int, int] = (200, 80, 40)) -> bytes:
    """A square of one colour, written without an image library."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(rgb) * side_px) * side_px
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.fixture(scope="module")
def service(module_service: Any) -> Any:
    """Answers with a picture for what the encoder saw, as the real one does."""

    def answer(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
        labels = module_service._labels(request.options.label_space)
        results = [module_service._result(image.content, labels, request.options) for image in request.images]
        for result in results:
            if result.HasField("classification"):
                result.classification.encoder_input = png(64)
        return classifier_pb2.ClassifyResponse(results=results)

    module_service.answer = answer
    return module_service


@pytest.fixture(scope="module")
def address(service: Any) -> Iterator[str]:
    with running_ui(service.url, "--retries", 0) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def visit(profile: BrowserContext, address: str) -> Iterator[Visit]:
    with visiting(profile, address) as visit:
        yield visit


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(png(24))
    return path


def classify(visit: Visit) -> Any:
    visit.page.get_by_role("button", name="Classify", exact=True).click()
    return visit.page.locator("#outcome")


def test_an_image_is_classified_with_typed_labels(visit, service, photo):
    visit.upload(photo)
    visit.fill("Labels", "cat, <b>dog</b>\nbird")
    outcome = classify(visit)
    rows = outcome.locator("table tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("<b>dog</b>")  # as text, never as HTML
    expect(rows.nth(0)).to_contain_text("50.0%")
    expect(outcome.get_by_alt_text("As sent, 48 × 32 px")).to_be_visible()
    expect(outcome.get_by_alt_text("As the model saw it, after super-resolution")).to_be_visible()
    request = service.requests[-1]
    assert request.images[0].content == photo.read_bytes()  # the very file: nothing decoded it on the way
    assert list(request.options.label_space.labels) == ["cat", "<b>dog</b>", "bird"]
    assert list(request.options.label_space.templates) == []


def test_sets_templates_and_route_are_chosen(visit, service, photo):
    visit.upload(photo)
    visit.page.get_by_label("Choose from").click()
    visit.page.get_by_role("option", name="@animals").click()
    visit.page.get_by_role("button", name="More options").click()
    visit.fill("Prompt templates", "a tiny {}", key="Enter")
    visit.page.get_by_label("Plain resizing").check()
    expect(classify(visit).locator("table tbody tr")).to_have_count(3)
    request = service.requests[-1]
    assert request.options.label_space.label_set == "animals"
    assert list(request.options.label_space.templates) == ["a tiny {}"]
    assert request.options.route == types_pb2.ROUTE_NATIVE


def test_what_is_missing_is_said(visit):
    alert = classify(visit).get_by_role("alert")
    expect(alert).to_contain_text("There is no image: drop one into the field")


def test_a_bad_file_is_explained(visit, service, tmp_path):
    path = tmp_path / "notes.png"
    path.write_bytes(b"these are notes")
    service.fail_image(path.read_bytes(), message="The file is no image: send PNG, JPEG or WebP.")
    visit.upload(path)
    alert = classify(visit).get_by_role("alert")
    expect(alert).to_contain_text("The file is no image: send PNG, JPEG or WebP.")


def test_errors_of_the_service_are_one_sentence(visit, service, photo):
    visit.upload(photo)
    service.abort(grpc.StatusCode.UNAVAILABLE, "connection refused")
    try:
        alert = classify(visit).get_by_role("alert")
        expect(alert).to_contain_text(f"Nobody answers at {service.url}. Start the service with 'clipsr-serve up'")
        assert "Traceback" not in visit.page.content()
    finally:
        service.heal()
    expect(classify(visit).locator("table")).to_be_visible()  # the page goes on


def test_a_file_beyond_the_limit_is_refused_readably(visit, service, tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(service.info.limits.max_image_bytes + 1)
    visit.choose(path)
    expect(visit.page.get_by_text("exceed the maximum allowed size of 16").first).to_be_visible()


def test_the_service_is_described(visit, service):
    visit.show("Service")
    facts = visit.page.locator("#service")
    expect(facts).to_contain_text(f"clipsr-test at {service.url} is serving.")
    expect(facts).to_contain_text("16 MiB, 67,108,864 pixels")
    expect(facts).to_contain_text("32 of at most 128 bytes")  # of a library's image: tags
    service.health[""] = 2  # NOT_SERVING
    try:
        visit.page.get_by_role("button", name="Ask again").click()
        expect(facts).to_contain_text("is not serving: look at its log")
    finally:
        service.health[""] = 1


def test_the_keyboard_is_enough(visit, service, photo):
    """No pointer: Tab from field to field, Enter to press."""
    page = visit.page
    tab_to(visit, lambda focused: "Drop Image" in focused)
    visit.choose(photo, press=lambda: page.keyboard.press("Enter"))
    page.locator(".cs-input img").wait_for()  # there once the server has it
    tab_to(visit, lambda focused: focused.startswith("TEXTAREA"))
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("fox, owl")
    tab_to(visit, lambda focused: focused == "BUTTON Classify")
    page.keyboard.press("Enter")
    expect(page.locator("#outcome table tbody tr")).to_have_count(2)
    assert list(service.requests[-1].options.label_space.labels) == ["fox", "owl"]


@pytest.fixture
def restoring(service: Any) -> Iterator[Any]:
    """The service has a restorer and a controller; both are gone after the test."""
    kinds = [classifier_pb2.DamageKind(name=name) for name in ("hazy", "noisy")]
    restorer = classifier_pb2.RestorerInfo(architecture="unet", kinds=kinds, default_steps=5, max_steps=8)
    before = classifier_pb2.ModelInfo.FromString(service.info.SerializeToString())
    service.info.restorer.CopyFrom(restorer)
    service.info.degradation_kinds[:] = ["noisy", "hazy", "clean"]
    service.info.has_auto_encoder = True
    service.restored = png(24, rgb=(1, 2, 3))
    yield service
    service.info.CopyFrom(before)
    service.detects, service.leaves_unchanged, service.restored = {}, False, None


def test_an_image_is_restored_beside_what_it_was(visit, restoring, photo):
    restoring.detects = {"noisy": 0.75, "clean": 0.25}
    visit.show("Restore")
    visit.upload(photo)
    visit.page.get_by_label("noisy").check()
    press = visit.page.get_by_role("button", name="Restore", exact=True).click
    press()
    outcome = visit.page.locator("#restored")
    expect(outcome.get_by_role("heading")).to_have_text("Removed: noisy")
    expect(outcome.locator("table tbody tr")).to_have_count(2)
    expect(outcome.get_by_alt_text("48 × 32 px: before")).to_be_visible()
    border = outcome.get_by_role("slider", name="Border between before and after")
    border.press("ArrowRight")
    assert "--border: 51%" in outcome.locator(".cs-compare > div").get_attribute("style")
    (request,) = restoring.restores[-1:]
    assert (list(request.remove), request.steps, request.force) == (["noisy"], 5, False)
    assert request.image.content == photo.read_bytes()
    visit.page.get_by_label("noisy").uncheck()
    restoring.leaves_unchanged = True
    press()
    expect(outcome.get_by_role("heading")).to_have_text("Nothing is wrong with it: it stays as it is")
    expect(outcome.get_by_role("slider")).to_have_count(0)
    with visit.page.expect_download() as saved:
        outcome.get_by_role("link", name="Save restored").click()
    assert Path(saved.value.path()).read_bytes() == restoring.restored


def test_a_service_that_restores_nothing_says_so(visit):
    visit.show("Restore")
    expect(visit.page.locator("#restored")).to_contain_text("clipsr-export --restorer")
    expect(visit.page.get_by_role("button", name="Restore", exact=True)).to_be_disabled()


def test_the_encoder_is_chosen_where_there_is_a_choice(visit, restoring, photo):
    visit.upload(photo)
    visit.page.reload()
    visit.upload(photo)
    visit.page.get_by_label("Robust", exact=True).check()
    chip = classify(visit).locator(".cs-damage")
    expect(chip).to_have_text("low-light 75%")
    assert restoring.requests[-1].options.encoder == types_pb2.ENCODER_ROBUST


@pytest.fixture
def pets(service: Any) -> Any:
    """A library with three images, newest last; gone after the test."""
    service.library.create("pets")
    for index, name in enumerate(("cat.png", "dog.png", "fish.png")):
        image = fake_library.library_pb2.NewImage(source=name, tags=["pet", f"number-{index}"])
        image.image.content = png(16 + index)
        service.library._add(service.library.images["pets"], image)
    page_size = service.library.page_size
    yield service.library
    service.library.page_size = page_size
    service.library.libraries.clear()
    service.library.images.clear()


def test_images_are_found_by_words(visit, pets):
    visit.show("Search")
    expect(visit.page.get_by_label("Library")).to_have_value("pets")
    visit.page.get_by_role("button", name="Filters and options").click()
    words = visit.page.get_by_label("What the images show")
    words.fill("dog")
    words.press("Enter")
    cards = visit.page.locator("#found .cs-card")
    expect(cards).to_have_count(3)
    expect(cards.first).to_contain_text("dog.png")
    expect(cards.first).to_contain_text("cosine 0.500")
    words.fill("狗")
    visit.fill("Tags", "pet, number-2")
    visit.page.get_by_role("button", name="Search", exact=True).click()
    expect(visit.page.locator("#found")).to_contain_text("The model knows no word of it; ask in English.")
    expect(cards).to_have_count(1)


def test_images_are_found_by_an_example(visit, pets, tmp_path):
    example = tmp_path / "example.png"
    example.write_bytes(png(18))
    visit.show("Search")
    expect(shown_library(visit)).to_have_value("pets")
    visit.page.get_by_role("radio", name="an image").check()
    visit.upload(example)
    visit.page.get_by_role("button", name="Search", exact=True).click()
    expect(visit.page.locator("#found .cs-card").first).to_contain_text("fish.png")


def test_a_library_of_another_model_is_said_with_its_cure(visit, pets):
    pets.libraries["pets"].model_digest = "sha256:other"
    visit.show("Search")
    expect(shown_library(visit)).to_have_value("pets")
    visit.fill("What the images show", "dog")
    visit.page.get_by_role("button", name="Search", exact=True).click()
    expect(visit.page.get_by_role("alert")).to_contain_text("clipsr-client library reembed pets")


def test_no_library_is_said_as_it_is(visit):
    visit.show("Library")
    expect(visit.page.locator("#kept")).to_contain_text("There is no library yet")
    visit.page.get_by_role("button", name="Add images").click()
    visit.page.get_by_role("button", name="Add to the library").click()
    expect(visit.page.locator("#said")).to_contain_text("There is no library yet: make one on the page Library.")
    visit.show("Search")
    visit.page.get_by_role("button", name="Search", exact=True).click()
    expect(visit.page.get_by_role("alert")).to_contain_text("There is no library yet: make one on the page Library.")


def test_a_library_is_made_filled_thinned_and_dropped(visit, service, pets, tmp_path):
    page, said, cards = visit.page, visit.page.locator("#said"), visit.page.locator("#kept .cs-card")
    visit.show("Library")
    page.get_by_role("button", name="Make or drop a library").click()
    visit.fill("Name of the new library", "birds")
    page.get_by_role("button", name="Make it").click()
    expect(said).to_contain_text("Made the library birds.")
    expect(page.get_by_label("Library", exact=True)).to_have_value("birds")
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        file.write_bytes(png(8 + index % 2))  # the third is the first again
    page.get_by_role("button", name="Add images").click()
    visit.upload(*files, field="Drop File Here")
    visit.fill("Tags for these images", "bird, small")
    page.get_by_role("button", name="Add to the library").click()
    expect(said).to_contain_text("Added 2 images. 1 image had been there already.")
    expect(cards).to_have_count(2)
    assert [list(new.tags) for new in service.library.added[-1]] == [["bird", "small"]] * 3
    page.get_by_role("button", name="Delete ticked").click()
    expect(said).to_contain_text("Tick the images to delete first.")
    cards.first.get_by_role("checkbox").check()
    page.get_by_role("button", name="Delete ticked").click()
    expect(page.get_by_text("Delete 1 image of birds for good?")).to_be_visible()
    assert len(service.library.images["birds"]) == 2  # nothing happens before it is confirmed
    page.get_by_role("button", name="Yes, delete").click()
    expect(said).to_contain_text("Deleted 1 image from birds.")
    expect(cards).to_have_count(1)
    page.get_by_role("button", name="Drop it").click()
    expect(said).to_contain_text("Type the library's name, birds, to drop it")
    visit.fill("Name of the library to drop", "birds")
    page.get_by_role("button", name="Drop it").click()
    expect(said).to_contain_text("Dropped the library birds with 1 image.")
    assert set(service.library.libraries) == {"pets"}


def shown_library(visit: Visit) -> Any:
    """The field of the page that is shown; the others' are hidden."""
    return visit.page.get_by_role("combobox", name="Library", exact=True)


def choose_library(visit: Visit, name: str) -> None:
    shown_library(visit).click()
    visit.page.get_by_role("option", name=name, exact=True).click()


def test_the_library_that_is_chosen_on_one_page_is_chosen_on_the_other(visit, pets):
    for name in ("birds", "zebras"):
        pets.create(name)
    visit.show("Search")
    expect(shown_library(visit)).to_have_value("birds")  # the first one
    choose_library(visit, "zebras")
    visit.show("Library")
    expect(shown_library(visit)).to_have_value("zebras")
    expect(visit.page.locator("#kept")).to_contain_text("It is empty")
    choose_library(visit, "pets")
    expect(visit.page.locator("#kept .cs-card")).to_have_count(3)
    visit.show("Search")
    expect(shown_library(visit)).to_have_value("pets")
    visit.show("Library")
    visit.page.locator("#kept .cs-card").first.get_by_role("checkbox").check()
    visit.page.get_by_role("button", name="Delete ticked").click()
    expect(visit.page.get_by_text("Delete 1 image of pets for good?")).to_be_visible()
    choose_library(visit, "birds")
    expect(visit.page.locator("#kept")).to_contain_text("It is empty")
    visit.page.get_by_role("button", name="Yes, delete").click()
    expect(visit.page.locator("#said")).to_contain_text("Deleted 1 image from pets.")  # as it was asked


def test_pages_are_turned(visit, pets):
    pets.page_size = 2
    visit.show("Library")
    cards = visit.page.locator("#kept .cs-card")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("fish.png")  # the newest
    visit.page.get_by_role("button", name="Older").click()
    expect(cards).to_have_count(1)
    expect(visit.page.get_by_role("button", name="Older")).to_be_disabled()
    visit.page.get_by_role("button", name="Newer").click()
    expect(cards).to_have_count(2)


def tab_to(visit: Visit, is_wanted: Callable[[str], bool]) -> None:
    """Press Tab until the focus is where it is wanted."""
    seen = []
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        focused = visit.page.evaluate(
            "(at => `${at.tagName} ${at.getAttribute('aria-label') ?? at.innerText}`.trim())(document.activeElement)"
        )
        if is_wanted(focused):
            return
        seen.append(focused)
    raise AssertionError(f"Tab passed only {seen}")


def test_a_phone_does_not_scroll_sideways(browser, address, photo):
    phone = new_context(browser, size=PHONE, has_touch=True, is_mobile=True)
    with visiting(phone, address) as visit:
        visit.upload(photo)
        expect(classify(visit).locator("table")).to_be_visible()
        for name in TABS:
            visit.show(name)
            assert not visit.is_too_wide(), name
        visit.page.evaluate("document.body.append(Object.assign(new Image(900, 9), {style: 'min-width: 900px'}))")
        assert visit.is_too_wide()  # the check can fail


def test_every_field_has_a_name(visit):
    visit.page.get_by_role("button", name="More options").click()
    for name in TABS:
        visit.show(name)
        assert visit.unnamed_fields() == [], name
    visit.page.evaluate("document.body.append(document.createElement('input'))")
    assert len(visit.unnamed_fields()) == 1  # the check can fail


def test_what_is_seen_on_a_button_is_its_name(visit, pets):
    visit.show("Library")
    visit.page.get_by_role("button", name="Add images").click()
    visit.page.get_by_role("button", name="Drop File Here").wait_for()
    for name in TABS:
        visit.show(name)
        assert visit.misnamed_fields() == [], name
    visit.page.evaluate("""() => {
        const button = document.createElement('button');
        [button.ariaLabel, button.innerText] = ['Send', 'Go'];
        document.body.append(button);
    }""")
    assert len(visit.misnamed_fields()) == 1  # the check can fail


def test_headings_leave_out_no_level(visit, pets):
    visit.show("Search")
    expect(shown_library(visit)).to_have_value("pets")
    visit.fill("What the images show", "dog", key="Enter")
    visit.page.get_by_role("heading", name="most similar first").wait_for()
    assert visit.heading_levels() == [1, 2]
    visit.show("Service")
    visit.page.get_by_role("heading", name="Model").wait_for()
    first, *others = visit.heading_levels()
    assert (first, set(others)) == (1, {2})


def test_the_browser_asks_nobody_else(browser, address, photo):
    """Without the server's own policy, which would stop it: there is nothing to stop."""
    with visiting(new_context(browser, bypass_csp=True), address) as visit:
        visit.upload(photo)
        expect(classify(visit).locator("table")).to_be_visible()
        for name in TABS:
            visit.show(name)
        expect(visit.page.locator("#service .cs-state")).to_be_visible()
        assert visit.elsewhere == []
        with visit.page.expect_request(NOBODY):
            visit.page.evaluate("address => void fetch(address).catch(() => {})", NOBODY)
        assert visit.elsewhere == [NOBODY]  # the check can fail


def test_the_policy_lets_the_browser_ask_nobody_else(visit):
    refused = visit.page.evaluate("address => fetch(address).then(() => false, () => true)", NOBODY)
    policy = visit.page.evaluate("fetch('/').then(answer => answer.headers.get('content-security-policy'))")
    assert refused
    assert "default-src 'self'" in policy


def test_other_names_of_this_machine_are_refused(address):
    """A page from elsewhere may let its own name point here; then the browser names it."""
    parts = urlsplit(address)
    answers = {}
    for host in (parts.netloc, f"localhost:{parts.port}", f"evil.example:{parts.port}", "evil.example"):
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        connection.request("GET", "/config", headers={"Host": host})
        answers[host] = connection.getresponse().status
        connection.close()
    assert list(answers.values()) == [200, 200, 400, 400]


def test_tabs_have_addresses(visit, address):
    page = visit.page
    selected = page.get_by_role("tab", selected=True)
    for name in ("Search", "Library"):
        page.get_by_role("tab", name=name).click()
        expect(page).to_have_url(f"{address.rstrip('/')}/#{name.lower()}")
    page.go_back()
    expect(selected).to_have_text("Search")
    page.go_back()
    expect(selected).to_have_text("Classify")
    page.go_forward()
    expect(selected).to_have_text("Search")
    page.goto("about:blank")
    page.goto(f"{address.rstrip('/')}/#service")
    expect(selected).to_have_text("Service")


def test_arrows_lead_along_the_tabs(visit):
    page = visit.page
    selected = page.get_by_role("tab", selected=True)
    page.get_by_role("tab", name="Classify").focus()
    for key, name in (
        ("ArrowRight", "Restore"),
        ("ArrowLeft", "Classify"),
        ("ArrowLeft", "Service"),
        ("Home", "Classify"),
    ):
        page.keyboard.press(key)
        expect(selected).to_have_text(name)
        expect(selected).to_be_focused()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_web_sites_may_upload_nothing(address, headers, status):
    """A form of any web site may post multipart without asking before (CORS)."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n--x--\r\n'
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    sent = {"Content-Type": "multipart/form-data; boundary=x", **headers}
    connection.request("POST", "/gradio_api/upload", body, sent)
    assert connection.getresponse().status == status
    connection.close()


def test_an_address_that_is_taken_is_said(address):
    parts = urlsplit(address)
    command = [*COMMAND, "--url", "127.0.0.1:1", "--listen", parts.netloc]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert f"{parts.netloc} cannot be listened on: Address already in use. Give another --listen." in ended.stderr


def test_it_starts_without_a_service_and_ends_by_ctrl_c(tmp_path):
    """Whoever opens the pages learns that the service is away; uploads leave nothing behind."""
    command = [*COMMAND, "--url", "127.0.0.1:1", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert "clipsr is at http://127.0.0.1:" in process.stdout.readline()
        assert list(tmp_path.glob("clipsr-ui-*"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    assert not list(tmp_path.glob("clipsr-ui-*"))


def test_without_the_extra_it_says_what_to_install():
    script = "import sys; sys.modules['gradio'] = None; from clipsr.cli import main; sys.exit(main(['ui']))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "The web pages need gradio: pip install 'clipsr[ui]'." in ended.stderr
