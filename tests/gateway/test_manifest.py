"""manifest.json: what is read, and how what is wrong with it is said."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest

from clipsr.v1 import types_pb2
from clipsr_gateway import Limits, ManifestError, load_manifest
from clipsr_gateway._manifest import Manifest, UpscaleModel


def test_reads_what_export_writes(repository):
    manifest = load_manifest(repository)
    assert manifest.routes.native_min_side_px == 64
    assert manifest.label_sets == {"animals": ("cat", "dog", "bird")}
    assert manifest.template_sets["simple"] == ("a photo of a {}.",)


def test_an_older_export_does_not_say_how_far_the_upscaler_looks(repository, document):
    clean = types_pb2.UPSCALE_RECIPE_CLEAN
    assert load_manifest(repository).upscale_models == {clean: UpscaleModel(name="upscale", receptive_field_px=5)}
    del document["upscaler"]["receptive_field_px"]
    (repository / "manifest.json").write_text(json.dumps(document))
    assert load_manifest(repository).upscale_models[clean].receptive_field_px is None


def test_a_recipe_of_the_future_is_not_published(repository, document):
    entry = {"model": "upscale_x", "architecture": "x", "scale_max": 4.0, "receptive_field_px": 7}
    document["upscale_recipes"] = {"robust": entry, "vivid": entry}
    (repository / "manifest.json").write_text(json.dumps(document))
    manifest = load_manifest(repository)
    robust = types_pb2.UPSCALE_RECIPE_ROBUST
    assert manifest.upscale_models == {robust: UpscaleModel(name="upscale_x", receptive_field_px=7)}
    assert manifest.info.upscale_recipes == [robust]
    del entry["model"]
    (repository / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"upscale_recipes\.robust\.model"):
        load_manifest(repository)


def test_unknown_fields_are_ignored(repository, document):
    document["future"] = {"a": 1}
    (repository / "manifest.json").write_text(json.dumps(document))
    assert load_manifest(repository).name == "clipsr-test"


def test_absent(tmp_path):
    with pytest.raises(ManifestError, match="make export") as caught:
        load_manifest(tmp_path)
    assert caught.value.path == tmp_path / "manifest.json"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3"])
def test_not_a_json_object(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"manifest\.json: "):
        load_manifest(tmp_path)


def test_a_folder_in_its_place(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest(tmp_path)


WRONG = [
    ("schema_version", 2),
    ("name", ""),
    ("digest", 3),
    ("native_min_side_px", 0),
    ("native_min_side_px", True),
    ("default_templates", "simple"),
    ("default_templates", "@nope"),
    ("label_sets.animals", []),
    ("label_sets.animals", ["cat", "cat"]),
    ("label_sets.animals[1]", ""),
    ("template_sets.simple[0]", "no placeholder"),
    ("template_sets", []),
    ("image_encoder.image_size_px", "64"),
    ("upscaler.canvas_sizes_px[0]", -1),
    ("upscaler.receptive_field_px", -1),
    ("upscaler.receptive_field_px", 1.5),
    ("scoring.function", "argmax"),
    ("scoring.logit_scale", float("nan")),
    ("scoring.logit_scale", float("inf")),
    ("scoring.logit_bias", True),
    ("label_sets.animals[1]", " \t"),
    ("label_sets.animals", [str(number) for number in range(10_001)]),
    ("label_sets.animals", ["cat", "x" * 1_025]),
    ("template_sets.cifar", [f"{number} {{}}" for number in range(129)]),
    ("template_sets.cifar", ["{}" + "x" * 1_025]),
    ("artifacts.upscale/1/model.onnx.sha256", "abc"),
    ("artifacts.upscale/1/model.onnx.bytes", -1),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_named(repository, document, field, value):
    path = field.replace("upscale/1/model.onnx", "ONNX").replace("[", ".[").split(".")
    node = document
    for key in path[:-1]:
        node = node[key.replace("ONNX", "upscale/1/model.onnx")]
    last = path[-1]
    node[int(last[1:-1]) if last.startswith("[") else last] = value
    (repository / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError) as caught:
        load_manifest(repository)
    assert repr(field) in str(caught.value)


@pytest.mark.parametrize("key", ["name", "digest", "label_sets", "template_sets", "scoring", "artifacts", "upscaler"])
def test_a_missing_field_is_named(repository, document, key):
    del document[key]
    (repository / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=f"field '{key}' is missing"):
        load_manifest(repository)


def test_the_limits_of_sets_are_those_of_requests(repository):
    with pytest.raises(ManifestError, match=r"'label_sets\.animals' holds 3 entries; at most 2 are served"):
        load_manifest(repository, limits=Limits(max_labels=2))
    with pytest.raises(ManifestError, match=r"'template_sets\.imagenet' holds 80 entries"):
        load_manifest(repository, limits=Limits(max_templates=79))
    assert load_manifest(repository, limits=Limits(max_labels=3, max_templates=80)).label_sets


def _no_pixels() -> NoReturn:
    raise AssertionError("nothing asks for pixels here")


def test_small_images_take_the_route_that_was_measured(repository, document):
    def rule(max_side_px: int, route: str, *, is_lossy: bool) -> dict[str, object]:
        measured = {"upscaled_agreement": 0.5, "native_agreement": 0.25, "n_images": 500}
        return {"max_side_px": max_side_px, "is_lossy": is_lossy, "route": route, **measured}

    def takes_native_route(manifest: Manifest, side: int, *, is_lossy: bool) -> bool:
        content = b"\xff\xd8" if is_lossy else b"\x89PNG"
        return manifest.routes.choose(content, (side, 2 * side), _no_pixels) == "native"

    assert not takes_native_route(load_manifest(repository), 63, is_lossy=True)
    assert takes_native_route(load_manifest(repository), 64, is_lossy=False)
    document["route_rules"] = [
        rule(48, "native", is_lossy=True),
        rule(24, "upscaled", is_lossy=True),
        rule(24, "native", is_lossy=False),
        rule(48, "upscaled", is_lossy=False),
    ]
    (repository / "manifest.json").write_text(json.dumps(document))
    manifest = load_manifest(repository)
    native = {
        (side, is_lossy): takes_native_route(manifest, side, is_lossy=is_lossy)
        for side in (8, 24, 25, 48, 49)
        for is_lossy in (False, True)
    }
    assert [side for (side, is_lossy), is_native in native.items() if is_lossy and not is_native] == [8, 24]
    assert [side for (side, is_lossy), is_native in native.items() if not is_lossy and not is_native] == [25, 48]
    published = manifest.model_info(limits=Limits(), gateway_version="1").route_rules
    assert [(one.max_side_px, one.is_lossy) for one in published] == [(24, True), (24, False), (48, True), (48, False)]
    assert published[0].upscaled_agreement == 0.5
    document["route_rules"][0]["route"] = "sideways"
    (repository / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="route_rules"):
        load_manifest(repository)
