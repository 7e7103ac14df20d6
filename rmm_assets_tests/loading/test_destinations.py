"""Tests loads into destinations other than DuckDB; the tables are compared with DuckDB's."""

from __future__ import annotations

import json
from configparser import ConfigParser
from datetime import date, datetime
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rmm_assets.audit import audit
from rmm_assets.config import Connection
from rmm_assets.config.destinations import EXTRAS, missing_extra
from rmm_assets.errors import ConnectionFileError
from rmm_assets.loading.finishing import PREVIEW_ROWS
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import plan_load
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.differences import Spared, rows_of_parents
from rmm_assets.tables.inspection import dangling, duplicates, nulls, selected, unaccepted
from rmm_assets.tables.settings import Destination
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import latest
from rmm_assets.tables.table import Table
from rmm_assets_tests.bucket import BUCKET
from rmm_assets_tests.syncing import KEY, Row, connection, resource, store_in

HISTORY = {"disposition": "merge", "strategy": "scd2"}
WAYS: dict[str, dict[str, Any]] = {
    "lists as JSON": {},
    "child tables": {"child_tables": True},
    "dlt's normalizer": {"normalizer": "dlt", "absent": "keep"},
    "rows that are gone are kept": {"absent": "keep"},
    "rows that are gone are removed": {"absent": "remove"},
    "history": {"write_disposition": HISTORY},
    "replace": {"write_disposition": "replace"},
    "append": {"write_disposition": "append"},
}
LAKE_MERGES = ("rows that are gone are kept", "dlt's normalizer")
# Every destination marks rows that are gone, which takes most of the SQL written here; each other way is loaded into DuckDB, into
# a server or SQLite, and into a lake if lakes support it: where they differ is dlt's own code.
PAIRS = {
    "postgres": ("lists as JSON", "child tables", "dlt's normalizer", "rows that are gone are removed"),
    "mariadb": ("lists as JSON", "child tables", "history"),
    "sqlite": ("lists as JSON", "rows that are gone are kept", "replace", "append"),
    "delta": ("lists as JSON", "dlt's normalizer", "replace"),
    "iceberg": ("lists as JSON", "rows that are gone are kept", "append"),
    "files": ("replace", "append"),
}
# `make test-oldest` has the extension.
DUCKLAKE = [pytest.param("ducklake", marks=pytest.mark.ducklake)] if find_spec("duckdb_extensions") else []
if DUCKLAKE:
    PAIRS["ducklake"] = tuple(WAYS)


def fleet(number: int, **more: Any) -> list[Row]:
    return [
        {"id": i, "name": f"PC-{i}", "online": i % 2 == 0, "tags": ["a", {"n": i}], "os": {"name": "w"}, **more}
        for i in range(1, number + 1)
    ]


# The API's rows, by run: rows change, disappear, return and are new; one is rejected, and a column is added.
RUNS = [
    fleet(120),
    [*fleet(100), *fleet(119, name="new")[100:], {"id": 500, "load": 1.5}, {"id": "no number"}],
    fleet(115),
]


def load(store: Store, **way: Any) -> list[Outcome]:
    made = connection(resource(**way), destination={"type": store.destination}, dataset=store.dataset)
    outcomes = []
    with Simulator(tables={"devices": RUNS[0]}) as server:
        for rows in RUNS:
            server.set_rows("devices", rows)
            outcomes.append(sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store))
    return outcomes


def store_at(kind: str, folder: Path, request: pytest.FixtureRequest) -> Store:
    """Returns where a destination has its tables: a server that the tests have started, a file or a folder."""
    if kind in ("postgres", "mariadb"):
        destination = "sqlalchemy" if kind == "mariadb" else kind
        return Store(destination, request.getfixturevalue(kind), "acme", folder / "work")
    if kind == "duckdb":
        return Store("duckdb", str(folder / "rmm.duckdb"), "acme", folder / "work")
    if kind == "sqlite":
        return Store("sqlalchemy", f"sqlite:///{folder}/rmm.db", "acme", folder / "work")
    if kind == "ducklake":
        return ducklake_in(folder, request.getfixturevalue("monkeypatch"))
    return lake_in(folder)


