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
    ("path", "value", "sentence"),
    [
        (("schema_version",), 2, "schema_version is 2"),
        (("image_encoder", "image_size_px"), "64", "image_encoder.image_size_px must be a int"),
        (("image_encoder", "image_size_px"), True, "image_encoder.image_size_px must be a int"),
        (("image_encoder", "embed_dim"), 0, "image_encoder.embed_dim must be positive"),
        (("image_encoder", "interpolation"), "nearest", "image_encoder.interpolation must be one of"),
        (
            ("image_encoder", "resize_mode"),
            "crop",
            "image_encoder.resize_mode must be one of shortest, squash, longest",
        ),
        (("image_encoder", "fill_color"), 256, "image_encoder.fill_color must be in 0-255"),
        (("image_encoder", "fill_color"), "black", "image_encoder.fill_color must be a int"),
        (("upscaler", "canvas_sizes_px"), [64, 32], "upscaler.canvas_sizes_px must ascend"),
        (("upscaler", "canvas_sizes_px"), ["32"], "upscaler.canvas_sizes_px must hold only int"),
        (("scoring", "function"), "argmax", "scoring.function must be one of softmax, sigmoid"),
        (("scoring", "logit_scale"), -1, "scoring.logit_scale must be positive"),
        (("default_templates",), "@none", "default_templates names '@none'"),
        (("template_sets",), [], "template_sets must be a dict"),
        (("text_banks",), [{"file": 1}], r"text_banks\[0\].file must be a str"),
        (("artifacts",), {"a": 1}, "artifacts.a must be a dict"),
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
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_manifest(tmp_path)


def test_the_public_names():
    assert clipsr_serving.__all__ == [
        "DEFAULT_LIMITS",
        "ArtifactError",
        "InputError",
        "LaunchError",
        "Limits",
        "Manifest",
        "ModelLoadError",
        "ServingError",
        "TextEncoderError",
        "read_manifest",
    ]
    assert all(hasattr(clipsr_serving, name) for name in clipsr_serving.__all__)
