"""From image bytes to labels, through gateway and Triton."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from datasets import Image, load_dataset
from PIL import Image as PilImage
from torch.nn import functional

from clipsr import Classification, Client, FailedImage, InvalidRequestError, ServiceUnavailableError
from clipsr_training.clip import load_clip
from clipsr_training.liif import find_upscaler, load_liif
from tests.tolerances import COSINE, SERVICE_COSINE

LABELS = ["cat", "dog", "horse", "bus", "elephant", "airplane"]


@pytest.fixture(scope="module")
def samples(repo_root) -> list[Path]:
    return sorted((repo_root / "samples").glob("*.png"))


def png(size_hw=(32, 32), mode="RGB", **options) -> bytes:
    """A picture with structure, as a PNG."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PilImage.fromarray(array).convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_every_sample_gets_a_full_answer(client, samples):
    results = client.classify(samples, LABELS, top_k=0)
    assert len(results) == len(samples) >= 6
    for path, result in zip(samples, results, strict=True):
        assert isinstance(result, Classification), path
        assert {p.label for p in result.predictions} == set(LABELS)
        assert sum(p.probability for p in result.predictions) == pytest.approx(1, abs=1e-4)
        probabilities = [p.probability for p in result.predictions]
        assert probabilities == sorted(probabilities, reverse=True)
        with PilImage.open(path) as image:
            assert result.input_hw == (image.height, image.width)


def test_service_equals_the_checkpoints_in_pytorch(client, repo_root, samples):
    """The whole path against the PyTorch models: decode, LIIF, CLIP, text embedding, scale."""
    clip = load_clip(repo_root / "checkpoints" / "clipsr-small")
    upscaler = load_liif(find_upscaler(repo_root / "checkpoints" / "clipsr-small"))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (clip.mean, clip.std))
    results = client.classify(samples, LABELS, top_k=0, route="upscaled", fit="squash")
    with torch.inference_mode():
        tokens = clip.tokenizer([f"a photo of a {label}." for label in LABELS])
        text_features = functional.normalize(clip.model.encode_text(tokens), dim=-1)
        for path, result in zip(samples, results, strict=True):
            with PilImage.open(path) as image:
                lr = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            # The service pads to a canvas, so only images that fill theirs are comparable to the last bit.
            if lr.shape[1:] not in ((32, 32), (64, 64)):
                continue
            pixels = (upscaler.upscale(lr[None], (64, 64)).clamp(0, 1) * 255).round() / 255
            image_features = functional.normalize(clip.model.encode_image((pixels - mean) / std), dim=-1)
            expected = (image_features @ text_features.T)[0]
            actual = {p.label: p.cosine for p in result.predictions}
            for label, cosine in zip(LABELS, expected.tolist(), strict=True):
                assert actual[label] == pytest.approx(cosine, abs=SERVICE_COSINE), (path, label)


def test_accuracy_on_a_part_of_cifar10(client, data_dir):
    table = load_dataset("parquet", data_files=str(data_dir / "cifar10" / "test.parquet"), split="train")
    part = table.cast_column("image", Image(decode=False)).select(range(500))
    names = table.features["label"].names
    results = client.classify([row["bytes"] for row in part["image"]], label_set="cifar10", top_k=1)
    correct = [r.predictions[0].label == names[t] for r, t in zip(results, part["label"], strict=True)]
    # Three standard errors of 500 images below what the model card reports for all 10,000.
    assert np.mean(correct) >= 0.86


def test_second_classification_calls_no_text_encoder(service, client):
    labels = [f"zeppelin number {i}" for i in range(7)]
    calls = "clipsr_text_encoder_calls_total"
    client.classify([png()], labels)
    first = service.counter(calls)
    misses = service.counter("clipsr_text_cache_misses_total")
    client.classify([png(), png((20, 40))], list(reversed(labels)))
    assert service.counter(calls) == first
    assert service.counter("clipsr_text_cache_misses_total") == misses
    client.classify([png()], [*labels, "a label nobody has asked for"])
    assert service.counter(calls) == first + 1


def test_published_sets_come_from_the_text_banks(service, client):
    before = service.counter("clipsr_text_encoder_calls_total")
    client.classify([png()], label_set="cifar100", templates=["@cifar"])
    assert service.counter("clipsr_text_encoder_calls_total") == before


