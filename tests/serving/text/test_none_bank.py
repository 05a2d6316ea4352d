"""The bank of "none of these": which names compete with labels, and the probability; against plain numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clipsr_serving.errors import ArtifactError
from clipsr_serving.manifest import NoneOfThese, Scoring, read_manifest
from clipsr_serving.similarity import compute_none_probability, l2_normalize
from clipsr_serving.text.banks import TEXT_ENCODER_ARTIFACT
from clipsr_serving.text.none_bank import NoneBank, read_none_bank

RULE = NoneOfThese(file="bank.npz", temperature=1.5, bias=0.25, threshold=0.5, max_label_cosine=0.8)
SCORING = Scoring(function="softmax", logit_scale=20.0, logit_bias=0.0)


def bank_of(*names: str, near: dict[str, int] | None = None) -> NoneBank:
    """Names along axes of their own, but for those that lie along a given one."""
    rows = np.eye(64, dtype=np.float32)[[(near or {}).get(name, 20 + i) for i, name in enumerate(names)]]
    return NoneBank(names=names, text_embedding=rows, calibration=RULE)


@pytest.mark.parametrize(
    ("name", "is_other"),
    [
        ("giraffe", True),
        ("Cat", False),
        ("house cat", False),
        ("truck", False),
        ("caterpillar", True),
        ("kitten", False),  # near the first label
    ],
)
def test_names_that_mean_a_label_do_not_compete_with_it(name, is_other):
    bank = bank_of(name, "bus", near={"kitten": 0})
    found = bank.find_others(["cat", "pickup-truck"], np.eye(64, dtype=np.float32)[:2])
    assert found.tolist() == [is_other, True]


def test_ten_thousand_labels_are_compared_in_parts():
    rng = np.random.default_rng(0)
    embedding = l2_normalize(rng.normal(size=(10_000, 64)).astype(np.float32))
    labels = [f"label{i} of many" for i in range(10_000)]
    bank = NoneBank(
        names=("one", "two", "label9999", "many"),
        text_embedding=np.stack([embedding[9_000], -embedding[0], *np.eye(64, dtype=np.float32)[:2]]),
        calibration=RULE,
    )
    nearest = (bank.text_embedding @ embedding.T).max(axis=1)
    assert bank.find_others(labels, embedding).tolist() == [False, nearest[1] <= 0.8, False, False]


def test_the_probability_is_that_of_plain_numpy():
    rng = np.random.default_rng(1)
    labels, names = rng.uniform(-0.3, 0.9, (5, 3)).astype(np.float32), rng.uniform(-0.3, 0.9, (5, 8)).astype(np.float32)
    is_other = np.arange(8) != 2
    found = compute_none_probability(labels, names, is_other, SCORING, RULE)
    odds = np.exp(20 * labels.astype(float)).mean(axis=1) / np.exp(20 * names[:, is_other].astype(float)).mean(axis=1)
    np.testing.assert_allclose(found, 1 / (1 + odds ** (1 / 1.5) * np.exp(0.25)), rtol=1e-4)
    assert found.dtype == np.float32


def test_extremes_are_finite_and_an_empty_bank_is_nan():
    rule = RULE.model_copy(update={"temperature": 1e-3})
    cosine = np.array([[1.0], [-1.0]], np.float32)
    found = compute_none_probability(cosine, -cosine, np.array([True]), SCORING, rule)
    np.testing.assert_allclose(found, [0, 1], atol=1e-6)
    assert np.isnan(compute_none_probability(cosine, -cosine, np.array([False]), SCORING, rule)).all()


@pytest.fixture
def ruled(tmp_path, make_model_repository):
    """A repository with a rule; the file of its names is still to be written."""
    repository = make_model_repository(tmp_path)
    document = json.loads((repository / "manifest.json").read_text())
    document["none_of_these"] = {**RULE.model_dump(), "name_count": 2}
    (repository / "manifest.json").write_text(json.dumps(document))
    return repository


def test_a_bank_is_read_and_a_damaged_one_named(ruled):
    manifest = read_manifest(ruled)
    with pytest.raises(ArtifactError, match=r"bank\.npz cannot be used"):
        read_none_bank(ruled, manifest)
    arrays = {
        "labels": np.array(["cat", "dog"]),
        "templates": np.array(["{}"]),
        "text_embedding": np.eye(2, manifest.image_encoder.embed_dim, dtype=np.float32),
        "digest": np.array(manifest.artifacts[TEXT_ENCODER_ARTIFACT].sha256),
    }
    np.savez(ruled / "bank.npz", **arrays)
    bank = read_none_bank(ruled, manifest)
    assert bank is not None
    assert (bank.names, bank.calibration.temperature) == (("cat", "dog"), 1.5)
    np.savez(ruled / "bank.npz", **{**arrays, "digest": np.array("other")})
    with pytest.raises(ArtifactError, match="another text encoder"):
        read_none_bank(ruled, manifest)
    np.savez(
        ruled / "bank.npz",
        **{**arrays, "labels": np.array([], str), "text_embedding": np.zeros((0, manifest.image_encoder.embed_dim))},
    )
    with pytest.raises(ArtifactError, match="holds no names"):
        read_none_bank(ruled, manifest)


def test_a_model_without_a_rule_has_no_bank(repository):
    assert read_none_bank(repository, read_manifest(repository)) is None
