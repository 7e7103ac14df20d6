"""Tests that runs on several machines, which share nothing but the destination, load a resource one at a time.

A machine is a store with a working folder of its own.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rmm_assets.errors import TableInUseError
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.locks import LOCKS
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.syncing import KEY, connection, devices, resource

NAME = "acme__devices"
WITHIN = 120.0


pytestmark = pytest.mark.slow


@pytest.fixture(params=["postgres", "mariadb"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> list[Store]:
    kind = "postgres" if request.param == "postgres" else "sqlalchemy"
    url = request.getfixturevalue(request.param)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return [Store(kind, url, "locks", tmp_path / name, run_id=name) for name in ("first", "second")]


def beats(store: Store) -> list[tuple[str, str]]:
    with store.reading("look") as client:
        return [(holder, beat) for holder, beat in Table(client, LOCKS).rows("SELECT holder, beat FROM {table}")]


def test_a_run_waits_for_one_on_another_machine_and_says_so(
    machines: list[Store], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = machines
    made = connection(resource(), destination=first.destination, dataset="locks")
    with Simulator(tables={"devices": devices(3)}) as server, ThreadPoolExecutor() as pool:
        with first.alone(NAME), first.locked(NAME):
            load = pool.submit(sync, made, made.resource("devices"), KEY, base_url=server.base_url, store=second)
            until = time.monotonic() + WITHIN
            while "waiting for another run" not in caplog.text:
                assert time.monotonic() < until and not load.done()
                time.sleep(0.05)
            assert not server.requests
        assert load.result(WITHIN).row_count == 3
    assert f"waiting for another run that loads {NAME}: process " in caplog.text and ", run first" in caplog.text
    assert [holder for holder, _ in beats(first)] == [""]


def test_the_lock_of_a_run_that_died_is_taken_over(machines: list[Store]) -> None:
    first, second = machines
    with second.locked("other"):
        pass  # makes the table
    with second.changing("kill") as client:
        Table(client, LOCKS).change(
            "INSERT INTO {table} (name, place, holder, beat) VALUES (%s, 'elsewhere', 'dead', '1')", NAME
        )
    started = time.monotonic()
    with replace(second, dead_after=3.0).locked(NAME) as lock:
        assert time.monotonic() - started > 3
        assert lock is not None
        lock.ensure()
    # On the same machine, the lock of its working folder shows at once that the run has died.
    with second.changing("kill") as client:
        place = (second.work / f"{NAME}.id").read_text()
        Table(client, LOCKS).change(
            "UPDATE {table} SET holder = 'dead', beat = '2', place = %s WHERE name = %s", place, NAME
        )
    with second.locked(NAME) as lock:
        assert lock is not None
    assert {beat for _, beat in beats(first)} == {""}


def test_a_run_that_was_suspended_for_too_long_publishes_nothing(machines: list[Store]) -> None:
    first, second = machines
    with first.locked(NAME) as lock:
        assert lock is not None
        with replace(second, dead_after=0.0).locked(NAME) as other:
            assert other is not None
            other.ensure()
            with pytest.raises(TableInUseError, match="another run has taken its place; nothing was published"):
                lock.ensure()
    assert {beat for _, beat in beats(first)} == {""}


def test_of_many_runs_that_start_at_once_one_at_a_time_has_the_lock(machines: list[Store]) -> None:
    held: list[str] = []

    def hold(number: int) -> None:
        store = replace(machines[0], work=machines[0].work / str(number))
        store.work.mkdir(parents=True)
        with store.locked(NAME, logging.getLogger("quiet")) as lock:
            assert lock is not None
            held.append("begin")
            time.sleep(0.2)
            lock.ensure()
            held.append("end")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(4)))
    assert held == ["begin", "end"] * 4


def test_files_need_no_lock_in_the_database(tmp_path: Path) -> None:
    store = Store("duckdb", str(tmp_path / "rmm.duckdb"), "acme", tmp_path / "work")
    with store.locked(NAME) as lock:
        assert lock is None
    assert not (tmp_path / "rmm.duckdb").exists()
