"""Tests loads into destinations other than DuckDB; the tables are compared with DuckDB's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rmm_assets.errors import ConnectionFileError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import plan_load
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.syncing import KEY, Row, connection, resource, store_in

HISTORY = {"disposition": "merge", "strategy": "scd2"}
WAYS: dict[str, dict[str, Any]] = {
    "lists as JSON": {},
    "child tables": {"child_tables": True},
    "dlt's normalizer": {"normalizer": "dlt"},
    "rows that are gone are removed": {"absent": "remove"},
    "history": {"write_disposition": HISTORY},
    "replace": {"write_disposition": "replace"},
    "append": {"write_disposition": "append"},
}


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
    if isinstance(value, str) and value.startswith(("[", "{", '"')):
        value = json.loads(value)  # JSON is returned as values or as text, from SQLite as a JSON string
        return json.loads(value) if isinstance(value, str) else value
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
        *(("postgres", way) for way in WAYS),
        *(("sqlalchemy", way) for way in ("lists as JSON", "history", "append")),
    ],
)
def test_every_sync_gives_the_same_tables_as_in_duckdb(
    kind: str, way: str, tmp_path: Path, expected: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/rmm.db" if kind == "sqlalchemy" else request.getfixturevalue("postgres")
    store = Store(kind, url, f"acme_{list(WAYS).index(way)}", tmp_path / "work")
    assert (counts(load(store, **WAYS[way])), rows_in(store)) == expected[way]


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
    made = connection(resource("flat"), resource(child_tables=True), destination=kind)
    assert plan_load(made, made.resource("flat")).writes_changes
    assert plan_load(made, made.resource("devices")).writes_changes == skips


@pytest.mark.slow
@pytest.mark.parametrize("way", ["replace", "append"])
def test_files_can_be_replaced_and_appended_to(way: str, tmp_path: Path, expected: dict[str, Any]) -> None:
    (tmp_path / "lake").mkdir()
    store = Store("filesystem", None, "acme", tmp_path / "work", {"bucket_url": str(tmp_path / "lake")})
    assert counts(load(store, **WAYS[way])) == expected[way][0]
    files = duckdb.read_parquet(f"{tmp_path}/lake/acme/devices/*.parquet", union_by_name=True)
    assert len(files.to_arrow_table()) == len(expected[way][1])


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
        ("filesystem", {"table_format": "delta", "absent": "remove"}, "cannot change rows that are gone at the source"),
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
    ],
)
def test_what_a_destination_cannot_do_is_a_fault_of_the_file(kind: str, way: dict[str, Any], says: str) -> None:
    with pytest.raises((ConnectionFileError, ValueError), match=says):
        connection(resource(**way), destination={"type": kind})


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("duckdb", "upsert"), ("postgres", "upsert"), ("snowflake", "upsert"), ("bigquery", "upsert"),
        ("databricks", "upsert"), ("mssql", "upsert"), ("sqlalchemy", "delete-insert"), ("redshift", "delete-insert"),
        ("clickhouse", "delete-insert"), ("synapse", "delete-insert"), ("dremio", "delete-insert"),
    ],
)  # fmt: skip
def test_rows_are_merged_with_a_strategy_that_the_destination_supports(kind: str, strategy: str) -> None:
    made = connection(resource(), destination={"type": kind})
    assert plan_load(made, made.resource("devices")).hints["write_disposition"]["strategy"] == strategy