def test_routes(client):
    info = client.model_info()
    # Of the bundled model every rule says so; larger images have none.
    assert {rule.route for rule in info.route_rules} == {"upscaled"}
    largest = max(rule.max_side_px for rule in info.route_rules)
    small, large = png((largest, largest)), png((largest + 1, largest + 6))
    automatic = client.classify([small, large], LABELS)
    assert [r.route for r in automatic] == ["upscaled", "native"]
    assert [r.route for r in client.classify([small, large], LABELS, route="native")] == ["native"] * 2
    assert [r.route for r in client.classify([small, large], LABELS, route="upscaled")] == ["upscaled"] * 2


@functools.cache
def image_files() -> dict[str, bytes]:
    """Unusual images that must work."""
    frame = PilImage.open(io.BytesIO(png()))
    files = {"1x1": png((1, 1)), "1x200": png((1, 200)), "palette": png(mode="P"), "grey": png(mode="L")}
    files["alpha"] = png(mode="RGBA")
    for name, image, kind, options in (
        ("16 bit", PilImage.fromarray(np.full((32, 32), 40000, dtype=np.uint16)), "PNG", {}),
        ("CMYK", frame.convert("CMYK"), "JPEG", {}),
        ("animated", frame, "GIF", {"save_all": True, "append_images": [frame.rotate(90)]}),
        ("WebP", frame, "WEBP", {}),
        ("BMP", frame, "BMP", {}),
        ("TIFF", frame, "TIFF", {}),
        ("large", frame.resize((3000, 2000)), "JPEG", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


@pytest.mark.parametrize("name", image_files())
@pytest.mark.parametrize("route", ["upscaled", "native"])
def test_unusual_images_are_classified(client, name, route):
    (result,) = client.classify([image_files()[name]], LABELS, route=route)
    assert isinstance(result, Classification), result


def test_exif_orientation_is_applied(client):
    picture = PilImage.open(io.BytesIO(png((30, 50)))).convert("RGB")
    turned = picture.rotate(90, expand=True)  # orientation 6 turns it back, clockwise
    exif = PilImage.Exif()
    exif[0x0112] = 6
    plain, rotated = io.BytesIO(), io.BytesIO()
    picture.save(plain, "PNG")
    turned.save(rotated, "PNG", exif=exif)
    a, b = client.classify([plain.getvalue(), rotated.getvalue()], LABELS, top_k=0)
    assert a.input_hw == b.input_hw == (30, 50)
    assert [p.cosine for p in a.predictions] == pytest.approx([p.cosine for p in b.predictions], abs=1e-6)


@functools.cache
def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few hundred KB; one bit a pixel."""
    buffer = io.BytesIO()
    PilImage.new("1", (20_000, 20_000)).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    PilImage.open(io.BytesIO(png((200, 200)))).save(buffer, "JPEG", quality=90)
    jpeg = buffer.getvalue()
    return jpeg[: len(jpeg) // 2]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bytes, "IMAGE_EMPTY"),
        (lambda: b"this is a text file that somebody renamed", "IMAGE_UNRECOGNIZED"),
        (truncated_jpeg, "IMAGE_TRUNCATED"),
        (bomb, "IMAGE_TOO_MANY_PIXELS"),
    ],
    ids=["empty", "text", "truncated", "huge"],
)
@pytest.mark.parametrize("route", ["auto", "upscaled", "native"])
def test_a_bad_image_fails_alone_and_says_why(client, make, reason, route):
    content = make()
    before, bad, after = client.classify([png(), content, png()], LABELS, route=route)
    assert isinstance(before, Classification)
    assert isinstance(after, Classification)
    assert isinstance(bad, FailedImage)
    assert (bad.code, bad.reason) == ("INVALID_ARGUMENT", reason)
    assert bad.message.strip()


@pytest.mark.parametrize(
    ("labels", "templates", "reason"),
    [
        ([], (), "LABELS_EMPTY"),
        (["cat", ""], (), "LABEL_EMPTY"),
        (["cat", "  "], (), "LABEL_EMPTY"),
        (["cat", "dog", "cat"], (), "LABEL_DUPLICATE"),
        (["cat"], ["a photo of a cat"], "TEMPLATE_WITHOUT_PLACEHOLDER"),
        (["cat"], ["@nowhere"], "TEMPLATE_SET_UNKNOWN"),
        ([str(i) for i in range(10_001)], (), "TOO_MANY_LABELS"),
    ],
)
def test_a_bad_question_is_refused_with_its_field(client, labels, templates, reason):
    with pytest.raises(InvalidRequestError) as caught:
        client.classify([png()], labels, templates=templates)
    assert caught.value.reason == reason
    assert any(field.startswith("options.label_space") for field, _ in caught.value.violations)


def test_labels_in_any_script(client):
    labels = ["一只猫", "собака", "🐎", "[red]bus[/red]", "{}", "a " * 200]
    (result,) = client.classify([png()], labels, top_k=0)
    assert {p.label for p in result.predictions} == set(labels)


def test_ten_thousand_labels(client):
    labels = [f"thing {i}" for i in range(10_000)]
    (result,) = client.classify([png()], labels, top_k=3, timeout_s=120)
    assert len(result.predictions) == 3


def test_command_line_prints_one_json_object_a_line(service, samples, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("not a picture")
    run = service.cli("classify", samples[0], broken, "--labels", "cat,dog", "--format", "json")
    assert run.returncode == 1, run.stderr
    good, bad = map(json.loads, run.stdout.splitlines())
    assert good.keys() == {"path", "status", "predictions", "none_of_these", "route", "input_hw", "model"}
    assert [p.keys() for p in good["predictions"]] == [{"label", "cosine", "probability"}] * 2
    assert bad.keys() == {"path", "status", "reason", "message"}
    assert bad["status"] == "INVALID_ARGUMENT"


def test_command_line_reads_standard_input(service):
    run = service.cli("classify", "-", "--labels", "@cifar10", "--top-k", "2", "--format", "csv", stdin=png())
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 1 + 1


def test_a_deadline_of_a_millisecond(service, samples):
    run = service.cli("classify", samples[0], "--labels", "cat,dog", "--timeout", "0.001")
    assert run.returncode == 3
    assert "Traceback" not in run.stderr


def test_the_last_url_of_the_command_line_counts(service, samples, unused_port):
    run = service.cli("classify", samples[0], "--labels", "cat,dog", "--url", f"127.0.0.1:{unused_port}")
    assert run.returncode == 0, run.stderr  # `cli` puts the running service's behind it


def test_an_address_where_nobody_listens_is_named(unused_port):
    with (
        Client(f"127.0.0.1:{unused_port}", timeout_s=5, retries=0) as nobody,
        pytest.raises(ServiceUnavailableError, match=rf"127\.0\.0\.1:{unused_port}"),
    ):
        nobody.classify([png()], LABELS)


def test_any_kserve_client_can_call_the_ensemble(service):
    """The tensor contract is public: tritonclient against Triton's own port."""

    def tensor(name: str, values: list[bytes]) -> triton_grpc.InferInput:
        item = triton_grpc.InferInput(name, [1, len(values)], "BYTES")
        item.set_data_from_numpy(np.array([values], dtype=object))
        return item

    with triton_grpc.InferenceServerClient(service.triton["grpc"]) as triton:
        image, fit = tensor("image", [png()]), tensor("fit", [b"squash"])
        labels, templates = tensor("labels", [b"cat", b"dog"]), tensor("templates", [b"@simple"])
        answer = triton.infer("classify", [image, fit, labels, templates])
        assert answer.as_numpy("probability").sum() == pytest.approx(1, abs=1e-4)
        for model in ("classify_detailed", "classify_native_detailed"):
            detailed = triton.infer(model, [image, fit, labels, templates])  # names no outputs, so all come
            assert np.linalg.norm(detailed.as_numpy("image_embedding")) == pytest.approx(1, abs=1e-3)
            assert detailed.as_numpy("pixels").dtype == np.uint8
            assert detailed.as_numpy("label_is_cut").tolist() == [[False, False]]
            named = ("cosine", "probability", "image_embedding", "pixels")  # all but the one that came later
            outputs = [triton_grpc.InferRequestedOutput(name) for name in named]
            again = triton.infer(model, [image, fit, labels, templates], outputs=outputs)
            assert {output.name for output in again.get_response().outputs} == set(named)
        np.testing.assert_allclose(
            triton.infer("classify_detailed", [image, fit, labels, templates]).as_numpy("cosine"),
            answer.as_numpy("cosine"),
            atol=COSINE,
        )
        for model in ("embed_image", "embed_image_native"):
            embedding = triton.infer(model, [image, fit]).as_numpy("image_embedding")
            assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-3)
        texts = tensor("texts", [b"cat", b"dog", b"cat"])
        rows = triton.infer("embed_text", [texts, templates]).as_numpy("text_embedding")[0]
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-3)
        assert np.array_equal(rows[0], rows[2])
