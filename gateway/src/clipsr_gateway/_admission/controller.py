"""Decides which calls to take on, so that those taken are answered in time and the rest is told so at once.

Work is counted in units: what a small image with a few labels costs. Callers share the places in Triton fairly, and so
do the calls of each (FairSlots). So a call of c units waits for at most c units of every other call of its caller, and
meanwhile for at most as much of every other caller:

    own(c) = sum over calls of the same caller of min(units left, c) + c
    estimate_s(c) = (sum over other callers of min(units left, own(c)) + own(c)) / units per second

Without API keys, each call counts as a caller of its own.

A call is taken on if that is at most `max_slowdown` times what it would take on an idle service, or a latency that is
always accepted,

    max(latency_floor_s, max_slowdown * max(alone_s, c / units per second))

and within its deadline. The floor is for fast models: eight times 10 ms would refuse sixteen callers of one image each,
and leave Triton too little for full batches. So one rule serves single images and bulk calls, on any hardware: both
rates are measured on the requests themselves. `alone_s` comes only from requests that had Triton to themselves:
overload never raises it.
Source: processor sharing, Kleinrock 1976, Queueing Systems volume 2, section 4.4.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Generator, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._admission.hold import Hold, hold_until_done
from clipsr_gateway._admission.receiving import ReceivingPlaces
from clipsr_gateway.errors import DeadlineExceededError, OverloadedError

_MIB = 1024 * 1024

# Decoding a megapixel costs about as much as embedding a small image: 10 to 20 ms on one core.
_PIXELS_PER_UNIT = 1_000_000

# Rendering an encoder's input of 224 x 224 pixels costs about half of what embedding it does.
_RENDERED_PIXELS_PER_UNIT = 100_000

# As `python -m benchmarks.restorer_cost` measures it for the default recipe: 223 ms of processor time for a
# tile of 128 px and a step, beside 8.7 ms for a small image through the bundled upscaler and encoder.
_RESTORED_PIXELS_PER_UNIT = 640

# Serializing and ranking a thousand labels: some 10 ms for each image.
_LABELS_PER_UNIT = 1_000

# A pass through the text encoder, beside one through the image encoder.
_TEXTS_PER_UNIT = 4

# Before anything is measured; what a small model takes on a few cores.
_ALONE_S = 0.05

# The median of so many requests counts: the first ones find cold caches, and some are easier than they look.
_ALONE_SAMPLES = 32

# Least that Triton is believed to do, as a share of what it does with one request at a time.
_LEAST_RATE = 0.25

# A request of more units is heavy.
_HEAVY_UNITS = 8.0

# Heavy requests in Triton at once; one leaves the other instances to everybody else.
_HEAVY_AT_ONCE = 1

# Busy seconds after which a measurement of the rate counts half.
_RATE_HALF_LIFE_S = 1.0

_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 30.0


def image_units(*, pixels: int, labels: int = 0, encoder_passes: float = 1) -> float:
    """Return what an image of `pixels` costs when embedded and compared with `labels`, in units."""
    return encoder_passes + pixels / _PIXELS_PER_UNIT + labels / _LABELS_PER_UNIT


def upscale_units(*, pixels: int, target_hw: tuple[int, int]) -> float:
    """Return what it costs to decode so many pixels and to render an image, in units."""
    return pixels / _PIXELS_PER_UNIT + target_hw[0] * target_hw[1] / _RENDERED_PIXELS_PER_UNIT


def restore_units(*, pixels: int, size_hw: tuple[int, int], steps: int) -> float:
    """Return what it costs to decode so many pixels and to restore an image in so many steps, in units."""
    return pixels / _PIXELS_PER_UNIT + steps * size_hw[0] * size_hw[1] / _RESTORED_PIXELS_PER_UNIT


def text_units(texts: int) -> float:
    """Return what so many passes through the text encoder cost, in units."""
    return texts / _TEXTS_PER_UNIT


def is_heavy(units: float) -> bool:
    """Say whether a request keeps one of a model's two or so instances busy for a long time."""
    return units > _HEAVY_UNITS


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """How much the gateway takes on.

    Attributes:
        max_slowdown: how many times longer than alone a call may be expected to take.
        latency_floor_s: a call that is expected to take no longer than this is taken on, however fast it is alone.
        min_calls: calls that are always taken on, whatever the estimate.
        max_calls: calls at once, streams included; bounds what a call costs besides its message.
        max_queued_bytes: messages of calls in progress, streams not counted; one call may always exceed it.
        max_reading: calls whose message is being received at once. Together with `max_queued_bytes` this bounds the
            memory of messages: at most max_reading * Limits.max_message_bytes + max_queued_bytes.
        read_timeout_s: how long a message may take to arrive once it is its turn.
    """

    max_slowdown: float = 8.0
    latency_floor_s: float = 0.25
    min_calls: int = 8
    max_calls: int = 1024
    max_queued_bytes: int = 256 * _MIB
    max_reading: int = 32
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what would refuse every call.

        Raises:
            ValueError: naming the attribute.
        """
        if not self.max_slowdown >= 1:
            raise ValueError(f"max_slowdown must be at least 1; it is {self.max_slowdown}.")
        if not 0 <= self.latency_floor_s < math.inf:
            raise ValueError(f"latency_floor_s must be 0 or more; it is {self.latency_floor_s}.")
        for name in ("min_calls", "max_calls", "max_queued_bytes", "max_reading", "read_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive; it is {getattr(self, name)}.")


class WorkLedger:
    """One call that was taken on.

    Attributes:
        caller: whose call it is; None where callers have no names.
        units: work of the call that is not done yet.
    """

    def __init__(self, caller: Hashable = None) -> None:
        self.caller = caller
        self.units = 0.0

    def done(self, units: float) -> None:
        """Part of the work is done."""
        self.units = max(0.0, self.units - units)


class Admission:
    """Admits calls, measures how fast Triton is, sheds what would come too late, and owns Triton's slots.

    Belongs to one event loop.

    Args:
        config: how much to admit.
        max_concurrent: slots, that is requests in Triton at once.
        clock: seconds, monotonic.

    Attributes:
        slots: for requests in Triton, shared fairly between callers and their calls.
        receiving: places for messages that are being received.
    """

    def __init__(
        self, config: AdmissionConfig, *, max_concurrent: int = 32, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self.slots = FairSlots(max_concurrent)
        self.receiving = ReceivingPlaces(config.max_reading, clock=clock)
        self._ledgers: set[WorkLedger] = set()
        self._calls = 0
        self._queued_bytes = 0
        self._speed = _Speed(clock)
        self._heavy = FairSlots(_HEAVY_AT_ONCE)

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self._calls

    @property
    def queued_bytes(self) -> int:
        """Bytes of the messages of calls in progress."""
        return self._queued_bytes

    @property
    def units(self) -> float:
        """Work taken on and not done."""
        return sum(ledger.units for ledger in self._ledgers)

    @property
    def units_per_second(self) -> float:
        """How fast Triton works, as measured."""
        return self._speed.units_per_second

    @property
    def alone_s(self) -> float:
        """How long one unit takes on an idle service, as measured."""
        return self._speed.alone_s

    def estimate_s(self, units: float, *, caller: Hashable = None) -> float:
        """Return how long a call of so many units would take if it came now."""
        own = units
        others: defaultdict[Hashable, float] = defaultdict(float)
        for ledger in self._ledgers:
            if caller is not None and ledger.caller == caller:
                own += min(ledger.units, units)
            else:
                others[ledger if ledger.caller is None else ledger.caller] += ledger.units
        return (own + sum(min(ahead, own) for ahead in others.values())) / self._speed.units_per_second

    @contextmanager
    def call(self) -> Generator[None]:
        """Count a call, before its message is read.

        Raises:
            OverloadedError: there are too many.
        """
        if self._calls >= self._config.max_calls:
            message = f"This service has {self._calls:,} calls in progress, as many as it takes; try again later."
            raise OverloadedError(message, retry_s=_spread(self.estimate_s(1.0)))
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    @contextmanager
    def message(self, size_bytes: int) -> Generator[None]:
        """Hold a message's bytes.

        Raises:
            OverloadedError: with those of other calls they are too many.
        """
        if self._queued_bytes and self._queued_bytes + size_bytes > self._config.max_queued_bytes:
            message = "This service holds as many bytes of other requests as it may; try again later."
            raise OverloadedError(message, retry_s=_spread(self.estimate_s(1.0)))
        self._queued_bytes += size_bytes
        try:
            yield
        finally:
            self._queued_bytes -= size_bytes

    def check(self, units: float = 1.0, *, caller: Hashable = None, time_remaining_s: float | None = None) -> None:
        """Refuse a call of so many units if it would come too late; takes nothing on.

        Raises:
            OverloadedError: saying when to try again.
        """
        waiting = sum(1 for ledger in self._ledgers if ledger.units)
        if waiting < self._config.min_calls:
            return
        estimate_s = self.estimate_s(units, caller=caller)
        idle_s = max(self._speed.alone_s, units / self._speed.units_per_second)
        allowed_s = max(self._config.latency_floor_s, self._config.max_slowdown * idle_s)
        if estimate_s > allowed_s:
            message = f"This service is busy: an answer would take about {estimate_s:.2f} s; try again later."
            raise OverloadedError(message, retry_s=_spread(estimate_s - allowed_s))
        if time_remaining_s is not None and estimate_s > time_remaining_s:
            message = (
                f"This service is busy: an answer would take about {estimate_s:.2f} s, and the deadline is in "
                f"{time_remaining_s:.2f} s; set a later one, or try again."
            )
            raise OverloadedError(message, retry_s=_spread(estimate_s - time_remaining_s))

    @contextmanager
    def ledger(self, caller: Hashable = None) -> Generator[WorkLedger]:
        """Track the work of one call, none at first; what is left at the end is forgotten."""
        ledger = WorkLedger(caller)
        self._ledgers.add(ledger)
        try:
            yield ledger
        finally:
            self._ledgers.discard(ledger)

    def admit(self, ledger: WorkLedger, units: float, *, time_remaining_s: float | None) -> None:
        """Add work to a call.

        Raises:
            OverloadedError: it would come too late.
            DeadlineExceededError: it has come too late already.
        """
        if time_remaining_s is not None and time_remaining_s <= 0:
            raise DeadlineExceededError("The deadline passed before the request was read.")
        if not ledger.units:  # a call is refused as a whole or not at all
            self.check(units, caller=ledger.caller, time_remaining_s=time_remaining_s)
        ledger.units += units

    def acquire_slot(
        self, call: Hashable, units: float, *, caller: Hashable = None
    ) -> AbstractAsyncContextManager[Hold]:
        """Wait for a slot in Triton and hold it, until all that `Hold.finish` was given is over.

        Args:
            call: whose turn it takes; one object for all requests of a call.
            units: what the request costs; of heavy ones one at a time gets through.
            caller: whose call it is; None where callers have no names.
        """
        return hold_until_done(self._slot(call, units, caller))

    @asynccontextmanager
    async def _slot(self, call: Hashable, units: float, caller: Hashable) -> AsyncGenerator[None]:
        if not is_heavy(units):
            async with self.slots.acquire(call, caller=caller):
                yield
            return
        async with self._heavy.acquire(call, caller=caller), self.slots.acquire(call, caller=caller):
            yield

    @contextmanager
    def work(self, ledger: WorkLedger | None, units: float) -> Generator[None]:
        """Measure one request in Triton, and take it off its call's work when it has come back."""
        request = self._speed.begin()
        is_done = False
        try:
            yield
            is_done = True
        finally:
            self._speed.end(request, units if is_done else 0.0)
            if ledger is not None:
                ledger.done(units)


