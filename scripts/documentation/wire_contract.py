"""mkdocs hook: a page for each file of the wire contract, made of the comments in proto/.

Every service, call, message, field and enum value is there with its comment, and types lead to their definitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROTOS = Path(__file__).resolve().parents[2] / "proto" / "clipsr" / "v1"
PLACE = "wire"
_BLOCK = re.compile(r"(?P<kind>service|message|enum|oneof) (?P<name>\w+) \{(?P<end>\})?$")
_CALL = re.compile(r"rpc (?P<name>\w+)\((?P<request>[^)]+)\) returns \((?P<response>[^)]+)\)(;| \{\})$")
_FIELD = re.compile(r"(?P<type>(?:repeated |optional )?(?:map<[^>]+>|[\w.]+)) (?P<name>\w+) = (?P<number>\d+)[^;]*;$")
_VALUE = re.compile(r"(?P<name>[A-Z_0-9]+) = (?P<number>\d+);$")
_KINDS = {"service": "Service", "message": "Message", "enum": "Enum", "oneof": "One of"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A call, a field or a value.

    Attributes:
        name: its name.
        number: field number or value; empty of a call.
        type: of a field; `Request → Response` of a call; empty of a value.
        comment: paragraphs.
        oneof: the group of which at most one field is set; empty outside one.
    """

    name: str
    number: str
    type: str
    comment: Sequence[str]
    oneof: str = ""


@dataclass(kw_only=True)
class Block:
    """A service, a message or an enum."""

    kind: str
    name: str
    comment: Sequence[str]
    lines: list[Line] = field(default_factory=list)


class ProtoError(ValueError):
    """A line that this reader does not know; the message has file and line."""


def parse(text: str, *, name: str) -> tuple[Sequence[str], list[Block]]:
    """Read a file of the contract, formatted as its linter demands: one declaration a line.

    Args:
        text: the file.
        name: for errors.

    Returns:
        The comment of the package, and the blocks in their order.

    Raises:
        ProtoError: a line is none of the known forms.
    """
    about: Sequence[str] = ()
    blocks: list[Block] = []
    comment: list[str] = []
    open_names: list[tuple[str, str]] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line.startswith("//"):
            comment.append(line[2:].strip())
            continue
        if line.startswith("package "):
            about = _paragraphs(comment)
        elif match := _BLOCK.match(line):
            if match["kind"] != "oneof":
                blocks.append(Block(kind=match["kind"], name=match["name"], comment=_paragraphs(comment)))
            if not match["end"]:
                open_names.append((match["kind"], match["name"]))
        elif line == "}":
            open_names.pop()
        elif line and open_names:
            kind, group = open_names[-1]
            blocks[-1].lines.append(_line(line, comment, group if kind == "oneof" else "", f"{name}:{number}"))
        elif line and not line.startswith(("syntax ", "import ", "option ")):
            raise ProtoError(f"{name}:{number}: cannot read {line!r}")
        comment = []
    return about, blocks


def _line(line: str, comment: Sequence[str], oneof: str, place: str) -> Line:
    paragraphs = _paragraphs(comment)
    if match := _CALL.match(line):
        return Line(name=match["name"], number="", type=f"{match['request']} → {match['response']}", comment=paragraphs)
    if match := _VALUE.match(line) or _FIELD.match(line):
        kind = match.groupdict().get("type", "")
        return Line(name=match["name"], number=match["number"], type=kind, comment=paragraphs, oneof=oneof)
    raise ProtoError(f"{place}: cannot read {line!r}")


def _paragraphs(comment: Sequence[str]) -> list[str]:
    return [" ".join(part.split("\n")) for part in "\n".join(comment).split("\n\n") if part.strip()]


def render(name: str, about: Sequence[str], blocks: Sequence[Block], homes: dict[str, str]) -> str:
    """Return the page of a file.

    Args:
        name: of the file, without suffix.
        about: the comment of the package.
        blocks: what it defines.
        homes: by the name of a message or enum, the page that defines it.
    """
    parts = [f"# {name}.proto", *map(_escape, about), "Package `clipsr.v1`."]
    for block in blocks:
        parts += [f"## {block.name}", f"*{_KINDS[block.kind]}.* " + "\n\n".join(map(_escape, block.comment))]
        if block.kind == "service":
            for call in block.lines:
                parts += [f"### {call.name}", _type(call.type, homes), *map(_escape, call.comment)]
        elif block.lines:
            parts.append("\n".join(_table(block, homes)))
    return "\n\n".join(parts) + "\n"


def _table(block: Block, homes: dict[str, str]) -> Iterator[str]:
    if block.kind == "enum":
        yield "| value | number | |\n|---|---|---|"
    else:
        yield "| field | number | type | |\n|---|---|---|---|"
    for line in block.lines:
        text = "<br>".join(map(_escape, line.comment))
        if line.oneof:
            text = f"*One of `{line.oneof}`.* {text}"
        kind = [] if block.kind == "enum" else [_type(line.type, homes)]
        yield f"| {' | '.join([f'`{line.name}`', line.number, *kind, text])} |"


def _type(text: str, homes: dict[str, str]) -> str:
    def link(match: re.Match[str]) -> str:
        name = match[0]
        return f"[`{name}`]({homes[name]}#{name.lower()})" if name in homes else f"`{name}`"

    return re.sub(r"[\w.]+", link, text.replace("<", " of ").replace(">", ""))


def _escape(text: str) -> str:
    """Return a comment as Markdown: `code` stays code, the rest is as it is read."""
    return re.sub(r"`[^`|]+`|[\\`*_{}\[\]<>|#]", lambda m: m[0] if len(m[0]) > 1 else f"\\{m[0]}", text)


def pages() -> dict[str, str]:
    """Return the pages of the contract by their names in the site."""
    files = {
        path.stem: parse(path.read_text(encoding="utf-8"), name=path.name) for path in sorted(PROTOS.glob("*.proto"))
    }
    homes = {block.name: f"{name}.md" for name, (_, blocks) in files.items() for block in blocks}
    return {f"{PLACE}/{name}.md": render(name, about, blocks, homes) for name, (about, blocks) in files.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))
    return files
