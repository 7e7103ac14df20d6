"""Rejected rows are tried again: those that can land do, once, and none takes the place of a newer row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import PublishedError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.retry import Retried, retry_rejected
from rmm_assets.loading.run import open_run, sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.syncing import KEY, Row, connection, devices, resource, store_in

pytestmark = pytest.mark.slow

STRICT = {"columns": {"age": {"data_type": "bigint"}}}
RANGE = {"cursor_path": "number", "start_param": "above", "initial_value": 0, "range_start": "open"}


class Bench:
    """A server, and a table whose `age` once was a number and now may be any text."""

    def __init__(self, store: Store, server: Simulator, **way: Any) -> None:
        self.store, self._server, self._way = store, server, way

    def made(self, **more: Any) -> Connection:
        return connection(resource(**self._way, **more), destination={"type": self.store.destination})

    def holds(self, rows: list[Row], **more: Any) -> Outcome:
        """Runs once while the server holds these rows."""
        self._server.set_rows("devices", rows)
        made = self.made(**(more or STRICT))
        return sync(made, made.resource("devices"), KEY, base_url=self._server.base_url, store=self.store)

    def fails_afterwards(self, rows: list[Row], **more: Any) -> None:
        """Runs once, and fails when the rows are in the table."""
        self._server.set_rows("devices", rows)
        made = self.made(**more)
        with open_run(
            made, made.resource("devices"), KEY, base_url=self._server.base_url, store=self.store
        ) as opened:  # fmt: skip
            opened.pipeline.run(opened.source)
            raise OSError("the disk is full")

    def retry(self, **more: Any) -> Retried:
        made = self.made(**more)
        return retry_rejected(made, made.resource("devices"), store=self.store)

    def held(self, *columns: str, table: str = "devices") -> list[tuple[Any, ...]]:
        with self.store.reading("test") as client:
            found = Table(client, table)
            listed = ", ".join(name for name in columns if name in found.columns())
            return sorted(found.rows(f"SELECT {listed} FROM {{table}}"), key=str)

    @property
    def reasons(self) -> list[str]:
        return [reason for (reason,) in self.held("reason", table="devices_rejected")]


@pytest.fixture
def server() -> Any:
    with Simulator(tables={"devices": []}) as simulator:
        yield simulator


def rows(*ages: Any) -> list[Row]:
    return [{**row, "number": row["id"], "age": age} for row, age in zip(devices(len(ages)), ages, strict=True)]


@pytest.mark.parametrize("kind", ["duckdb", "postgres"])
def test_rows_that_can_land_now_do_and_the_others_stay_with_their_reason(
    kind: str, tmp_path: Path, server: Simulator, request: pytest.FixtureRequest
) -> None:
    store = store_in(tmp_path)
    if kind == "postgres":
        store = Store("postgres", request.getfixturevalue("postgres"), "retry", tmp_path / "work")
    bench = Bench(store, server)
    first = bench.holds([*rows(1, 2, "three", "four"), {"id": None, "age": 5}])
    assert (first.rows_rejected, first.row_count) == (3, 2)
    assert bench.retry(**STRICT) == Retried(rejected=3)
    assert len(bench.reasons) == 3

    done = bench.retry()
    assert done == Retried(landed=2, new=2, rejected=1)
    assert bench.reasons == ["id: missing or null, and it is the primary key"]
    assert bench.held("id", "age__v_text") == [(1, None), (2, None), (3, "three"), (4, "four")]
    assert bench.retry() == Retried(rejected=1), "nothing lands twice"

    # They are rows of the read that brought them: none is gone, none is new, and a loss would be noticed.
    again = bench.holds(rows(1, 2, "three", "four"), checks={})
    assert (again.rows_new, again.rows_changed, again.absences.gone, again.row_count) == (0, 0, 0, 4)


def test_nothing_is_absent_after_a_retry_and_a_row_that_was_comes_back(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server)
    bench.holds(rows(1, 2, 3))
    bench.holds(rows(1, 2))
    assert bench.holds(rows(1, 2, "three")).rows_rejected == 1
    assert bench.retry() == Retried(landed=1, changed=1)
    [(_, absent)] = [row for row in bench.held("id", "_absent_since") if row[0] == 3]
    assert absent is None
    again = bench.holds(rows(1, 2, "three"), checks={})
    assert (again.rows_written, again.absences.gone) == (0, 0)


def test_rows_rejected_before_a_load_whose_later_step_failed_are_not_tried(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server)
    bench.holds(rows(1, "two", 3))
    with pytest.raises(PublishedError):
        bench.fails_afterwards(rows(4), max_absent_share=1.0, **STRICT)
    assert bench.retry() == Retried(earlier=1)


def test_a_newer_row_is_not_overwritten_by_its_rejected_version(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server, endpoint={"incremental": {**RANGE, "range_start": "closed"}})
    bench.holds(rows(1, "two", "three"))
    later = [{**row, "number": row["number"] + 10} for row in rows(1, 2, "third")]
    bench.holds(later)
    assert len(bench.reasons) == 2, "row 3 was rejected twice for one reason, row 2 once"
    done = bench.retry()
    assert done == Retried(landed=1, new=1, outdated=1)
    assert bench.held("id", "age", "age__v_text") == [(1, 1, None), (2, 2, None), (3, None, "third")]
    assert bench.retry() == Retried(outdated=1)


def test_a_row_that_is_rejected_anew_keeps_its_older_version_out(tmp_path: Path, server: Simulator) -> None:
    columns = {"age": {"data_type": "bigint"}, "size": {"data_type": "bigint"}}
    bench = Bench(store_in(tmp_path), server, endpoint={"incremental": {**RANGE, "range_start": "closed"}})
    bench.holds([{"id": 1, "number": 1, "age": "one"}], columns=columns)
    bench.holds([{"id": 1, "number": 2, "size": "big"}, {"id": 2, "number": 2, "size": 5}], columns=columns)
    done = bench.retry(columns={"size": {"data_type": "bigint"}})
    assert done == Retried(rejected=1, outdated=1)
    assert bench.held("id") == [(2,)]


def test_rows_of_an_earlier_read_of_everything_are_left(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server)
    bench.holds(rows(1, "two", "three"))
    bench.holds([*rows(1, 2), {**rows(*"abcd")[3]}])
    assert bench.retry() == Retried(landed=1, new=1, earlier=2)
    assert bench.held("id", "age", "age__v_text") == [(1, 1, None), (2, 2, None), (4, None, "d")]


@pytest.mark.parametrize("way", ["append", "replace"])
def test_rows_are_added_to_a_table_that_a_run_fills_otherwise(way: str, tmp_path: Path, server: Simulator) -> None:
    more = {"endpoint": {"incremental": RANGE}} if way == "append" else {}
    bench = Bench(store_in(tmp_path), server, write_disposition=way, **more)
    bench.holds(rows(1, "two", "three"))
    assert bench.retry().landed == 2
    assert bench.held("id", "age__v_text") == [(1, None), (2, "two"), (3, "three")]
    assert bench.reasons == []
    again = bench.holds(rows(1, 2, 3), checks={})
    assert (again.rows_loaded, again.row_count) == ((0, 3) if way == "append" else (3, 3))


@pytest.mark.parametrize("key", [["id"], []])
def test_rows_are_appended_once_if_a_retry_is_killed_before_their_rejections_are_deleted(
    key: list[str], tmp_path: Path, server: Simulator
) -> None:
    ranged = {"incremental": {**RANGE, "primary_key": "id"}}
    bench = Bench(store_in(tmp_path), server, write_disposition="append", endpoint=ranged, primary_key=key)
    assert bench.holds(rows(1, "two")).rows_rejected == 1
    kept = bench.held("row_json", "reason", "page", "rejection_id", "_dlt_load_id", table="devices_rejected")
    assert bench.retry().landed == 1
    with bench.store.changing("test") as client:
        for row in kept:
            Table(client, "devices_rejected").change(
                "INSERT INTO {table} (row_json, reason, page, rejection_id, _dlt_load_id) VALUES (%s, %s, %s, %s, %s)",
                *row,
            )
    assert bench.retry() == Retried(outdated=len(key))
    assert bench.held("id") == [(1,), (2,)]


def test_a_row_that_a_later_read_appended_is_not_appended_again(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server, write_disposition="append", endpoint={"incremental": RANGE})
    bench.holds(rows(1, "two"))
    assert bench.holds(rows(1, 2)).rows_loaded == 1
    assert bench.retry() == Retried(outdated=1)
    assert bench.held("id", "age") == [(1, 1), (2, 2)]


def test_child_tables_and_dlt_s_normalizer_get_their_rows_too(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server, child_tables=True)
    bench.holds([{**row, "disks": [{"drive": "C"}]} for row in rows(1, "two")])
    assert bench.retry().landed == 1
    assert len(bench.held("drive", table="devices__disks")) == 2
    other = Bench(replace(store_in(tmp_path), dataset="other"), server, normalizer="dlt")
    other.holds([{"name": "b"}])
    assert other.retry(primary_key="name").landed == 1
    assert other.held("name") == [("b",)]


@pytest.mark.parametrize(
    "way",
    [
        {"history": True},
        {"merge_key": "name"},
        {"write_disposition": {"disposition": "merge", "strategy": "cdc"}},
    ],
)
def test_a_table_in_which_a_load_takes_the_place_of_others_is_refused(
    way: dict[str, Any], tmp_path: Path, server: Simulator
) -> None:
    with pytest.raises(ValueError, match="devices: rejected rows cannot be tried again"):
        Bench(store_in(tmp_path), server, **way).retry()


def test_there_is_nothing_to_try_before_a_first_load(tmp_path: Path, server: Simulator) -> None:
    bench = Bench(store_in(tmp_path), server)
    assert bench.retry() == Retried()
    assert not (tmp_path / "rmm.duckdb").exists()
    bench.holds(rows(1))
    assert bench.retry() == Retried()
