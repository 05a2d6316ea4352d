"""TLS and mutual TLS over a real socket, with certificates made for the test."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc
from clipsr_gateway import CertificateError, OperationsConfig, TlsConfig
from clipsr_gateway.cli import main

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


class Files:
    """An authority, and the server's certificate in files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.folder = folder
        self.folder.mkdir()
        self.config = TlsConfig(certificate=folder / "server.pem", key=folder / "server.key")
        self.write_server(self.authority.issue_cert("localhost"))
        self.authority.cert_pem.write_to_path(folder / "authority.pem")

    def write_server(self, certificate: trustme.LeafCert) -> None:
        certificate.private_key_pem.write_to_path(self.config.key)
        self.config.certificate.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))

    def mutual(self) -> TlsConfig:
        return TlsConfig(
            certificate=self.config.certificate, key=self.config.key, client_ca=self.folder / "authority.pem"
        )


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "tls")


async def ask(port: int, authority: trustme.CA, client: trustme.LeafCert | None = None) -> Any:
    """One call over a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        client and client.private_key_pem.bytes(),
        client and b"".join(blob.bytes() for blob in client.cert_chain_pems),
    )
    # Two channels with the same arguments would share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options) as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        return await stub.GetModelInfo(classifier_pb2.GetModelInfoRequest(), timeout=10)


async def is_refused(*arguments: Any) -> bool:
    try:
        await ask(*arguments)
    except grpc.aio.AioRpcError as error:
        return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


async def test_tls_is_spoken_and_nothing_else(start, files, backend):
    one = await start(listen="localhost:0", operations=OperationsConfig(tls=files.config))
    assert (await ask(one.port, files.authority)).model_info.name == "clipsr-test"
    assert await is_refused(one.port, trustme.CA())
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # the fixture's own channel speaks plain text
        await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_wants_a_certificate_of_the_authority_that_is_valid_now(start, files):
    one = await start(listen="localhost:0", operations=OperationsConfig(tls=files.mutual()))
    good = files.authority.issue_cert("caller")
    expired = files.authority.issue_cert("caller", not_before=LONG_AGO, not_after=LONG_AGO.replace(month=2))
    assert (await ask(one.port, files.authority, good)).model_info.name == "clipsr-test"
    assert await is_refused(one.port, files.authority)
    assert await is_refused(one.port, files.authority, trustme.CA().issue_cert("caller"))
    assert await is_refused(one.port, files.authority, expired)
    assert not await is_refused(one.port, files.authority, good)


async def test_a_new_certificate_is_taken_over_and_a_broken_one_is_not(start, files, caplog):
    one = await start(listen="localhost:0", operations=OperationsConfig(tls=files.config))
    await ask(one.port, files.authority)
    renewed = trustme.CA()
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        files.write_server(renewed.issue_cert("localhost"))
        await ask(one.port, renewed)
        assert await is_refused(one.port, files.authority)
        files.config.certificate.write_text("half of a certif")
        await ask(one.port, renewed)
        files.config.key.unlink()
        await ask(one.port, renewed)
    events = [record.getMessage() for record in caplog.records]
    assert "certificate_loaded" in events
    assert "certificate_rejected" in events


async def test_wrong_files_are_found_at_the_start(start, files, tmp_path):
    other = Files(tmp_path / "other")
    cases = [
        (TlsConfig(certificate=files.config.certificate, key=other.config.key), "belongs|certificate of"),
        (TlsConfig(certificate=tmp_path / "none.pem", key=files.config.key), "cannot be read"),
        (
            TlsConfig(certificate=files.config.certificate, key=files.config.key, client_ca=files.config.key),
            "no PEM certificate",
        ),
    ]
    for tls, words in cases:
        with pytest.raises(CertificateError, match=words):
            await start(operations=OperationsConfig(tls=tls))


@pytest.mark.parametrize(
    "options",
    [
        ("--tls-cert", "a"),
        ("--tls-key", "a"),
        ("--tls-client-ca", "a"),
        ("--max-slowdown", "0.5"),
        ("--latency-floor", "-1"),
    ],
)
def test_options_that_need_each_other(options, capsys):
    assert main(options) == 2
    assert options[0] in capsys.readouterr().err
