"""The description of a model in rows of two cells, for the command line and the web pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from clipsr._types import CallerLimits, ModelInfo, RouteRule

_SHOWN_VALUES = 4  # of a set; `clipsr-client info --format json` has all
_KIB = 1024


def format_bytes(size_bytes: int) -> str:
    """Return a size as a person reads it: bytes, KiB, MiB or GiB."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < _KIB:
            break
        size, unit = size / _KIB, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" or size.is_integer() else f"{size:,.1f} {unit}"


def describe_model(info: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield what answers: each of its properties and what it is."""
    side = info.image_size_px
    canvases = ", ".join(f"{size} × {size}" for size in info.canvas_sizes_px)
    bias = f" and bias {info.logit_bias:g}" if info.logit_bias else ""
    yield "image encoder", f"{info.image_architecture}, {side} × {side} px, embeddings of {info.embed_dim}"
    yield "upscaler", f"{info.upscaler_architecture}, canvases of {canvases} px"
    if info.upscale_recipes:
        yield "upscale recipes", ", ".join(info.upscale_recipes)
    if (restorer := info.restorer) is not None:
        steps = f"in {restorer.default_steps} steps by default, {restorer.max_steps} at most"
        yield "restorer", f"{restorer.architecture}, {steps}; removes {', '.join(restorer.kinds)}"
    yield "route", _describe_route(info)
    if info.degradation_kinds:
        auto = "; auto chooses between it and plain" if info.has_auto_encoder else ""
        yield "encoder robust", f"tells apart {', '.join(info.degradation_kinds)}{auto}"
    yield "text encoder", f"the first {info.context_length} tokens of a text"
    yield "probability", f"{info.scoring_function} of the cosines at scale {info.logit_scale:g}{bias}"
    if (none := info.none_of_these) is not None:
        yield (
            "none of these",
            f"from a probability of {none.threshold:.2g}, by comparison with {none.name_count:,} names; refuses "
            f"{none.false_refusals:.1%} of images with a label, AUROC {none.auroc:.3f}, calibration error "
            f"{none.expected_calibration_error:.1%}",
        )
    yield "default templates", info.default_templates
    yield "digest", info.digest
    yield "gateway", f"version {info.gateway_version}"


def _describe_route(info: ModelInfo) -> str:
    if not info.route_rules:
        return f"native where the shorter side is at least {info.native_min_side_px} px, upscaled below"
    return describe_route_rules(info.route_rules)


def describe_route_rules(rules: Sequence[RouteRule]) -> str:
    """Return which small images are upscaled, rules that agree told as one."""
    ranges: list[tuple[str, int, int]] = []  # files, sides above, and up to
    below = 0
    for side, own in groupby(rules, key=lambda rule: rule.max_side_px):
        files = _describe_upscaled(tuple(own))
        if ranges and ranges[-1][::2] == (files, below):
            ranges[-1] = (files, ranges[-1][1], side)
        elif files:
            ranges.append((files, below, side))
        below = side
    parts = (f"{files} {f'from {start + 1} ' if start else ''}up to {side} px" for files, start, side in ranges)
    return f"upscaled: {', '.join(parts) or 'nothing'}; native otherwise, as measured"


def _describe_upscaled(rules: Sequence[RouteRule]) -> str:
    """Return which files of one size are upscaled, empty where none is."""
    if all(rule.route == "upscaled" for rule in rules) and {rule.is_lossy for rule in rules} == {True, False}:
        return "all files"
    files: list[str] = []
    for is_lossy, kind in ((True, "JPEG and lossy WebP"), (False, "other files")):
        spans: list[tuple[float, float | None]] = []  # noise from, and up to
        least = 0.0
        for rule in (rule for rule in rules if rule.is_lossy == is_lossy):
            if rule.route == "upscaled":
                start = spans.pop()[0] if spans and spans[-1][1] == least else least
                spans.append((start, rule.max_noise))
            least = rule.max_noise or 0.0
        files += [kind + _describe_noise(*span) for span in spans]
    return " and ".join(files)


def _describe_noise(least: float, most: float | None) -> str:
    if most is None:
        return f" with noise above {least:g}" if least else ""
    return f" with noise from {least:g} to {most:g}" if least else f" with noise up to {most:g}"


def describe_sets(sets: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Yield each named set with its size and its first values."""
    for name, values in sets.items():
        more = ", …" if len(values) > _SHOWN_VALUES else ""
        yield f"@{name}", f"{len(values)}: " + ", ".join(values[:_SHOWN_VALUES]) + more
    if not sets:
        yield "none", ""


def describe_limits(info: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield what one request may hold at most."""
    limits = info.limits
    yield "images", f"{limits.max_images:,}"
    yield "one image", f"{format_bytes(limits.max_image_bytes)}, {limits.max_image_pixels:,} pixels"
    yield "labels", f"{limits.max_labels:,} of at most {format_bytes(limits.max_label_bytes)}"
    yield "templates", f"{limits.max_templates:,}"
    yield "labels × templates", f"{limits.max_texts:,}"
    yield "message", format_bytes(limits.max_message_bytes)
    yield "upscaled image", f"{limits.max_output_pixels:,} pixels"
    if info.restorer is not None:
        yield "restored image", f"{limits.max_restore_pixels:,} pixels"
    if limits.max_embed_texts:
        yield "texts to embed", f"{limits.max_embed_texts:,}"
    if limits.caller is not None:
        yield "calls with your key", "; ".join(_describe_caller(limits.caller)) or "unlimited"


def describe_libraries(info: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield what libraries may hold at most, and what one request about them may ask for."""
    limits = info.limits.library
    if limits is None:
        yield "none", "the service keeps no libraries"
        return
    yield "libraries", f"{limits.max_libraries:,}"
    yield "name", f"{limits.max_name_bytes:,} of a-z, 0-9, - and _, beginning with a letter or digit"
    yield "file that is kept", f"{format_bytes(limits.max_original_bytes)}; of larger ones only thumbnail and embedding"
    yield "thumbnail", f"{limits.max_thumbnail_side_px:,} px a side"
    yield "source", format_bytes(limits.max_source_bytes)
    yield "tags of an image", f"{limits.max_tags:,} of at most {format_bytes(limits.max_tag_bytes)}"
    yield "values of an image", f"{limits.max_metadata:,} of at most {format_bytes(limits.max_metadata_value_bytes)}"
    yield "images found", f"{limits.max_top_k:,}"
    yield "images of a page", f"{limits.max_page_size:,}"
    yield "images named by hash", f"{limits.max_delete_hashes:,}"


def _describe_caller(caller: CallerLimits) -> Iterator[str]:
    if caller.items_per_second:
        yield f"{caller.items_per_second:,g} images or texts a second, {caller.burst:,} at once"
    if caller.max_concurrent_calls:
        yield f"{caller.max_concurrent_calls:,} at a time"
