"""Tests that limits apply across threads and processes that share only a folder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rmm_assets.http.rate_limit import RateLimit, StoppedError

# Each acquires permits and records when it held one, by the clock that all processes share.
WORKER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from rmm_assets.http.rate_limit import RateLimit
folder, concurrency, per_minute, requests, hold = sys.argv[1:]
rate_limit = RateLimit(Path(folder), max_concurrency=int(concurrency), requests_per_minute=float(per_minute) or None)
def one(_):
    with rate_limit.permit():
        began = time.time()
        time.sleep(float(hold))
        return began, time.time()
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(4) as workers:
    for began, ended in workers.map(one, range(int(requests))):
        print(began, ended)
"""


class Processes:
    """Three processes that request permits from one folder."""

    def __init__(self, folder: Path, *, concurrency: int, per_minute: float, requests: int, hold: float) -> None:
        arguments = [str(value) for value in (folder, concurrency, per_minute, requests, hold)]
        self._running = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        for process in self._running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def run(self) -> list[tuple[float, float]]:
        """Returns when each permit was held, in seconds since all processes began, ordered by start."""
        began = time.time()
        for process in self._running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        lines = [line for process in self._running for line in process.communicate(timeout=600)[0].splitlines()]
        return sorted((float(start) - began, float(end) - began) for start, end in map(str.split, lines))


def most_at_once(held: list[tuple[float, float]]) -> int:
    moments = sorted([(began, 1) for began, _ in held] + [(ended, -1) for _, ended in held])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


@pytest.mark.slow
def test_three_processes_share_one_limit_of_requests_at_once(tmp_path: Path) -> None:
    held = Processes(tmp_path, concurrency=3, per_minute=0, requests=12, hold=0.03).run()
    assert len(held) == 36
    assert most_at_once(held) == 3


@pytest.mark.slow
def test_three_processes_share_one_limit_of_requests_a_minute(tmp_path: Path) -> None:
    held = Processes(tmp_path, concurrency=8, per_minute=1200, requests=10, hold=0).run()
    assert len(held) == 30
    # At most one start every 50 ms; a process may record its own late.
    assert all(start > number * 0.05 - 0.02 for number, (start, _) in enumerate(held))


@pytest.mark.slow
def test_a_pause_stops_every_process_of_a_connection(tmp_path: Path) -> None:
    processes = Processes(tmp_path, concurrency=8, per_minute=0, requests=4, hold=0)
    paused_from = time.time()
    RateLimit(tmp_path, max_concurrency=8).pause(1.0)
    late = time.time() - paused_from
    held = processes.run()
    assert len(held) == 12
    assert held[0][0] > 0.95 - late


@pytest.mark.slow
def test_a_killed_process_releases_its_permits(tmp_path: Path) -> None:
    code = WORKER.replace("time.sleep(float(hold))", "print('held', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "1", "0", "1", "0"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "held\n"]
    rate_limit = RateLimit(tmp_path, max_concurrency=1)
    with pytest.raises(TimeoutError), rate_limit.permit(until=time.monotonic() + 0.2):
        pytest.fail("two workers held the same permit")
    process.kill()
    process.communicate()
    with rate_limit.permit(until=time.monotonic() + 60):
        pass


def test_threads_share_the_limit(tmp_path: Path) -> None:
    rate_limit = RateLimit(tmp_path, max_concurrency=2)

    def one(_: int) -> tuple[float, float]:
        with rate_limit.permit():
            began = time.time()
            time.sleep(0.01)
            return began, time.time()

    with ThreadPoolExecutor(8) as workers:
        assert most_at_once(sorted(workers.map(one, range(24)))) == 2


def test_a_longer_pause_wins_and_a_shorter_one_has_no_effect(tmp_path: Path) -> None:
    rate_limit = RateLimit(tmp_path, max_concurrency=2)
    began = time.monotonic()
    rate_limit.pause(0.3)
    rate_limit.pause(0.1)
    with rate_limit.permit():
        assert time.monotonic() - began >= 0.29


def test_a_clock_that_was_set_back_does_not_block_a_connection_forever(tmp_path: Path) -> None:
    rate_limit = RateLimit(tmp_path, max_concurrency=1)
    rate_limit.pause(7200)  # how a pause set an hour ago looks after the clock was set back by two hours
    with rate_limit.permit(until=time.monotonic() + 60):
        pass


@pytest.mark.parametrize("content", [b"", b"x", b"far too long for a moment"])
def test_a_damaged_clock_file_does_not_limit(tmp_path: Path, content: bytes) -> None:
    rate_limit = RateLimit(tmp_path, max_concurrency=1)
    (tmp_path / "clock").write_bytes(content)
    with rate_limit.permit(until=time.monotonic() + 60):
        pass
    rate_limit.pause(0.2)
    began = time.monotonic()
    with rate_limit.permit():
        assert time.monotonic() - began > 0.15


def test_a_wait_for_a_permit_can_be_stopped(tmp_path: Path) -> None:
    rate_limit, stop = RateLimit(tmp_path, max_concurrency=1), threading.Event()
    rate_limit.pause(30)
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError), rate_limit.permit(stop=stop):
        pytest.fail("it was paused")
    assert time.monotonic() - began < 20
    # And it kept nothing that it had acquired.
    (tmp_path / "clock").unlink()
    with rate_limit.permit(until=time.monotonic() + 0.5):
        pass
