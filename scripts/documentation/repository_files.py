"""mkdocs hook: files of the repository that pages link to are part of the site.

Pages link to files outside docs/ (`../deploy/grafana/clipsr.json`) as it works in a checkout. Such a file appears in
the site below `repository/`, at its own path: Markdown as a page, with the files that it links to in turn; code as a
page that shows it; a folder as a list of its files; anything else as it is. Links are rewritten to lead there.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PLACE = "repository"
# Text that is shown as a page of code, by the name that the highlighter has for it.
LANGUAGES = {".js": "javascript", ".json": "json", ".proto": "protobuf", ".py": "python", ".yaml": "yaml"}
# [text](target "title") and ![text](target); targets with a scheme, or of this page only, are left alone.
LINK = re.compile(r"(?P<before>\]\()(?!(?:[a-z]+:|#))(?P<path>[^)\s#]+)(?P<after>(?:#[^)\s]*)?\))")
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def links(text: str) -> Iterator[re.Match[str]]:
    """Yield the relative links of a Markdown text, those in fenced code left out."""
    fences = [match.span() for match in _FENCED.finditer(text)]
    for match in LINK.finditer(text):
        if not any(begin <= match.start() < end for begin, end in fences):
            yield match


def to_source(path: str) -> str:
    """Return the name within the site's sources of a path relative to the repository's root."""
    if path.startswith("docs/") and Path(path).suffix not in LANGUAGES:
        return path.removeprefix("docs/")
    if path == "README.md":  # the start page takes its place
        return "index.md"
    if (ROOT / path).is_dir():
        return f"{PLACE}/{path}/index.md"
    return f"{PLACE}/{path}.md" if Path(path).suffix in LANGUAGES else f"{PLACE}/{path}"


def to_path(source: str) -> str:
    """Return the path relative to the repository's root from which the links of a source are read."""
    return source.removeprefix(f"{PLACE}/") if source.startswith(f"{PLACE}/") else f"docs/{source}"


def targets(path: str, text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield the links of a Markdown file at `path`, with what they lead to, relative to the repository's root."""
    for match in links(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["path"]))
        if not target.startswith("..") and (ROOT / target).exists():
            yield match, target


def rewrite(source: str, text: str) -> str:
    """Return a page's text with links that lead through the site instead of through the repository."""
    parts, end = [], 0
    for match, target in targets(to_path(source), text):
        place = posixpath.relpath(to_source(target), posixpath.dirname(source) or ".")
        parts += [text[end : match.start("path")], place]
        end = match.end("path")
    return "".join([*parts, text[end:]])


def read(path: str) -> str:
    """Return what a path is as a page: its Markdown, its code, or a list of the tracked files in a folder."""
    file = ROOT / path
    if file.is_dir():
        command = ["git", "ls-files", "--", "."]
        names = subprocess.run(command, cwd=file, capture_output=True, text=True, check=True).stdout.splitlines()
        return "\n".join([f"# {path}/", "", *(f"- [`{name}`]({name})" for name in names), ""])
    text = file.read_text(encoding="utf-8")
    if file.suffix not in LANGUAGES:
        return text
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    return f"{head}``````{LANGUAGES[file.suffix]}\n{text.rstrip()}\n``````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, page by page, until nothing new is found."""
    todo = [page.src_uri for page in files.documentation_pages()]
    while todo:
        source = todo.pop()
        page = files.get_file_from_path(source)
        assert page is not None
        for _, target in targets(to_path(source), page.content_string):
            name = to_source(target)
            if files.get_file_from_path(name) is not None:
                continue
            if not name.endswith(".md"):
                files.append(File.generated(config, name, abs_src_path=str(ROOT / target)))
                continue
            files.append(File.generated(config, name, content=read(target)))
            todo.append(name)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of every page lead through the site."""
    return rewrite(page.file.src_uri, markdown)
