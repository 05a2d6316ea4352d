"""The parts of the benchmark, in turn; one that fails takes no other with it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

from benchmarks.baselines.engines import OPENVINO_INT8, TORCH
from benchmarks.serving import report, systems
from benchmarks.serving.measure import (
    CallPattern,
    Setting,
    closed,
    compare,
    first_answer_s,
    label_costs,
    latency_alone,
    log,
    offered_load,
    stage_times,
    sweep,
    ways,
    with_pattern,
)
from benchmarks.serving.systems import BareSystem, Folders, Server

__all__ = ["PARTS", "Bench"]

PARTS = ("start", "compare", "sweep", "latency", "stages", "labels", "load", "small")
# Starts that count; one before them fills the caches.
_MOST_STARTS = 3
_Baseline = Callable[[Folders], Any]


class Bench:
    """Carries out parts.

    Args:
        folders: where things are.
        setting: how much is measured.
        profile: of the service.
        other_profile: of the service, compared beside the first; None for none.
        baselines: that are compared, by name.
        engines: bare ones; the first is what the service runs, and its stages are those of one caller.
        small: how the model that ships is started, instead of the random one.
        keep: called with a part and what it found; again if it found more.
        max_concurrent: of the gateway, None for its own.
        is_stream: whether the service is asked by streams, a stream a caller.
    """

    def __init__(
        self,
        *,
        folders: Folders,
        setting: Setting,
        profile: str,
        other_profile: str | None = None,
        baselines: Mapping[str, _Baseline],
        engines: Sequence[str],
        small: Folders,
        keep: Callable[[str, Mapping[str, Any]], None],
        max_concurrent: int | None = None,
        is_stream: bool = False,
    ) -> None:
        self._folders, self._setting, self._profile, self._small_folders = folders, setting, profile, small
        self._other_profile = other_profile
        self._baselines, self._engines, self._keep = baselines, engines, keep
        self._max_concurrent, self._is_stream = max_concurrent, is_stream
        self.failures: list[str] = []

    def run(self, parts: Sequence[str]) -> None:
        """Measure these parts; what fails is in `failures` afterwards.

        Raises:
            StartError: the service does not start.
        """
        if "start" in parts:
            with self._attempt("start"):
                self._start()
        if {"compare", "sweep", "latency", "stages", "labels", "load"} & set(parts):
            self._run_with_service(parts)
        if "small" in parts:
            with self._attempt("small"):
                self._small()

    def _run_with_service(self, parts: Sequence[str]) -> None:
        with self._serve(self._folders, "clipsr") as own:
            if self._is_stream:
                own = replace(own, target=replace(own.target, kind="grpc-stream"))
            if {"compare", "sweep"} & set(parts):
                self._run_with_others(own, parts)
            if "latency" in parts:
                with self._attempt("latency"):
                    self._latency(own)
            if "stages" in parts:
                with self._attempt("stages"):
                    callers = (1, self._setting.callers[-1])
                    self._keep("stages", {"stages": {str(n): stage_times(own, n, self._setting) for n in callers}})
            if "labels" in parts:
                with self._attempt("labels"), self._bare(TORCH) as torch_bare:
                    self._keep("labels", label_costs(own, torch_bare, self._setting))
            if "load" in parts:
                with self._attempt("load"):
                    self._load(own)

    def _run_with_others(self, own: Server, parts: Sequence[str]) -> None:
        with ExitStack() as running:
            servers = [own, _by_native_route(own)]
            if self._other_profile is not None:
                name = f"clipsr, {self._other_profile}"
                with self._attempt(name):
                    other = running.enter_context(self._serve(self._folders, name, self._other_profile))
                    servers.append(replace(other, target=replace(other.target, kind=own.target.kind)))
            servers += self._start_others(running)
            if "compare" in parts:
                with self._attempt("compare"):
                    self._compare(servers, running)
            if "sweep" in parts:
                with self._attempt("sweep"):
                    found: list[dict[str, Any]] = []
                    for server in servers:
                        found += [asdict(m) for m in sweep(server, self._setting)]
                        log(f"{server.name}: {len(self._setting.sweep_callers)} numbers of callers")
                    self._keep("sweep", {"measurements": found})

    def _start_others(self, running: ExitStack) -> list[Server]:
        """Return the baselines that start; each sleeps while the next one starts."""
        servers = []
        for name, baseline in self._baselines.items():
            with self._attempt(name):
                server = running.enter_context(baseline(self._folders))
                server.pause()
                servers.append(server)
                log(f"{server.name} started in {server.start_s:.1f} s")
        return servers

    def _compare(self, servers: Sequence[Server], running: ExitStack) -> None:
        bares = []
        for engine in self._engines:
            bares.append(BareSystem(self._folders, engine))
            running.callback(bares[-1].close)
        found: list[dict[str, Any]] = []
        section = {
            "measurements": found,
            "bare": next((bare.name for bare in bares if not bare.name.endswith(OPENVINO_INT8)), ""),
            "start_s": {server.name: server.start_s for server in servers},
        }
        for measured in compare(servers, bares, self._setting):
            found += [asdict(m) for m in measured]
            n_done = found[-1]["round"] + 1
            is_done = n_done == self._setting.n_rounds
            unfinished = {"incomplete": f"{n_done} of {self._setting.n_rounds} rounds"}
            self._keep("compare", section if is_done else section | unfinished)

    def _latency(self, own: Server) -> None:
        with self._bare(self._engines[0] if self._engines else None) as bare:
            if bare is None:
                log("latency: nothing to compare with, by --no-bare")
                return
            self._keep("latency", latency_alone([own, _by_native_route(own)], bare, self._setting))

    def _load(self, own: Server) -> None:
        found = []
        for way in ways(self._setting.callers[-1]):
            asked = with_pattern(own, way)
            capacity = self._closed(asked, way).images_per_s
            found += [asdict(m) for m in offered_load(asked, capacity, self._setting)]
            log(f"{way.name}: {capacity:.1f} images/s at most")
        self._keep("load", {"measurements": found})

    def _small(self) -> None:
        setting = self._setting
        found = []
        with self._serve(self._small_folders, "small") as server:
            all_ways = ways(setting.callers[-1])
            for i in range(setting.n_rounds):
                start = i % len(all_ways)
                found += [
                    self._closed(with_pattern(server, way), way, i) for way in all_ways[start:] + all_ways[:start]
                ]
        log("; ".join(f"{m.system}: {m.images_per_s:.0f} images/s" for m in found[-len(all_ways) :]))
        manifest = json.loads((self._small_folders.repository / "manifest.json").read_text(encoding="utf-8"))
        self._keep("small", {"small_model": manifest["name"], "measurements": [asdict(m) for m in found]})

    def _closed(self, server: Server, way: CallPattern, number: int = 0) -> Any:
        return closed(server, way.callers, self._setting, number, streams=way.streams)

    def _start(self) -> None:
        times = []
        for i in range(1 + max(1, min(self._setting.n_rounds, _MOST_STARTS))):
            with self._serve(self._folders, "start") as server:
                # `clipsr-serve up --detach` returns after a real image went through both routes; then comes a caller.
                target = replace(server.target, labels=server.target.labels[:2])
                times.append(server.start_s + first_answer_s(replace(server, target=target), self._setting))
                log(f"start {i}: {times[-1]:.1f} s")
        self._keep("start", {"first_answer_s": times[1:], "cold_s": times[0]})

    def _serve(self, folders: Folders, name: str, profile: str | None = None) -> Any:
        profile = profile or self._profile
        return systems.clipsr(folders, profile=profile, name=name, max_concurrent=self._max_concurrent)

    @contextmanager
    def _bare(self, engine: str | None) -> Iterator[BareSystem | None]:
        """Return a bare engine for the time of the context; none where there are to be none."""
        if engine is None or not self._engines:
            yield None
            return
        bare = BareSystem(self._folders, engine)
        try:
            yield bare
        finally:
            bare.close()

    @contextmanager
    def _attempt(self, what: str) -> Iterator[None]:
        """Note a failure and go on: an hour of other figures is worth more than none."""
        log(f"{what} …")
        began_s = time.monotonic()
        try:
            yield
            log(f"{what}: {time.monotonic() - began_s:.0f} s")
        except Exception as error:
            traceback.print_exc()
            self.failures.append(f"{what}: {error}")


def _by_native_route(server: Server) -> Server:
    return replace(server, name=report.NATIVE, target=replace(server.target, route="native"))
