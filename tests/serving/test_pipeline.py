"""The ensembles in one process: an image fails alone, and a damaged model answers nothing."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from clipsr_serving.errors import ArtifactError, InputError, LaunchError, ModelCallError, ModelOutputError
from clipsr_serving.pipeline import Pipeline
from clipsr_serving.similarity import compute_cosine


def encoded(colour: tuple[int, int, int], size: tuple[int, int] = (20, 20), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pipeline(repository) -> Pipeline:
    return Pipeline.load(repository, profile="cpu-onnx")


def fail_on_black(run, name: str):
    """An engine's `run` that raises where an image of the batch is black."""

    def failing(inputs):
        if any(not image.any() for image in inputs[name]):
            raise RuntimeError("a black image")
        return run(inputs)

    return failing


@pytest.mark.parametrize(
    ("stage", "route", "name"), [("_upscale", "upscaled", "canvas"), ("_image_encoder", "native", "pixels")]
)
def test_an_image_that_an_engine_cannot_take_fails_alone(stage, route, name, pipeline, monkeypatch):
    session = getattr(pipeline, stage).session
    monkeypatch.setattr(session, "run", fail_on_black(session.run, name))
    decoded = pipeline.decode([encoded((200, 9, 9)), encoded((0, 0, 0)), encoded((9, 200, 9))], route=route)
    outcomes = pipeline.encode(pipeline.render(decoded))
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    assert str(outcomes[1]) == "a black image"


def test_embeddings_that_are_not_finite_are_no_answers(pipeline, sizes, monkeypatch):
    rows = np.ones((2, sizes.D), np.float32)
    rows[0, 3] = np.nan
    monkeypatch.setattr(pipeline._image_encoder.session, "run", lambda inputs: {"image_embedding": rows})
    broken, sound = pipeline.encode(pipeline.render(pipeline.decode([encoded((0, 0, 0)), encoded((9, 200, 9))])))
    assert isinstance(broken, ModelOutputError)
    assert np.isfinite(sound).all()


def test_a_text_encoder_that_fails_is_said_and_asked_again(pipeline, sizes, monkeypatch):
    rows, session = np.zeros((1, sizes.D), np.float32), pipeline._text._embedder._encode.model.session
    with monkeypatch.context() as broken:
        broken.setattr(session, "run", lambda inputs: {"text_embedding": np.full((1, sizes.D), np.nan, np.float32)})
        with pytest.raises(ModelCallError, match="not finite"):
            pipeline.score(rows, ["a bird"])
        broken.setattr(session, "run", lambda inputs: 1 / 0)
        with pytest.raises(ModelCallError, match="division by zero"):
            pipeline.score(rows, ["a bird"])
    assert pipeline.score(rows, ["a bird"]).cosine.shape == (1, 1)


def test_images_of_all_sizes_are_what_each_is_alone(pipeline):
    rng = np.random.default_rng(0)
    contents = []
    for size in rng.integers(8, 140, (70, 2)).tolist():
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    together = pipeline.encode(pipeline.render(pipeline.decode(contents)))
    alone = [pipeline.encode(pipeline.render(pipeline.decode([content])))[0] for content in contents]
    assert np.allclose(np.concatenate(together), np.concatenate(alone), atol=1e-5)
    assert {image.route for image in pipeline.decode(contents)} == {"upscaled", "native"}


def test_the_route_is_the_manifests(tmp_path, make_model_repository):
    measured = {"upscaled_agreement": 0.5, "native_agreement": 0.25, "n_images": 9}
    rules = [
        {"max_side_px": 100, "is_lossy": False, "route": "native", **measured},
        {"max_side_px": 100, "is_lossy": False, "max_noise": 12, "route": "upscaled", **measured},
        {"max_side_px": 16, "is_lossy": True, "route": "upscaled", **measured},
        {"max_side_px": 8, "is_lossy": False, "route": "native", **measured},
    ]
    repository = make_model_repository(tmp_path)
    document = json.loads((repository / "manifest.json").read_text("utf-8"))
    (repository / "manifest.json").write_text(json.dumps({**document, "route_rules": rules}))
    pipeline = Pipeline.load(repository, profile="cpu-onnx")
    noisy = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(noisy, "PNG")
    files = {
        encoded((1, 2, 3), (90, 120)): "upscaled",
        noisy.getvalue(): "native",
        encoded((1, 2, 3), (8, 120)): "native",
        encoded((1, 2, 3), (16, 120), "JPEG"): "upscaled",
        encoded((1, 2, 3), (17, 120), "JPEG"): "native",
    }
    assert [image.route for image in pipeline.decode(list(files))] == list(files.values())
    assert {image.route for image in pipeline.decode(list(files), route="upscaled")} == {"upscaled"}


def test_scores_are_cosines_with_the_texts(pipeline):
    embeddings = np.concatenate(pipeline.encode(pipeline.render(pipeline.decode([encoded((200, 30, 9))]))))
    found = pipeline.score(embeddings, ["cat", "dog"], ["@pair"])
    texts = pipeline.embed_texts(["cat", "dog"], ["a photo of a {}.", "a blurry photo of a {}."])
    assert np.allclose(found.cosine, compute_cosine(embeddings, texts.values), atol=1e-6)
    assert found.probability.sum() == pytest.approx(1)
    for call in (lambda: pipeline.score(embeddings, ["cat", "cat"]), lambda: pipeline.embed_texts([""], ["{}"])):
        with pytest.raises(InputError):
            call()


def test_what_cannot_be_opened_says_what_to_do(repository, tmp_path, make_model_repository):
    with pytest.raises(ArtifactError, match="run `make export`"):
        Pipeline.load(tmp_path)
    with pytest.raises(LaunchError, match="no profile 'fast'"):
        Pipeline.load(repository, profile="fast")
    broken = make_model_repository(tmp_path / "broken")
    (broken / "upscale" / "1" / "model.onnx").write_bytes(b"text")
    with pytest.raises(Exception, match=r"upscale.*cannot load"):
        Pipeline.load(broken, profile="cpu-onnx")
