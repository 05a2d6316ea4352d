"""TLS, client certificates and API keys of both clients, against servers that ask for them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from clipsr import AsyncClient, AuthenticationError, Client, InvalidRequestError, ServiceUnavailableError
from clipsr._rpc.channel import is_local
from clipsr._rpc.credentials import Access, make_access

KEY = "clipsr_0123456789abcdef"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, other-ca.pem, and cert.pem and key.pem of a client."""
    folder = tmp_path_factory.mktemp("certificates")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    write_pair(ca.issue_cert("client@example.org"), folder, "cert.pem", "key.pem")
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    write_pair(ca.issue_cert("client@example.org", not_after=past), folder, "expired.pem", "expired-key.pem")
    return folder


def write_pair(leaf: trustme.LeafCert, folder: Path, cert: str, key: str) -> None:
    leaf.cert_chain_pems[0].write_to_path(folder / cert)
    leaf.private_key_pem.write_to_path(folder / key)


@pytest.fixture
def serve(fake_service: Any, ca: trustme.CA) -> Iterator[Callable[..., Any]]:
    """Starts a server with a certificate for a name, which may ask its clients for one."""
    servers: list[Any] = []

    def start(name: str = "127.0.0.1", *, asks_for_certificate: bool = False) -> Any:
        leaf = ca.issue_cert(name)
        credentials = grpc.ssl_server_credentials(
            [(leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())],
            root_certificates=ca.cert_pem.bytes() if asks_for_certificate else None,
            require_client_auth=asks_for_certificate,
        )
        server = type(fake_service)()
        server.start(credentials=credentials)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def ask(client: Any) -> None:
    """One unary call and one stream."""
    assert client.model_info(timeout_s=20).name == "clipsr-test"
    assert len(list(client.classify_stream([b"photo"], ["cat"]))) == 1


class TestTls:
    def test_a_service_of_a_trusted_authority(self, connect, serve, files):
        ask(connect(serve().url, tls=files / "ca.pem"))
        ask(connect(serve().url, tls=str(files / "ca.pem")))

    def test_a_service_of_another_authority(self, connect, serve, files):
        with pytest.raises(AuthenticationError, match=r"No TLS connection .*CA that you trust") as caught:
            connect(serve().url, tls=files / "other-ca.pem").model_info()
        assert caught.value.code == "UNAVAILABLE"

    def test_the_public_authorities_do_not_know_ours(self, connect, serve):
        with pytest.raises(AuthenticationError):
            connect(serve().url, tls=True).model_info()

    def test_a_certificate_of_another_name(self, connect, serve, files):
        with pytest.raises(AuthenticationError):
            connect(serve("example.org").url, tls=files / "ca.pem").model_info()

    def test_a_service_without_tls(self, connect, fake_service, files):
        with pytest.raises(AuthenticationError, match="check that the service uses TLS"):
            connect(fake_service.url, tls=files / "ca.pem").model_info()

    def test_a_service_with_tls_that_is_called_without(self, connect, serve):
        with pytest.raises(ServiceUnavailableError, match="TLS"):
            connect(serve().url, retries=0).model_info()

    def test_a_stream_says_so_too(self, connect, serve, files):
        with pytest.raises(AuthenticationError):
            list(connect(serve().url, tls=files / "other-ca.pem").classify_stream([b"photo"], ["cat"]))


class TestClientCertificates:
    def test_the_right_one(self, connect, serve, files):
        options = {"tls": files / "ca.pem", "cert_file": files / "cert.pem", "key_file": files / "key.pem"}
        ask(connect(serve(asks_for_certificate=True).url, **options))

    @pytest.mark.parametrize("pair", [None, ("expired.pem", "expired-key.pem")], ids=["none", "expired"])
    def test_none_or_an_expired_one(self, connect, serve, files, pair):
        options = {"cert_file": files / pair[0], "key_file": files / pair[1]} if pair else {}
        server = serve(asks_for_certificate=True)
        with pytest.raises((AuthenticationError, ServiceUnavailableError)):
            connect(server.url, tls=files / "ca.pem", retries=0, **options).model_info()
        assert server.metadata == []

    @pytest.mark.parametrize("given", ["cert_file", "key_file"])
    def test_both_files_belong_together(self, connect, files, given):
        with pytest.raises(InvalidRequestError, match="give both"):
            connect("localhost:1", tls=True, **{given: files / "cert.pem"})

    def test_it_needs_tls(self, connect, files):
        with pytest.raises(InvalidRequestError, match="needs TLS"):
            connect("localhost:1", cert_file=files / "cert.pem", key_file=files / "key.pem")


