"""Tests where tables are stored, who can use a database concurrently, and the properties of tables."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rmm_assets.errors import DatabaseInUseError
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.absences import forget_unfinished
from rmm_assets.tables.lake import WholeFiles
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import KEY, connection, devices, ids, resource, rows_of, run, store_in

pytestmark = pytest.mark.slow


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    """Yields `acme.devices` with three rows."""
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url)
    with store_in(tmp_path).pipeline("asked", read_only=True).sql_client() as client:
        yield Table(client, "devices")


def test_a_table_has_a_name_columns_and_rows(table: Table) -> None:
    assert table.full_name == "rmm.acme.devices"
    assert table.exists()
    assert set(table.columns()) == {"id", "name", "status", "_dlt_load_id", "_absent_since", "_content_hash"}
    assert table.count() == 3
    assert table.count(f"{table.quote('id')} > 1") == 2
    assert table.rows("SELECT name FROM {table} WHERE id = %s", 2) == [("PC-0002",)]


def test_a_missing_table_has_no_rows_and_no_columns(table: Table) -> None:
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


def test_others_can_read_while_pages_are_fetched(tmp_path: Path) -> None:
    read: list[int] = []

    def count(seen: Seen) -> Say:
        # DuckDB allows a reader in this process only while nothing else has the file open for writing.
        with duckdb.connect(str(tmp_path / "rmm.duckdb"), read_only=True) as reader:
            read.extend(row[0] for row in reader.execute("SELECT count(*) FROM acme.devices").fetchall())
        return Say({"data": devices(3), "total": 3})

    with Simulator(tables={"devices": devices(2)}) as server:
        run(tmp_path, server.base_url)
    with Scripted(count) as scripted:
        run(tmp_path, scripted.url)
    assert read == [2]
    assert rows_of(tmp_path) == devices(3)


def _waits(hold: Callable[[], AbstractContextManager[Any]], enter: Callable[[], AbstractContextManager[Any]]) -> bool:
    """Returns whether entering the second waits until the first is left."""
    entered = threading.Event()

    def second() -> None:
        with enter():
            entered.set()

    waiting = threading.Thread(target=second)
    with hold():
        waiting.start()
        waited = not entered.wait(0.5)
    waiting.join(60)
    assert entered.is_set()
    return waited


def test_a_database_file_has_one_writer_or_several_readers(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url)
    assert _waits(store.writing, store.writing)
    assert _waits(store.writing, lambda: store.reading("devices"))
    assert _waits(lambda: store.reading("devices"), store.writing)
    assert not _waits(lambda: store.reading("devices"), lambda: store.reading("alerts"))
    assert _waits(lambda: store.alone("devices"), lambda: store.alone("devices"))
    assert not _waits(lambda: store.alone("devices"), lambda: store.alone("alerts"))


def stores_in_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Returns a SQLite database, and DuckLakes with a catalog in a file."""
    lakes = []
    for number, catalog in enumerate(["sqlite", "duckdb"]):
        monkeypatch.setenv(f"DESTINATION__LAKE_{number}__CREDENTIALS__CATALOG", f"{catalog}:///{folder}/lake.{catalog}")
        monkeypatch.setenv(f"DESTINATION__LAKE_{number}__CREDENTIALS__STORAGE__BUCKET_URL", str(folder / "lake"))
        options = {"destination_name": f"lake_{number}"}
        lakes.append(Store("ducklake", None, "acme", folder / "work", options))
    return [Store("sqlalchemy", f"sqlite:///{folder}/rmm.sqlite", "acme", folder / "work"), *lakes]


def test_other_databases_in_a_file_have_one_writer_and_no_lock_on_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = stores_in_one_file(tmp_path, monkeypatch)
    for store in stores:
        store.prepare()
        assert store.locks_in_files
        assert _waits(store.writing, store.writing)
    server = Store("sqlalchemy", "mysql+pymysql://loader@db.example.com/rmm", "acme", tmp_path / "work")
    assert server.shared_file is None and not server.locks_in_files
    assert not _waits(server.writing, server.writing)


