"""Tests that limits apply across machines, which share nothing but a Redis server.

A machine is a process in a folder of its own.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rmm_assets.errors import TransportError
from rmm_assets.http import shared_limit
from rmm_assets.http.rate_limit import RateLimit, StoppedError
from rmm_assets.http.shared_limit import LIMITS_VARIABLE, SharedRateLimit, open_permits
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets_tests.http.test_rate_limit import most_at_once
from rmm_assets_tests.redis_server import PASSWORD, free_port, redis_server
from rmm_assets_tests.syncing import KEY, connection, devices, resource

pytest.importorskip("redis", reason="pip install 'rmm_assets[redis]'")

# Each acquires permits and records when it held one.
WORKER = r"""
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from rmm_assets.http.shared_limit import open_permits
concurrency, per_minute, requests, hold = sys.argv[1:]
permits = open_permits(Path("work"), "acme", max_concurrency=int(concurrency), requests_per_minute=float(per_minute) or None)
def one(_):
    with permits.permit():
        began = time.time()
        os.write(1, b"held\n")  # one write a line, as other threads write, too
        time.sleep(float(hold))
        return began, time.time()
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(4) as workers:
    permitted = list(workers.map(one, range(int(requests))))
for began, ended in permitted:  # after the last "held"
    print(began, ended)
