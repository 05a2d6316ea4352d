"""The parts of the command line that need no service."""

from __future__ import annotations

import contextlib
import io
import queue
import struct
import threading
from types import SimpleNamespace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from clipsr import Classification, FailedImage, Prediction, RouteRule
from clipsr._display.description import describe_route_rules, format_bytes
from clipsr._display.text import escape_controls
from clipsr.cli._classify.labels import split_labels
from clipsr.cli._classify.screen import Screen
from clipsr.cli._classify.table import TableWriter, draw_bar, plan_layout
from clipsr.cli._inputs import Item, check_paths, read_item, walk_images
from clipsr.cli._text import fit_left, fit_right, shorten_float


class TestRead:
    def test_the_limit_itself_is_allowed(self, tmp_path) -> None:
        for size, is_allowed in [(100, True), (101, False)]:
            path = tmp_path / str(size)
            path.write_bytes(b"x" * size)
            content = read_item(Item(path=str(path)), max_bytes=100)
            assert isinstance(content, bytes) == is_allowed


class TestFind:
    def test_keeps_the_order_of_the_command_line(self, tmp_path) -> None:
        for name in ("b.png", "a.png"):
            (tmp_path / name).write_bytes(b"x")
        paths = [str(tmp_path / "b.png"), str(tmp_path)]
        assert [item.path.removeprefix(f"{tmp_path}/") for item in walk_images(paths)] == ["b.png", "a.png", "b.png"]

    def test_a_named_file_needs_no_ending(self, tmp_path) -> None:
        path = tmp_path / ".hidden"
        path.write_bytes(b"x")
        assert [item.path for item in walk_images([str(path)])] == [str(path)]

    def test_folders_may_be_nested_as_deep_as_names_allow(self, tmp_path, monkeypatch) -> None:
        deepest = tmp_path
        for _ in range(1_500):  # deeper than Python's own stack
            deepest = deepest / "d"
        monkeypatch.setattr("os.scandir", _FakeFolders(depth=1_500))
        assert [item.path for item in walk_images([str(tmp_path)])] == [f"{deepest}/a.png"]

    def test_a_path_with_nul(self) -> None:
        with pytest.raises(click.UsageError, match="not a path"):
            check_paths(["a\0b"])


class _FakeFolders:
    """A folder in a folder, so many times, and an image in the last."""

    def __init__(self, *, depth: int) -> None:
        self._left = depth

    def __call__(self, path: object) -> contextlib.nullcontext[list[SimpleNamespace]]:
        is_folder = self._left > 0
        self._left -= 1
        name = "d" if is_folder else "a.png"
        entry = SimpleNamespace(name=name, is_dir=lambda: is_folder, is_symlink=lambda: False)
        return contextlib.nullcontext([entry])


