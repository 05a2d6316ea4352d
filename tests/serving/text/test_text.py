"""Text embeddings: averaging, caching, banks, scores."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipsr_serving.errors import ArtifactError, InputError, ModelCallError
from clipsr_serving.manifest import Scoring, read_manifest
from clipsr_serving.similarity import compute_cosine, compute_probability, l2_normalize
from clipsr_serving.text.banks import TEXT_ENCODER_ARTIFACT, read_text_banks
from clipsr_serving.text.cache import KnownLabels, LabelSpaceCache, TextEmbeddingCache
from clipsr_serving.text.cut import find_cut_labels
from clipsr_serving.text.embedder import TextEmbedder
from clipsr_serving.text.prompts import LabelSpace
from clipsr_serving.text.tokenizer import Tokenizer
from clipsr_serving.zero_shot import Similarities, SimilarityRequest, ZeroShotClassifier

D = 8


def embed_text_plainly(text: str) -> np.ndarray:
    """A fixed random direction for each text, of any length."""
    return np.random.default_rng(list(text.encode())).standard_normal(D).astype(np.float32)


class FakeEncoder:
    """Tokenizes to the text's number, encodes to its direction, remembers the batches."""

    def __init__(self):
        self.texts: list[str] = []
        self.batches: list[int] = []

    def tokenize(self, texts):
        start = len(self.texts)
        self.texts.extend(texts)
        return np.arange(start, len(self.texts), dtype=np.int64)[:, None]

    def encode(self, tokens):
        self.batches.append(len(tokens))
        return np.stack([embed_text_plainly(self.texts[row]) for row in tokens[:, 0]])


def make_embedder(max_batch_size=4):
    encoder = FakeEncoder()
    embedder = TextEmbedder(
        tokenize=encoder.tokenize, encode=encoder.encode, max_batch_size=max_batch_size, embed_dim=D
    )
    return embedder, encoder


def expected_embedding(label, templates):
    texts = [embed_text_plainly(template.replace("{}", label)) for template in templates]
    mean = np.mean([text / np.linalg.norm(text) for text in texts], axis=0)
    return mean / np.linalg.norm(mean)


