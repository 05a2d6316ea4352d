"""`make audit` says what the vulnerability service says, and never takes silence for good news."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.conftest import REPO_ROOT

FOUND = {
    "id": "PYSEC-1",
    "summary": "It falls over.",
    "aliases": ["CVE-2026-1"],
    "affected": [
        {
            "package": {"name": "one", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
    ],
}


class _Service(http.server.BaseHTTPRequestHandler):
    """A vulnerability service as of OSV's API that knows one bad package."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"vulns": [FOUND]} if query["package"]["name"] == "one" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def audit(tmp_path, pins: str, url: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "pins.txt").write_text(pins)
    script = [sys.executable, str(REPO_ROOT / "scripts" / "audit.py"), "--requirement", str(tmp_path / "pins.txt")]
    return subprocess.run(
        [*script, "-s", "osv", "--osv-url", url, "--timeout", "5"], capture_output=True, text=True, check=False
    )


def test_a_known_vulnerability_is_named_and_fails(tmp_path, service):
    done = audit(tmp_path, "one==1.0\ntwo==2.0\nold==1.0 ; python_version < '3'\n", service)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "audit: one 1.0: PYSEC-1 CVE-2026-1, fixed in 2.0\naudit: 2 pins audited\n"


def test_clean_pins_pass(tmp_path, service):
    done = audit(tmp_path, "two==2.0\n", service)
    assert (done.returncode, done.stdout) == (0, "audit: 1 pins audited\n")


def test_a_service_out_of_reach_is_one_sentence_and_no_good_news(tmp_path, unused_port):
    done = audit(tmp_path, "two==2.0\n", f"http://127.0.0.1:{unused_port}/v1/query")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("audit: The vulnerability service cannot be asked")
    assert "Traceback" not in done.stdout


def test_a_service_that_knows_no_pin_is_no_good_news():
    sys.path.insert(0, str(REPO_ROOT / "scripts"))
    try:
        from audit import judge
    finally:
        sys.path.pop(0)
    report = {"dependencies": [{"name": "two", "skip_reason": "not found"}], "fixes": []}
    assert judge(json.dumps(report))[0] == 3


def test_all_pins_can_be_audited():
    """Without a name and an exact version in each line, pip-audit stops at the first."""
    lines = (REPO_ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 100
    assert not [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[^ ;=]+( ; .+)?", pin)]