def test_a_file_of_a_lake_appears_when_it_is_complete(tmp_path: Path) -> None:
    files, place = WholeFiles(auto_mkdir=True), tmp_path / "lake" / "acme" / "devices" / "1.json"
    with pytest.raises(UnicodeEncodeError):
        files.write_text(str(place), "begins well \ud800", encoding="utf-8")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    files.write_text(str(place), "whole", encoding="utf-8")
    files.put_file(str(place), str(place.with_name("2.json")))
    assert [path.read_text() for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["whole", "whole"]


def test_a_folder_of_a_lake_is_copied_with_its_files(tmp_path: Path) -> None:
    files, table = WholeFiles(auto_mkdir=True), tmp_path / "lake" / "acme" / "devices"
    files.write_text(str(table / "day" / "1.json"), "whole", encoding="utf-8")
    (table / "empty").mkdir()
    files.copy(str(table), str(table.with_name("copied")), recursive=True)
    copied = table.with_name("copied")
    assert (copied / "day" / "1.json").read_text() == "whole" and (copied / "empty").is_dir()
    assert not list(tmp_path.rglob("*.part"))


def test_a_slow_api_does_not_delay_other_loads_into_the_same_file(tmp_path: Path) -> None:
    made = connection(resource("devices"), resource("alerts"))
    answered, asked = threading.Event(), threading.Event()

    def slow(seen: Seen) -> Say:
        asked.set()
        assert answered.wait(120)
        return Say({"data": devices(3), "total": 3})

    with Scripted(slow) as scripted, Simulator(tables={"alerts": devices(5)}) as server:
        waiting = threading.Thread(target=run, args=(tmp_path, scripted.url, made, "devices"))
        waiting.start()
        assert asked.wait(60)
        try:
            run(tmp_path, server.base_url, made, "alerts")
            assert ids(rows_of(tmp_path, "alerts")) == [1, 2, 3, 4, 5]
        finally:
            answered.set()
            waiting.join(120)
    assert ids(rows_of(tmp_path)) == [1, 2, 3]


def test_a_pipeline_s_clients_share_one_resolved_configuration_for_each_dataset(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    pipeline, other = store.pipeline("one"), replace(store, dataset="other").pipeline("other")
    first, second = (pipeline.destination_client().config for _ in range(2))
    assert first is second
    assert other.destination_client().config is not first


def test_the_place_contains_no_credentials(tmp_path: Path) -> None:
    assert store_in(tmp_path).place() == str(tmp_path / "rmm.duckdb")
    remote = Store("postgres", "postgresql://loader@db.example.com/rmm", "acme", tmp_path)
    assert remote.place() == "postgres, dataset acme"


def test_only_rows_of_an_unfinished_load_are_discarded(tmp_path: Path) -> None:
    made = connection(resource(write_disposition="append"))
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url, made)
    database = str(tmp_path / "rmm.duckdb")
    with duckdb.connect(database) as client:
        # One row of a killed run, and one that another tool loaded long before, unknown to dlt.
        client.execute("INSERT INTO acme.devices VALUES (4, 'killed', 'online', '9999999999.1')")
        client.execute("INSERT INTO acme.devices VALUES (5, 'old', 'online', '1000000000.1')")
    with store_in(tmp_path).pipeline("asked").sql_client() as opened:
        forget_unfinished(Table(opened, "devices"), "acme__devices")
    assert [row["name"] for row in rows_of(tmp_path)] == ["PC-0001", "PC-0002", "PC-0003", "old"]


def test_rows_marked_as_deleted_are_always_left_out(tmp_path: Path) -> None:
    made = connection(resource(columns={"gone": {"data_type": "bool", "hard_delete": True}}))
    rows = [{**row, "gone": row["id"] == 3} for row in devices(5)]
    with Simulator(tables={"devices": rows}) as server:
        for _ in range(3):
            run(tmp_path, server.base_url, made)
            assert ids(rows_of(tmp_path)) == [1, 2, 4, 5]


def test_a_first_load_makes_no_staging_copy(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(50)}) as server:
        run(tmp_path, server.base_url)
        assert _staged(tmp_path) is None
        server.set_rows("devices", devices(50, name="renamed"))
        run(tmp_path, server.base_url)
        assert _staged(tmp_path) == 0  # a merge uses dlt's staging table, which is emptied
    assert ids(rows_of(tmp_path)) == list(range(1, 51))


def _staged(folder: Path) -> int | None:
    """Returns the number of rows in the staging table; None if there is no such table."""
    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        tables = (
            "SELECT 1 FROM information_schema.tables WHERE table_schema = 'acme_staging' AND table_name = 'devices'"
        )
        if not client.execute(tables).fetchall():
            return None
        return len(client.sql("SELECT * FROM acme_staging.devices").fetchall())


def test_a_first_load_applies_the_source_filter_of_a_merge(tmp_path: Path) -> None:
    made = connection(
        resource(write_disposition={"disposition": "merge", "strategy": "upsert", "source_filter": "id <= 3"})
    )
    with Simulator(tables={"devices": devices(5)}) as server:
        for _ in range(2):
            run(tmp_path, server.base_url, made)
            assert ids(rows_of(tmp_path)) == [1, 2, 3]


# A user has the file open

READER = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as reader:
    print("open", flush=True)
    sys.stdin.readline()
"""


class Reader:
    """Another program that keeps the database file open until it is released."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", READER, str(folder / "rmm.duckdb")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n"

    def let_go(self) -> None:
        self._process.communicate("\n", timeout=600)


def test_a_run_waits_for_a_short_reader(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(2)}) as server:
        run(tmp_path, server.base_url)
        server.set_rows("devices", devices(3))
        reader = Reader(tmp_path)
        later = threading.Timer(1, reader.let_go)
        later.start()
        run(tmp_path, server.base_url)
        later.join()
    assert rows_of(tmp_path) == devices(3)


def test_a_run_waits_for_a_reader_while_pages_are_fetched(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(2)}) as server:
        run(tmp_path, server.base_url)
    later: list[threading.Timer] = []

    def answer(seen: Seen) -> Say:
        later.append(threading.Timer(1, Reader(tmp_path).let_go))
        later[0].start()
        return Say({"data": devices(3), "total": 3})

    with Scripted(answer) as scripted:
        run(tmp_path, scripted.url)
    later[0].join()
    assert rows_of(tmp_path) == devices(3)


def test_a_reader_that_does_not_finish_is_named_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmm_assets.tables.store.PATIENCE", 0.3)
    with Simulator(tables={"devices": devices(2)}) as server:
        run(tmp_path, server.base_url)
        server.set_rows("devices", devices(3))
        reader = Reader(tmp_path)
        with pytest.raises(DatabaseInUseError, match=r"has been open in another program for 0\.3 seconds"):
            sync(
                connection(), connection().resource("devices"), KEY, base_url=server.base_url, store=store_in(tmp_path)
            )
        reader.let_go()
    assert rows_of(tmp_path) == devices(2)