class TestEmbedder:
    @settings(max_examples=30)
    @given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 9))
    def test_is_the_normalized_mean_of_normalized_texts(self, labels, templates, max_batch_size):
        embedder, encoder = make_embedder(max_batch_size)
        names = tuple(f"{index} {{}}" for index in range(templates))
        keys = [(f"label {index}", names) for index in range(labels)]
        for row, (label, strings) in zip(embedder.embed(keys), keys, strict=True):
            # 1e-5: float32 sums of at most 5 terms.
            np.testing.assert_allclose(row, expected_embedding(label, strings), atol=1e-5)
        assert sum(encoder.batches) == labels * templates
        assert len(encoder.batches) == -(-labels * templates // max_batch_size)

    def test_a_shared_text_is_encoded_once(self):
        embedder, encoder = make_embedder()
        rows = embedder.embed([("cat", ("a {}", "the {}")), ("cat", ("a {}",)), ("dog", ("a {}",))])
        assert sorted(encoder.texts) == ["a cat", "a dog", "the cat"]
        np.testing.assert_allclose(rows[1], expected_embedding("cat", ("a {}",)), atol=1e-5)

    def test_needs_a_positive_batch_size(self):
        with pytest.raises(ValueError, match="max_batch_size"):
            make_embedder(0)


class TestLabelSpaces:
    SPACE = ((b"cat", b"dog"), (b"a {}",))

    def test_strings_are_decoded_once(self):
        cache, calls = LabelSpaceCache(10_000), []

        def decode(encoded):
            calls.append(encoded)
            return np.array(encoded.split(), dtype=object)

        first, again = (cache.find_strings(b"cat dog", decode) for _ in range(2))
        assert first is again
        assert cache.find_strings(b"cat dig", decode).tolist() == [b"cat", b"dig"]
        assert calls == [b"cat dog", b"cat dig"]

    def test_the_bound_in_bytes_is_shared_by_all(self):
        cache = LabelSpaceCache(1000)
        labels = KnownLabels(embeddings=np.zeros((2, 99), np.float32), is_cut=np.zeros(8, bool))  # 800 bytes
        cache.put_labels(self.SPACE, labels)
        assert cache.find_labels(self.SPACE) is labels
        cache.find_strings(b"x", lambda encoded: np.array([b"x" * 300], dtype=object))
        assert cache.find_labels(self.SPACE) is None

    def test_what_is_larger_than_the_bound_is_left_out(self):
        cache = LabelSpaceCache(799)
        cache.put_labels(self.SPACE, KnownLabels(embeddings=np.zeros((2, 99), np.float32), is_cut=np.zeros(8, bool)))
        assert cache.find_labels(self.SPACE) is None


def make_cache(max_entries=100):
    embedder, encoder = make_embedder()
    return TextEmbeddingCache(embed=embedder.embed, max_entries=max_entries), encoder


def space(*labels, templates=("a {}",)):
    return LabelSpace(labels=labels, templates=templates)


class TestCache:
    def test_a_second_look_up_calls_no_encoder(self):
        cache, encoder = make_cache()
        first = cache.look_up([space("cat", "dog")])[0]
        calls = len(encoder.batches)
        second = cache.look_up([space("dog", "cat")])[0]
        np.testing.assert_array_equal(first, second[::-1])
        assert len(encoder.batches) == calls
        assert (cache.counters.hits, cache.counters.misses, cache.counters.evictions) == (2, 2, 0)

    def test_misses_of_all_spaces_share_one_call(self):
        cache, encoder = make_cache()
        cache.look_up([space("cat"), space("dog"), space("cat", "bird")])
        assert encoder.batches == [3]

    def test_other_templates_are_another_key(self):
        cache, _ = make_cache()
        one, other = cache.look_up([space("cat"), space("cat", templates=("the {}",))])
        assert not np.allclose(one, other)
        assert cache.counters.misses == 2

    def test_more_labels_than_it_holds_still_give_an_answer(self):
        cache, _ = make_cache(max_entries=3)
        labels = [f"label {index}" for index in range(10)]
        found = cache.look_up([space(*labels)])[0]
        np.testing.assert_allclose(found[7], expected_embedding("label 7", ("a {}",)), atol=1e-5)
        assert cache.counters.evictions == 7

    def test_pinned_rows_are_never_evicted(self):
        cache, encoder = make_cache(max_entries=1)
        row = np.ones(D, np.float32)
        cache.pin(("cat", ("a {}",)), row)
        cache.look_up([space("dog")])
        cache.look_up([space("bird")])
        np.testing.assert_array_equal(cache.look_up([space("cat")])[0], row[None])
        assert encoder.batches == [1, 1]

    def test_a_failed_encoder_fails_only_those_who_need_it(self):
        def fail(keys):
            raise ModelCallError("down")

        cache = TextEmbeddingCache(embed=fail, max_entries=10)
        cache.pin(("cat", ("a {}",)), np.ones(D, np.float32))
        found = cache.look_up([space("cat"), space("cat", "dog")])
        assert found[0].shape == (1, D)
        assert isinstance(found[1], ModelCallError)


SOFTMAX = Scoring(function="softmax", logit_scale=100.0, logit_bias=0.0)
SIGMOID = Scoring(function="sigmoid", logit_scale=100.0, logit_bias=-10.0)
cosines = hnp.arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=32))


class TestSimilarity:
    def test_cosine_is_the_cosine(self):
        images, texts = np.random.default_rng(0).standard_normal((2, 6, D))
        expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in texts] for a in images]
        ours = compute_cosine(l2_normalize(images.astype(np.float32)), l2_normalize(texts.astype(np.float32)))
        np.testing.assert_allclose(ours, expected, atol=1e-6)

    def test_rounding_never_leaves_the_range(self):
        vector = np.full((1, 3), np.float32(0.57735032))
        assert compute_cosine(vector, vector).max() <= 1

    @given(cosines)
    def test_softmax(self, cosine):
        probability = compute_probability(cosine, SOFTMAX)
        exact = np.exp(100 * cosine.astype(np.float64) - 100)
        np.testing.assert_allclose(probability, exact / exact.sum(-1, keepdims=True), atol=1e-5)
        np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-5)

    @given(cosines)
    def test_sigmoid(self, cosine):
        probability = compute_probability(cosine, SIGMOID)
        exact = 1 / (1 + np.exp(-(100 * cosine.astype(np.float64) - 10)))
        np.testing.assert_allclose(probability, exact, atol=1e-5)

    @pytest.mark.parametrize("function", ["softmax", "sigmoid"])
    def test_extreme_scales_stay_finite(self, function):
        scoring = Scoring(function=function, logit_scale=1e6, logit_bias=0.0)
        probability = compute_probability(np.array([[-1, 0, 1]], np.float32), scoring)
        assert probability.dtype == np.float32
        assert probability[0, 0] == 0
        assert probability[0, 2] == 1

    def test_a_zero_vector_stays_finite(self):
        assert np.array_equal(l2_normalize(np.zeros((1, 4), np.float32)), np.zeros((1, 4)))


