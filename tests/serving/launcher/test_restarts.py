"""The parts of the launcher that decide about restarts, without processes where they need none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading

import pytest
from tests.serving.waiting import wait_until

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._gateway import read_gateway_health
from clipsr_serving.launcher._logs import follow_logs
from clipsr_serving.launcher._reasons import explain_end
from clipsr_serving.launcher._state import read_start_ticks
from clipsr_serving.launcher._supervisor.checks import BackgroundCheck
from clipsr_serving.launcher._supervisor.probes import LivenessProbe, ProbePolicy
from clipsr_serving.launcher._supervisor.processes import ManagedProcess, end_session, limit_log
from clipsr_serving.launcher._supervisor.restarts import Backoff, RestartPolicy


class TestBackoff:
    def test_waits_double_up_to_the_longest(self):
        backoff = Backoff(RestartPolicy())
        assert [backoff.record_failure() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
        for _ in range(2000):
            assert backoff.record_failure() == 30

    def test_health_makes_it_begin_anew_only_when_it_lasted(self):
        backoff = Backoff(RestartPolicy(healthy_after_s=60))
        backoff.record_failure()
        backoff.record_health(59.9)
        assert backoff.record_failure() == 1
        backoff.record_health(60)
        assert (backoff.record_failure(), backoff.in_a_row, backoff.total) == (0.5, 1, 3)

    @pytest.mark.parametrize("allowed", [0, 1, 3])
    def test_it_gives_up_after_as_many_as_allowed_in_a_row(self, allowed):
        backoff = Backoff(RestartPolicy(max_restarts=allowed))
        waits = [backoff.record_failure() for _ in range(allowed + 1)]
        assert None not in waits[:-1]
        assert waits[-1] is None

    def test_impossible_policies_are_refused(self):
        with pytest.raises(LaunchError, match="--max-restarts must not be negative"):
            RestartPolicy(max_restarts=-1)
        with pytest.raises(LaunchError, match="first delay"):
            RestartPolicy(first_delay_s=31)


def wait_for_answer(check):
    answers = []
    wait_until(lambda: (answer := check.poll()) is not None and not answers.append(answer))
    return answers[0]


class TestBackgroundCheck:
    def test_a_slow_question_is_not_waited_for(self):
        known = threading.Event()
        check = BackgroundCheck(lambda: known.wait(60))
        assert check.poll() is None
        known.set()
        assert wait_for_answer(check) is True

    def test_an_answer_from_before_a_reset_does_not_count(self):
        known, answered = threading.Event(), threading.Event()
        asked = []

        def ask():
            asked.append(True)
            if len(asked) > 1:
                return False
            known.wait(60)
            answered.set()
            return True

        check = BackgroundCheck(ask)
        assert check.poll() is None
        check.reset()
        known.set()
        assert answered.wait(60)
        assert wait_for_answer(check) is False
        assert len(asked) == 2

    def test_an_objection_is_a_no_with_a_reason(self):
        def ask():
            raise LaunchError("classify fails")

        check = BackgroundCheck(ask)
        assert wait_for_answer(check) is False
        assert check.objection == "classify fails"


class TestLivenessProbe:
    def make(self, *answers, failures=3):
        given = iter(answers)
        return LivenessProbe(lambda: next(given), ProbePolicy(interval_s=1e-9, failures=failures))

    def wait_for_fault(self, probe):
        faults = []
        wait_until(lambda: (fault := probe.find_fault()) is not None and not faults.append(fault))
        return faults[0]

    def test_failures_in_a_row_are_a_fault(self):
        probe = self.make(False, False, True, False, False, False)
        assert self.wait_for_fault(probe) == "runs but does not answer: 3 probes in a row failed"
        assert probe.answered_s == 0

    def test_an_answer_is_remembered_until_a_probe_fails(self):
        probe = self.make(True, True, True, False)
        assert probe.answered_s > 0
        self.wait_for_fault(self.make(False, failures=1))
        wait_until(lambda: probe.find_fault() is None and probe.answered_s == 0)

    def test_impossible_policies_are_refused(self):
        for wrong in ({"interval_s": 0}, {"timeout_s": -1}, {"failures": 0}):
            with pytest.raises(LaunchError, match="must be positive"):
                ProbePolicy(**wrong)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (1, "ended with code 1: no manifest"),
        (-9, "was killed by SIGKILL (by somebody, or by the kernel for lack of memory)"),
        (-11, "was ended by SIGSEGV: no manifest"),
        (-35, "was ended by signal 35: no manifest"),
    ],
)
def test_an_end_is_explained(code, message):
    assert explain_end(code, "log", lambda log: "no manifest") == message


class TestGatewayHealth:
    def write(self, path, *entries):
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
        return path

    def test_the_last_status_counts_however_long_ago(self, tmp_path):
        call = {"event": "call", "method": "Classify", "note": '"health"', "filler": "x" * 300}
        health = [{"event": "health", "status": status} for status in ("NOT_SERVING", "SERVING")]
        log = self.write(tmp_path / "log", *health, *[call] * 1000)
        assert log.stat().st_size > 4 * 64 * 1024
        assert read_gateway_health(log) == "SERVING"
        self.write(log, *reversed(health), call)
        assert read_gateway_health(log) == "NOT_SERVING"

    def test_there_may_be_none(self, tmp_path):
        assert read_gateway_health(tmp_path / "absent") is None
        assert read_gateway_health(self.write(tmp_path / "log")) is None
        (tmp_path / "log").write_text('Traceback\n{"event": "health", "sta', encoding="utf-8")
        assert read_gateway_health(tmp_path / "log") is None


def test_the_log_of_a_new_start_is_followed_from_its_beginning(tmp_path):
    """Also where the new one is already longer than the old one was."""
    log, output, stop = tmp_path / "triton.log", io.StringIO(), threading.Event()
    log.write_text("old\n", encoding="utf-8")
    follower = threading.Thread(target=follow_logs, args=([log], output), kwargs={"stop": stop})
    follower.start()
    try:
        wait_until(lambda: "old" in output.getvalue())
        log.replace(tmp_path / "triton.log.1")
        (tmp_path / "new").write_text("first line of the new one\nsecond\n", encoding="utf-8")
        (tmp_path / "new").replace(log)
        wait_until(lambda: "second" in output.getvalue())
    finally:
        stop.set()
        follower.join()
    assert output.getvalue() == "triton | old\ntriton | first line of the new one\ntriton | second\n"


class TestProcess:
    def spawn(self, tmp_path, script):
        return ManagedProcess("triton", [sys.executable, "-c", script], os.environ, tmp_path / "triton.log")

    def test_it_stands_back_with_all_that_it_starts(self, tmp_path):
        go = tmp_path / "go"
        wait = f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
        nested = "import os, time; print(os.nice(0), flush=True); time.sleep(60)"
        script = (
            f"import os, pathlib, subprocess, sys, time\n{wait}\nsubprocess.run([sys.executable, '-c', {nested!r}])"
        )
        argv = [sys.executable, "-c", script]
        process = ManagedProcess("triton", argv, os.environ, tmp_path / "triton.log", niceness=3)
        go.touch()
        wait_until(lambda: process.read_log() == f"{os.nice(0) + 3}\n")
        process.stop(10)

    def test_a_large_log_is_begun_anew_and_written_on(self, tmp_path):
        go = tmp_path / "go"
        wait = f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
        script = f"import pathlib, time\nprint('early', flush=True)\n{wait}\nprint('late', flush=True)\ntime.sleep(60)"
        process = self.spawn(tmp_path, script)
        wait_until(lambda: process.read_log() == "early\n")
        limit_log(process.log, 6)
        assert process.read_log() == "early\n", "not larger than the limit"
        limit_log(process.log, 5)
        assert (process.read_log(), process.previous_log.read_text(encoding="utf-8")) == ("", "early\n")
        go.touch()
        wait_until(lambda: process.read_log() == "late\n")
        process.stop(10)

    def test_a_log_that_cannot_be_copied_is_emptied_all_the_same(self, tmp_path):
        """As on a full disk."""
        process = self.spawn(tmp_path, "import time; print('early', flush=True); time.sleep(60)")
        wait_until(lambda: process.read_log() == "early\n")
        process.previous_log.symlink_to("/dev/full")
        limit_log(process.log, 1)
        assert process.read_log() == ""
        assert not process.previous_log.is_symlink()
        process.log.rename(tmp_path / "renamed")
        with pytest.raises(FileNotFoundError):
            limit_log(process.log, 1)
        assert process.read_log() == ""
        process.stop(10)

    def test_all_of_a_session_is_killed(self, tmp_path):
        nested = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
        process = self.spawn(tmp_path, nested)
        wait_until(lambda: process.read_log().endswith("\n"))
        nested_pid = int(process.read_log())
        process.stop(10)
        assert read_start_ticks(nested_pid) is None

    def test_an_empty_session_is_left_alone(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        end_session(ended.pid)
