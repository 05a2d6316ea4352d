from __future__ import annotations

import json

import pytest

from clipsr import InvalidRequestError
from clipsr._rpc.channel import channel_options, make_target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("localhost:50051", "dns:///localhost:50051"),
        ("gateway.example.org:443", "dns:///gateway.example.org:443"),
        ("127.0.0.1:50051", "ipv4:127.0.0.1:50051"),
        ("[::1]:50051", "ipv6:[::1]:50051"),
        ("dns:///gateway:50051", "dns:///gateway:50051"),
        ("unix:/run/clipsr.sock", "unix:/run/clipsr.sock"),
    ],
)
def test_targets(url, target):
    assert make_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:",
        ":50051",
        "localhost:port",
        "localhost:0",
        "localhost:65536",
        "localhost:-1",
        "::1:50051",
        "http://localhost:50051",
        "localhost/path:50051",
        "localhost:٥٠",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidRequestError, match=r"give HOST:PORT .* such as localhost:50051") as caught:
        make_target(url)
    assert caught.value.violations == (("url", str(caught.value)),)


def test_addresses_behind_a_name_share_the_calls():
    config = json.loads(dict(channel_options("gateway:50051"))["grpc.service_config"])
    assert config == {"loadBalancingConfig": [{"round_robin": {}}]}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "dns:///localhost", "ipv4:127.0.0.1"])
def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(
    connect, fake_service, monkeypatch, host, unused_port
):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    port = fake_service.url.rpartition(":")[2]
    assert connect(f"{host}:{port}", retries=0).health() == "SERVING"


@pytest.mark.parametrize("url", [None, b"localhost:50051", 50051])
def test_an_address_that_is_no_text_is_named(connect, url):
    with pytest.raises(TypeError, match=r"url is .* not text"):
        connect(url)
    with pytest.raises(TypeError, match=r"url is .* not text"):
        connect(url, api_key="key")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:1", 0),
        ("127.0.0.1:1", 0),
        ("[::1]:1", 0),
        ("Localhost.:1", 0),
        ("[::ffff:127.0.0.1]:1", 0),
        ("dns:///localhost:1", 0),
        ("dns:localhost", 0),
        ("dns://192.0.2.1/127.0.0.1:1", 0),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", 0),
        ("ipv6:[::1]:1", 0),
        ("unix:/run/clipsr.sock", 0),
        ("gateway:1", None),
        ("192.0.2.1:1", None),
        ("dns:///gateway:1", None),
        ("dns://127.0.0.1/gateway:1", None),
        ("ipv4:127.0.0.1:1,192.0.2.1:1", None),
        ("ipv6:[2001:db8::1]:1", None),
        ("localhost.example.org:1", None),
    ],
)
def test_only_calls_to_this_machine_pass_by_the_proxy(url, expected):
    assert dict(channel_options(url)).get("grpc.enable_http_proxy") == expected
