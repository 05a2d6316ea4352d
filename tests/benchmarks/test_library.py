"""The parts of the library measurement that need no service."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.library.__main__ import main, markdown, synthesize


def unit_rows(count: int, dim: int = 16) -> np.ndarray:
    rows = np.random.default_rng(0).normal(1, 1, size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_synthetic_vectors_lie_among_the_real_ones():
    real = unit_rows(50)
    made = synthesize(real, 2_000)
    assert made.shape == (2_000, 16)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[:50], real)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert len(np.unique(made, axis=0)) == 2_000
    # A cone, as the real ones are: random directions would have a mean of almost no length.
    assert np.linalg.norm(made.mean(axis=0)) == pytest.approx(np.linalg.norm(real.mean(axis=0)), abs=0.15)
    np.testing.assert_array_equal(made, synthesize(real, 2_000))


def test_the_table_has_what_was_measured_and_nothing_else():
    latency = {"p50": 12.34, "p95": 20.0}
    scale = {"vectors": 200_000, "embed_dim": 512, "recall_at_10": 0.987, "index_seconds": 61.2}
    scale |= {"new_text_ms": latency, "repeated_text_ms": latency, "exact_ms": latency}
    table = markdown({"scale": scale}, {"processor": "a processor", "cores": 2})
    assert "| recall@10 of text search, 200,000 vectors of 512 dimensions | 0.987 | ≥ 0.95 |" in table
    assert "12.3 ms (20.0 ms)" in table
    assert "precision" not in table


def test_an_unknown_part_is_refused(capsys):
    arguments = ["--url", "x:1", "--libraries", "l", "--data", "d"]
    assert main([*arguments, "--parts", "speed"]) == 2
    assert "there is no part speed" in capsys.readouterr().err
    assert main(arguments) == 1  # no data