def make_scorer():
    cache, encoder = make_cache()

    def parse(raw):
        labels = tuple(label.decode() for label in raw[0])
        if "bad" in labels:
            raise InputError("LABEL_EMPTY", "bad.")
        return LabelSpace(labels=labels, templates=tuple(template.decode() for template in raw[1]))

    def find_cut(space):
        looked_at.append(space.labels)
        return np.array([len(label) > 3 for label in space.labels])

    looked_at = []
    scorer = ZeroShotClassifier(
        cache=cache, label_spaces=LabelSpaceCache(1 << 20), parse=parse, find_cut=find_cut, scoring=SOFTMAX
    )
    scorer.looked_at = looked_at
    return scorer, cache, encoder


def request(*rows, templates=(b"a {}",)):
    images = l2_normalize(np.random.default_rng(len(rows)).standard_normal((len(rows), D)).astype(np.float32))
    return SimilarityRequest(image_embedding=images, spaces=tuple((labels, templates) for labels in rows))


class TestScorer:
    def test_cut_labels_are_named_and_looked_for_once(self):
        scorer, _, _ = make_scorer()
        for _ in range(2):
            (answer,) = scorer.score([request((b"cat", b"horse"), (b"zebra", b"dog"))])
            assert answer.label_is_cut.tolist() == [[False, True], [True, False]]
        assert scorer.looked_at == [("cat", "horse"), ("zebra", "dog")]

    def test_scores_every_row_with_its_own_labels(self):
        scorer, _, encoder = make_scorer()
        mixed = request((b"cat", b"dog"), (b"dog", b"fox"))
        answers = scorer.score([mixed, request((b"cat",))])
        assert all(isinstance(answer, Similarities) for answer in answers)
        for row, labels in enumerate((("cat", "dog"), ("dog", "fox"))):
            expected = [mixed.image_embedding[row] @ expected_embedding(label, ("a {}",)) for label in labels]
            np.testing.assert_allclose(answers[0].cosine[row], expected, atol=1e-5)
        assert answers[1].cosine.shape == answers[1].probability.shape == (1, 1)
        assert encoder.batches == [3]

    def test_a_bad_request_fails_alone(self):
        scorer, _, _ = make_scorer()
        answers = scorer.score([request((b"cat",)), request((b"bad",)), request((b"cat",), (b"bad",))])
        assert isinstance(answers[0], Similarities)
        assert [type(answer) for answer in answers[1:]] == [InputError, InputError]

    def test_a_repeated_list_is_found_whole(self):
        scorer, cache, encoder = make_scorer()
        first = scorer.score([request((b"cat", b"dog"))])[0]
        second = scorer.score([request((b"cat", b"dog"))])[0]
        np.testing.assert_array_equal(first.cosine, second.cosine)
        assert (cache.counters.hits, cache.counters.misses, len(encoder.batches)) == (2, 2, 1)


