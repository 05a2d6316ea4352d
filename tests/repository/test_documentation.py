"""The documentation site: it builds, fetches nothing from elsewhere, and has the whole wire contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from scripts.documentation import python_reference, repository_files, wire_contract

from clipsr.v1 import classifier_pb2, embedding_pb2, library_pb2, restorer_pb2, types_pb2, upscaler_pb2

REPO_ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
# Relations of <link> that make a browser fetch or connect; others, as "next" and "canonical", do not.
FETCHED = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
CSS_ADDRESS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")
# What Markdown of GitHub's kind makes a list or a table, and Python-Markdown leaves in the paragraph before it.
LEFT_IN_PARAGRAPH = re.compile(r"<p>(?:(?!</p>).)*\n(?:- |\d+\. |\||#+ )", re.DOTALL)
MODULES = {
    "classifier": classifier_pb2,
    "embedding": embedding_pb2,
    "library": library_pb2,
    "restorer": restorer_pb2,
    "types": types_pb2,
    "upscaler": upscaler_pb2,
}


class Assets(HTMLParser):
    """Addresses on other servers that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        addresses = [values.get("src", ""), values.get("srcset", ""), values.get("poster", ""), values.get("data", "")]
        if tag in ("image", "use") or (tag == "link" and FETCHED & set(values.get("rel", "").split())):
            addresses += [values.get("href", ""), values.get("xlink:href", "")]
        self.found += [one for one in addresses if one.startswith(("http:", "https:", "//"))]
        self.found += CSS_ADDRESS.findall(values.get("style", ""))
        if "mermaid" in values.get("class", "").split():
            self.found.append("mermaid")  # the theme would fetch the program that draws it


def foreign_assets(folder: Path) -> dict[str, list[str]]:
    """What the pages, style sheets and drawings in a folder fetch from elsewhere, by file."""
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".svg"):
            assets = Assets()
            assets.feed(path.read_text(encoding="utf-8"))
            found[path.name] = assets.found
        if path.suffix in (".html", ".svg", ".css"):
            found[path.name] = found.get(path.name, []) + CSS_ADDRESS.findall(path.read_text(encoding="utf-8"))
    return {name: addresses for name, addresses in found.items() if addresses}


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The whole site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [REPO_ROOT / "scripts" / "docs.sh", folder], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site):
    assert foreign_assets(site) == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://cdn.example/a.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//cdn.example/a.css">'),
        ("a.html", '<img src="a.png" srcset="https://cdn.example/b.png 2x, a.png"><img srcset="http://x/b.png 2x">'),
        ("a.html", '<p style="background: url(https://cdn.example/a.png)">'),
        ("a.html", '<pre class="mermaid"><code>graph LR</code></pre>'),
        ("a.css", '@import "https://fonts.example/css";'),
        ("a.css", "body { background: url('//cdn.example/a.png') }"),
        ("a.svg", '<svg><image href="https://cdn.example/a.png"/></svg>'),
    ],
)
def test_an_asset_from_elsewhere_is_found(tmp_path, name, text):
    (tmp_path / "good.html").write_text('<a href="https://example.org">a link</a><img src="a.png">', encoding="utf-8")
    assert foreign_assets(tmp_path) == {}
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(foreign_assets(tmp_path)) == [name]


def test_the_site_has_guides_references_and_linked_files(site):
    for page in (
        "index.html",
        "guides/operator.html",
        "python/clipsr.html",
        "wire/classifier.html",
        "repository/client/index.html",
        "repository/deploy/kubernetes/index.html",
        "repository/docker/compose.yaml.html",
    ):
        assert (site / page).is_file(), page
    assert "classify_stream" in (site / "python" / "clipsr.html").read_text(encoding="utf-8")


def test_lists_and_tables_of_the_pages_are_lists_and_tables_in_the_site(site):
    found = [page.name for page in site.rglob("*.html") if LEFT_IN_PARAGRAPH.search(page.read_text(encoding="utf-8"))]
    assert not found


