"""Tests that killed or interrupted runs are ended, and that later runs succeed without manual steps."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from rmm_assets.orchestration.lost_runs import PROCESS_TAG, Process, end_lost_runs, tag_run
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.commands import Started
from rmm_assets_tests.integration.test_cli import CONNECTION, command, rows

pytestmark = pytest.mark.slow

# Long enough that only a hang fails, even on a busy machine.
SECONDS = 300


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Simulator]:
    with Simulator(tables={"computers": rows(3000), "tickets": rows(30)}) as simulator:
        folder = tmp_path / "connections" / "acme"
        folder.mkdir(parents=True)
        (folder / "defs.yaml").write_text(CONNECTION.format(base_url=simulator.base_url))
        yield simulator


@contextmanager
def syncing(folder: Path, server: Simulator) -> Iterator[Started]:
    """Yields the process of an `rmm sync` that has started to read."""
    (folder / "home").mkdir(exist_ok=True)
    server.set_faults(Faults(delay=0.5))
    before = len(server.requests)
    process = Started(["sync"], folder, environment(folder))
    try:
        until(lambda: len(server.requests) > before or process.is_over)
        assert not process.is_over, process.end()
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        server.set_faults([])


def until(
    condition: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = SECONDS
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


def runs(folder: Path) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        return list(instance.get_runs())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command_and_its_run_within_seconds(sent: int, server: Simulator, tmp_path: Path) -> None:
    with syncing(tmp_path, server) as process:
        process.send_signal(sent)
        done = process.end(SECONDS)
    said = done.stdout + done.stderr
    assert done.returncode == 130, said
    assert "Interrupted: canceled run" in said
    assert "Traceback" not in said
    [run] = runs(tmp_path)
    assert run.is_finished and run.status is not dg.DagsterRunStatus.SUCCESS


def test_after_a_kill_the_next_sync_ends_the_lost_run_and_succeeds(server: Simulator, tmp_path: Path) -> None:
    with syncing(tmp_path, server) as process:
        process.send_signal(signal.SIGKILL)
        process.end()
        [killed] = runs(tmp_path)
        assert not killed.is_finished
    done = command(tmp_path, "sync", ACME_API_KEY="demo-key")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Ended run {killed.run_id} of sync_acme: its process is gone." in done.stderr
    last, first = runs(tmp_path)
    assert (last.status, first.status) == (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)


def test_a_process_is_gone_if_its_id_belongs_to_another_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = Process.of(other.pid)
        alive = not process.gone
        assert alive
        assert Process.from_tag(str(process)) == Process(process.host, process.pid, round(process.started, 2))
        assert Process(process.host, process.pid, process.started - 3600).gone
        other.kill()
        until(lambda: process.gone)  # a zombie, because nothing has waited for it
    assert process.gone
    assert not Process("elsewhere", process.pid, process.started).gone


def test_a_run_of_another_machine_or_without_a_process_is_left_alone() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        dead = Process("elsewhere", 1, 1.0)

        @dg.job
        def job() -> None: ...

        for tags in ({"rmm_assets/process": str(dead)}, {"rmm_assets/process": "???"}, {}):
            instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        assert not end_lost_runs(instance)


def test_a_run_that_repeats_a_lost_one_is_not_taken_for_it() -> None:
    with dg.DagsterInstance.ephemeral() as instance:

        @dg.job
        def job() -> None: ...

        gone = {PROCESS_TAG: str(Process(socket.gethostname(), 2**22 + 1, 1.0))}
        lost = instance.create_run_for_job(job, tags=gone, status=dg.DagsterRunStatus.STARTED)
        # As Dagster's retries and the UI's re-execution copy the tags.
        again = instance.create_run_for_job(
            job, tags=gone, status=dg.DagsterRunStatus.STARTED, parent_run_id=lost.run_id, root_run_id=lost.run_id
        )
        assert [run.run_id for run in end_lost_runs(instance)] == [lost.run_id]
        instance.report_engine_event("Started process", again, EngineEventData({"pid": os.getpid()}))
        tag_run(instance, again)
        tagged = instance.get_run_by_id(again.run_id)
        assert tagged is not None and tagged.tags[PROCESS_TAG] == str(Process.of(os.getpid()))
        assert not end_lost_runs(instance)


def test_the_daemon_recovers_after_everything_was_killed(server: Simulator, forked: Path, tmp_path: Path) -> None:
    """A run launched from the queue, its daemon and its code server are killed together; the queue recovers."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nrun_monitoring: {enabled: true}\nconcurrency: {runs: {max_concurrent_runs: 1}}\n"
    )
    # Dagster's processes cannot create an instance's database concurrently.
    with dg.DagsterInstance.from_config(str(tmp_path / "home")):
        pass
    server.set_faults(Faults(delay=30))  # until everything is killed
    launch = str(forked / "dagster"), "job", "launch", "-m", "rmm_assets.definitions", "-j", "sync_acme"
    with daemon(tmp_path) as first:
        for _ in range(2):
            ran(tmp_path, *launch)
        until(lambda: bool(server.requests), first)
        os.killpg(first.pid, signal.SIGKILL)
    server.set_faults([])
    with daemon(tmp_path) as second, dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        until(lambda: all(run.is_finished for run in instance.get_runs()), second)
    last, lost = runs(tmp_path)
    assert (last.status, lost.status) == (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        said = [entry.message for entry in instance.all_logs(lost.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)]
    assert "is gone" in said[0]


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DAGSTER_HOME": str(folder / "home"),
        "RMM_CONNECTIONS": str(folder / "connections"),
        "ACME_API_KEY": "demo-key",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def ran(folder: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields a daemon with its code server, in their own process group."""
    words = ["dagster-daemon", "run", "-m", "rmm_assets.definitions"]
    with (
        (folder / "daemon.log").open("a") as log,
        subprocess.Popen(
            words, cwd=folder, env=environment(folder), stdout=log, stderr=log, text=True, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
