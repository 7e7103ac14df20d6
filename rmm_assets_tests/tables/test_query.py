"""Tests that a user's query can only read tables: no files, settings or other statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dlt.destinations.exceptions import DatabaseException

from rmm_assets.config import Connection
from rmm_assets.errors import QueryError
from rmm_assets.tables.inspection import selected
from rmm_assets.tables.query import only_reading, query_fault
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.syncing import connection, resource

REFUSED = {
    "SELECT * FROM read_text('/proc/self/environ')": "`read_text`",
    "SELECT * FROM read_csv('/etc/passwd')": "`read_csv`",
    "SELECT (SELECT content FROM read_text('/proc/self/environ'))": "`read_text`",
    "SELECT * FROM '/etc/passwd'": "not files",
    'SELECT * FROM "x.parquet"': "not files",
    "SELECT * FROM 'https://h/x'": "not files",
    "SELECT * FROM {table} WHERE EXISTS (FROM glob('/*'))": "`glob`",
    "SELECT * FROM query('SELECT 1')": "`query`",
    "SELECT * FROM duckdb_settings()": "`duckdb_settings`",
    "SELECT getenv('HOME')": "`getenv`",
    "SELECT * FROM parquet_scan('x')": "`parquet_scan`",
    "SELECT * FROM some_new_extension('x')": "`some_new_extension`",
    "CREATE TABLE x AS SELECT 1": "CREATE",
    "SELECT 1; DROP TABLE {table}": "2 statements",
    "INSERT INTO {table} SELECT * FROM {table}": "INSERT",
    "WITH gone AS (DELETE FROM {table} RETURNING *) SELECT * FROM gone": "DELETE",
    "SELECT * INTO x FROM {table}": "INTO",
    "COPY {table} TO 'x.csv'": "COPY",
    "ATTACH 'x.db'": "ATTACH",
    "SET memory_limit = '1GB'": "SET",
    "PRAGMA version": "PRAGMA",
    "CALL pragma_version()": "COMMAND",
    "INSTALL httpfs": "INSTALL",
    "EXPLAIN SELECT 1": "COMMAND",
    "not SQL (": "not a query",
    "": "0 statements",
}


@pytest.mark.parametrize("query", REFUSED)
def test_a_query_that_does_more_than_read_tables_is_refused_at_load(query: str) -> None:
    with pytest.raises(ValueError, match="sql") as raised:
        Connection.model_validate(
            {**connection().model_dump(exclude_unset=True), "resources": [resource(checks={"sql": {"mine": query}})]}
        )
    assert "resources.0.checks.sql.mine" in str(raised.value) and REFUSED[query] in str(raised.value)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id FROM {table} WHERE name = 'PC-0007' -- why not;",
        "WITH a AS (SELECT * FROM {table}) SELECT a.id FROM a JOIN {devices} USING (id) UNION ALL SELECT id FROM {table}",
        "(SELECT max(id) OVER (PARTITION BY name) FROM {table} ORDER BY 1 LIMIT 5)",
        "SELECT * FROM {table}, unnest([1, 2]) AS n, range(3) AS r WHERE json_extract(name, '$.a') IS NULL",
        "FROM {table} SELECT id WHERE regexp_matches(name, 'x') AND seen < now() - INTERVAL 3 DAY",
        "SELECT file, url FROM {table}",
    ],
)
def test_a_query_that_reads_tables_is_accepted(query: str) -> None:
    assert query_fault(query, "duckdb") is None


def test_postgresql_functions_with_external_access_are_refused() -> None:
    for query in (
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM dblink('x', 'y') AS t(a int)",
        "SELECT lo_import('x')",
    ):
        assert "reads tables only" in str(query_fault(query, "postgres")), query
    assert (
        query_fault("SELECT * FROM {table} WHERE seen < now() - INTERVAL '3 days' AND name ~ 'x'", "postgres") is None
    )


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    with duckdb.connect(str(tmp_path / "rmm.duckdb")) as database:
        database.execute("CREATE SCHEMA acme; CREATE SCHEMA other; CREATE TABLE other.sites AS SELECT 1 AS id")
        database.execute(
            "CREATE TABLE acme.devices AS SELECT i AS id, 'PC-' || i AS name, '{\"a\": 1}'::JSON AS more, "
            "i::DECIMAL(38, 9) AS price, TIMESTAMPTZ '2024-01-01' AS seen, [1, 2] AS list, uuid() AS mark, "
            "NULL::INTEGER AS nothing FROM range(70_000) AS r(i)"
        )
    store = Store("duckdb", str(tmp_path / "rmm.duckdb"), "acme", tmp_path / "work")
    with store.reading("acme__devices") as client:
        yield Table(client, "devices")


@pytest.mark.slow
def test_rows_of_every_type_are_found_by_any_name_of_their_table(table: Table) -> None:
    for name in ("{table}", "devices", "acme.devices", "rmm.acme.devices", '"ACME"."DEVICES"'):
        finding = selected(table, f"SELECT id FROM {name} WHERE more->>'a' = '1' AND price = id AND mark IS NOT NULL;")
        assert (finding.at_fault, finding.looked_at, len(finding.examples)) == (70_000, 70_000, 5)
    assert selected(table, "SELECT d.id FROM {table} d JOIN other.sites s ON d.id = s.id -- all;").examples == ("1",)
    with table.client.execute_query(f"DESCRIBE {table.qualified}") as cursor:
        types = [row[:2] for row in cursor.fetchall()]
    with only_reading(table.client, "SELECT * FROM devices") as run:
        assert [row[:2] for row in run("DESCRIBE devices")] == types


def test_the_engine_refuses_what_the_parser_accepts(table: Table, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    secret = "in a variable of this program"
    known: Any = [secret]
    with only_reading(table.client, "SELECT * FROM devices") as run:
        for sql in (
            f"SELECT * FROM read_csv('{tmp_path}/x.csv')",
            "SELECT * FROM read_text('/proc/self/environ')",
            f"ATTACH '{tmp_path}/rmm.duckdb' AS other_file",
            f"COPY devices TO '{tmp_path}/out.csv'",
            "SET enable_external_access = true",
            "SET memory_limit = '10GB'",
            "SELECT * FROM known",
        ):
            with pytest.raises(duckdb.Error):
                run(sql)
        run("DROP TABLE devices")
    with pytest.raises(QueryError, match="reads tables only"):
        selected(table, "SELECT * FROM read_text('/proc/self/environ')")
    assert table.rows("SELECT current_setting('enable_external_access')") == [(True,)]
    assert table.count() == 70_000 and known and not (tmp_path / "out.csv").exists()


@pytest.fixture
def postgres_table(postgres: str, tmp_path: Path) -> Iterator[Table]:
    store = Store("postgres", postgres, "checks", tmp_path / "work")
    with store.changing("checks") as client:
        client.create_dataset()
        table = Table(client, "devices")
        table.change("CREATE TABLE {table} AS SELECT i AS id, 'PC-' || i AS name FROM generate_series(1, 9) AS r(i)")
        client.execute_sql("CREATE SEQUENCE checks.numbers")
        yield table


@pytest.mark.slow
def test_postgresql_refuses_what_the_parser_accepts(postgres_table: Table) -> None:
    table = postgres_table
    assert selected(table, "SELECT id FROM {table} WHERE name <> 'PC-3'").at_fault == 8
    for sql in (
        "INSERT INTO checks.devices VALUES (10, 'x')",
        "WITH gone AS (DELETE FROM checks.devices RETURNING id) SELECT * FROM gone",
        "UPDATE checks.devices SET name = 'x'",
        "CREATE TABLE checks.more (id int)",
        "SELECT id INTO checks.more FROM checks.devices",
        "SELECT id FROM checks.devices FOR UPDATE",
        "DROP TABLE checks.devices",
        "TRUNCATE checks.devices",
        "SELECT nextval('checks.numbers')",
    ):
        with (
            pytest.raises(DatabaseException, match="read-only transaction"),
            only_reading(table.client, "SELECT * FROM devices") as run,
        ):
            run(sql)
    # A superuser may read files in a read-only transaction, too; the parser refuses the functions.
    for query in (
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_catalog.pg_read_file('/etc/passwd')",
        "SELECT \"pg_read_file\"('/etc/passwd')",
        "SELECT id FROM {table} WHERE length(pg_read_binary_file('/etc/passwd')) > 0",
        "SELECT * FROM pg_ls_dir('/')",
        "INSERT INTO {table} VALUES (10, 'x')",
        "CREATE TABLE checks.more (id int)",
    ):
        with pytest.raises(QueryError):
            selected(table, query)
    assert table.count() == 9
    table.change("INSERT INTO {table} VALUES (10, 'x')")
    assert table.count() == 10
