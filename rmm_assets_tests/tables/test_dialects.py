"""Tests that each statement of this project is valid SQL at every destination into which dlt can merge."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dlt.destinations
import pytest
import sqlglot
from dlt.common.destination import Destination
from dlt.destinations.sql_client import SqlClientBase
from sqlglot import exp

from rmm_assets.loading.retry import retry_rejected
from rmm_assets.loading.run import sync
from rmm_assets.overview.charts import read_overview
from rmm_assets.simulator import Simulator
from rmm_assets.tables import forgetting, inspection, syncs
from rmm_assets.tables.dialects import WRITTEN_IN, created, extended, translated
from rmm_assets.tables.rejects import REJECTION_ID
from rmm_assets.tables.table import Table
from rmm_assets_tests.syncing import KEY, Row, connection, resource, store_in


def _dialects() -> dict[str, str]:
    """Returns sqlglot's name of the dialect of each destination with merges; SQLAlchemy has one for each database."""
    found = {"mysql": "mysql", "sqlite": "sqlite", "oracle": "oracle"}
    for name in filter(str.islower, dlt.destinations.__all__):
        destination: Any = Destination.from_reference(name)
        capabilities = destination.capabilities()
        if capabilities.supported_merge_strategies and capabilities.sqlglot_dialect:
            found[name] = capabilities.sqlglot_dialect
    return found


DIALECTS = _dialects()
FLEET: list[Row] = [
    {"id": i, "name": f"PC-{i}", "status": "online", "tags": ["a"], "last_seen": "2026-11-01T00:00:00Z"}
    for i in range(1, 9)
]
ALERTS: list[Row] = [
    {"id": i, "severity": "critical", "created": f"2026-10-0{i}T00:00:00Z", "resolved": i == 1} for i in range(1, 5)
]
HISTORY = {"disposition": "merge", "strategy": "scd2"}


# dlt's client, as far as it needs no connection.
Unconnected: Any = type("Unconnected", (SqlClientBase,), {})
Unconnected.__abstractmethods__ = frozenset()


@contextmanager
def statements() -> Iterator[list[str]]:
    """Yields a list of the statements that run."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    log, handler = logging.getLogger("rmm_assets.sql"), Handler()
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Returns the statements of loads with everything that is there, of checks, charts, retries and clearing up."""
    store = store_in(tmp_path_factory.mktemp("sql"))
    made = connection(
        resource("devices", absent="remove", child_tables=True),
        resource("alerts", write_disposition=HISTORY),
        resource("events", write_disposition="append"),
    )
    resources = [made.resource(name) for name in ("devices", "alerts", "events")]
    with statements() as found, Simulator(tables={"devices": FLEET, "alerts": ALERTS, "events": ALERTS}) as server:
        fleets = FLEET, [{"id": "none"}, *FLEET[1:]], FLEET[1:7], [*FLEET[1:6], {"id": 9, "name": None}]
        for number, devices in enumerate(fleets):
            server.set_rows("devices", devices)
            server.set_rows("alerts", [{**alert, "severity": len(devices)} for alert in ALERTS])
            for each in resources if number < 2 else resources[:1]:
                sync(made, each, KEY, base_url=server.base_url, store=store)
            retry_rejected(made, resources[0], store=store)
        with store.changing("sql") as client:
            table, alerts = Table(client, "devices"), Table(client, "alerts")
            inspection.duplicates(table, ["name", "status"])
            inspection.duplicates(alerts, ["id"], ("_dlt_valid_to", None))
            inspection.nulls(table, "name", ["id"])
            inspection.unaccepted(table, "status", ["on", "off"], ["id"])
            inspection.dangling(table, "id", alerts, "id", ["id"])
            read_overview("acme", {"devices": table, "alerts": alerts})
            syncs.latest(client)
            syncs.rows_of_last_read(client, "devices")
            syncs.prune(client, datetime.now(UTC), 1)
            syncs.forget(client, "alerts", "other")
            syncs.forget(client, "other")
            forgetting.schemas_like(client, "acme")
            forgetting.forget(client, "acme__devices", forgetting.tables_of(client, "acme__devices"))
    return sorted(set(found))


