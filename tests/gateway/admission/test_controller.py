"""The rule that decides what is taken on, with a clock that tests turn."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from clipsr_gateway._admission.controller import Admission, AdmissionConfig, image_units, text_units, upscale_units
from clipsr_gateway.errors import DeadlineExceededError, OverloadedError


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def measured(clock: Clock, *, each_s: float = 0.02, **options: float) -> Admission:
    """Admission that has seen requests of `each_s`, one at a time."""
    admission = Admission(AdmissionConfig(**{"latency_floor_s": 0, **options}), clock=clock)
    for _ in range(50):
        with admission.work(None, 1.0):
            clock.now_s += each_s
    return admission


def test_it_measures_how_fast_the_backend_is(clock):
    admission = measured(clock)
    assert admission.alone_s == pytest.approx(0.02)
    assert admission.units_per_second == pytest.approx(50)
    assert admission.estimate_s(1) == pytest.approx(0.02)


def test_company_makes_the_rate_higher_and_leaves_the_time_alone(clock):
    admission = measured(clock)
    for _ in range(100):  # four at a time, in twice the time of one
        with ExitStack() as together:
            for _ in range(4):
                together.enter_context(admission.work(None, 1.0))
            clock.now_s += 0.04
    assert admission.units_per_second == pytest.approx(100, rel=0.1)
    assert admission.alone_s == pytest.approx(0.02)


def test_the_first_requests_and_odd_ones_do_not_count_for_long(clock):
    admission = Admission(AdmissionConfig(), clock=clock)
    assert admission.alone_s == pytest.approx(0.05)  # a guess
    for each_s in (2.0, 0.5, 0.02, 0.0001, 0.02, 0.02, 0.02):
        with admission.work(None, 1.0):
            clock.now_s += each_s
    assert admission.alone_s == pytest.approx(0.02)


def test_failures_do_not_count_as_work(clock):
    admission = measured(clock)

    def fail() -> None:
        with admission.work(None, 1.0):
            clock.now_s += 0.02
            raise ZeroDivisionError

    for _ in range(200):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert admission.alone_s == pytest.approx(0.02)
    assert admission.units_per_second == pytest.approx(0.25 / 0.02)


def fill(admission: Admission, stack: ExitStack, calls: int, units: float) -> list:
    tickets = [stack.enter_context(admission.ledger()) for _ in range(calls)]
    for ledger in tickets:
        ledger.units = units
    return tickets


def test_single_images_are_taken_on_up_to_the_slowdown(clock):
    admission = measured(clock, max_slowdown=10, min_calls=4)
    with ExitStack() as stack:
        fill(admission, stack, 9, 1.0)
        admission.check()
        fill(admission, stack, 1, 1.0)
        with pytest.raises(OverloadedError) as caught:
            admission.check()
        assert 0.1 <= caught.value.retry_s <= 1
    admission.check()


def test_what_a_fast_model_answers_soon_is_taken_on_however_many_times_longer_it_takes(clock):
    admission = measured(clock, each_s=0.002, max_slowdown=8, latency_floor_s=0.25)
    with ExitStack() as stack:
        fill(admission, stack, 100, 1.0)
        admission.check()
        fill(admission, stack, 30, 1.0)
        with pytest.raises(OverloadedError, match=r"0\.26 s"):
            admission.check()
        fill(admission, stack, 100, 1.0)
        admission.check(100.0)  # what takes long alone may take long here
        with pytest.raises(OverloadedError, match="deadline"):
            admission.check(100.0, time_remaining_s=0.1)


def test_a_bulk_call_counts_no_more_than_a_single_image_for_a_single_image(clock):
    admission = measured(clock, max_slowdown=10, min_calls=1)
    with ExitStack() as stack:
        fill(admission, stack, 5, 1000.0)
        admission.check(1.0)
        admission.check(1000.0)
        fill(admission, stack, 5, 1000.0)
        with pytest.raises(OverloadedError) as caught:
            admission.check(1000.0)
        assert caught.value.retry_s > 5


def test_few_calls_are_always_taken_on(clock):
    admission = measured(clock, max_slowdown=1, min_calls=3)
    with ExitStack() as stack:
        fill(admission, stack, 2, 100.0)
        admission.check(100.0)
        fill(admission, stack, 1, 100.0)
        with pytest.raises(OverloadedError):
            admission.check(100.0)


def test_what_would_miss_its_deadline_is_refused_before_it_is_computed(clock):
    admission = measured(clock, min_calls=1)
    with ExitStack() as stack:
        (ledger,) = fill(admission, stack, 1, 1.0)
        admission.check(time_remaining_s=0.1)
        with pytest.raises(OverloadedError, match="deadline"):
            admission.check(time_remaining_s=0.01)
        with pytest.raises(DeadlineExceededError):
            admission.admit(ledger, 1.0, time_remaining_s=0.0)
        ledger.done(1.0)
        admission.check(time_remaining_s=0.01)  # nobody waits: let it try


def test_calls_and_bytes_are_bounded(clock):
    admission = Admission(AdmissionConfig(max_calls=2, max_queued_bytes=100), clock=clock)
    with admission.call(), admission.call(), pytest.raises(OverloadedError), admission.call():
        pass
    assert admission.calls == 0
    with admission.message(1000):  # one alone may be larger
        assert admission.queued_bytes == 1000
        with pytest.raises(OverloadedError), admission.message(1):
            pass
    with admission.message(60), admission.message(40), pytest.raises(OverloadedError), admission.message(1):
        pass
    assert admission.queued_bytes == 0


async def test_heavy_requests_go_one_at_a_time_and_light_ones_pass():
    admission = Admission(AdmissionConfig())
    entered = asyncio.Event()

    async def heavy() -> None:
        async with admission.acquire_slot("heavy", image_units(pixels=60_000_000)):
            entered.set()
            await asyncio.sleep(60)

    first = asyncio.create_task(heavy())
    await entered.wait()
    entered.clear()
    second = asyncio.create_task(heavy())
    async with admission.acquire_slot("light", image_units(pixels=64 * 64)):
        pass
    assert not entered.is_set()
    first.cancel()
    await asyncio.wait_for(entered.wait(), 5)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


def test_units_grow_with_what_costs():
    assert image_units(pixels=32 * 32, labels=2) == pytest.approx(1, abs=0.01)
    assert image_units(pixels=64_000_000) > 60
    assert image_units(pixels=32 * 32, labels=10_000) > 10
    assert text_units(1) == 0.25
    assert text_units(400) == 100
    assert upscale_units(pixels=64 * 64, target_hw=(1024, 1024)) > 10


async def test_heavy_requests_of_callers_take_turns():
    """A caller with many heavy requests under way does not come before another's first."""
    admission = Admission(AdmissionConfig())
    order: list[str] = []
    leave = asyncio.Semaphore(0)

    async def heavy(caller: str) -> None:
        async with admission.acquire_slot(object(), 100.0, caller=caller):
            order.append(caller)
            await leave.acquire()

    tasks = [asyncio.create_task(heavy(caller)) for caller in ("many", "many", "many", "one")]
    for _ in range(4):
        await settle()
        leave.release()
    await asyncio.gather(*tasks)
    assert order == ["many", "many", "one", "many"]


def test_a_callers_many_calls_make_only_its_own_wait_longer(clock):
    """Fifty calls of one key: another key's call is estimated as if there were one of them."""
    admission = measured(clock)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(admission.ledger("many")).units = 1.0
        assert admission.estimate_s(1.0, caller="one") == pytest.approx(2 * 0.02)
        assert admission.estimate_s(1.0, caller="many") == pytest.approx(51 * 0.02)
        assert admission.estimate_s(1.0) == pytest.approx(2 * 0.02)
        admission.check(caller="one")


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("option", ["max_slowdown", "min_calls", "max_calls", "max_queued_bytes", "max_reading"])
def test_wrong_options_are_named(option):
    with pytest.raises(ValueError, match=option):
        AdmissionConfig(**{option: 0})


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_latency_floor_is_a_number_of_seconds(seconds):
    with pytest.raises(ValueError, match="latency_floor_s"):
        AdmissionConfig(latency_floor_s=seconds)