class _Lines:
    """A writer that keeps the paths it is given."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def write(self, path: str, outcome: object) -> None:
        self.paths.append(path)

    def finish(self) -> None: ...


class TestScreen:
    def test_writes_in_order_and_holds_a_bounded_number(self) -> None:
        lines, claimed, held = _Lines(), queue.SimpleQueue[int](), 4
        screen = Screen(lambda: lines, held=held)
        most_held: list[int] = []

        def claim() -> None:
            for index in range(40):
                assert screen.claim(f"{index}", index)
                most_held.append(index + 1 - len(lines.paths))
                claimed.put(index)

        thread = threading.Thread(target=claim)
        thread.start()
        for _ in range(10):
            batch = [claimed.get(timeout=60) for _ in range(held)]
            for index in reversed(batch):
                screen.put(index, f"{index}", FailedImage(code="INTERNAL", reason="", message=""))
        thread.join(60)
        assert lines.paths == [f"{index}" for index in range(40)]
        assert max(most_held) <= held
        assert screen.finish()
        assert screen.has_failed

    def test_without_images_nothing_is_made(self) -> None:
        made: list[_Lines] = []

        def make() -> _Lines:
            made.append(_Lines())
            return made[-1]

        assert not Screen(make, held=1).finish()
        assert made == []


class TestLabels:
    def test_several_uses_add_up(self) -> None:
        assert split_labels(["cat, dog", "bird"]) == (("cat", "dog", "bird"), "")

    def test_an_empty_label_is_left_to_the_service(self) -> None:
        assert split_labels(["cat,,dog"]) == (("cat", "", "dog"), "")

    def test_an_at_sign_inside_is_a_label(self) -> None:
        assert split_labels(["cat,@home"]) == (("cat", "@home"), "")

    def test_a_set(self) -> None:
        assert split_labels([" @cifar10 "]) == ((), "cifar10")


class TestText:
    @given(st.text(max_size=30), st.integers(min_value=2, max_value=20))
    def test_cut_text_fills_its_column(self, text, width) -> None:
        text = escape_controls(text)
        assert cell_len(fit_right(text, width, is_cut=True)) == width
        assert cell_len(fit_left(text, width, is_cut=True)) == width

    @given(st.text(max_size=30), st.integers(min_value=2, max_value=20))
    def test_text_is_whole_where_it_may_stick_out(self, text, width) -> None:
        assert fit_right(text, width, is_cut=False).startswith(text)
        assert fit_left(text, width, is_cut=False).startswith(text)

    def test_a_path_keeps_its_end(self) -> None:
        assert fit_left("photos/summer/猫.png", 10, is_cut=True) == "…er/猫.png"

    def test_control_characters_are_written_out(self) -> None:
        assert escape_controls("a\x1b[2J\n猫👩‍👩‍👧\x9b") == "a\\x1b[2J\\n猫👩‍👩‍👧\\x9b"

    def test_bidirectional_controls_are_written_out(self) -> None:
        assert escape_controls("cat\u202egnp\u2066.exe\u200f\u2028") == r"cat\u202egnp\u2066.exe\u200f\u2028"

    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [(0, "0 bytes"), (1023, "1,023 bytes"), (16 << 20, "16 MiB"), (1536, "1.5 KiB"), (5000 << 30, "5,000 GiB")],
    )
    def test_bytes(self, size_bytes, text) -> None:
        assert format_bytes(size_bytes) == text


class TestNumbers:
    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_a_short_number_is_the_same_single(self, value) -> None:
        assert struct.pack("f", shorten_float(value)) == struct.pack("f", value)

    def test_a_number_has_no_digits_that_the_wire_did_not_carry(self) -> None:
        (single,) = struct.unpack("f", struct.pack("f", 0.3))
        assert str(single) != "0.3"
        assert str(shorten_float(single)) == "0.3"

    @pytest.mark.parametrize(
        ("probability", "bar"),
        [(0.0, ""), (0.0125, "▏"), (0.5, "█████"), (0.96, "█████████▋"), (1.0, "█" * 10), (2.0, "█" * 10), (-1.0, "")],
    )
    def test_bar(self, probability, bar) -> None:
        assert draw_bar(probability) == bar.ljust(10)


class TestColumns:
    @pytest.mark.parametrize("width", [None, 100])
    def test_are_aligned_for_wide_characters(self, width) -> None:
        labels = ["cat", "猫のラベル", "👩‍👩‍👧 family"]
        console = Console(file=io.StringIO(), width=width or 80, markup=False, highlight=False, emoji=False)
        writer = TableWriter(console, plan_layout(["a.png", "猫.png"], labels, terminal_width=width))
        for index, label in enumerate(labels):
            prediction = Prediction(label=label, cosine=0.25, probability=0.5)
            outcome = Classification(
                predictions=(prediction,),
                input_hw=(1, 1),
                route="native",
                queue_ms=0.0,
                inference_ms=0.0,
                model_digest="",
            )
            writer.write("猫.png" if index else "a.png", outcome)
        assert isinstance(console.file, io.StringIO)
        rows = console.file.getvalue().splitlines()
        assert len({cell_len(row.split("█")[0]) for row in rows}) == 1
        assert len({cell_len(row) for row in rows}) == 1

    def test_no_number_of_the_runners_up_is_cut(self) -> None:
        console = Console(file=io.StringIO(), width=80, markup=False, highlight=False, emoji=False)
        predictions = tuple(Prediction(label=f"label{i}", cosine=0.0, probability=0.1) for i in range(9))
        outcome = Classification(
            predictions=predictions, input_hw=(1, 1), route="native", queue_ms=0.0, inference_ms=0.0, model_digest=""
        )
        TableWriter(console, plan_layout(["a.png"], ["label0"], terminal_width=80)).write("a.png", outcome)
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().endswith("native    label1 10.0%, label2 10.0%, …\n")


def rule(side: int, route: str, *, is_lossy: bool = False, max_noise: float | None = None) -> RouteRule:
    agreements = {"upscaled_agreement": 0.5, "native_agreement": 0.4, "n_images": 10}
    return RouteRule(max_side_px=side, is_lossy=is_lossy, route=route, max_noise=max_noise, **agreements)


def rules_of_size(side: int, *routes: str) -> list[RouteRule]:
    """Rules for other files with noise up to 3, 12 and more, and for lossy ones."""
    noises = (3, 12, None)
    others = [rule(side, route, max_noise=noise) for route, noise in zip(routes, noises, strict=False)]
    return [*others, rule(side, routes[3], is_lossy=True)]


UP, NO = "upscaled", "native"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([*rules_of_size(12, UP, UP, UP, UP), *rules_of_size(24, UP, UP, UP, UP)], "all files up to 24 px"),
        (rules_of_size(12, NO, NO, NO, NO), "nothing"),
        (
            [*rules_of_size(12, UP, UP, UP, UP), *rules_of_size(24, UP, UP, NO, UP)],
            "all files up to 12 px, JPEG and lossy WebP and other files with noise up to 12 from 13 up to 24 px",
        ),
        (rules_of_size(12, NO, UP, NO, NO), "other files with noise from 3 to 12 up to 12 px"),
        (
            [
                *rules_of_size(12, NO, NO, UP, NO),
                *rules_of_size(24, NO, NO, NO, NO),
                *rules_of_size(48, NO, NO, NO, UP),
            ],
            "other files with noise above 12 up to 12 px, JPEG and lossy WebP from 25 up to 48 px",
        ),
    ],
    ids=["all", "nothing", "less with size", "noise between", "gap"],
)
def test_route_rules_that_agree_are_told_as_one(rules, said) -> None:
    assert describe_route_rules(rules) == f"upscaled: {said}; native otherwise, as measured"
