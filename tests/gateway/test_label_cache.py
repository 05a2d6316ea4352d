"""Label spaces are checked once, however often they come."""

from __future__ import annotations

from typing import cast

import grpc
import pytest

from clipsr_gateway._label_cache import KnownLabels, LabelCache
from clipsr_gateway._labels import LabelQuery
from clipsr_gateway.backend import PreparedLabels


def known(*labels: str) -> KnownLabels:
    return KnownLabels(query=LabelQuery(labels=labels, templates=("{}",)), prepared=cast("PreparedLabels", object()))


async def test_the_same_labels_are_prepared_once(start, backend, request_of):
    one = await start()
    for top_k in (1, 2):  # what does not belong to the labels may change
        answer = await one.stub.Classify(request_of(labels=["cat", "dog"], top_k=top_k))
        assert len(answer.results[0].classification.predictions) == top_k
    await one.stub.Classify(request_of(labels=["dog", "cat"]))
    prepared = [labels for labels, _ in backend.prepared]  # and the canary's own
    assert prepared.count(("cat", "dog")) == 1
    assert prepared.count(("dog", "cat")) == 1


async def test_what_is_wrong_is_refused_each_time(start, request_of):
    one = await start()
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await one.stub.Classify(request_of(labels=["cat", "cat"]))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    await one.stub.Classify(request_of(labels=["cat"]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # known labels do not hide other faults
        await one.stub.Classify(request_of(labels=["cat"], route=7))
    assert "Route 7 is unknown" in str(caught.value.details())


def test_what_was_not_used_for_longest_is_forgotten():
    cache = LabelCache(max_bytes=10)
    cat, dog, bird = known("cat"), known("dog"), known("bird")
    cache.put(b"cat.", cat)
    cache.put(b"dog.", dog)
    assert cache.get(b"cat.") is cat
    cache.put(b"bird", bird)
    assert cache.get(b"dog.") is None
    assert cache.get(b"cat.") is cat
    assert cache.get(b"bird") is bird
    cache.put(b"bird", bird)  # again: counted once
    assert len(cache) == 2
    cache.put(b"more than all of it", dog)
    assert len(cache) == 0


def test_label_sizes_are_of_utf8_the_longest_first():
    assert known("猫", "a", "ab").query.label_bytes == (3, 2, 1)