class TestBanks:
    def write(self, root, make_manifest, **changes):
        (root / "similarity" / "text_banks").mkdir(parents=True)
        document = make_manifest(root)
        document["artifacts"][TEXT_ENCODER_ARTIFACT] = {"sha256": "abc", "bytes": 1}
        document["text_banks"] = [{"file": "similarity/text_banks/a.npz", "label_set": "pets", "templates": "@simple"}]
        document["image_encoder"]["embed_dim"] = D
        (root / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
        arrays = {
            "labels": np.array(["猫", "dog"]),
            "templates": np.array(["a {}"]),
            "text_embedding": np.eye(2, D, dtype=np.float32),
            "digest": np.array("abc"),
        } | changes
        np.savez(root / "similarity" / "text_banks" / "a.npz", **arrays)
        return read_manifest(root)

    def test_gives_rows_by_label_and_templates(self, tmp_path, make_manifest):
        (bank,) = read_text_banks(tmp_path, self.write(tmp_path, make_manifest))
        rows = dict(bank.rows())
        assert set(rows) == {("猫", ("a {}",)), ("dog", ("a {}",))}
        np.testing.assert_array_equal(rows["dog", ("a {}",)], np.eye(2, D)[1])

    @pytest.mark.parametrize(
        "changes",
        [
            {"digest": np.array("another")},
            {"text_embedding": np.eye(3, D, dtype=np.float32)},
            {"labels": np.array([{"no": "pickle"}], dtype=object)},
        ],
    )
    def test_a_bank_that_does_not_fit_is_ignored_with_a_warning(self, tmp_path, make_manifest, caplog, changes):
        manifest = self.write(tmp_path, make_manifest, **changes)
        with caplog.at_level(logging.WARNING):
            assert read_text_banks(tmp_path, manifest) == []
        assert "a.npz is ignored" in caplog.text

    def test_a_missing_bank_is_ignored(self, tmp_path, make_manifest, caplog):
        manifest = self.write(tmp_path, make_manifest)
        (tmp_path / "similarity" / "text_banks" / "a.npz").unlink()
        assert read_text_banks(tmp_path, manifest) == []


class TestTokenizer:
    def test_what_is_longer_than_the_context_is_cut(self, repository, sizes):
        tokenizer = Tokenizer(repository / "text_encoder" / "tokenizer.json", context_length=sizes.L)
        fits = "x" * (sizes.L - 1)  # a token a byte, and the end
        assert tokenizer.find_cut(["x", fits, f"{fits}x"]).tolist() == [False, False, True]
        assert tokenizer.measure(["x", fits, f"{fits}x"]).tolist() == [2, sizes.L, sizes.L]

    @given(st.lists(st.text(min_size=1, max_size=24), min_size=1, max_size=8, unique=True))
    def test_labels_that_are_not_looked_at_are_not_cut(self, repository, sizes, labels):
        tokenizer = Tokenizer(repository / "text_encoder" / "tokenizer.json", context_length=sizes.L)
        for template in ("{}", "a {} b", "the({})s"):
            every = tokenizer.find_cut([template.replace("{}", label) for label in labels])
            assert find_cut_labels(labels, (template,), tokenizer).tolist() == every.tolist()

    def test_a_label_counts_in_the_longest_of_its_templates(self, repository, sizes):
        tokenizer = Tokenizer(repository / "text_encoder" / "tokenizer.json", context_length=sizes.L)
        labels = ["x" * (sizes.L - 5), "x" * (sizes.L - 4)]
        assert find_cut_labels(labels, ("{}", "an {}!"), tokenizer).tolist() == [False, True]
        assert find_cut_labels(labels, ("{}",), tokenizer).tolist() == [False, False]

    def test_cuts_and_pads_to_the_context_length(self, repository, sizes):
        tokenizer = Tokenizer(repository / "text_encoder" / "tokenizer.json", context_length=sizes.L)
        ids = tokenizer(["a", "猫 🐱", "long " * 100])
        assert ids.shape == (3, sizes.L)
        assert ids.dtype == np.int64
        assert ids[2, -1] == 1, "the end token survives the cut"

    def test_another_context_length_is_refused(self, repository):
        with pytest.raises(ArtifactError, match="32 ids where the text encoder reads 77"):
            Tokenizer(repository / "text_encoder" / "tokenizer.json", context_length=77)

    def test_a_missing_or_foreign_file_is_refused(self, tmp_path):
        with pytest.raises(ArtifactError, match="is missing"):
            Tokenizer(tmp_path / "tokenizer.json", context_length=77)
        (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
        with pytest.raises(ArtifactError, match="is not a tokenizer file"):
            Tokenizer(tmp_path / "tokenizer.json", context_length=77)