permits.close()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def redis(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty Redis server, which `RMM_RATE_LIMITS` names."""
    from redis import Redis

    with Redis.from_url(server) as client:
        client.flushall()
    monkeypatch.setenv(LIMITS_VARIABLE, server)
    return server


def machine(folder: Path, name: str, *arguments: float) -> subprocess.Popen[str]:
    (folder / name).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        cwd=folder / name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def held_by(*processes: subprocess.Popen[str]) -> list[tuple[float, float]]:
    """Starts the machines, and returns when each permit was held, in seconds since then, ordered by start."""
    began = time.time()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [line for process in processes for line in process.communicate(timeout=600)[0].splitlines()]
    times = [[float(moment) - began for moment in line.split()] for line in lines if line != "held"]
    return sorted((start, end) for start, end in times)


@pytest.mark.slow
@pytest.mark.usefixtures("redis")
def test_two_machines_share_one_limit_of_requests_at_once(tmp_path: Path) -> None:
    held = held_by(*(machine(tmp_path, name, 3, 0, 12, 0.03) for name in ("north", "south")))
    assert len(held) == 24
    assert most_at_once(held) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("redis")
def test_two_machines_share_one_limit_of_requests_a_minute(tmp_path: Path) -> None:
    held = held_by(*(machine(tmp_path, name, 8, 600, 15, 0) for name in ("north", "south")))
    assert len(held) == 30
    # At most one start every 100 ms, by the clock of Redis; a process may record its own late.
    assert all(start > number * 0.1 - 0.1 for number, (start, _) in enumerate(held))


@pytest.mark.slow
@pytest.mark.usefixtures("redis")
def test_sixty_requests_a_minute_are_sixty_from_two_machines(tmp_path: Path) -> None:
    made = connection(
        *(resource(name, endpoint={"paginator": {"type": "offset", "limit": 10}}) for name in ("devices", "alerts")),
        limits={"requests_per_minute": 60},
    )
    tables = {"devices": devices(60), "alerts": devices(60)}
    with Simulator(tables=tables) as rmm, ThreadPoolExecutor() as pool:
        loads = []
        for name in tables:
            (tmp_path / name).mkdir()
            store = Store("duckdb", str(tmp_path / name / "rmm.duckdb"), "acme", tmp_path / name / "work")
            loads.append(pool.submit(sync, made, made.resource(name), KEY, base_url=rmm.base_url, store=store))
        began = time.monotonic()
        assert [load.result(600).row_count for load in loads] == [60, 60]
        # Each alone would take half of it.
        assert time.monotonic() - began > len(rmm.requests) - 2
        assert len(rmm.requests) >= 12


@pytest.mark.slow
def test_a_killed_machine_releases_its_permits(tmp_path: Path, redis: str) -> None:
    process = machine(tmp_path, "north", 2, 0, 1, 600)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    permits = SharedRateLimit(redis, "acme", max_concurrency=2)
    with permits.permit():  # renewed meanwhile
        with pytest.raises(TimeoutError), permits.permit(until=time.monotonic() + 0.2):
            pytest.fail("there were more permits than allowed")
        process.kill()
        process.communicate()
        with permits.permit(until=time.monotonic() + 300):
            pass
    permits.close()


def test_a_permit_lasts_as_long_as_it_is_held(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limit, "LEASE_SECONDS", 0.6)
    first, second = (SharedRateLimit(redis, "acme", max_concurrency=1) for _ in range(2))
    with first.permit(), pytest.raises(TimeoutError), second.permit(until=time.monotonic() + 2):
        pytest.fail("the permit was given to another worker while it was held")
    with second.permit(until=time.monotonic() + 60):
        pass
    first.close()
    second.close()


def test_a_pause_stops_every_machine_and_a_shorter_one_has_no_effect(redis: str) -> None:
    first, second = (SharedRateLimit(redis, "acme", max_concurrency=2) for _ in range(2))
    began = time.monotonic()
    first.pause(0.5)
    second.pause(0.1)
    with second.permit():
        assert time.monotonic() - began > 0.49
    first.pause(7200)  # longer than any pause: how one looks after the server's clock was set back
    with second.permit(until=time.monotonic() + 60):
        pass


def test_connections_do_not_share_their_limits(redis: str) -> None:
    acme, other = (SharedRateLimit(redis, name, max_concurrency=1) for name in ("acme", "other"))
    with acme.permit(), other.permit(until=time.monotonic() + 60):
        pass


def test_a_wait_for_a_permit_can_be_stopped(redis: str) -> None:
    permits, stop = SharedRateLimit(redis, "acme", max_concurrency=1), threading.Event()
    permits.pause(30)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(StoppedError), permits.permit(stop=stop):
        pytest.fail("it was paused")


def test_a_server_that_comes_back_is_used_again_and_one_that_does_not_is_named_without_its_password() -> None:
    port = free_port()
    with redis_server(port) as url:
        permits = SharedRateLimit(url, "acme", max_concurrency=1)
        with permits.permit():
            pass
    returned = threading.Event()

    def again() -> None:
        with redis_server(port):
            returned.wait(600)

    restart = threading.Timer(1.0, again)
    restart.start()
    with permits.permit(until=time.monotonic() + 300):
        pass
    returned.set()
    restart.join()
    impatient = SharedRateLimit(url, "acme", max_concurrency=1, patience=0.1)
    with pytest.raises(TransportError) as caught, impatient.permit():
        pytest.fail("there is no server")
    assert str(caught.value) == (
        f"Redis at 127.0.0.1:{port}, which holds the rate limits (RMM_RATE_LIMITS), cannot be used for 0.1 s: ConnectionError"
    )
    assert caught.value.__suppress_context__ or PASSWORD not in repr(caught.value.__context__)


def test_a_wrong_password_fails_at_once_and_is_not_repeated(redis: str) -> None:
    permits = SharedRateLimit(redis.replace(PASSWORD, "wrong-password"), "acme", max_concurrency=1)
    with pytest.raises(TransportError, match="cannot be used: AuthenticationError") as caught, permits.permit():
        pytest.fail("the password is wrong")
    assert "wrong-password" not in str(caught.value)


def test_a_load_is_red_if_redis_is_away_and_no_message_has_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(LIMITS_VARIABLE, f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(SharedRateLimit.__init__, "__kwdefaults__", {"requests_per_minute": None, "patience": 0.1})
    caplog.set_level(logging.DEBUG)
    store = Store("duckdb", str(tmp_path / "rmm.duckdb"), "acme", tmp_path / "work")
    with Simulator(tables={"devices": devices(3)}) as rmm:
        with pytest.raises(Exception, match=r"devices.*: Redis at 127.0.0.1:\d+, which holds the rate limits"):
            sync(connection(), connection().resource("devices"), KEY, base_url=rmm.base_url, store=store)
        assert not rmm.requests
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://127.0.0.1:6379", "redis://", f"redis://:{PASSWORD}/@127.0.0.1", "file"]
)
def test_a_setting_that_is_not_a_url_of_redis_is_refused_and_not_repeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMITS_VARIABLE, url)
    with pytest.raises(ValueError, match="RMM_RATE_LIMITS must be the URL of a Redis server") as caught:
        open_permits(tmp_path, "acme", max_concurrency=1)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "files"])
def test_limits_are_in_files_by_default(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMITS_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(LIMITS_VARIABLE, value)
    permits = open_permits(tmp_path, "acme", max_concurrency=1)
    assert isinstance(permits, RateLimit)
    permits.close()
    assert (tmp_path / "pace" / "acme").is_dir()
