"""clipsr-serve up, down, status and logs: processes that start, restart and stop in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests.serving.waiting import wait_until

from clipsr_serving.launcher._state import Child, State, read_start_ticks


class TestLife:
    def test_detached_from_up_to_down(self, serve):
        up = serve.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        status = json.loads(serve.run("status", "--json").stdout)
        assert status["running"]
        assert status["phase"] == "ready"
        assert [child["name"] for child in status["children"]] == ["triton", "gateway"]
        assert status["url"] in up.stdout

        again = serve.run("up", "--detach")
        assert again.returncode == 1
        assert "already running" in again.stderr
        assert "clipsr-serve down" in again.stderr

        assert "triton | " not in serve.run("logs", "gateway").stdout
        assert "ready after" in serve.run("logs").stdout
        down = serve.run("down")
        assert (down.returncode, "stopped" in down.stdout) == (0, True)
        starts = [line.split()[:2] for line in serve.noted() if line.startswith(("triton", "gateway"))]
        assert sorted(starts[:2]) == [["gateway", "starts"], ["triton", "starts"]]
        assert starts[2:] == [["gateway", "stops"], ["triton", "stops"]]
        after = serve.run("status")
        assert (after.returncode, "not running" in after.stdout) == (3, True)
        assert "nothing is running" in serve.run("down").stdout

    def test_the_gateway_is_told_where_everything_is(self, serve, repository):
        serve.run("up", "--detach")
        state = serve.state_dir.read()
        (line,) = [line for line in serve.noted() if line.startswith("gateway starts")]
        assert line.split()[2:] == [
            *("--listen", state.url, "--triton", state.triton["grpc"], "--repository", str(repository)),
            *("--library-uri", str(serve.state_dir.path / "libraries")),
        ]
        assert "127.0.0.1" in serve.no_proxy()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_stops_the_gateway_first(self, serve, number):
        process = serve.start()
        process.send_signal(number)
        assert process.wait(60) == 0
        assert [line for line in serve.noted() if line.endswith(" stops")] == ["gateway stops", "triton stops"]
        process.stderr.close()

    def test_a_signal_during_start_stops_too(self, serve):
        serve.variables["FAKE_TRITON"] = "hangs"
        command = serve.command("up", "--state-dir", str(serve.state_dir.path), *serve.up_flags())
        process = subprocess.Popen(command, stderr=subprocess.PIPE, **serve.options())
        wait_until(lambda: "triton starts" in serve.noted(), process)
        process.terminate()
        assert process.wait(60) == 0
        assert [line for line in serve.noted() if line.startswith("triton")] == ["triton starts", "triton stops"]
        process.stderr.close()

    def test_a_profile_that_nothing_has_ends_the_start(self, serve):
        up = serve.run("up", "--detach", "--profile", "nope")
        assert (up.returncode, serve.noted()) == (1, [])
        assert "There is no profile 'nope'" in up.stderr

    def test_a_profile_of_the_embedded_triton_ends_the_start_elsewhere(self, serve):
        up = serve.run("up", "--detach", "--profile", "cpu")
        assert (up.returncode, serve.noted()) == (1, [])
        assert "needs the embedded Triton" in up.stderr

    def test_without_a_gateway_the_canary_decides(self, serve):
        up = serve.run("up", "--detach", "--no-gateway")
        assert up.returncode == 0, up.stderr
        assert serve.inferred() == ["classify", "classify_native"]

    def test_a_killed_supervisor_leaves_what_down_cleans_up(self, serve):
        process = serve.start()
        state = serve.state_dir.read()
        process.kill()
        process.wait()
        process.stderr.close()
        assert all(child.is_alive for child in state.children)
        up = serve.run("up", "--detach")
        assert up.returncode == 1
        assert "was killed still run" in up.stderr
        assert "not running" in serve.run("status").stdout
        down = serve.run("down")
        assert (down.returncode, "cleaned up gateway" in down.stdout) == (0, True)
        assert not any(child.is_alive for child in state.children)

    def test_a_stale_state_file_is_no_obstacle(self, serve):
        """Its process is gone, and another one that has its number by now is left alone."""
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
            serve.state_dir.path.mkdir()
            gone = Child(name="triton", pid=bystander.pid, start_ticks=1)
            state = dict(phase="ready", url=None, triton={}, triton_kind="path", profile=None, repository="")
            serve.state_dir.write(State(pid=1, children=(gone,), **state))
            assert serve.run("up", "--detach").returncode == 0
            assert bystander.poll() is None


class TestRestart:
    """A process that ends later is started again, on the same ports, while the other one goes on."""

    @pytest.mark.parametrize("name", ["triton", "gateway"])
    def test_the_one_that_is_killed_comes_back(self, serve, name):
        process = serve.start()
        before = serve.state_dir.read()
        (killed,) = [child for child in before.children if child.name == name]
        os.kill(killed.pid, signal.SIGKILL)
        after = serve.wait_for_restart(process, {"triton": 0, "gateway": 0} | {name: 1})
        assert (after.url, after.triton) == (before.url, before.triton)
        kept = [child for child in before.children if child.name != name]
        assert [child for child in after.children if child.name != name] == kept
        assert serve.run("status", "--ready").returncode == 0
        assert f"restarts: {name} 1" in serve.run("status").stdout
        process.terminate()
        assert process.wait(60) == 0
        said = process.stderr.read()
        assert f"{name} was killed by SIGKILL (by somebody, or by the kernel for lack of memory); restart 1 in" in said
        assert "ready again after" in said
        process.stderr.close()

    def test_triton_is_replaced_when_it_loses_a_model_process(self, serve):
        serve.variables["FAKE_STUB"] = "1"
        process = serve.start("--probe-interval", "0.5")
        triton = serve.state_dir.read().children[0]
        looks = serve.state_dir.read().answered_s["triton"]
        wait_until(lambda: serve.state_dir.read().answered_s["triton"] > looks + 1.5, process)
        assert triton.is_alive, "a living model process is no reason to restart"
        os.kill(serve.stub_pids()[0], signal.SIGKILL)
        serve.wait_for_restart(process, {"triton": 1, "gateway": 0})
        process.terminate()
        assert process.wait(60) == 0
        assert "triton lost its model process similarity_0_0" in process.stderr.read()
        process.stderr.close()

    def test_a_killed_triton_leaves_no_model_process_and_no_shared_memory(self, serve):
        serve.variables["FAKE_STUB"] = "1"
        process = serve.start()
        (flag,) = [word for word in serve.triton_flags() if "shm-region-prefix-name" in word]
        leftover = Path("/dev/shm") / f"{flag.rpartition('=')[2]}left"
        leftover.touch()
        (orphan,) = serve.stub_pids()
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        serve.wait_for_restart(process, {"triton": 1, "gateway": 0})
        assert read_start_ticks(orphan) is None
        assert not leftover.exists()
        process.terminate()
        assert process.wait(60) == 0
        assert [read_start_ticks(pid) for pid in serve.stub_pids()] == [None, None]
        process.stderr.close()

    def test_status_follows_and_waits_grow_until_it_works(self, serve):
        process = serve.start()
        serve.order("dies")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        wait_until(lambda: serve.state_dir.read().restarts["triton"] >= 2, process)
        state = serve.state_dir.read()
        assert state.phase == "restarting"
        assert "gateway" in [child.name for child in state.children]
        assert serve.run("status", "--ready").returncode == 3
        assert serve.run("status").returncode == 0
        serve.order("")
        wait_until(lambda: serve.state_dir.read().phase == "ready", process)
        process.terminate()
        assert process.wait(60) == 0
        waits = re.findall(r"restart \d+ in ([\d.]+) s", process.stderr.read())
        assert waits[:2] == ["0.5", "1"]
        process.stderr.close()

    @pytest.mark.parametrize("moment", ["waiting", "starting"])
    def test_a_signal_during_a_restart_stops_everything(self, serve, moment):
        process = serve.start()
        serve.order("hangs" if moment == "starting" else "dies")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        # Hanging: the second Triton runs and never answers. Dying: it waits for a second before the third.
        if moment == "starting":
            wait_until(lambda: serve.noted().count("triton starts") == 2, process)
        else:
            wait_until(lambda: serve.state_dir.read().restarts["triton"] == 2, process)
        process.terminate()
        assert process.wait(60) == 0
        assert "gateway stops" in serve.noted()
        assert serve.run("status").returncode == 3
        process.stderr.close()

    @pytest.mark.parametrize("name", ["triton", "gateway"])
    def test_one_that_hangs_is_killed_and_comes_back(self, serve, name):
        process = serve.start("--probe-interval", "0.2", "--probe-timeout", "2")
        before = serve.state_dir.read()
        (hung,) = [child for child in before.children if child.name == name]
        os.kill(hung.pid, signal.SIGSTOP)
        wait_until(lambda: serve.run("status", "--ready").returncode == 3, process)
        after = serve.wait_for_restart(process, {"triton": 0, "gateway": 0} | {name: 1})
        assert not hung.is_alive
        assert [child for child in after.children if child.name != name] == [
            child for child in before.children if child.name != name
        ]
        process.terminate()
        assert process.wait(60) == 0
        assert f"{name} runs but does not answer: 3 probes in a row failed" in process.stderr.read()
        process.stderr.close()

    @pytest.mark.parametrize("name", ["triton", "gateway"])
    def test_both_start_with_a_model_that_was_exported_meanwhile(self, serve, repository, tmp_path, name):
        serve.repository = shutil.copytree(repository, tmp_path / "exported")
        process = serve.start()
        before = {child.name: child for child in serve.state_dir.read().children}
        path = serve.repository / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"digest": "sha256:" + "0" * 64}))
        os.kill(before[name].pid, signal.SIGKILL)

        def are_both_new() -> bool:
            state = serve.state_dir.read()
            pids = {child.name: child.pid for child in state.children} if state else {}
            return (
                state is not None
                and state.phase == "ready"
                and all(pids.get(other) not in (None, child.pid) for other, child in before.items())
            )

        wait_until(are_both_new, process)
        assert not any(child.is_alive for child in before.values())
        process.terminate()
        assert process.wait(60) == 0
        assert "holds another model by now; Triton and the gateway both start with it" in process.stderr.read()
        process.stderr.close()

    def test_a_gateway_that_hangs_while_triton_is_away_is_replaced(self, serve):
        process = serve.start("--probe-interval", "0.2", "--probe-timeout", "2")
        triton, gateway = serve.state_dir.read().children
        serve.order("hangs")
        os.kill(triton.pid, signal.SIGKILL)
        wait_until(lambda: serve.state_dir.read().restarts["triton"] == 1, process)
        os.kill(gateway.pid, signal.SIGSTOP)
        wait_until(lambda: serve.state_dir.read().restarts["gateway"] == 1, process)
        assert not gateway.is_alive
        process.terminate()
        assert process.wait(60) == 0
        assert "gateway runs but does not answer: 3 probes in a row failed" in process.stderr.read()
        process.stderr.close()

    def test_a_triton_whose_model_is_stuck_is_replaced(self, serve):
        process = serve.start("--probe-interval", "0.2", "--probe-timeout", "1")
        serve.order("stuck")
        wait_until(lambda: serve.state_dir.read().restarts["triton"] >= 1, process)
        serve.order("")
        wait_until(lambda: serve.state_dir.read().phase == "ready", process)
        process.terminate()
        assert process.wait(60) == 0
        assert "3 probes in a row failed (Triton is up, but classify does not answer" in process.stderr.read()
        process.stderr.close()

    def test_a_stopped_model_process_is_found_also_where_others_answer(self, serve):
        serve.variables["FAKE_STUB"] = "1"
        process = serve.start("--probe-interval", "0.2", "--probe-timeout", "0.5")
        os.kill(serve.stub_pids()[0], signal.SIGSTOP)
        serve.wait_for_restart(process, {"triton": 1, "gateway": 0})
        process.terminate()
        assert process.wait(60) == 0
        assert "has the stopped model process similarity_0_0 (SIGSTOP)" in process.stderr.read()
        process.stderr.close()

    def test_a_gateway_that_says_not_serving_is_alive(self, serve):
        process = serve.start("--probe-interval", "0.1")
        gateway = serve.state_dir.read().children[1]
        Path(f"{serve.journal}.gateway").write_text("not serving", encoding="utf-8")
        answered_s = serve.state_dir.read().answered_s["gateway"]
        wait_until(lambda: serve.state_dir.read().answered_s["gateway"] > answered_s + 1, process)
        assert gateway.is_alive
        process.terminate()
        assert process.wait(60) == 0
        process.stderr.close()

    def test_a_supervisor_that_hangs_is_not_ready(self, serve):
        process = serve.start("--probe-interval", "0.1", "--probe-timeout", "0.5")
        assert serve.run("status", "--ready").returncode == 0
        state = serve.state_dir.read()
        process.send_signal(signal.SIGSTOP)
        try:
            assert state.is_ready(time.monotonic())
            assert not state.is_ready(time.monotonic() + state.probed_for_s + 1)
        finally:
            process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(60) == 0
        process.stderr.close()

    def test_options_after_the_dashes_go_to_the_gateway(self, serve):
        up = serve.run("up", "--detach", "--", "--max-concurrent", "7")
        assert up.returncode == 0, up.stderr
        (line,) = [line for line in serve.noted() if line.startswith("gateway starts")]
        assert line.split()[-2:] == ["--max-concurrent", "7"]

    def test_a_gateway_with_tls_is_believed_by_its_log(self, serve):
        up = serve.run("up", "--detach", "--", "--tls-cert", "c.pem", "--tls-key", "k.pem")
        assert up.returncode == 0, up.stderr

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--", "--listen", "127.0.0.1:1"], "--listen of the gateway is set by clipsr-serve"),
            (["--", "--repository=x"], "--repository of the gateway is set by clipsr-serve"),
            (["--", "--tls-cert", "c.pem", "--log-level=error"], "use --log-level info or debug"),
            (["--no-gateway", "--", "--grace", "1"], "--no-gateway leaves nobody for the options"),
        ],
    )
    def test_contradictions_are_refused(self, serve, flags, message):
        up = serve.run("up", *flags)
        assert (up.returncode, message in up.stderr) == (1, True)


class TestFailure:
    @pytest.mark.parametrize("detach", [[], ["--detach"]])
    def test_triton_dies_at_start(self, serve, detach):
        serve.variables["FAKE_TRITON"] = "dies"
        up = serve.run("up", *detach)
        assert up.returncode == 1
        assert "triton ended with code 1: model 'upscale': no file. The whole log is" in up.stderr
        assert len(up.stderr.splitlines()) <= 3

    def test_a_crash_at_start_is_forgiven_once(self, serve):
        serve.variables["FAKE_TRITON"] = "crashes once"
        up = serve.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        log = serve.state_dir.log("serve").read_text(encoding="utf-8")
        assert "triton was ended by SIGABRT: terminate called" in log
        assert "; starting it once more" in log

    def test_a_second_crash_at_start_ends_it(self, serve):
        serve.variables["FAKE_TRITON"] = "crashes"
        up = serve.run("up")
        assert up.returncode == 1
        assert "triton was ended by SIGABRT: terminate called" in up.stderr.splitlines()[-1]
        assert [line for line in serve.noted() if line.startswith("triton")] == ["triton starts"] * 2

    def test_the_gateway_dies_at_start(self, serve):
        serve.variables["FAKE_GATEWAY"] = "dies"
        up = serve.run("up")
        assert up.returncode == 1
        assert "gateway ended with code 1: clipsr-gateway: no manifest" in up.stderr
        # Triton starts beside it, and may be stopped before it has come to note anything.
        of_triton = [line for line in serve.noted() if line.startswith("triton")]
        assert not of_triton or of_triton[-1] == "triton stops"

    def test_without_restarts_the_first_death_ends_it(self, serve):
        process = serve.start("--max-restarts", "0")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        assert process.wait(60) == 1
        said = process.stderr.read()
        assert "triton was killed by SIGKILL" in said
        assert "not started again after 0 restarts" in said
        assert serve.noted()[-1] == "gateway stops"
        process.stderr.close()

    def test_it_gives_up_after_as_many_restarts_as_allowed(self, serve):
        process = serve.start("--max-restarts", "1")
        serve.order("dies")
        os.kill(serve.state_dir.read().children[0].pid, signal.SIGKILL)
        assert process.wait(60) == 1
        said = process.stderr.read().splitlines()
        assert "triton was killed by SIGKILL" in said[2]
        assert "restart 1 in 0.5 s" in said[2]
        assert "model 'upscale': no file. It is not started again after 1 restarts in a row" in said[-1]
        process.stderr.close()

    def test_it_never_becomes_ready(self, serve):
        serve.variables["FAKE_TRITON"] = "hangs"
        up = serve.run("up", "--timeout", "1")
        assert up.returncode == 1
        assert "Triton is not ready after 1 s" in up.stderr
        assert "--timeout" in up.stderr

    def test_the_canary_answers_nonsense(self, serve):
        serve.variables["FAKE_TRITON"] = "nonsense"
        up = serve.run("up", "--no-gateway")
        assert up.returncode == 1
        assert "classify answers" in up.stderr

    def test_a_program_is_not_installed(self, serve, environment):
        (environment / "bin" / "clipsr-gateway").unlink()
        serve.variables["PATH"] = "/usr/bin:/bin"
        up = serve.run("up")
        assert up.returncode == 1
        assert "clipsr-gateway is not installed; run `pip install clipsr-gateway`" in up.stderr
        assert serve.noted() == []

    def test_a_port_is_taken(self, serve):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            up = serve.run("up", "--triton-http-port", str(port))
        assert up.returncode == 1
        assert re.search(
            rf"Port {port} of 127\.0\.0\.1 cannot be used .*choose another with --triton-http-port", up.stderr
        )

    @pytest.mark.parametrize(
        "flags",
        [
            ["--listen", "localhost"],
            ["--listen", "a:99999"],
            ["--triton-http-port", "x"],
            ["--timeout", "-1"],
            ["--max-restarts", "-1"],
        ],
    )
    def test_wrong_usage_is_exit_code_2(self, serve, flags):
        assert serve.run("up", *flags).returncode == 2

    def test_only_up_takes_options_of_the_gateway(self, serve):
        assert serve.run("status", "--", "--grace", "1").returncode == 2

    def test_logs_of_nothing(self, serve):
        logs = serve.run("logs")
        assert (logs.returncode, "There are no logs" in logs.stderr) == (1, True)


class TestBookkeeping:
    """Logs and state are worth less than the service."""

    def start_and_count(self, serve):
        process = serve.start("--probe-interval", "0.1")
        return process, serve.state_dir.read()

    def still_works(self, process, state):
        assert process.poll() is None
        assert all(child.is_alive for child in state.children)

    def test_a_removed_state_folder_is_made_again(self, serve):
        process, state = self.start_and_count(serve)
        shutil.rmtree(serve.state_dir.path)
        wait_until(lambda: serve.state_dir.read() is not None, process)
        self.still_works(process, state)
        os.kill(state.children[0].pid, signal.SIGKILL)
        serve.wait_for_restart(process, {"triton": 1, "gateway": 0})
        down = serve.run("down")
        assert (down.returncode, f"stopped (pid {process.pid})" in down.stdout) == (0, True)
        assert process.wait(60) == 0
        assert serve.noted()[-2:] == ["gateway stops", "triton stops"]
        process.stderr.close()

    def test_a_state_folder_that_cannot_be_written_is_said_once(self, serve):
        process, state = self.start_and_count(serve)
        shutil.rmtree(serve.state_dir.path)
        serve.state_dir.path.write_text("in the way", encoding="utf-8")
        os.kill(state.children[0].pid, signal.SIGKILL)
        wait_until(lambda: serve.noted().count("triton starts") == 2, process)
        wait_until(lambda: len(serve.inferred()) >= 4, process)
        down = serve.run("down")
        assert (down.returncode, "stopped" in down.stdout) == (0, True)
        assert process.wait(60) == 0
        assert process.stderr.read().count("cannot be written") == 3, "the state and two logs, once each"
        assert not state.children[1].is_alive
        process.stderr.close()
        serve.state_dir.path.unlink()

    def test_children_of_a_killed_supervisor_are_found_without_the_state_file(self, serve):
        process, state = self.start_and_count(serve)
        process.kill()
        process.wait()
        process.stderr.close()
        shutil.rmtree(serve.state_dir.path)
        up = serve.run("up", "--detach")
        assert (up.returncode, "was killed still run" in up.stderr) == (1, True)
        down = serve.run("down")
        assert (down.returncode, "cleaned up a process" in down.stdout) == (0, True)
        assert not any(child.is_alive for child in state.children)

    def test_a_renamed_log_stops_nothing(self, serve):
        process, state = self.start_and_count(serve)
        for name in ("triton", "gateway"):
            serve.state_dir.log(name).rename(serve.state_dir.path / f"{name}-yesterday.log")
        answered_s = state.answered_s["triton"]
        wait_until(lambda: serve.state_dir.read().answered_s["triton"] > answered_s + 1, process)
        self.still_works(process, state)
        assert serve.run("logs").returncode == 0 or not serve.state_dir.log("serve").exists()
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr.read().count("triton.log cannot be written") == 1
        process.stderr.close()
