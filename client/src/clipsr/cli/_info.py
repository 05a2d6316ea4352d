"""The description of the model, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from clipsr import ModelInfo
from clipsr.cli._text import escape_controls, measure

__all__ = ["format_bytes", "print_info", "to_json"]

_SHOWN_VALUES = 4  # of a set; --format json has all
_KIB = 1024


def print_info(info: ModelInfo, *, url: str, console: Console) -> None:
    """Print what answers at the address and what it accepts."""
    sections = {
        f"{info.name} at {url}": _describe_model(info),
        "Label sets, for --labels": _describe_sets(info.label_sets),
        "Template sets, for --templates": _describe_sets(info.template_sets),
        "Limits of one request": _describe_limits(info),
        "Files": [(item.path, f"{format_bytes(item.size_bytes)}, sha256 {item.sha256}") for item in info.artifacts],
    }
    for index, (title, rows) in enumerate(sections.items()):
        if index:
            console.print()
        console.print(Text(escape_controls(title), style="bold"), soft_wrap=True)
        for line in _align(rows):
            console.print(line, soft_wrap=True)


def to_json(info: ModelInfo) -> str:
    """Return all fields as one JSON object."""
    return json.dumps(asdict(info), ensure_ascii=False, indent=2)


def format_bytes(size_bytes: int) -> str:
    """Return a size as a person reads it: bytes, KiB, MiB or GiB."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < _KIB:
            break
        size, unit = size / _KIB, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" or size.is_integer() else f"{size:,.1f} {unit}"


def _describe_model(info: ModelInfo) -> Iterator[tuple[str, str]]:
    side = info.image_size_px
    canvases = ", ".join(f"{size} × {size}" for size in info.canvas_sizes_px)
    bias = f" and bias {info.logit_bias:g}" if info.logit_bias else ""
    yield "image encoder", f"{info.image_architecture}, {side} × {side} px, embeddings of {info.embed_dim}"
    yield "upscaler", f"{info.upscaler_architecture}, canvases of {canvases} px"
    yield "route", f"native where the shorter side is at least {info.native_min_side_px} px, upscaled below"
    yield "text encoder", f"the first {info.context_length} tokens of a text"
    yield "probability", f"{info.scoring_function} of the cosines at scale {info.logit_scale:g}{bias}"
    yield "default templates", info.default_templates
    yield "digest", info.digest
    yield "gateway", f"version {info.gateway_version}"


def _describe_sets(sets: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for name, values in sets.items():
        more = ", …" if len(values) > _SHOWN_VALUES else ""
        yield f"@{name}", f"{len(values)}: " + ", ".join(values[:_SHOWN_VALUES]) + more
    if not sets:
        yield "none", ""


def _describe_limits(info: ModelInfo) -> Iterator[tuple[str, str]]:
    limits = info.limits
    yield "images", f"{limits.max_images:,}"
    yield "one image", f"{format_bytes(limits.max_image_bytes)}, {limits.max_image_pixels:,} pixels"
    yield "labels", f"{limits.max_labels:,} of at most {format_bytes(limits.max_label_bytes)}"
    yield "templates", f"{limits.max_templates:,}"
    yield "labels × templates", f"{limits.max_texts:,}"
    yield "message", format_bytes(limits.max_message_bytes)
    yield "upscaled image", f"{limits.max_output_pixels:,} pixels"


def _align(rows: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """Yield the rows with their second cells below each other."""
    rows = [(escape_controls(name), escape_controls(value)) for name, value in rows]
    width = max((measure(name) for name, _ in rows), default=0)
    for name, value in rows:
        line = Text("  ")
        line.append(name, style="cyan")
        line.append(" " * (width - measure(name) + 2) + value)
        line.rstrip()
        yield line
