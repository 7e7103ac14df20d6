"""Tests concurrent runs, locked or unreachable databases and full disks: a run waits, or fails with the cause."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rmm_assets.cli.instance import dagster_instance
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults
from rmm_assets.tables import store as stores
from rmm_assets.tables.store import Store
from rmm_assets_tests.commands import FORKS
from rmm_assets_tests.integration.runs import Running
from rmm_assets_tests.syncing import KEY, connection, devices, resource, rows_of, run

pytestmark = pytest.mark.slow


def test_one_of_two_concurrent_runs_waits_and_both_are_correct(tmp_path: Path) -> None:
    made = connection(resource("devices"), resource("alerts"))
    tables = {"devices": devices(300), "alerts": devices(200)}
    with Simulator(tables=tables, faults=Faults(delay=0.1)) as server:
        first = Running(tmp_path, server.base_url, made)
        first.reaches("fetching")
        again, other = (Running(tmp_path, server.base_url, made, name) for name in ("devices", "alerts"))
        assert first.end()["verdict"] == again.end()["verdict"] == other.end()["verdict"] == "green"
        held_by = f"waiting for another run of acme__devices: process {first.process.pid} on "
        assert any(line.startswith(held_by) for line in again.log), again.log
    assert rows_of(tmp_path) == devices(300)
    assert rows_of(tmp_path, "alerts") == devices(200)


def test_a_killed_run_releases_the_lock_to_a_waiting_one(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(300)}, faults=Faults(delay=0.2)) as server:
        first = Running(tmp_path, server.base_url, connection())
        first.reaches("fetching")
        second = Running(tmp_path, server.base_url, connection())
        while not second.log:
            assert second.listen(60)
        first.kill()
        assert second.end()["verdict"] == "green"
    assert rows_of(tmp_path) == devices(300)


def _hold(database: str, held: Any, free: Any) -> None:
    with duckdb.connect(database):
        held.set()
        free.wait()


def test_a_database_that_another_process_has_open_is_red_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE", 0.3)
    with Simulator(tables={"devices": devices(30)}) as server:
        run(tmp_path, server.base_url)
        held, free = FORKS.Event(), FORKS.Event()
        holder = FORKS.Process(target=_hold, args=(str(tmp_path / "rmm.duckdb"), held, free), daemon=True)
        holder.start()
        assert held.wait(60)
        server.set_rows("devices", devices(29))
        with pytest.raises(duckdb.IOException, match="Could not set lock"):
            run(tmp_path, server.base_url)
        free.set()
        holder.join(60)
        assert run(tmp_path, server.base_url).absences.marked == 1


@pytest.mark.parametrize("largest_file", [100, 20_000, 300_000])
def test_a_full_disk_is_red_with_the_cause_and_the_next_run_is_correct(largest_file: int, tmp_path: Path) -> None:
    # 100 bytes stop the pages on their way, 20,000 the load files, 300,000 the database.
    rows = devices(5000, note="x" * 100)
    with Simulator(tables={"devices": rows}) as server:
        made = connection(resource(endpoint={"paginator": {"type": "offset", "limit": 1000}}))
        ended = Running(tmp_path, server.base_url, made, largest_file=largest_file).end()
        assert ended["verdict"] == "red"
        assert "File too large" in ended["trouble"] or "IO Error" in ended["trouble"]
        run(tmp_path, server.base_url, made)
    assert rows_of(tmp_path) == rows


def test_a_database_that_cannot_be_written_is_red_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store("duckdb", str(tmp_path / "file" / "rmm.duckdb"), "acme", tmp_path / "work")
    with Simulator(tables={"devices": devices(3)}) as server:
        with pytest.raises(OSError, match=r"file"):
            sync(connection(), connection().resource("devices"), KEY, base_url=server.base_url, store=store)
        assert not server.requests


@pytest.mark.skipif(importlib.util.find_spec("psycopg2") is None, reason="dlt's postgres destination needs psycopg2")
def test_a_destination_that_is_down_is_red_before_anything_is_fetched(tmp_path: Path) -> None:
    store = Store("postgres", "postgresql://nobody:nothing@127.0.0.1:9/none", "acme", tmp_path / "work")
    with Simulator(tables={"devices": devices(3)}) as server:
        with pytest.raises(Exception, match="refused"):
            sync(connection(), connection().resource("devices"), KEY, base_url=server.base_url, store=store)
        assert not server.requests


def _make_an_instance(home: str, barrier: Any) -> None:
    os.environ["DAGSTER_HOME"] = home
    barrier.wait(300)
    with dagster_instance() as instance:
        instance.get_runs_count()


def test_commands_that_make_dagster_s_instance_at_the_same_time_can_all_use_it(tmp_path: Path) -> None:
    for number in (4, 1):
        barrier = FORKS.Barrier(number)
        started = [FORKS.Process(target=_make_an_instance, args=(str(tmp_path), barrier)) for _ in range(number)]
        for process in started:
            process.start()
        for process in started:
            process.join(300)
        assert [process.exitcode for process in started] == [0] * number
