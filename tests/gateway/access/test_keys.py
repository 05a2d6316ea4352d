"""API keys: the file, the command that writes it, the limits it sets."""

from __future__ import annotations

import json
import stat
from contextlib import ExitStack

import pytest

from clipsr_gateway._access.callers import Caller, TokenBucket
from clipsr_gateway._access.keys import ApiKey, KeyLimits, add_key, hash_key, make_key, read_keys
from clipsr_gateway.cli import main
from clipsr_gateway.errors import KeyFileError, RateExceededError, TooManyCallsError


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_keys_are_long_and_differ():
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("clipsr_") and len(key) == 50 for key in keys)


def test_the_file_holds_no_key_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "team-a", limits=KeyLimits(max_concurrent_calls=3))
    text = path.read_text()
    assert key not in text
    assert key.removeprefix("clipsr_") not in text
    assert hash_key(key) in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = read_keys(path).find(key)
    assert found is not None
    assert (found.name, found.limits.max_concurrent_calls) == ("team-a", 3)
    assert read_keys(path).find(key + "x") is None
    assert read_keys(path).find("") is None
    assert read_keys(path).find("schlüssel\udc80") is None


def test_a_name_may_have_two_keys_while_it_changes_over(tmp_path):
    path = tmp_path / "keys.json"
    first = add_key(path, "a", limits=KeyLimits(items_per_second=5, burst=10))
    other = add_key(path, "b", limits=None)
    second = add_key(path, "a", limits=None)
    keys = read_keys(path)
    assert [keys.find(key).name for key in (first, second, other)] == ["a", "a", "b"]
    assert keys.keys["a"].limits == KeyLimits(items_per_second=5, burst=10)
    third = add_key(path, "a", limits=None, replaces=True)
    keys = read_keys(path)
    assert (keys.find(first), keys.find(second)) == (None, None)
    assert keys.find(third).name == "a"
    assert keys.find(other).name == "b"


GOOD = {"name": "a", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("secret{", "not JSON"),
        ([], "the document must be an object"),
        ({}, "keys "),
        ({"keys": {}}, "keys "),
        ({"keys": [1]}, "keys[0] must be an object"),
        ({"keys": [{**GOOD, "name": ""}]}, "keys[0].name"),
        ({"keys": [{**GOOD, "name": "a b"}]}, "keys[0].name"),
        ({"keys": [{**GOOD, "sha256": "secret"}]}, "keys[0].sha256"),
        ({"keys": [{**GOOD, "sha256": []}]}, "keys[0].sha256"),
        ({"keys": [{**GOOD, "secret": 1}]}, "keys[0].secret "),
        ({"keys": [{**GOOD, "items_per_second": -1, "burst": 1}]}, "items_per_second"),
        ({"keys": [{**GOOD, "items_per_second": 1}]}, "belong together"),
        ({"keys": [{**GOOD, "max_concurrent_calls": "many"}]}, "keys[0].max_concurrent_calls "),
        ({"keys": [{**GOOD, "max_concurrent_calls": True}]}, "keys[0].max_concurrent_calls "),
        ({"keys": [{**GOOD, "max_concurrent_calls": 2.5}]}, "keys[0].max_concurrent_calls "),
        ({"keys": [{**GOOD, "items_per_second": 1, "burst": float("inf")}]}, "keys[0].burst "),
        ({"keys": [{**GOOD, "items_per_second": 1, "burst": float("nan")}]}, "keys[0].burst "),
        ({"keys": [{**GOOD, "items_per_second": float("nan"), "burst": 1}]}, "keys[0].items_per_second "),
        ({"keys": [{**GOOD, "items_per_second": float("inf"), "burst": 1}]}, "keys[0].items_per_second "),
        ({"keys": [{**GOOD, "items_per_second": True, "burst": 1}]}, "keys[0].items_per_second "),
        ("[" * 100_000, "not JSON"),
        ({"keys": [GOOD, GOOD]}, "twice"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, document, words):
    path = tmp_path / "keys.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret{" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(KeyFileError, match="No such file"):
        read_keys(tmp_path / "none.json")


def test_the_command_prints_a_key_once_and_lists_without_it(tmp_path, capsys):
    path = tmp_path / "keys.json"
    assert main(["keys", "new", "team-a", "--file", str(path), "--items-per-second", "20"]) == 0
    key = capsys.readouterr().out.strip()
    assert read_keys(path).find(key).limits == KeyLimits(items_per_second=20, burst=40)
    assert main(["keys", "list", "--file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown == f"team-a: 20 items/s, burst 40, any number of calls; sha256 {hash_key(key)[:8]}…\n"
    assert main(["keys", "new", "no good", "--file", str(path)]) == 2
    assert "name must be" in capsys.readouterr().err
    assert main(["keys", "new", "x", "--file", str(path), "--max-concurrent-calls", "-1"]) == 2
    assert main(["keys", "list", "--file", str(tmp_path / "none")]) == 2


def test_the_rate_holds_on_average_and_bursts_pass():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=20, clock=clock)
    assert bucket.take(20) == 0
    wait_s = bucket.take(5)
    assert wait_s == pytest.approx(0.5)
    clock.now_s += wait_s
    assert bucket.take(5) == 0
    clock.now_s += 1000
    assert bucket.take(20) == 0  # a full bucket holds no more than the burst
    assert bucket.take(1) > 0


def test_a_call_larger_than_the_burst_passes_and_is_paid_for():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=20, clock=clock)
    assert bucket.take(100) == 0
    assert bucket.take(1) == pytest.approx(8.1)
    clock.now_s += 8.1
    assert bucket.take(1) == 0


def test_a_caller_keeps_what_is_in_progress_while_its_limits_change():
    clock = Clock()
    caller = Caller(ApiKey(name="a", sha256=(), limits=KeyLimits(max_concurrent_calls=1)), clock=clock)
    calls = ExitStack()
    calls.enter_context(caller.call())
    with pytest.raises(TooManyCallsError) as caught, caller.call():
        pass
    assert caught.value.retry_s > 0
    caller.change(KeyLimits(max_concurrent_calls=2, items_per_second=1, burst=1))
    calls.enter_context(caller.call())
    caller.take(1)
    with pytest.raises(RateExceededError) as limited:
        caller.take(1)
    assert limited.value.retry_s == pytest.approx(1)
    caller.change(KeyLimits(max_concurrent_calls=2, items_per_second=1, burst=1))
    with pytest.raises(RateExceededError):
        caller.take(1)  # the same limits again fill no bucket
    assert caller.calls == 2
    calls.close()
    assert caller.calls == 0


def test_a_gateway_does_not_start_with_a_wrong_key_file(repository, tmp_path, capsys):
    path = tmp_path / "keys.json"
    path.write_text("{}")
    assert main(["--repository", str(repository), "--api-keys", str(path), "--metrics", "off"]) == 2
    assert str(path) in capsys.readouterr().err
    assert main(["--repository", str(repository), "--metrics", "nowhere"]) == 2
    assert "--metrics" in capsys.readouterr().err
