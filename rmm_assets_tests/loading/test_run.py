"""Tests that a run handles versions, dropped tables, other connections' tables and failures after the load correctly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

from rmm_assets.config import Connection
from rmm_assets.errors import ChildTablesError, ForeignTableError, PublishedError
from rmm_assets.loading.run import open_run, sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.loading.test_destinations import store_at
from rmm_assets_tests.syncing import KEY, absent, connection, devices, ids, resource, rows_of, run, store_in

pytestmark = pytest.mark.slow


def change(folder: Path, *statements: str) -> None:
    """Changes the database by hand."""
    with duckdb.connect(str(folder / "rmm.duckdb")) as client:
        for statement in statements:
            client.execute(statement)


# Versions


@pytest.mark.parametrize("marked", [{}, {"active_record_timestamp": "9999-12-31"}])
def test_history_counts_new_rows_and_changed_ones(marked: dict[str, Any], tmp_path: Path) -> None:
    disposition = {"disposition": "merge", "strategy": "scd2", **marked}
    made = connection(resource(write_disposition=disposition, max_absent_share=1))
    with Simulator(tables={"devices": devices(3)}) as server:
        first = run(tmp_path, server.base_url, made)
        assert (first.rows_new, first.rows_changed) == (3, 0)
        server.set_rows("devices", [{**devices(1)[0], "status": "offline"}, *devices(3, first=2)])
        second = run(tmp_path, server.base_url, made)
        assert (second.rows_new, second.rows_changed) == (1, 1)
        third = run(tmp_path, server.base_url, made)
        assert (third.rows_new, third.rows_changed, third.row_count) == (0, 0, 5)


# Absences


def test_a_row_is_removed_only_after_two_complete_reads_without_it(tmp_path: Path) -> None:
    made = connection(resource(absent="remove"))
    with Simulator(tables={"devices": devices(10)}) as server:
        run(tmp_path, server.base_url, made)
        server.set_rows("devices", devices(8))
        outcome = run(tmp_path, server.base_url, made)
        assert (outcome.absences.gone, outcome.absences.marked, outcome.absences.removed) == (2, 2, 0)
        assert absent(tmp_path) == {9, 10}
        server.set_rows("devices", devices(9))  # one of them returns
        outcome = run(tmp_path, server.base_url, made)
        assert (outcome.absences.gone, outcome.absences.removed) == (0, 1)
        assert ids(rows_of(tmp_path)) == list(range(1, 10))
        assert absent(tmp_path) == set()
        server.set_rows("devices", devices(8))
        assert run(tmp_path, server.base_url, made).absences.removed == 0
        assert absent(tmp_path) == {9}


# Tables that were dropped


@pytest.mark.parametrize("disposition", ["merge", "append", "replace"])
def test_a_table_dropped_by_hand_is_loaded_again_with_all_rows(disposition: str, tmp_path: Path) -> None:
    made = connection(resource(write_disposition=disposition))
    with Simulator(tables={"devices": devices(5)}) as server:
        run(tmp_path, server.base_url, made)
        change(tmp_path, "DROP TABLE acme.devices")
        outcome = run(tmp_path, server.base_url, made)
        assert outcome.row_count == outcome.rows_new == 5
        assert rows_of(tmp_path) == devices(5)
        if disposition != "append":
            run(tmp_path, server.base_url, made)
            assert rows_of(tmp_path) == devices(5)


def test_a_dropped_table_of_an_incremental_resource_is_read_from_the_beginning(tmp_path: Path) -> None:
    rows = [{**row, "at": f"2024-01-{row['id']:02}T00:00:00Z"} for row in devices(9)]
    incremental = {"cursor_path": "at", "start_param": "updated_since", "initial_value": "2024-01-01T00:00:00Z"}
    made = connection(resource(endpoint={"incremental": incremental}))
    with Simulator(tables={"devices": rows}) as server:
        run(tmp_path, server.base_url, made)
        change(tmp_path, "DROP TABLE acme.devices")
        run(tmp_path, server.base_url, made)
        assert server.requests[-1].query["updated_since"] == "2024-01-01T00:00:00Z"
    assert ids(rows_of(tmp_path)) == list(range(1, 10))


def test_a_table_gets_child_tables_after_it_is_dropped_as_the_error_says(tmp_path: Path) -> None:
    rows = [{**row, "disks": [{"drive": "C"}]} for row in devices(3)]
    with Simulator(tables={"devices": rows}) as server:
        run(tmp_path, server.base_url)
        nested = connection(resource(child_tables=True))
        with pytest.raises(ChildTablesError, match="Drop the table and load it again"):
            run(tmp_path, server.base_url, nested)
        change(tmp_path, "DROP TABLE acme.devices")
        run(tmp_path, server.base_url, nested)
        assert len(rows_of(tmp_path)) == len(rows_of(tmp_path, "devices__disks")) == 3
        # And back: leftover child tables have rows without parents.
        change(tmp_path, "DROP TABLE acme.devices")
        run(tmp_path, server.base_url, nested)
        assert len(rows_of(tmp_path)) == len(rows_of(tmp_path, "devices__disks")) == 3


# Tables of other connections


def named(name: str, **changes: Any) -> Connection:
    return connection(resource(**changes), name=name, dataset="acme")


def test_a_table_loaded_by_another_connection_is_refused_and_unchanged(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(5)}) as server:
        run(tmp_path, server.base_url, named("acme"))
        server.set_rows("devices", devices(2, name="other"))
        with pytest.raises(ForeignTableError, match=r"the table rmm\.acme\.devices was loaded as acme__devices"):
            run(tmp_path, server.base_url, named("other"))
        assert rows_of(tmp_path) == devices(5)
        # The remedy in the error, for a renamed connection.
        change(tmp_path, "DELETE FROM acme._dlt_version WHERE schema_name = 'acme__devices'")
        server.set_rows("devices", devices(6))
        run(tmp_path, server.base_url, named("other"))
        assert rows_of(tmp_path) == devices(6)


def test_a_table_without_a_schema_keeps_its_types(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(2, load=1)}) as server:
        run(tmp_path, server.base_url, named("acme"))
        change(tmp_path, "DELETE FROM acme._dlt_version WHERE schema_name = 'acme__devices'")
        server.set_rows("devices", devices(3, load=1.5))
        outcome = run(tmp_path, server.base_url, named("other"))
    assert outcome.changed_types == {"load": ("bigint", "double")}
    assert [(row["load"], row["load__v_double"]) for row in rows_of(tmp_path)] == [(None, 1.5)] * 3


# Failures after the load


def load_and_lose_the_copy(made: Connection, base_url: str, store: Store) -> None:
    """Runs a load, but drops the copy of the table that counts new rows before the end."""
    with open_run(made, made.resource("devices"), KEY, base_url=base_url, store=store) as opened:
        opened.pipeline.drop()
        info = opened.pipeline.run(opened.source)
        with opened.client as client:
            client.execute_sql("DROP TABLE acme_staging.devices__before")
        opened.finish(info)


# What a first run leaves that is killed before dlt records its load.
NOT_RECORDED = ("DELETE FROM acme._dlt_loads", "DELETE FROM acme.rmm_syncs")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"child_tables": True},
        {"write_disposition": "append", "primary_key": None},
        {"write_disposition": "append", "primary_key": None, "child_tables": True},
        {"write_disposition": "replace"},
        {"write_disposition": {"disposition": "merge", "strategy": "scd2"}},
    ],
    ids=["merge", "merge with children", "append", "append with children", "replace", "history"],
)
def test_a_first_load_that_dlt_did_not_record_is_repaired(changes: dict[str, Any], tmp_path: Path) -> None:
    made = connection(resource(**changes))
    rows = devices(30, tags=["a", "b"], size=1)
    with Simulator(tables={"devices": rows}) as server:
        run(tmp_path, server.base_url, made)
        change(tmp_path, *NOT_RECORDED)
        rows = [*rows[5:], *devices(3, 1000, tags=["c"], size="large")]
        server.set_rows("devices", rows)
        run(tmp_path, server.base_url, made)
    found = rows_of(tmp_path, own=True)
    gone = [row for row in found if row.get("_absent_since") or row.get("_dlt_valid_to")]
    valid = [row for row in found if row not in gone]
    assert ids(valid) == ids(rows)
    assert [row["size"] for row in valid] == [1] * 25 + [None] * 3
    assert [row["size__v_text"] for row in valid] == [None] * 25 + ["large"] * 3
    if "child_tables" in changes:
        with duckdb.connect(str(tmp_path / "rmm.duckdb"), read_only=True) as client:
            children = client.sql("SELECT value, count(*) FROM acme.devices__tags GROUP BY 1 ORDER BY 1").fetchall()
        still = 25 + len(gone)
        assert children == [("a", still), ("b", still), ("c", 3)]


@pytest.mark.parametrize(("loads", "emptied"), [(1, NOT_RECORDED[:1]), (2, NOT_RECORDED)])
def test_appended_rows_stay_if_somebody_empties_dlt_s_own_table(
    loads: int, emptied: tuple[str, ...], tmp_path: Path
) -> None:
    made = connection(resource(write_disposition="append", primary_key=None))
    with Simulator() as server:
        for number in range(loads + 1):
            server.set_rows("devices", devices(3, 3 * number + 1))
            run(tmp_path, server.base_url, made)
            if number == loads - 1:
                change(tmp_path, *emptied)
    assert ids(rows_of(tmp_path)) == list(range(1, 3 * loads + 4))


@pytest.mark.parametrize(
    "more",
    [
        {"history": True, "endpoint": {"incremental": {"cursor_path": "at", "start_param": "since"}}},
        {"history": True, "merge_key": ["site", "id"]},
        {"write_disposition": {"disposition": "merge", "strategy": "cdc"}, "merge_key": ["site", "id"]},
    ],
    ids=["history with a range", "history with a merge key", "cdc"],
)
@pytest.mark.parametrize("kind", ["duckdb", "postgres"])
def test_rows_with_a_key_that_reads_alike_are_not_ended_or_deleted(
    kind: str, more: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = store_in(tmp_path) if kind == "duckdb" else store_at(kind, tmp_path, request)
    made = connection(resource(primary_key=["site", "id"], absent="keep", **more), destination=kind)
    rows = [{"site": "1", "id": 11, "at": "2026-01-01"}, {"site": "11", "id": 1, "at": "2026-01-01"}]
    with Simulator(tables={"devices": rows}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
        server.set_rows("devices", [{"site": "1", "id": 11, "at": "2026-01-02"}])
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    with store.reading("look") as client:
        table = Table(client, "devices")
        valid = "_dlt_valid_to IS NULL" if "history" in more else "1 = 1"
        assert sorted(table.rows(f"SELECT site, id FROM {{table}} WHERE {valid}")) == [("1", 11), ("11", 1)]


def test_child_rows_without_the_id_that_a_merge_needs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    appended = resource(write_disposition="append", primary_key=None, child_tables=True)
    with Simulator(tables={"devices": devices(3, tags=["a"])}) as server:
        run(tmp_path, server.base_url, connection(appended))
        with pytest.raises(ChildTablesError, match=r"devices__tags do not have .* Drop the tables and load them again"):
            run(tmp_path, server.base_url, connection(resource(child_tables=True)))
        change(tmp_path, "DROP TABLE acme.devices__tags", "DROP TABLE acme.devices")
        assert run(tmp_path, server.base_url, connection(resource(child_tables=True))).row_count == 3


def test_an_error_after_the_load_says_that_the_rows_are_in_the_table(tmp_path: Path) -> None:
    made = connection()
    with Simulator(tables={"devices": devices(5)}) as server:
        run(tmp_path, server.base_url)
        server.set_rows("devices", devices(6))
        store = store_in(tmp_path)
        with pytest.raises(
            PublishedError, match=r"devices: the rows of load [\d.]+ are in the table, but a step after"
        ):
            load_and_lose_the_copy(made, server.base_url, store)
        assert rows_of(tmp_path) == devices(6)
        assert run(tmp_path, server.base_url).row_count == 6


def test_an_error_before_the_load_is_reported_unchanged(tmp_path: Path) -> None:
    made = connection()
    with Simulator(tables={"devices": devices(5)}) as server:
        run(tmp_path, server.base_url)
        with (
            pytest.raises(RuntimeError, match=r"^nothing landed$"),
            open_run(made, made.resource("devices"), KEY, base_url=server.base_url, store=store_in(tmp_path)),
        ):
            raise RuntimeError("nothing landed")


def test_a_load_that_fails_halfway_says_whether_rows_are_in_the_table(tmp_path: Path) -> None:
    made = connection(resource(columns={"age": {"data_type": "bigint"}}))
    with Simulator(tables={"devices": devices(3, age=1)}) as server:
        run(tmp_path, server.base_url, made)
        # Rows are loaded, but rejected ones do not fit their table. Which comes first is a race.
        change(
            tmp_path, "CREATE TABLE acme.devices_rejected (row_json INTEGER, reason DATE, page DATE, rejected_at DATE)"
        )
        server.set_rows("devices", [*devices(4, age=2), {"id": 9, "age": "unknown"}])
        with pytest.raises((PublishedError, PipelineStepFailed)) as caught:
            sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store_in(tmp_path))
        landed = {row["age"] for row in rows_of(tmp_path)} == {2}
        assert isinstance(caught.value, PublishedError) == landed
        # The next run starts over, whatever is left.
        change(tmp_path, "DROP TABLE acme.devices_rejected")
        server.set_rows("devices", devices(4, age=3))
        run(tmp_path, server.base_url, made)
    assert {row["age"] for row in rows_of(tmp_path)} == {3}


# dlt's logs


def test_dlt_s_logs_about_a_database_contain_neither_key_nor_password(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Such a short key is not redacted from rows, where it may be an ordinary word; dlt logs rows with the database's error.
    key, password = "k3y-7", "p4ss-w0rd-of-the-database"
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(logging.Formatter().format(record))  # type: ignore[method-assign]
    log = logging.getLogger("dlt")
    with Simulator(tables={"devices": devices(3)}, api_key=key) as server:
        made = connection()
        sync(made, made.resource("devices"), key, base_url=server.base_url, store=store_in(tmp_path))
        change(tmp_path, "CREATE UNIQUE INDEX one_name ON acme.devices (name)")
        server.set_rows("devices", devices(3, name=key))
        log.addHandler(handler)
        try:
            with pytest.raises(PipelineStepFailed):
                sync(made, made.resource("devices"), key, base_url=server.base_url, store=store_in(tmp_path))
            with open_run(
                made, made.resource("devices"), key, base_url=server.base_url, store=store_in(tmp_path)
            ) as opened:
                log.error("cannot connect as %s", key)
                opened.attempt.redactor.new().add(password)
                log.error("cannot connect with %s", password)
        finally:
            log.removeHandler(handler)
    assert any("duplicate key" in text and "***" in text for text in records), records
    assert "cannot connect as ***" in records
    assert not [text for text in (*records, *capfd.readouterr()) if key in text or password in text]
    assert Store("postgres", f"postgresql://me:{quote(password)}@db/rmm", "acme", tmp_path).password == password
    assert Store("postgres", {"password": password}, "acme", tmp_path).password == password
    assert store_in(tmp_path).password is None
