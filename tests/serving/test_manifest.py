"""The manifest: what is read, and how a wrong one is described."""

from __future__ import annotations

import copy
import json

import pytest

import clipsr_serving
from clipsr_serving.errors import ArtifactError
from clipsr_serving.manifest import read_manifest


def test_reads_every_size_and_constant(repository, sizes):
    manifest = read_manifest(repository)
    assert manifest.image_encoder.image_size_px == sizes.R
    assert manifest.image_encoder.embed_dim == sizes.D
    assert manifest.text_encoder.context_length == sizes.L
    assert manifest.upscaler.canvas_sizes_px == sizes.canvas_sizes_px
    assert manifest.scoring.logit_scale == 50.0
    assert manifest.template_sets["simple"] == ("a photo of a {}.",)
    assert set(manifest.artifacts) >= {"upscale/1/model.onnx", "text_encoder/tokenizer.json"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version: Input should be 1, not 2"),
        (("image_encoder", "image_size_px"), "64", "image_encoder.image_size_px: Input should be a valid integer"),
        (("image_encoder", "image_size_px"), True, "image_encoder.image_size_px: Input should be a valid integer"),
        (("image_encoder", "embed_dim"), 0, "image_encoder.embed_dim: Input should be greater than 0, not 0"),
        (("image_encoder", "interpolation"), "nearest", "interpolation: Input should be 'bicubic' or 'bilinear'"),
        (("image_encoder", "resize_mode"), "crop", "resize_mode: Input should be 'shortest', 'squash' or 'longest'"),
        (("image_encoder", "fill_color"), 256, "image_encoder.fill_color: Input should be less than or equal to 255"),
        (("image_encoder", "fill_color"), "black", "image_encoder.fill_color: Input should be a valid integer"),
        (("upscaler", "canvas_sizes_px"), [64, 32], r"upscaler.canvas_sizes_px: the sizes must ascend, not \[64, 32\]"),
        (("upscaler", "canvas_sizes_px"), [], "upscaler.canvas_sizes_px: Tuple should have at least 1 item"),
        (("upscaler", "canvas_sizes_px"), ["32"], r"upscaler.canvas_sizes_px\[0\]: Input should be a valid integer"),
        (("scoring", "function"), "argmax", "scoring.function: Input should be 'softmax' or 'sigmoid', not 'argmax'"),
        (("scoring", "logit_scale"), -1, "scoring.logit_scale: Input should be greater than 0"),
        (("scoring", "logit_scale"), float("nan"), "scoring.logit_scale: Input should be a finite number"),
        (("scoring", "logit_bias"), float("-inf"), "scoring.logit_bias: Input should be a finite number"),
        (("default_templates",), "@none", "default_templates: There is no template set @none; this model knows"),
        (("template_sets",), [], "template_sets: Input should be an object"),
        (("text_banks",), [{"file": 1}], r"text_banks\[0\].file: Input should be a valid string, not 1"),
        (("artifacts",), {"a": 1}, "artifacts.a: Input should be an object, not 1"),
        (("template_sets", "pair"), ["a {}"] * 129, "template_sets.pair: 129 templates came .*; send at most 128"),
        (("template_sets", "pair"), ["a photo"], "template_sets.pair: The template 'a photo' must hold exactly one"),
        (
            ("label_sets", "big"),
            [str(i) for i in range(10_001)],
            "label_sets.big: 10,001 labels .*; send at most 10,000",
        ),
        (("label_sets", "twice"), ["cat", "cat"], "label_sets.twice: The labels 0 and 1 are the same, 'cat'"),
        (("label_sets", "none"), [], "label_sets.none: No labels came"),
    ],
)
def test_a_wrong_field_is_named(repository, tmp_path, path, value, message):
    document = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
    node = document = copy.deepcopy(document)
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path)


def test_a_manifest_of_an_earlier_release_means_the_shortest_side(repository, tmp_path):
    document = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
    for key in ("resize_mode", "fill_color"):
        document["image_encoder"].pop(key, None)
    (tmp_path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    encoder = read_manifest(tmp_path).image_encoder
    assert (encoder.resize_mode, encoder.fill_color) == ("shortest", 0)


def test_a_missing_field_is_named(repository, tmp_path):
    document = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
    del document["scoring"]["logit_bias"]
    (tmp_path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"scoring\.logit_bias is missing.*make export"):
        read_manifest(tmp_path)


def test_no_file_and_no_json_name_the_cure(tmp_path):
    with pytest.raises(ArtifactError, match="is missing; run `make export`"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"Invalid JSON: .* run `make export`"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_set_whose_texts_with_the_default_templates_are_too_many_is_named(repository, tmp_path):
    document = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
    document["template_sets"]["many"] = [f"{index} {{}}" for index in range(100)]
    document["label_sets"]["many"] = [str(index) for index in range(2001)]
    (tmp_path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    assert len(read_manifest(tmp_path).label_sets["many"]) == 2001
    document["default_templates"] = "@many"
    (tmp_path / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"label_sets\.many: 2,001 labels with 100 templates make 200,100 texts"):
        read_manifest(tmp_path)


def test_the_public_names():
    assert clipsr_serving.__all__ == [
        "DEFAULT_LIMITS",
        "ArtifactError",
        "InputError",
        "LaunchError",
        "Limits",
        "Manifest",
        "ModelCallError",
        "ModelLoadError",
        "ModelOutputError",
        "ServingError",
        "read_manifest",
    ]
    assert all(hasattr(clipsr_serving, name) for name in clipsr_serving.__all__)