def ducklake_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Returns a DuckLake with its catalog in a DuckDB file; its extension comes from a package."""
    import_extension = import_module("duckdb_extensions").import_extension

    monkeypatch.setenv("HOME", str(folder))
    import_extension("ducklake")
    monkeypatch.setenv("DESTINATION__DUCKLAKE__CREDENTIALS__CATALOG", f"duckdb:///{folder}/catalog.duckdb")
    monkeypatch.setenv("DESTINATION__DUCKLAKE__CREDENTIALS__STORAGE__BUCKET_URL", str(folder / "lake"))
    return Store("ducklake", None, "acme", folder / "work")


def table_format(kind: str) -> dict[str, str]:
    return {"table_format": kind} if kind in ("delta", "iceberg") else {}


def into(kind: str, *resources: dict[str, Any]) -> Connection:
    """Returns a connection to a destination whose driver may not be installed, which a file cannot name."""
    return connection(*resources).model_copy(update={"destination": Destination(type=kind)})


def lake_in(folder: Path) -> Store:
    (folder / "lake").mkdir()
    return Store("filesystem", None, "acme", folder / "work", {"bucket_url": str(folder / "lake")})


def counts(outcomes: list[Outcome]) -> list[tuple[int, ...]]:
    return [(one.row_count, one.rows_new, one.rows_changed, one.absences.gone, one.rows_rejected) for one in outcomes]


def rows_in(store: Store) -> list[str]:
    with store.reading("compare") as client:
        table = Table(client, "devices")
        names = [name for name in table.columns() if not name.startswith("_dlt")]
        found = table.rows(f"SELECT {', '.join(map(table.quote, sorted(names)))} FROM {{table}}")
    return sorted(json.dumps([_plain(name, value) for name, value in zip(sorted(names), row)]) for row in found)


def _plain(name: str, value: Any) -> Any:
    if value is None or name == "_absent_since":
        return value is not None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ", "microseconds")  # as text in SQLite; all are in UTC
    if isinstance(value, (date, Decimal)):
        value = str(value)
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if name == "d":
        return float(value)
    if isinstance(value, str) and (name == "json" or value.startswith(("[", "{"))):
        return json.loads(value)  # JSON is returned as values or as text
    return int(value) if isinstance(value, bool) else value  # SQLite has no booleans


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns DuckDB's tables for each disposition, loaded on first use."""

    class Expected(dict[str, Any]):
        def __missing__(self, way: str) -> Any:
            store = store_in(tmp_path_factory.mktemp("duckdb"))
            self[way] = counts(load(store, **WAYS[way])), rows_in(store)
            return self[way]

    return Expected()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        pytest.param(kind, way, marks=[pytest.mark.ducklake] if kind == "ducklake" else [])
        for kind, ways in PAIRS.items()
        for way in ways
    ],
)
def test_every_sync_gives_the_same_tables_as_in_duckdb(
    kind: str, way: str, tmp_path: Path, expected: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    store = store_at(kind, tmp_path, request)
    outcomes = load(store, **WAYS[way], **table_format(kind))
    assert (counts(outcomes), rows_in(store)) == expected[way]
    # A merge writes what has changed, and the preview and the metadata show the table.
    assert way not in LAKE_MERGES or [one.rows_written for one in outcomes] == [120, 20, 15]
    assert len(outcomes[-1].preview) == PREVIEW_ROWS and "name" in outcomes[-1].preview_columns
    assert outcomes[-1].table_name.endswith(f"{store.dataset}.devices")
    if store.destination != "filesystem":
        with store.reading("compare") as client:
            assert latest(client)["devices"].row_count == outcomes[-1].row_count


TEXTS = [
    "quotes ' \" `", "back\\slash \\n \\' \\\\", "4 bytes \U0001f600 \U0001d4b3", "line\nbreak\r\ttab", "%s %d %% {x} :name ?", "",
    " spaces ", "n\u0303 \u00f1", "NULL", "\\N", "x" * 70_000, "\x01\x7f", "-- x; /* y */",
]  # fmt: skip
TIMES = [
    "1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-03-29T02:30:00+02:00",
    "1582-10-10T00:00:00-11:30",
]  # fmt: skip
NUMBERS = [2**63 - 1, -(2**63), 0]
HUGE = [2**63, 2**100, -(2**70)]
FIELDS = [
    "select", "Order", "group", "key", "rowid", "current_date", "a b", "1st", 'quo"te', "per%cent", "colon:x", "\u00fc",
]  # fmt: skip
# One name by case, and keys that agree in their first kilobyte.
NAMES = ["abc", "ABC", "\u00e1bc", "abc ", *(f"{'k' * 2_000}{end}" for end in "ab")]
TYPES = {"d": {"data_type": "decimal"}, "day": {"data_type": "date"}, "b": {"data_type": "binary"}}


def values(turn: int) -> list[Row]:
    """Returns rows with odd values, which change in each turn; in turn 1, columns are missing, and types change."""
    rows = [
        {
            "id": name, "n": number, "s": TEXTS[(number + turn) % len(TEXTS)], "t": TIMES[(number + turn) % len(TIMES)],
            "big": NUMBERS[(number + turn) % 3], "huge": HUGE[(number + turn) % 3], "l": [TEXTS[number], {"x": HUGE}],
            "d": ["1.25", "-99999.999999999", "7"][(number + turn) % 3], "day": ["0001-01-01", "1969-12-31"][turn % 2],
            "b": ["AAH/", "/w=="][turn % 2], "f": [0.1, 5e-324, 1.5e308][(number + turn) % 3],
            "mixed": [number, [number], "1.0"][turn], "json": [[number], HUGE[number % 3], 0.12345678901234567][turn],
            "later": None if turn == 0 else {"x": turn}, **dict.fromkeys(FIELDS, number * turn),
        }
        for number, name in enumerate(NAMES)
    ]  # fmt: skip
    return [{k: v for k, v in row.items() if turn != 1 or k not in ("f", "select")} for row in rows]


@pytest.fixture(scope="module")
def expected_values(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return loaded_values(store_in(tmp_path_factory.mktemp("duckdb")))


def loaded_values(store: Store, leave_out: str = "", **way: Any) -> list[list[str]]:
    """Loads the values of each turn, but for one field, and returns the rows of the table after each."""
    made = connection(resource(columns=TYPES, **way), destination={"type": store.destination}, dataset=store.dataset)
    found: list[list[str]] = []
    with Simulator(tables={"devices": []}) as server:
        for turn in (0, 1, 2, 2):
            server.set_rows("devices", [{k: v for k, v in row.items() if k != leave_out} for row in values(turn)])
            outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
            assert (outcome.rows_rejected, outcome.rows_written) == (0, 0 if len(found) == 3 else len(NAMES))
            found.append(rows_in(store))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite", "delta", "iceberg", *DUCKLAKE])
def test_odd_values_and_names_are_the_same_as_in_duckdb(
    kind: str, tmp_path: Path, expected_values: list[list[str]], request: pytest.FixtureRequest
) -> None:
    if kind == "ducklake":
        # DuckDB 1.4.0 cannot add a JSON column to a table of a DuckLake.
        (tmp_path / "duckdb").mkdir()
        expected = loaded_values(store_in(tmp_path / "duckdb"), "mixed")
        assert loaded_values(store_at(kind, tmp_path, request), "mixed") == expected
        return
    assert loaded_values(store_at(kind, tmp_path, request), **table_format(kind)) == expected_values


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mariadb", "sqlite"])
def test_rows_whose_keys_differ_by_case_change_one_by_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = store_at(kind, tmp_path, request)
    made = connection(resource(), destination="sqlalchemy", dataset=store.dataset)
    with Simulator(tables={"devices": []}) as server:
        for keys, changed in ((NAMES, ""), (NAMES, "abc"), (NAMES[1:], "abc ")):
            server.set_rows("devices", [{"id": key, "changed": key == changed} for key in keys])
            outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    assert (outcome.row_count, outcome.rows_changed, outcome.absences.marked) == (len(NAMES), 1, 1)
    with store.reading("compare") as client:
        found = Table(client, "devices").rows("SELECT id, changed, _absent_since IS NULL FROM {table}")
    assert sorted(found) == sorted((key, key in ("abc", "abc "), key != "abc") for key in NAMES)


@pytest.mark.slow
def test_sqlite_rejects_decimals_that_it_would_round(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = store_at("sqlite", tmp_path, request)
    made = connection(
        resource(columns={"n": {"data_type": "decimal"}}), destination="sqlalchemy", dataset=store.dataset
    )
    digits = ["123456.789012345", "1234567.890123456", "1000000000000000000", "0.10"]
    with Simulator(tables={"devices": [{"id": i, "n": number} for i, number in enumerate(digits)]}) as server:
        outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    with store.reading("compare") as client:
        assert Table(client, "devices").rows("SELECT id FROM {table} ORDER BY id") == [(0,), (2,), (3,)]
    assert outcome.rows_rejected == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite", "delta", "iceberg", *DUCKLAKE])
def test_a_table_is_checked_and_audited(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = store_at(kind, tmp_path, request)
    way = resource(**table_format(kind), columns={"id": {"data_type": "bigint"}})
    made = connection(way, destination=store.destination, dataset=store.dataset)
    with Simulator(tables={"devices": [*fleet(9), {"id": "none"}]}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
        report = audit(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    assert "1 row in the table of rejected rows" in report.sentences()
    assert report.verdict != "differences", report.sentences()
    with store.reading("another") as client:
        table, rejected = Table(client, "devices"), Table(client, "devices_rejected")
        assert rejected.count() == 1
        assert duplicates(table, ["name"]).passed and not nulls(table, "id", ["id"]).at_fault
        assert unaccepted(table, "name", ["PC-1"], ["id"]).examples[0] == "2, PC-2"
        assert dangling(table, "name", rejected, "_dlt_load_id", ["id"]).at_fault == 9
        assert selected(table, "SELECT id FROM {table} WHERE name = 'PC-3'").examples == ("3",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *[("postgres", way) for way in ({}, {"child_tables": True}, {"normalizer": "dlt"}, {"absent": "keep"})],
        *[(kind, {}) for kind in ("duckdb", "mariadb", "sqlite", "delta", *DUCKLAKE)],
    ],
)
def test_the_character_nul_makes_no_load_red(
    kind: str, way: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = store_at(kind, tmp_path, request)
    made = connection(resource(**table_format(kind), **way), destination=store.destination, dataset=store.dataset)
    # The last one is no NUL, but six characters.
    names = ["a\0b", "\0", "\\\0", "\\u0000"]
    rows = [{"id": at, "name": name, "tags": [name, {name: name}]} for at, name in enumerate([*names, *"plain"])]
    with Simulator(tables={"devices": rows}) as server:
        runs = [sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store) for _ in range(2)]
        report = audit(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    with store.reading("compare") as client:
        table = Table(client, "devices")
        found = [
            name for (name,) in table.rows(f"SELECT name FROM {{table}} WHERE id < 4 ORDER BY {table.quote('id')}")
        ]
    replaced = kind == "postgres"
    assert found == [name.replace("\0", "\ufffd") if replaced else name for name in names]
    assert bool([text for text in runs[0].report.warnings if "the character NUL" in text]) == replaced
    assert [one.rows_rejected for one in runs] == [0, 0]
    assert runs[1].rows_changed == 0
    assert report.verdict != "differences", report.sentences()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite", *DUCKLAKE])
def test_rows_of_parents_that_could_not_be_read_are_counted(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = store_at(kind, tmp_path, request)
    made = connection(resource(), destination=store.destination, dataset=store.dataset)
    with Simulator(tables={"devices": fleet(9)}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    spared = Spared(("name",), [("PC-1",), ("PC-4",), ("PC-10",)])
    with store.reading("parents") as client:
        table, types = Table(client, "devices"), {"name": pa.string()}
        assert rows_of_parents(table, spared, types, "1 = 1") == 2
        assert rows_of_parents(table, spared, types, f"{table.quote('id')} > %s", [1]) == 1


@pytest.mark.slow
def test_rows_of_postgres_are_fetched_a_batch_at_a_time(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmm_assets.tables.table._BATCH_ROWS", 4)
    store = store_at("postgres", tmp_path, request)
    made = connection(resource(), destination=store.destination, dataset=store.dataset)
    with Simulator(tables={"devices": fleet(8)}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    with store.reading("batches") as client:
        table = Table(client, "devices")
        for rows, expected in ((8, [4, 4]), (6, [4, 2]), (0, [])):
            batches = table.batches("SELECT id FROM {table} WHERE id <= %s", rows)
            found = [next(batches, None)]
            assert table.rows("SELECT count(*) FROM pg_cursors WHERE name = 'rmm_rows'") == [(int(rows > 0),)]
            assert [len(batch) for batch in [*found, *batches] if batch is not None] == expected
            assert table.rows("SELECT count(*) FROM pg_cursors WHERE name = 'rmm_rows'") == [(0,)]


@pytest.mark.slow
def test_rows_of_mariadb_are_sent_as_they_are_fetched(
    mariadb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmm_assets.tables.table._BATCH_ROWS", 10)
    store = Store("sqlalchemy", mariadb, "acme", tmp_path / "work")
    made = connection(resource(), destination=store.destination, dataset=store.dataset)
    with Simulator(tables={"devices": fleet(80, note="x" * 100_000)}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    running = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT%%repeat%%' AND id <> connection_id()"
    with store.reading("batches") as client, store.reading("others") as other:
        # 80 MB, more than what waits between server and client.
        found = Table(client, "devices").batches("SELECT id, repeat(note, 10) AS note FROM {table}")
        assert len(next(found)) == 10 and other.execute_sql(running) == [(1,)]
        assert sum(map(len, found)) == 70 and other.execute_sql(running) == [(0,)]
        assert Table(client, "devices").count() == 80


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_value_that_the_api_no_longer_sends_is_null_in_a_lake(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = store_at(kind, tmp_path, request)
    made = connection(resource(table_format=kind), destination="filesystem", dataset="acme")
    with Simulator(tables={"devices": [{"id": 1, "name": "PC-1", "note": "old"}]}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
        server.set_rows("devices", [{"id": 1, "name": "PC-1"}])
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    with store.reading("compare") as client:
        assert Table(client, "devices").rows("SELECT name, note FROM {table}") == [("PC-1", None)]


@pytest.mark.slow
def test_rows_of_a_lake_that_have_been_kept_can_be_marked_later(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = store_at("delta", tmp_path, request)
    with Simulator(tables={"devices": fleet(4)}) as server:
        for rows, absent in ((fleet(4), "keep"), (fleet(3), "mark"), (fleet(7)[4:], "mark")):
            made = connection(resource(table_format="delta", absent=absent), destination="filesystem", dataset="acme")
            server.set_rows("devices", rows)
            outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    # More than half of the rows that were present are gone.
    assert outcome.absences.held_back and outcome.absences.gone == outcome.rows_written == 3
    with store.reading("compare") as client:
        table = Table(client, "devices")
        assert table.rows("SELECT id FROM {table} WHERE _absent_since IS NOT NULL") == [(4,)]


@pytest.mark.slow
def test_json_that_postgres_cannot_compare_is_compared_as_text(postgres: str, tmp_path: Path) -> None:
    # dlt creates `json` for files that it loads with COPY, else `jsonb`; `json` has no equality operator.
    store = Store("postgres", postgres, "acme_json", tmp_path / "work")
    made = connection(resource(), destination="postgres", dataset="acme_json")
    with Simulator(tables={"devices": fleet(5)}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
        with store.changing("alter") as client:
            client.execute_sql("ALTER TABLE acme_json.devices ALTER COLUMN tags TYPE json")
        server.set_rows("devices", [*fleet(4), {**fleet(5)[4], "tags": ["b"]}])
        outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    assert (outcome.rows_new, outcome.rows_changed) == (0, 1)


@pytest.mark.slow
def test_postgres_rewrites_only_rows_that_have_changed(postgres: str, tmp_path: Path) -> None:
    store = Store("postgres", postgres, "acme_written", tmp_path / "work")
    made = connection(resource(), destination="postgres", dataset="acme_written")

    def versions() -> dict[int, str]:
        # PostgreSQL gives each version of a row the id of the transaction that wrote it.
        with store.reading("compare") as client:
            return dict(Table(client, "devices").rows("SELECT id, cast(xmin AS text) FROM {table}"))

    with Simulator(tables={"devices": fleet(500)}) as server:
        sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
        before = versions()
        server.set_rows("devices", [*fleet(5, name="renamed"), *fleet(498)[5:], {"id": 501}])
        outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    after = versions()
    assert (outcome.rows_loaded, outcome.rows_written, outcome.row_count) == (499, 6, 501)
    assert {number for number in after if after[number] != before.get(number)} == {1, 2, 3, 4, 5, 499, 500, 501}


@pytest.mark.parametrize(
    ("kind", "skips"),
    [("duckdb", True), ("postgres", True), ("snowflake", True), ("clickhouse", False), ("databricks", False)],
)
def test_rows_with_children_are_only_skipped_if_a_merge_is_one_transaction(kind: str, skips: bool) -> None:
    made = into(kind, resource("flat"), resource(child_tables=True))
    assert plan_load(made, made.resource("flat")).writes_changes
    assert plan_load(made, made.resource("devices")).writes_changes == skips


@pytest.mark.parametrize(
    ("kind", "way", "says"),
    [
        (
            "filesystem",
            {},
            "filesystem cannot merge rows; set `table_format: delta or iceberg`, or write append or replace",
        ),
        (
            "filesystem",
            {"table_format": "delta", "write_disposition": HISTORY},
            "filesystem with table_format delta does not merge by scd2, only by upsert",
        ),
        ("filesystem", {"table_format": "delta", "absent": "remove"}, "cannot delete rows that are gone at the source"),
        (
            "filesystem",
            {"table_format": "delta", "normalizer": "dlt"},
            "cannot mark rows of dlt's normalizer",
        ),
        ("filesystem", {"table_format": "iceberg", "child_tables": True}, "cannot delete the items of changed rows"),
        (
            "sqlalchemy",
            {"write_disposition": {"disposition": "merge", "strategy": "upsert"}},
            "does not merge by upsert",
        ),
        (
            "clickhouse",
            {"write_disposition": {"disposition": "merge", "strategy": "upsert"}},
            "does not merge by upsert",
        ),
        (
            "filesystem",
            {"table_format": "iceberg", "history": True},
            r"0\.history\s.*does not merge by scd2, only by upsert",
        ),
        ("postgres", {"table_format": "delta"}, "postgres does not support this format"),
    ],
)
def test_what_a_destination_cannot_do_is_a_fault_of_the_file(kind: str, way: dict[str, Any], says: str) -> None:
    with pytest.raises((ConnectionFileError, ValueError), match=says):
        connection(resource(**way), destination={"type": kind})


DRIVERS = [
    ("snowflake", "snowflake-connector-python", r"rmm_assets\[snowflake\]"),
    ("bigquery", "google-cloud-bigquery", r"rmm_assets\[bigquery\]"),
    ("databricks", "databricks-sql-connector", r"rmm_assets\[databricks\]"),
    ("clickhouse", "clickhouse-driver", r"rmm_assets\[clickhouse\]"),
    ("mssql", "pyodbc", r"rmm_assets\[mssql\]"),
    ("fabric", "pyodbc", r"dlt\[fabric\]"),
    ("ducklake", "duckdb<2", r"rmm_assets\[ducklake\]"),
]


# `make test-oldest` has one of them.
@pytest.mark.parametrize(
    ("kind", "packages", "extra"), [driver for driver in DRIVERS if missing_extra(driver[0], [], "") is not None]
)
def test_a_driver_that_is_not_installed_is_a_fault_of_the_file(kind: str, packages: str, extra: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{kind} needs .*{packages}.*, which is not installed; run `pip install '{extra}'`"
    ):
        connection(resource(), destination={"type": kind})


def test_a_bucket_and_a_table_format_have_drivers_too() -> None:
    if missing_extra("filesystem", [], "gs://lake") is None:
        pytest.skip("gcsfs is installed here")
    lake = {"type": "filesystem", "options": {"bucket_url": "gs://lake"}}
    with pytest.raises(ValueError, match=r"filesystem needs .*gcsfs.*'dlt\[gs\]'"):
        connection(resource(table_format="delta"), destination=lake)
    assert missing_extra("filesystem", ["delta", "iceberg"], "/data/lake") is None


@pytest.mark.parametrize(
    ("kind", "says"),
    [("qdrant", "qdrant does not speak SQL"), ("athena", "write to `filesystem` with `table_format: iceberg`")],
)
def test_a_destination_that_cannot_work_is_a_fault_of_the_file(kind: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        connection(resource(), destination={"type": kind})


def test_every_extra_of_a_destination_is_in_the_package() -> None:
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    assert {*EXTRAS} <= {*config["options.extras_require"]}


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("duckdb", "upsert"), ("postgres", "upsert"), ("snowflake", "upsert"), ("bigquery", "upsert"),
        ("databricks", "upsert"), ("mssql", "upsert"), ("sqlalchemy", "delete-insert"), ("redshift", "delete-insert"),
        ("clickhouse", "delete-insert"), ("synapse", "delete-insert"), ("dremio", "delete-insert"),
    ],
)  # fmt: skip
def test_rows_are_merged_with_a_strategy_that_the_destination_supports(kind: str, strategy: str) -> None:
    made = into(kind, resource())
    assert plan_load(made, made.resource("devices")).hints["write_disposition"]["strategy"] == strategy


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_tables_in_a_bucket_are_merged_and_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    for name, value in (
        ("aws_access_key_id", "reader"),
        ("aws_secret_access_key", "not-secret"),
        ("endpoint_url", bucket),
    ):
        monkeypatch.setenv(f"DESTINATION__FILESYSTEM__CREDENTIALS__{name.upper()}", value)
    store = Store("filesystem", None, "acme", tmp_path / "work", {"bucket_url": f"s3://{BUCKET}/{kind}"})
    made = connection(resource(table_format=kind), destination="filesystem", dataset="acme")
    with Simulator(tables={"devices": fleet(4)}) as server:
        for rows in (fleet(4), [*fleet(3), *fleet(5)[4:]]):
            server.set_rows("devices", rows)
            outcome = sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
    assert (outcome.rows_new, outcome.rows_written, outcome.absences.marked) == (1, 1, 1)
    with store.reading("compare") as client:
        found = Table(client, "devices").rows("SELECT id, name, _absent_since IS NULL FROM {table} ORDER BY id")
        assert found == [(i, f"PC-{i}", i != 4) for i in range(1, 6)]
