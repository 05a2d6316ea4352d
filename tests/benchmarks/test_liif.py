"""The benchmark of upscaling at a tiny size, and the parts that its figures rest on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.liif.__main__ import EXACT, PUBLISHED, Target, main
from benchmarks.liif.graphs import ReferenceDecoderGraph
from benchmarks.liif.timing import Spread, ratio, time_interleaved
from benchmarks.reporting.pages import insert

from clipsr_training.liif import LIIF, ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR
from tests.tolerances import LEVELS

TOWER = "tiny-tower-of-the-benchmark"
CANVAS_PX, SIZE_PX, HIDDEN = 8, 20, 16


def small_liif() -> LIIF:
    return LIIF(EDSR(n_resblocks=1, n_feats=8), hidden_list=(HIDDEN, HIDDEN)).eval()


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> str:
    """The name of a tower of one layer, made known to OpenCLIP."""
    import open_clip  # after clipsr_training, which prepares torchvision for it

    vision = {"image_size": SIZE_PX, "layers": 1, "width": 32, "patch_size": 10, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}
    path = tmp_path_factory.mktemp("configurations") / f"{TOWER}.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return TOWER


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tower) -> Path:
    """What one run of the command wrote."""
    folder = tmp_path_factory.mktemp("bench")
    save_liif(small_liif(), folder / "liif.safetensors")
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16), folder / "shipped.safetensors")
    for page in ("page.md", "readme.md"):
        (folder / page).write_text("before\n<!-- bench-liif:begin -->\nold\n<!-- bench-liif:end -->\nafter\n")
    files = ["--liif", folder / "liif.safetensors", "--upscaler", folder / "shipped.safetensors"]
    sizes = ["--tower", tower, "--canvas", CANVAS_PX, "--image-size", SIZE_PX, "--threads", 1]
    rounds = ["--rounds", 3, "--min-s", 0]
    pages = ["--output", folder / "results", "--page", folder / "page.md", "--readme", folder / "readme.md"]
    assert main([str(a) for a in (*files, *sizes, *rounds, *pages)]) == 0
    return folder


@pytest.mark.slow
def test_the_record_is_valid_json_and_complete(folder):
    record = json.loads((folder / "results" / "liif.json").read_text())
    assert record["setting"]["canvas_px"] == CANVAS_PX
    assert {"processor", "cores", "versions"} <= record["environment"].keys()
    for subject in record["subjects"]:
        assert len(subject["rounds_ms"]) == 3
        assert 0 < subject["ms"]["low"] <= subject["ms"]["median"] <= subject["ms"]["high"]
    assert [r["aim"] for r in record["ratios"] if r["aim"] is not None] == [1.7, 1.7, 20, 20, 0.25]


@pytest.mark.slow
def test_the_record_counts_the_products_of_the_published_formulation_and_of_the_rewrite(folder):
    subjects = json.loads((folder / "results" / "liif.json").read_text())["subjects"]
    macs = {s["name"]: s["macs"] for s in subjects if s["part"] == "decoder"}
    first, others = 8 * 9 + 4, HIDDEN * HIDDEN
    n_codes, n_pixels = CANVAS_PX**2, SIZE_PX**2
    assert macs[PUBLISHED] == 4 * n_pixels * (first * HIDDEN + others + 3 * HIDDEN)
    # The first layer once a latent code, and the term of the cell once an image.
    assert macs[EXACT] == n_codes * 8 * 9 * HIDDEN + 2 * HIDDEN + 4 * n_pixels * (others + 3 * HIDDEN)


@pytest.mark.slow
def test_pages_get_the_table_and_the_sentence_between_their_marks(folder):
    page, readme = ((folder / name).read_text() for name in ("page.md", "readme.md"))
    for text in (page, readme):
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "old" not in text
    assert f"| {PUBLISHED} | onnxruntime fp32 |" in page
    assert f"Rendering a {CANVAS_PX}×{CANVAS_PX} image at {SIZE_PX}×{SIZE_PX} takes" in readme


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"needs the marks <!-- x:begin -->"):
        insert(page, "x", "text")


@torch.inference_mode()
def test_both_ways_to_fetch_a_latent_code_are_one_function():
    liif = small_liif()
    feat = liif.features(torch.rand(2, 3, 6, 6))
    by_grid_sample, by_gather = (
        ReferenceDecoderGraph(liif, 20, method=method)(feat).int() for method in ("grid_sample", "gather")
    )
    assert int((by_grid_sample - by_gather).abs().max()) <= LEVELS


def test_every_call_is_timed_once_a_round_in_rotating_order():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = time_interleaved(calls, n_rounds=2, min_s=0)
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert order[::2] == ["a", "b", "c", "b", "c", "a"]  # every other run warms up


def test_ratios_are_taken_round_by_round():
    assert ratio([10, 40, 90], [1, 4, 9]) == Spread(median=10, low=10, high=10)
    with pytest.raises(ValueError, match="two rounds"):
        ratio([1], [1])


@pytest.mark.parametrize(
    ("value", "aim", "is_share", "is_met"),
    [(2, 1.7, False, True), (1.5, 1.7, False, False), (0.2, 0.25, True, True), (0.3, 0.25, True, False)],
)
def test_a_missed_aim_is_called_missed(value, aim, is_share, is_met):
    target = Target(name="x", value=Spread(median=value, low=value, high=value), aim=aim, is_share=is_share)
    assert target.is_met is is_met
    assert ("**missed**" in target.cells()) is not is_met


def test_two_upscalers_are_timed_beside_each_other(tmp_path, tower, capsys):
    files = [tmp_path / name for name in ("shipped.safetensors", "other.safetensors")]
    for file, n_resblocks in zip(files, (1, 2), strict=True):
        save_liif(ModulatedLIIF(EDSR(n_resblocks=n_resblocks, n_feats=8), latent_dim=16), file)
    pages = ["--output", tmp_path / "results", "--page", tmp_path / "page.md", "--readme", tmp_path / "readme.md"]
    sizes = ["--tower", tower, "--canvas", CANVAS_PX, "--image-size", SIZE_PX, "--threads", 1, "--rounds", 3]
    arguments = ["--upscaler", files[0], "--compare", files[1], *sizes, "--min-s", 0, *pages]
    assert main([str(a) for a in arguments]) == 0
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["onnxruntime fp32", "openvino fp32"]
    assert all("≤ 102.0%" in row for row in rows)
    assert not (tmp_path / "results").exists()


def test_an_upscaler_of_another_kind_is_refused(tmp_path, tower):
    save_liif(small_liif(), tmp_path / "liif.safetensors")
    with pytest.raises(SystemExit, match="latent-modulated"):
        main(["--upscaler", str(tmp_path / "liif.safetensors"), "--liif", str(tmp_path / "liif.safetensors")])