def test_a_list_that_is_none_is_found():
    assert LEFT_IN_PARAGRAPH.search("<p>as follows:\n- one\n- two</p>")
    assert not LEFT_IN_PARAGRAPH.search("<p>as follows:</p>\n<ul>\n<li>one</li>\n- </ul>")


def build(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """Build a site of one page with the repository's settings, but without its hooks and plugins."""
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page, encoding="utf-8")
    settings = f"INHERIT: {REPO_ROOT / 'mkdocs.yml'}\nhooks: []\nplugins: []\nnav: [index.md]\nexclude_docs: ''\n"
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")
    return subprocess.run(
        ["mkdocs", "build", "--strict"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("target", ["#a-heading-here", "index.md#a-heading-here", "https://example.org"])
def test_good_links_pass(tmp_path, target):
    built = build(tmp_path, f"# Page\n\n## A `heading`, here\n\n[link]({target})\n")
    assert built.returncode == 0, built.stderr


@pytest.mark.parametrize("target", ["#nowhere", "index.md#nowhere", "nowhere.md", "nowhere/", "/index.md"])
def test_a_broken_link_or_anchor_fails_the_build(tmp_path, target):
    built = build(tmp_path, f"# Page\n\n## A `heading`, here\n\n[link]({target})\n")
    assert built.returncode == 1, built.stderr
    assert target.strip("/").removeprefix("index.md") in built.stderr


def test_links_lead_through_the_site():
    text = "[a](operations.md#tls) [b](../docker/compose.yaml) [c](../deploy/kubernetes) [d](../README.md) [e](#x)\n"
    assert repository_files.rewrite("api.md", text) == (
        "[a](operations.md#tls) [b](repository/docker/compose.yaml.md) [c](repository/deploy/kubernetes/index.md) "
        "[d](index.md) [e](#x)\n"
    )
    back = "[a](../docs/errors.md#elsewhere) [b](results/serving-stages.png)\n```\n[c](../docs/errors.md)\n```\n"
    assert repository_files.rewrite("repository/benchmarks/README.md", back) == back.replace(
        "[a](../docs/errors.md", "[a](../../errors.md"
    )


def fields_of(message: Descriptor) -> set[str]:
    """Names of the fields, with those of nested messages but map entries."""
    nested = [fields_of(one) for one in message.nested_types if not one.GetOptions().map_entry]
    return {field.name for field in message.fields}.union(*nested)


@pytest.mark.parametrize("name", MODULES)
def test_the_whole_contract_is_on_its_page_with_comments(name):
    file = MODULES[name].DESCRIPTOR
    path = REPO_ROOT / "proto" / "clipsr" / "v1" / f"{name}.proto"
    about, blocks = wire_contract.parse(path.read_text(encoding="utf-8"), name=path.name)
    described = {block.name: {line.name for line in block.lines} for block in blocks}
    messages = {one.name: fields_of(one) for one in file.message_types_by_name.values()}
    enums = {one.name: set(one.values_by_name) for one in file.enum_types_by_name.values()}
    services = {one.name: {method.name for method in one.methods} for one in file.services_by_name.values()}
    assert described == messages | enums | services
    assert about
    assert all(block.comment for block in blocks)
    assert all(line.comment for block in blocks for line in block.lines)
    page = wire_contract.pages()[f"wire/{name}.md"]
    assert all(f"`{line.name}`" in page or f"### {line.name}" in page for block in blocks for line in block.lines)


def test_a_line_of_a_proto_that_cannot_be_read_is_an_error():
    with pytest.raises(wire_contract.ProtoError, match=r"^x\.proto:2: cannot read 'group G = 1 \{'$"):
        wire_contract.parse("message A {\n  group G = 1 {\n", name="x.proto")
    with pytest.raises(wire_contract.ProtoError, match=r"^x\.proto:1: cannot read 'extend A \{'$"):
        wire_contract.parse("extend A {\n}\n", name="x.proto")


def test_every_reference_page_is_of_a_public_package():
    for name in python_reference.PACKAGES:
        [source] = REPO_ROOT.glob(f"*/src/{name.replace('.', '/')}/__init__.py")
        assert "\n__all__ = [" in source.read_text(encoding="utf-8"), name