class TestFiles:
    def test_one_that_is_not_there(self, connect, tmp_path):
        with pytest.raises(InvalidRequestError, match=r"gone\.pem' of tls cannot be read: No such file"):
            connect("localhost:1", tls=tmp_path / "gone.pem")

    def test_one_that_is_no_pem(self, connect, tmp_path):
        (tmp_path / "cert.der").write_bytes(b"\x30\x82")
        with pytest.raises(InvalidRequestError, match="holds no PEM block"):
            connect("localhost:1", tls=tmp_path / "cert.der")


class TestApiKey:
    def test_it_goes_with_every_call(self, connect, fake_service):
        fake_service.keys = {KEY}
        client = connect(fake_service.url, api_key=KEY)
        ask(client)
        client.classify([b"photo"], ["cat"])
        client.embed_images([b"photo"])
        client.embed_texts(["cat"])
        client.upscale(b"photo", scale=2)
        assert len(fake_service.metadata) == 6
        assert {sent["authorization"] for sent in fake_service.metadata} == {f"Bearer {KEY}"}

    @pytest.mark.parametrize("key", [None, "another"])
    def test_without_the_right_one_nothing_is_asked_twice(self, connect, fake_service, key):
        fake_service.keys = {KEY}
        client = connect(fake_service.url, api_key=key)
        with pytest.raises(AuthenticationError, match="does not let you in: No such key") as caught:
            client.model_info()
        assert caught.value.code == "UNAUTHENTICATED"
        assert len(fake_service.metadata) == 1
        with pytest.raises(AuthenticationError):
            list(client.classify_stream([b"photo"], ["cat"]))

    def test_a_key_that_may_not(self, connect, fake_service):
        fake_service.abort(grpc.StatusCode.PERMISSION_DENIED, "Not with this key.")
        with pytest.raises(AuthenticationError) as caught:
            connect(fake_service.url, api_key=KEY).model_info()
        assert caught.value.code == "PERMISSION_DENIED"

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_it_does_not_travel_in_the_open(self, kind):
        with pytest.raises(InvalidRequestError, match=r"in the open: use TLS") as caught:
            kind("gateway:50051", api_key=KEY)
        assert KEY not in str(caught.value)
        kind("gateway:50051", api_key=KEY, tls=True)
        kind("gateway:50051", api_key=KEY, allow_insecure_key=True)
        kind("localhost:50051", api_key=KEY)

    @pytest.mark.parametrize("key", ["", "a b", "a\nb", "schlüssel", "a\x00"])
    def test_what_is_no_key(self, connect, key):
        with pytest.raises(InvalidRequestError, match="holds characters that no key has") as caught:
            connect("localhost:1", api_key=key)
        assert not key or key not in str(caught.value)

    def test_it_is_in_no_representation(self):
        access = make_access(
            "localhost:1", tls=False, cert_file=None, key_file=None, api_key=KEY, allow_insecure_key=False
        )
        assert access.metadata == (("authorization", f"Bearer {KEY}"),)
        assert KEY not in repr(access)
        assert isinstance(access, Access)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:1", True),
        ("127.0.0.9:1", True),
        ("[::1]:1", True),
        ("unix:/run/clipsr.sock", True),
        ("gateway:1", False),
        ("192.0.2.1:1", False),
        ("dns:///gateway:1", False),
        ("ipv4:192.0.2.1:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_what_stays_on_this_machine(url, expected):
    assert is_local(url) is expected