@dataclass(eq=False)
class _Request:
    """In Triton now."""

    sent_s: float
    is_alone: bool


class _Speed:
    """How fast Triton works: when many requests keep it busy, and with one alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: set[_Request] = set()
        self._since_s = 0.0
        self._busy_s = 0.0
        self._units = 0.0
        self._alone: deque[float] = deque(maxlen=_ALONE_SAMPLES)

    @property
    def alone_s(self) -> float:
        return statistics.median(self._alone) if self._alone else _ALONE_S

    @property
    def units_per_second(self) -> float:
        # Requests that fail take time and do no work; nothing must be refused because of them alone.
        least = _LEAST_RATE / self.alone_s
        return max(least, self._units / self._busy_s) if self._busy_s and self._units else least

    def begin(self) -> _Request:
        self._account()
        for other in self._running:
            other.is_alone = False
        request = _Request(sent_s=self._clock(), is_alone=not self._running)
        self._running.add(request)
        return request

    def end(self, request: _Request, units: float) -> None:
        self._account()
        self._running.discard(request)
        self._units += units
        if request.is_alone and units:
            self._alone.append((self._clock() - request.sent_s) / units)

    def _account(self) -> None:
        """Add the time since the last change, if anything ran, and let the past fade."""
        now_s = self._clock()
        if self._running:
            elapsed_s = now_s - self._since_s
            fading = 2.0 ** (-elapsed_s / _RATE_HALF_LIFE_S)
            self._busy_s = self._busy_s * fading + elapsed_s
            self._units *= fading
        self._since_s = now_s


def _spread(retry_s: float) -> float:
    """Return a delay that differs from call to call, so that those refused together do not come back together."""
    return min(_MAX_RETRY_S, max(_MIN_RETRY_S, retry_s) * random.uniform(1.0, 1.5))