def test_the_statements_are_all_there(written: list[str]) -> None:
    for words in (
        ("UPDATE", "_absent_since"), ("DELETE", '"id" IN'), ("DELETE", "_dlt_parent_id"), ("UPDATE", "first_"),
        ("DELETE", REJECTION_ID), ("INSERT", "rmm_syncs"), ("HAVING",), ("found_",), ("EXISTS",), ("_content_hash",),
        ("row_number",), ("_dlt_loads", "max(load_id)"), ("sum(CASE",),
    ):  # fmt: skip
        assert any(all(word in sql for word in words) for sql in written), words


@pytest.fixture(scope="module")
def parsed(written: list[str]) -> dict[str, Any]:
    """Returns the tree of each statement."""
    return {sql: sqlglot.parse_one(sql.replace("%s", "1"), read=WRITTEN_IN) for sql in written}


def _names(tree: Any) -> set[str]:
    return {name.name for name in tree.find_all(exp.Identifier)}


@pytest.mark.parametrize("destination", DIALECTS)
def test_every_statement_is_valid_at_every_destination(destination: str, parsed: dict[str, Any]) -> None:
    dialect = DIALECTS[destination]
    for sql, ours in parsed.items():
        text, order = translated(sql, dialect)
        assert text.count("%s") == sql.count("%s")
        assert order is None or sorted(order) == list(range(len(order)))
        if text.startswith("ALTER TABLE"):  # how ClickHouse updates rows, which sqlglot does not parse
            assert dialect == "clickhouse" and " UPDATE " in text and " WHERE " in text
            continue
        [tree] = sqlglot.parse(text.replace("%s", "1"), read=dialect)
        assert tree is not None and tree.find(exp.Command) is None, text
        # Quoted in another way, names would be text, or two.
        assert _names(tree) == _names(ours), text
        ours.sql(dialect, unsupported_level=sqlglot.ErrorLevel.RAISE)


@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        ("postgres", 'SELECT "id" FROM "acme"."devices" WHERE "n" = %s ORDER BY "id" LIMIT 5'),
        ("bigquery", "SELECT `id` FROM `acme`.`devices` WHERE `n` = %s ORDER BY `id` NULLS LAST LIMIT 5"),
        (
            "tsql",
            "SELECT TOP 5 [id] FROM [acme].[devices] WHERE [n] = %s "
            "ORDER BY CASE WHEN [id] IS NULL THEN 1 ELSE 0 END, [id]",
        ),
    ],
)
def test_a_statement_is_in_the_destinations_sql(dialect: str, says: str) -> None:
    sql = 'SELECT "id" FROM "acme"."devices" WHERE "n" = %s ORDER BY "id" LIMIT 5'
    assert translated(sql, dialect) == (says, (0,))


def test_names_are_spelled_as_the_destination_spells_them() -> None:
    assert (
        translated('SELECT "id" FROM "acme"."devices"', "snowflake", str.upper)[0]
        == 'SELECT "ID" FROM "ACME"."DEVICES"'
    )


@pytest.mark.parametrize(
    ("kind", "table", "column"),
    [
        ("postgres", 'CREATE TABLE "acme"."t" ("n" bigint, "at" timestamp with time zone)', "ADD COLUMN"),
        ("mssql", "CREATE TABLE [acme].[t] ([n] bigint, [at] datetimeoffset)", "ADD [n]"),
        ("clickhouse", "ENGINE=MergeTree ORDER BY ()", "ADD COLUMN"),
        ("snowflake", 'CREATE TABLE "ACME"."T" ("N" NUMBER(19,0), "AT" TIMESTAMP_LTZ)', 'ADD "N"'),
        ("bigquery", "(`n` INT64, `at` TIMESTAMP)", "ADD COLUMN"),
        ("databricks", "(`n` BIGINT, `at` TIMESTAMP)", "ADD COLUMN"),
    ],
)
def test_a_table_is_created_with_the_destinations_types(kind: str, table: str, column: str) -> None:
    destination: Any = Destination.from_reference(kind)
    client = Unconnected("", "acme", "acme_staging", destination.capabilities())
    assert table in created(client, "t", {"n": "bigint", "at": "timestamp"})
    assert column in next(extended(client, "t", {"n": "bigint"}))
