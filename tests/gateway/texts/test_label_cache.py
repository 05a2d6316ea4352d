"""Label spaces are checked once, however often they come."""

from __future__ import annotations

import subprocess
import sys
from typing import cast

import grpc
import pytest

from clipsr_gateway._backend.protocol import EncodedLabels
from clipsr_gateway._texts.label_cache import KnownLabels, LabelCache
from clipsr_gateway._texts.labels import LabelQuery


def known(*labels: str, wire_bytes: int = 5) -> KnownLabels:
    query = LabelQuery(labels=labels, templates=("{}",))
    return KnownLabels(query=query, encoded=cast("EncodedLabels", object()), wire_bytes=wire_bytes, field="f")


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
    cache = LabelCache(max_bytes=2 * 8192 + 10 * 20)  # two lists of five bytes
    cat, dog, bird = known("cat"), known("dog"), known("bird")
    cache.put(b"cat..", cat)
    cache.put(b"dog..", dog)
    assert cache.get(b"cat..") is cat
    cache.put(b"bird.", bird)
    assert cache.get(b"dog..") is None
    assert cache.get(b"cat..") is cat
    assert cache.get(b"bird.") is bird
    cache.put(b"bird.", bird)  # again: counted once
    assert len(cache) == 2
    cache.put(b"more than all of it", known("dog", wire_bytes=2_000))
    assert b"more than all of it" not in cache
    assert len(cache) == 2


@pytest.mark.parametrize(("labels", "lists"), [(2, 4000), (200, 600)])
def test_memory_stays_below_the_bound_whatever_the_length_of_the_lists(labels, lists):
    """In a process of its own: three times as many lists as fit, one by one and in groups, by resident memory."""
    program = f"""
import os
from clipsr.v1 import types_pb2
from clipsr_gateway._texts.label_cache import KnownLabels, LabelCache
from clipsr_gateway._texts.labels import LabelQuery
from clipsr_gateway._backend.triton import TritonLabels

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

bound = 8 * 2**20
cache = LabelCache(max_bytes=bound)
before = resident_bytes()
for number in range({lists}):
    space = types_pb2.LabelSpace(labels=[f"thing {{number}} {{k}}" for k in range({labels})])
    query = LabelQuery(labels=tuple(space.labels), templates=("a photo of a {{}}.",))
    encoded = TritonLabels(connection=None, labels=query.labels, templates=query.templates)
    for images in (1, 8, 3, 8):
        encoded._make_inputs(images)
    known = KnownLabels(query=query, encoded=encoded, wire_bytes=space.ByteSize(), field="f")
    cache.put(space.SerializeToString(), known)
    if number == {lists} // 3:
        assert len(cache) < number, len(cache)
print((resident_bytes() - before) / bound)
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert float(completed.stdout) < 1.25  # and what the allocator keeps


def test_label_sizes_are_of_utf8_the_longest_first():
    assert known("猫", "a", "ab").query.label_bytes == (3, 2, 1)
