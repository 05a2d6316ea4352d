"""TLS, API keys and retries on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import grpc
import pytest
import trustme

from clipsr.cli._main import cli

KEY = "clipsr_0123456789abcdef"
CONNECTION = {"--url", "--timeout", "--tls", "--ca", "--cert", "--key", "--api-key-file", "--allow-insecure-key"}


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return str(path)


def commands(group: click.Group = cli) -> dict[str, click.Command]:
    """Every command that asks something, also of groups in the group."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        below = commands(command) if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {rest}".strip(): each for rest, each in below.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_the_options(name):
    assert {option for parameter in commands()[name].params for option in parameter.opts} >= CONNECTION


def test_no_option_takes_a_key():
    options = {option for command in commands().values() for parameter in command.params for option in parameter.opts}
    assert "--api-key" not in options


class TestApiKey:
    @pytest.fixture(autouse=True)
    def _ask_for_it(self, fake_service):
        fake_service.keys = {KEY}

    def test_from_the_environment(self, run, monkeypatch):
        monkeypatch.setenv("CLIPSR_API_KEY", KEY)
        assert run("info").code == 0

    def test_from_a_file(self, run, monkeypatch, key_file):
        assert run("info", "--api-key-file", key_file).code == 0
        monkeypatch.setenv("CLIPSR_API_KEY_FILE", key_file)
        assert run("info").code == 0

    def test_the_file_comes_first(self, run, monkeypatch, key_file):
        monkeypatch.setenv("CLIPSR_API_KEY", "another")
        assert run("info", "--api-key-file", key_file).code == 0

    @pytest.mark.parametrize("key", ["", "another"])
    def test_none_or_a_wrong_one(self, run, monkeypatch, key):
        monkeypatch.setenv("CLIPSR_API_KEY", key)
        done = run("info")
        assert (done.code, done.out) == (4, "")
        assert "does not let you in: No such key." in done.err
        assert "--api-key-file" in done.err

    @pytest.mark.parametrize("content", [b"", b"two words", b"\xff"])
    def test_a_file_that_holds_none(self, run, tmp_path, content):
        (tmp_path / "key").write_bytes(content)
        done = run("info", "--api-key-file", str(tmp_path / "key"))
        assert done.code == 2
        assert "key" in done.err
        assert "two words" not in done.err

    def test_a_file_that_is_not_there(self, run):
        done = run("info", "--api-key-file", "gone")
        assert done.code == 2
        assert "'gone' cannot be read: No such file" in done.err

    def test_it_does_not_travel_in_the_open(self, run, monkeypatch):
        monkeypatch.setenv("CLIPSR_API_KEY", KEY)
        done = run("info", "--url", "gateway.example.org:50051")
        assert done.code == 2
        assert "in the open" in done.err
        assert KEY not in done.err


class TestTls:
    def test_a_service_with_tls_and_client_certificates(self, run, fake_service, tmp_path):
        ca, server = trustme.CA(), type(fake_service)()
        leaf, client = ca.issue_cert("127.0.0.1"), ca.issue_cert("client@example.org")
        ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        client.private_key_pem.write_to_path(tmp_path / "key.pem")
        pair = (leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
        server.start(
            credentials=grpc.ssl_server_credentials(
                [pair], root_certificates=ca.cert_pem.bytes(), require_client_auth=True
            )
        )
        options = [str(word) for name in ("ca", "cert", "key") for word in (f"--{name}", tmp_path / f"{name}.pem")]
        try:
            assert run("info", "--url", server.url, *options).code == 0
            done = run("info", "--url", server.url, "--tls", "--retries", "0")
            assert done.code == 4
            assert "No TLS connection" in done.err
        finally:
            server.stop()

    def test_half_a_certificate(self, run, tmp_path):
        done = run("info", "--tls", "--cert", str(tmp_path / "cert.pem"))
        assert done.code == 2
        assert "takes two files" in done.err


@pytest.mark.parametrize("retries", [0, 2])
def test_retries(run, fake_service, folder, retries):
    fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Down.")
    done = run("info", "--retries", str(retries))
    assert done.code == 3
    assert len(fake_service.metadata) == 1 + retries


def test_a_rate_that_is_exceeded(run, fake_service, folder):
    from google.protobuf.duration_pb2 import Duration
    from google.rpc import error_details_pb2

    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=99))
    fake_service.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Slower.", retry)
    done = run("info")
    assert done.code == 3
    assert "Slower. Try again in 99 s." in done.err


def test_none_of_these_is_shown_where_it_is_asked_for(run, folder):
    arguments = ["classify", str(folder / "a.jpg"), "--labels", "cat,dog", "--min-cosine", "0.9", "--top-k", "1"]
    assert "none (cat)" in run(*arguments).out
    assert json.loads(run(*arguments, "--format", "json").out)["none_of_these"] is True
    header, row = csv.reader(run(*arguments, "--format", "csv").out.splitlines())
    assert row[header.index("none_of_these")] == "true"


def test_the_models_own_rule_for_none_of_these(run, folder):
    arguments = ["classify", str(folder / "a.jpg"), "--labels", "cat,dog", "--none-of-these", "--top-k", "1"]
    assert "none (cat)" in run(*arguments).out
    record = json.loads(run(*arguments, "--format", "json").out)
    assert (record["none_of_these"], record["none_probability"]) == (True, 0.75)
    header, row = csv.reader(run(*arguments, "--format", "csv").out.splitlines())
    assert row[header.index("none_probability")] == "0.75"
