"""Where tables land, who may work there at the same time, and what a table says of itself in SQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from rmm_assets.simulator import Simulator
from rmm_assets.tables.absences import forget_unfinished
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import connection, devices, ids, resource, rows_of, run, store_in


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    """`acme.devices` with three rows."""
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url)
    with store_in(tmp_path).pipeline("asked", read_only=True).sql_client() as client:
        yield Table(client, "devices")


def test_a_table_says_its_name_columns_and_rows(table: Table) -> None:
    assert table.full_name == "rmm.acme.devices"
    assert table.exists()
    assert set(table.columns()) == {"id", "name", "status", "_dlt_load_id", "_absent_since"}
    assert table.count() == 3
    assert table.count(f"{table.quote('id')} > 1") == 2
    assert table.rows("SELECT name FROM {table} WHERE id = %s", 2) == [("PC-0002",)]


def test_a_table_that_is_not_there_has_no_rows_and_no_columns(table: Table) -> None:
    missing = Table(table.client, "no such table")
    assert not missing.exists()
    assert missing.columns() == ()
    assert missing.count() == 0


@pytest.mark.parametrize("name", ["order", "select", "devices__parts"])
def test_reserved_and_nested_names_are_quoted(name: str, tmp_path: Path) -> None:
    made = connection(resource("devices", table_name=name))
    with Simulator(tables={"devices": devices(3)}) as server:
        outcome = run(tmp_path, server.base_url, made)
    assert outcome.row_count == 3
    assert outcome.table_name == f"rmm.acme.{name}"


def test_others_may_read_while_pages_are_fetched(tmp_path: Path) -> None:
    read: list[int] = []

    def count(seen: Seen) -> Say:
        # DuckDB lets a reader of this process in only while nothing else has the file open for writing.
        with duckdb.connect(str(tmp_path / "rmm.duckdb"), read_only=True) as reader:
            read.extend(row[0] for row in reader.execute("SELECT count(*) FROM acme.devices").fetchall())
        return Say({"data": devices(3), "total": 3})

    with Simulator(tables={"devices": devices(2)}) as server:
        run(tmp_path, server.base_url)
    with Scripted(count) as scripted:
        run(tmp_path, scripted.url)
    assert read == [2]
    assert rows_of(tmp_path) == devices(3)


def test_one_at_a_time_works_in_a_database_file_whatever_the_resource(tmp_path: Path) -> None:
    store, order = store_in(tmp_path), list[str]()
    entered = threading.Event()

    def second() -> None:
        with store.alone("alerts"):
            order.append("second")

    with store.alone("devices"):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_the_place_is_told_without_credentials(tmp_path: Path) -> None:
    assert store_in(tmp_path).place() == str(tmp_path / "rmm.duckdb")
    remote = Store("postgres", "postgresql://loader@db.example.com/rmm", "acme", tmp_path)
    assert remote.place() == "postgres, dataset acme"


def test_rows_of_a_load_that_was_never_finished_are_forgotten_and_no_others(tmp_path: Path) -> None:
    made = connection(resource(write_disposition="append"))
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url, made)
    database = str(tmp_path / "rmm.duckdb")
    with duckdb.connect(database) as client:
        # A killed run's, and one that another tool loaded long before and that dlt knows nothing of.
        client.execute("INSERT INTO acme.devices VALUES (4, 'killed', 'online', '9999999999.1')")
        client.execute("INSERT INTO acme.devices VALUES (5, 'old', 'online', '1000000000.1')")
    with store_in(tmp_path).pipeline("asked").sql_client() as opened:
        forget_unfinished(Table(opened, "devices"), "acme__devices")
    assert [row["name"] for row in rows_of(tmp_path)] == ["PC-0001", "PC-0002", "PC-0003", "old"]


def test_rows_that_say_they_are_deleted_are_left_out_each_time(tmp_path: Path) -> None:
    made = connection(resource(columns={"gone": {"data_type": "bool", "hard_delete": True}}))
    rows = [{**row, "gone": row["id"] == 3} for row in devices(5)]
    with Simulator(tables={"devices": rows}) as server:
        for _ in range(3):
            run(tmp_path, server.base_url, made)
            assert ids(rows_of(tmp_path)) == [1, 2, 4, 5]


def test_a_first_load_makes_no_second_copy(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(50)}) as server:
        run(tmp_path, server.base_url)
        assert _copies(tmp_path) == 0
        run(tmp_path, server.base_url)
        assert _copies(tmp_path) == 50  # a merge goes by way of dlt's staging table
    assert ids(rows_of(tmp_path)) == list(range(1, 51))


def _copies(folder: Path) -> int:
    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        tables = (
            "SELECT 1 FROM information_schema.tables WHERE table_schema = 'acme_staging' AND table_name = 'devices'"
        )
        return (
            len(client.sql("SELECT * FROM acme_staging.devices").fetchall()) if client.execute(tables).fetchall() else 0
        )


def test_a_first_load_keeps_to_the_condition_of_a_merge(tmp_path: Path) -> None:
    made = connection(
        resource(write_disposition={"disposition": "merge", "strategy": "upsert", "source_filter": "id <= 3"})
    )
    with Simulator(tables={"devices": devices(5)}) as server:
        for _ in range(2):
            run(tmp_path, server.base_url, made)
            assert ids(rows_of(tmp_path)) == [1, 2, 3]
