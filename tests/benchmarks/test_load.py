"""The load generator: its statistics on made-up calls, its loops on a made-up clock, its processes on real sockets."""

from __future__ import annotations

import asyncio
import io
import itertools
import statistics
import subprocess
import sys
import time
from concurrent import futures
from dataclasses import replace

import grpc
import pytest
import trustme
from aiohttp import web
from benchmarks.load import ClosedLoop, OpenLoop, Plan, Sample, Target, run_load, summarize
from benchmarks.load.access import Access
from benchmarks.load.drivers import connect
from benchmarks.load.generator import LoadError
from benchmarks.load.http_driver import http_body
from benchmarks.load.images import MADE_UP, as_png, read_images
from benchmarks.load.loops import arrivals, closed_loop, open_loop
from benchmarks.load.processes import measure_usage, tree
from benchmarks.load.summary import percentile
from google.rpc import code_pb2, status_pb2
from PIL import Image

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, types_pb2
from tests.waiting import wait_until


class Clock:
    """Seconds that pass only in `sleep`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def ok(due_s: float, ended_s: float, *, sent_s: float | None = None) -> Sample:
    return Sample(due_s, due_s if sent_s is None else sent_s, ended_s, "OK")


def test_a_percentile_is_a_value_that_was_measured():
    assert [percentile(list(range(1, 101)), f) for f in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile(list(range(1, 1001)), 0.999) == 999
    assert percentile([7.0], 0.999) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_warm_up_and_what_comes_after_do_not_count():
    samples = [ok(0.5, 9.0), ok(1.0, 1.1), ok(1.9, 2.5), ok(2.0, 2.1), Sample(1.5, 1.5, 1.6, "UNAVAILABLE")]
    summary = summarize(samples, begin_s=1.0, measure_s=1.0)
    assert summary.n_calls == 3
    assert summary.errors == {"UNAVAILABLE": 1}
    assert summary.latency_ms["p50"] == pytest.approx(100)
    assert summary.latency_ms["max"] == pytest.approx(600)
    assert summary.throughput == 1.0  # only one answer arrived in that second


def test_without_an_answer_there_are_no_percentiles():
    summary = summarize([Sample(0.0, 0.0, 0.1, "UNAVAILABLE")], begin_s=0.0, measure_s=1.0)
    assert summary.latency_ms == {}
    assert summary.throughput == 0.0


def test_latency_counts_from_the_intended_time():
    """A stall of one second under 100 calls a second: nearly 100 calls wait, not one."""
    due = [i / 100 for i in range(1000)]
    samples = [ok(d, max(d, 5.0 if 4.0 <= d < 5.0 else d) + 0.001, sent_s=d) for d in due]
    summary = summarize(samples, begin_s=0.0, measure_s=10.0)
    assert summary.latency_ms["p50"] == pytest.approx(1.0)
    assert summary.latency_ms["p99"] > 850
    one_at_a_time = [ok(d, d + (1.001 if d == 4.0 else 0.001)) for d in due if not 4.0 < d < 5.0]
    coordinated = summarize(one_at_a_time, begin_s=0.0, measure_s=10.0)
    assert coordinated.latency_ms["p99"] < 2  # what a caller who waits would report


async def test_an_open_loop_does_not_wait_for_a_service_that_stalls():
    stall_s, rate = 0.4, 100.0
    began_s = time.monotonic()

    async def ask(number: int) -> str:
        await asyncio.sleep(max(0.0, began_s + stall_s - time.monotonic()))
        return "OK"

    times = [i / rate for i in range(30)]
    samples = await open_loop([ask], iter(times), start_s=began_s)
    assert sorted(s.due_s - began_s for s in samples) == pytest.approx(times)
    waited = sorted((s.ended_s - s.due_s for s in samples), reverse=True)
    assert waited[0] >= stall_s - 0.01
    assert waited[-1] >= stall_s - max(times) - 0.01  # the last one too, by as much as was left of the stall


async def test_a_generator_that_falls_behind_counts_its_own_delay():
    clock = Clock()

    async def ask(number: int) -> str:
        clock.now_s += 1.0  # the whole process is busy meanwhile
        return "OK"

    samples = await open_loop([ask], iter([0.0, 0.1, 0.2]), start_s=100.0, clock=clock)
    by_due = sorted(samples, key=lambda s: s.due_s)
    assert by_due[-1].sent_s - by_due[-1].due_s > 1.5
    assert summarize(samples, begin_s=100.0, measure_s=1.0).lag_ms > 1500
    assert summarize(samples, begin_s=100.0, measure_s=1.0).latency_ms["max"] > 2500


async def test_a_closed_loop_has_as_many_calls_under_way_as_callers():
    under_way, most = 0, 0
    clock = Clock()

    async def ask(number: int) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        clock.now_s += 0.01
        under_way -= 1
        return "OK"

    samples = await closed_loop([ask] * 3, start_s=100.0, end_s=100.05, clock=clock)
    assert most == 3
    assert all(s.sent_s == s.due_s for s in samples)
    assert max(s.sent_s for s in samples) < 100.05


def test_arrivals_are_poisson():
    rate, seconds = 200.0, 100.0
    times = list(arrivals(rate, seconds, seed=1))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == pytest.approx(rate * seconds, rel=5 / (rate * seconds) ** 0.5)  # five standard deviations
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)  # as an exponential has it
    assert times == list(arrivals(rate, seconds, seed=1))
    assert times != list(arrivals(rate, seconds, seed=2))


def test_the_shares_of_all_processes_make_the_plan():
    plan = Plan(target=Target(kind="grpc", url="x", labels=("a", "b")), loop=ClosedLoop(callers=5), images_from=MADE_UP)
    shares = [plan.share(i, 3) for i in range(3)]
    assert sum(share.loop.callers for share in shares) == 5
    rates = [Plan.from_json(plan.to_json()).share(i, 4) for i in range(4)]
    assert len({share.seed for share in rates}) == 4
    access = Access(api_key="secret", ca_file="ca.pem")
    guarded = Target(kind="grpc", url="x", label_set="pets", access=access)
    offered = Plan(target=guarded, loop=OpenLoop(rate=10), images_from=MADE_UP)
    assert sum(offered.share(i, 4).loop.rate for i in range(4)) == pytest.approx(10)
    for each in (plan, offered):
        assert Plan.from_json(each.to_json()) == each


@pytest.mark.parametrize("make", [lambda: ClosedLoop(callers=0), lambda: OpenLoop(rate=0)])
def test_a_load_of_nothing_is_refused(make):
    with pytest.raises(ValueError, match="is 0"):
        make()


def test_made_up_images_are_the_same_every_time(tmp_path):
    images = read_images(MADE_UP, 3)
    assert images == read_images(MADE_UP, 3)
    assert len(set(images)) == 3
    assert Image.open(io.BytesIO(images[0])).size == (32, 32)
    other = io.BytesIO()
    Image.open(io.BytesIO(images[0])).save(other, "WEBP", lossless=True)
    assert as_png(images[0]) is images[0]
    assert Image.open(io.BytesIO(as_png(other.getvalue()))).tobytes() == Image.open(io.BytesIO(images[0])).tobytes()
    (tmp_path / "a.png").write_bytes(images[1])
    assert read_images(str(tmp_path), 9) == [images[1]]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="no images"):
        read_images(str(tmp_path), 1)


class Fake(classifier_pb2_grpc.ClassifierServiceServicer):
    """Answers every other image with an error; refuses calls without labels."""

    def Classify(self, request, context):  # noqa: N802 - gRPC's name
        if not request.options.label_space.labels:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no labels")
        return classifier_pb2.ClassifyResponse(results=[self._result(image.content) for image in request.images])

    def ClassifyStream(self, requests, context):  # noqa: N802 - gRPC's name
        for request in requests:
            if request.WhichOneof("message") == "image":
                result = self._result(request.image.image.content)
                yield classifier_pb2.ClassifyStreamResponse(index=request.image.index, result=result)

    def _result(self, content: bytes) -> classifier_pb2.ClassifyResult:
        if content == b"bad":
            return classifier_pb2.ClassifyResult(error=status_pb2.Status(code=code_pb2.INVALID_ARGUMENT))
        return classifier_pb2.ClassifyResult(
            classification=classifier_pb2.Classification(route=types_pb2.ROUTE_UPSCALED)
        )


@pytest.fixture
def fake_url():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(Fake(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


class Guarded(Fake):
    """Answers only callers that send the key."""

    def _check(self, context):
        if ("authorization", "Bearer secret") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")

    def Classify(self, request, context):  # noqa: N802 - gRPC's name
        self._check(context)
        return super().Classify(request, context)

    def ClassifyStream(self, requests, context):  # noqa: N802 - gRPC's name
        self._check(context)
        yield from super().ClassifyStream(requests, context)


@pytest.fixture
def guarded(tmp_path):
    """URL of a server that wants TLS, a certificate and a key, and the access that it grants."""
    authority = trustme.CA()
    own, callers = authority.issue_cert("localhost"), authority.issue_cert("caller")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    callers.cert_chain_pems[0].write_to_path(tmp_path / "caller.pem")
    callers.private_key_pem.write_to_path(tmp_path / "caller.key")
    server = grpc.server(futures.ThreadPoolExecutor(8))
    classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(Guarded(), server)
    pair = (own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    files = {name: str(tmp_path / file) for name, file in
             (("ca_file", "ca.pem"), ("cert_file", "caller.pem"), ("key_file", "caller.key"))}  # fmt: skip
    yield f"localhost:{port}", Access(api_key="secret", **files)
    server.stop(None).wait()


@pytest.mark.parametrize("kind", ["grpc", "grpc-stream"])
async def test_callers_show_key_and_certificate(guarded, kind):
    url, access = guarded
    target = Target(kind=kind, url=url, labels=("a",), access=access)
    async with connect(target, [b"good"], connections=1, timeout_s=10) as asks:
        assert await asks[0](0) == "OK"


async def test_callers_without_key_or_certificate_get_nothing(guarded):
    url, access = guarded
    for given, expected in (
        (replace(access, api_key="wrong"), "UNAUTHENTICATED"),
        (replace(access, cert_file="", key_file=""), "UNAVAILABLE"),
    ):
        target = Target(kind="grpc", url=url, labels=("a",), access=given)
        async with connect(target, [b"good"], connections=1, timeout_s=10) as asks:
            assert await asks[0](0) == expected


@pytest.mark.parametrize("kind", ["grpc", "grpc-stream"])
async def test_an_image_that_fails_is_an_error_of_its_own(fake_url, kind):
    target = Target(kind=kind, url=fake_url, labels=("a",))
    async with connect(target, [b"good", b"bad"], connections=2, timeout_s=10) as asks:
        statuses = await asyncio.gather(*(asks[n % 2](n // 2) for n in range(8)))
    assert statuses == ["OK", "OK", "INVALID_ARGUMENT", "INVALID_ARGUMENT"] * 2


async def test_of_a_call_with_several_images_all_must_succeed(fake_url):
    target = Target(kind="grpc", url=fake_url, labels=("a",), images_per_call=3)
    images = [b"1", b"2", b"3", b"4", b"bad"]
    async with connect(target, images, connections=1, timeout_s=10) as asks:
        assert [await asks[0](n) for n in range(6)] == ["OK", "OK", *["INVALID_ARGUMENT"] * 3, "OK"]
    with pytest.raises(ValueError, match="3 images a call of grpc-stream"):
        Target(kind="grpc-stream", url="x", images_per_call=3)
    samples = [ok(0.1, 0.2), ok(0.1, 0.3), Sample(0.1, 0.1, 0.3, "INVALID_ARGUMENT")]
    assert summarize(samples, begin_s=0.0, measure_s=2.0, images_per_call=3).throughput == 3.0


async def test_callers_share_a_stream(fake_url):
    target = Target(kind="grpc-stream", url=fake_url, labels=("a",))
    async with connect(target, [b"good", b"bad"], connections=1, timeout_s=10) as asks:
        statuses = await asyncio.gather(*(asks[0](n) for n in range(20)))
    assert statuses == ["OK", "INVALID_ARGUMENT"] * 10


class Counting(classifier_pb2_grpc.ClassifierServiceServicer):
    """Counts its calls."""

    def __init__(self) -> None:
        self.n_calls = 0

    def Classify(self, request, context):  # noqa: N802 - gRPC's name
        self.n_calls += 1
        result = classifier_pb2.ClassifyResult(classification=classifier_pb2.Classification())
        return classifier_pb2.ClassifyResponse(results=[result])


async def test_several_servers_are_asked_in_turn():
    services = [Counting(), Counting()]
    servers = [grpc.server(futures.ThreadPoolExecutor(2)) for _ in services]
    ports = []
    for server, service in zip(servers, services, strict=True):
        classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(service, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        server.start()
    url = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    async with connect(Target(kind="grpc", url=url), [b"x"], connections=1, timeout_s=10) as asks:
        while not all(service.n_calls for service in services):  # until both connections stand
            await asks[0](0)
        for service in services:
            service.n_calls = 0
        assert {await asks[0](n) for n in range(20)} == {"OK"}
    assert [service.n_calls for service in services] == [10, 10]
    for server in servers:
        server.stop(None).wait()


async def test_what_is_not_there_is_an_error_and_no_exception():
    async with connect(Target(kind="grpc", url="127.0.0.1:9"), [b"x"], connections=1, timeout_s=5) as asks:
        assert await asks[0](0) == "UNAVAILABLE"
    target = Target(kind="multipart", url="http://127.0.0.1:9/classify")
    async with connect(target, [b"x"], connections=1, timeout_s=5) as asks:
        assert "Connect" in await asks[0](0)


async def test_every_http_system_gets_the_image():
    image, bodies = b"\x89PNG image", []

    async def handle(request: web.Request) -> web.Response:
        if request.content_type == "multipart/form-data":
            bodies.append((await request.post())["file"].file.read())
        else:
            bodies.append(await request.json())
        return web.json_response({}) if len(bodies) < 4 else web.Response(status=503)

    application = web.Application()
    application.router.add_post("/", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    statuses = []
    for kind in ("multipart", "json-base64", "infinity", "multipart"):
        target = Target(kind=kind, url=f"http://127.0.0.1:{port}/")
        async with connect(target, [image], connections=1, timeout_s=10) as asks:
            statuses.append(await asks[0](0))
    await runner.cleanup()
    assert statuses == ["OK", "OK", "OK", "HTTP 503"]
    assert bodies[0] == image
    assert bodies[1]["image"] == "iVBORyBpbWFnZQ=="
    assert bodies[2]["input"] == ["data:image/png;base64,iVBORyBpbWFnZQ=="]
    assert bodies[2]["modality"] == "image"


def test_a_form_is_the_same_for_the_same_image():
    target = Target(kind="multipart", url="http://x/")
    assert http_body(target, b"1") == http_body(target, b"1")


@pytest.mark.parametrize(("loop", "processes"), [(ClosedLoop(callers=3), 2), (OpenLoop(rate=50), 2)])
def test_processes_of_the_generator_ask_a_real_server(fake_url, loop, processes):
    target = Target(kind="grpc", url=fake_url, labels=("a", "b"))
    plan = Plan(target=target, loop=loop, images_from=MADE_UP, n_images=4, warm_up_s=0.1, measure_s=0.4)
    result = run_load(plan, processes=processes)
    assert result.summary.errors == {}
    assert result.summary.n_calls > 0
    assert result.summary.latency_ms["p50"] <= result.summary.latency_ms["max"]
    assert result.generator_cpu_s > 0
    assert min(s.due_s for s in result.samples) < result.begin_s + 0.4


def test_a_generator_that_cannot_begin_says_why(tmp_path):
    plan = Plan(target=Target(kind="grpc", url="x"), loop=ClosedLoop(callers=1), images_from=str(tmp_path))
    with pytest.raises(LoadError, match="holds no images"):
        run_load(plan)


def test_usage_counts_the_descendants_too():
    busy = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: len(tree([parent.pid])) >= 2)
        now_s = time.monotonic()
        usages = measure_usage([parent.pid], begin_s=now_s, end_s=now_s + 0.5)
        assert len(usages) == 2
        assert sum(u.cpu_s for u in usages.values()) > 0
        assert all(u.rss_mb > 1 for u in usages.values())
    finally:
        for process in tree([parent.pid]).values():
            process.kill()
        parent.wait()
    assert tree([parent.pid]) == {}


def test_a_folder_gives_every_kind_that_the_service_takes(tmp_path):
    for name in ("a.png", "b.AVIF", "c.heic", "d.jfif", "e.txt"):
        (tmp_path / name).write_bytes(name.encode())
    assert read_images(str(tmp_path), 9) == [b"a.png", b"b.AVIF", b"c.heic", b"d.jfif"]
