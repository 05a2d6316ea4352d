"""What was measured, as Markdown: the promises first, then each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.load.images import MADE_UP
from benchmarks.serving.measure import Measurement, Range
from benchmarks.serving.report import CLIPSR, Aim, aims, measurements

__all__ = [
    "aim_table",
    "comparison_table",
    "headline",
    "label_table",
    "load_table",
    "render",
    "stage_table",
    "sweep_table",
]

_Form = Callable[[float], str]
_HEADS = {
    "compare": "All systems in turn, medians of the rounds with their range",
    "sweep": "Images a second against callers, each with one image at a time",
    "load": "Latency against offered load (Poisson), counted from the time at which a call was meant to begin",
    "labels": "Cached labels",
    "small": "The model that ships, asked in three ways",
}


def render(parts: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """Return the whole page.

    Args:
        parts: of the record, by name.
        plots: part to the address of its picture.
    """
    if not parts:
        return "Not measured yet.\n"
    blocks = [aim_table(aims(parts), {part: section["command"] for part, section in parts.items()})]
    tables = {
        "compare": lambda s: comparison_table(measurements(s)),
        "sweep": lambda s: sweep_table(measurements(s)),
        "load": lambda s: load_table(measurements(s)),
        "labels": label_table,
        "small": lambda s: comparison_table(measurements(s)),
    }
    for part, table in tables.items():
        if part in parts:
            blocks.append(f"{_HEADS[part]} (`{parts[part]['command']}`):\n\n{table(parts[part])}")
            blocks += _picture(part, plots)
    if "stages" in parts:
        for callers, stages in parts["stages"]["stages"].items():
            head = f"Time by stage, callers at once: {callers} (`{parts['stages']['command']}`)"
            blocks.append(f"{head}:\n\n{stage_table(stages)}")
        blocks += _picture("stages", plots)
    blocks += [
        f"`{part}` is incomplete: {section['incomplete']}.\n"
        for part, section in parts.items()
        if "incomplete" in section
    ]
    return "\n".join([*blocks, _origin(parts)])


def headline(parts: Mapping[str, Any]) -> str:
    """Return the comparison in a sentence or two."""
    if "compare" not in parts:
        return "Not measured yet.\n"
    section = parts["compare"]
    found = measurements(section)
    begin = "throughput, "
    ratios = [a for a in aims({"compare": section}) if a.name.startswith(begin) and a.limit is not None]
    load = ratios[0].name.partition(": ")[0].removeprefix(begin) if ratios else found[0].load
    rate = Range.of([m.images_per_s for m in found if (m.system, m.load) == (CLIPSR, load)])
    others = ", ".join(f"{aim.value.median:.3g}× {aim.name.partition(': against ')[2]}" for aim in ratios)
    return (
        f"{section['model']} with super-resolution, from image bytes to labels, {load} on "
        f"{section['environment']['cores']} CPU cores: {rate.median:.0f} images/s"
        f"{f'. That is {others}' if others else ''}. Measured by `make bench`; all figures, what was missed included, "
        "in [benchmarks/README.md](benchmarks/README.md#the-service-beside-other-servers).\n"
    )


def _picture(part: str, plots: Mapping[str, str]) -> list[str]:
    return [f"![{_HEADS.get(part, 'Time by stage')}]({plots[part]})\n"] if part in plots else []


def _origin(parts: Mapping[str, Any]) -> str:
    """Where the figures come from; parts that were measured apart say so."""
    lines: dict[str, list[str]] = {}
    for part, section in parts.items():
        setting, environment = section["setting"], section["environment"]
        images = "made-up PNG images of 32×32" if setting["images"] == MADE_UP else "32×32 images of CIFAR as PNG"
        rounds = "1 round" if setting["n_rounds"] == 1 else f"{setting['n_rounds']} rounds"
        line = (
            f"{section['model']} with random weights (`small`: the model that ships), {images}, 100 cached labels, "
            f"profile {_profile(section)}, {rounds} of {setting['measure_s']:g} s, ratios round by round; on "
            f"{environment['processor']}, {environment['cores']} cores, callers included; load average "
            f"{environment['load_average_before']} before."
        )
        lines.setdefault(line, []).append(f"`{part}`")
    return "".join(f"{', '.join(names)}: {line}\n" for line, names in lines.items())


def _profile(section: Mapping[str, Any]) -> str:
    """Return the profile, and what it was on this machine where its name does not say it."""
    name, served_as = section["profile"], section.get("served_as", section["profile"])
    return f"`{name}`" if served_as == name else f"`{name}` (here `{served_as}`)"


def aim_table(results: Sequence[Aim], commands: Mapping[str, str]) -> str:
    """Return the promises, each with the command that measures it; without one, what is good to know beside them."""
    lines = ["| measured | median (range) | aim | | command |", "|---|---|---|---|---|"]
    for aim in results:
        value = _range(aim.value, lambda v, unit=aim.unit: f"{_number(v)}{unit}")
        verdict = {True: "met", False: "**missed**", None: ""}[aim.is_met]
        limit = "–" if aim.limit is None else f"{'≥' if aim.is_floor else '≤'} {aim.limit:g}{aim.unit}"
        lines.append(f"| {aim.name} | {value} | {limit} | {verdict} | `{commands[aim.part]}` |")
    return "\n".join(lines) + "\n"


def comparison_table(found: Sequence[Measurement]) -> str:
    """Return a row for each system and load, medians over the rounds with their range."""
    lines = [
        "| system | load | images/s | p50, ms | p99, ms | failed | CPU, ms an image | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (system, load), rows in _groups(found).items():
        rate = _range(Range.of([m.images_per_s for m in rows]), _one_digit)
        cpu = f"{Range.of([m.cpu_ms for m in rows]).median:.1f}" if rows[0].cpu_s else "–"
        if not rows[0].latency_ms:
            lines.append(f"| {system} | {load} | {rate} | – | – | – | {cpu} | – |")
            continue
        p50, p99 = (Range.of([m.latency_ms[p] for m in rows]) for p in ("p50", "p99"))
        memory = Range.of([m.memory_mb for m in rows])
        lines.append(
            f"| {system} | {load} | {rate} | {_range(p50, _one_digit)} | {_range(p99, _one_digit)} | {_failed(rows)} "
            f"| {cpu} | {memory.median:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def sweep_table(found: Sequence[Measurement]) -> str:
    """Return a column for each system, a row for each number of callers."""
    systems = list(dict.fromkeys(m.system for m in found))
    rates = {(m.system, m.load): m.images_per_s for m in found}
    lines = [f"| callers | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for load in dict.fromkeys(m.load for m in found):
        cells = [f"{rates[s, load]:.1f}" if (s, load) in rates else "–" for s in systems]
        lines.append(f"| {load.split()[0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def load_table(found: Sequence[Measurement]) -> str:
    """Return a row for each way of asking and each rate."""
    lines = [
        "| asked by | offered | answered, images/s | p50, ms | p90, ms | p99, ms | p99.9, ms | calls | failed "
        "| generator's lag, ms |",
        f"|{'---|' * 10}",
    ]
    for m in found:
        times = " | ".join(f"{m.latency_ms[p]:.1f}" for p in ("p50", "p90", "p99", "p99.9"))
        lines.append(
            f"| {m.system.partition(', ')[2]} | {m.load} | {m.images_per_s:.1f} | {times} | {m.n_calls} "
            f"| {_failed([m])} | {m.generator['lag_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def stage_table(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Return where the time of a request goes."""
    lines = ["| stage | mean |", "|---|---|"]
    for name, entry in stages.items():
        unit = "images" if name.endswith("batch size") else "ms"
        lines.append(f"| {name} | {entry['mean']:.2f} {unit} |")
    return "\n".join(lines) + "\n"


def label_table(section: Mapping[str, Any]) -> str:
    """Return what labels cost."""
    lines = ["| cached labels | latency (p50), 1 caller, ms |", "|---|---|"]
    for n, values in section["p50_ms"].items():
        lines.append(f"| {int(n):,} | {_range(Range.of(values), _one_digit)} |")
    new = f"{section['n_new_labels']:,} new labels, seconds until the first answer"
    lines += ["", f"{new}: {_range(Range.of(section['new_labels_s']), _one_digit)}"]
    if section["torch_text_s"]:
        lines[-1] += f"; PyTorch embeds as many in {_range(Range.of(section['torch_text_s']), _one_digit)}"
    return "\n".join(lines) + ".\n"


def _groups(found: Sequence[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for m in found:
        groups.setdefault((m.system, m.load), []).append(m)
    return groups


def _failed(rows: Sequence[Measurement]) -> int:
    return sum(sum(m.errors.values()) for m in rows)


def _range(value: Range, form: _Form) -> str:
    return f"{form(value.median)} ({form(value.low)} – {form(value.high)})"


def _one_digit(value: float) -> str:
    return f"{value:.1f}"


def _number(value: float) -> str:
    """Three digits, and no powers of ten for thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
