"""Runs a user's query so that it can only read tables: it must parse as one SELECT and runs isolated from everything else.

The query comes from a connection file and its result goes to Dagster's event log. In DuckDB a SELECT can read files and the
network, and settings apply to all connections of a process, so the tables are copied to an in-memory database that can do
neither. Other destinations run the query in a read-only transaction if they have one.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlglot
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.destinations.sql_client import SqlClientBase
from sqlglot import exp

from rmm_assets.errors import QueryError

_BACKTICKS = ("bigquery", "mysql", "databricks", "spark", "hive", "clickhouse")
_PLACEHOLDER = re.compile(r"\{([A-Za-z][\w-]*)\}")
_WRITES = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Drop, exp.Alter)
# Functions allowed in place of a table: they turn their arguments into rows.
_ROWS_OF_ARGUMENTS = re.compile(
    r"unnest|explode|posexplode|flatten|generate_series|range|(explode_|regexp_|string_)?split_to_table"
    r"|(json|jsonb)_(each|tree|array_elements|object_keys|table|to_recordset)(_text)?"
)
# Functions that access files, the network, other databases, settings or other queries.
_REACHES_OUT = re.compile(
    r"read_.*|.*_scan|scan_.*|sniff_.*|glob|query|query_table|getenv|which_secret|duckdb_\w+|pragma_\w+|pg_(read|ls|stat_file|file|logdir"
    r"|sleep|terminate|cancel|reload|promote|rotate|switch|create|drop|replication|logical|advisory|try_advisory|export)\w*"
    r"|lo_\w+|dblink\w*|set_config|current_setting|setval|nextval|query_to_xml\w*|(table|cursor|database|schema)_to_xml\w*"
    r"|url|file|s3|s3cluster|hdfs|remote|remotesecure|mysql|postgresql|jdbc|odbc|executable|dictget\w*|load_file|load_extension"
    r"|xp_\w+|openrowset|opendatasource|openquery|external_query|sleep|benchmark|system\w*"
)
_A_FILE = re.compile(r"[/\\]|\.(csv|tsv|json|jsonl|ndjson|parquet|txt|db|duckdb|gz|zst|arrow|xlsx)$|://", re.IGNORECASE)
Runner = Callable[[str], list[tuple[Any, ...]]]
"""Runs a query and returns its rows."""

_MEMORY = "400MB"
_SECONDS = 600.0
_BATCH = 50_000


def query_fault(query: str, dialect: str | None) -> str | None:
    """Returns why a query must not be run; None if it is one SELECT that only reads tables.

    Args:
        query: The query; names in braces are placeholders for tables.
        dialect: sqlglot's name of the destination's dialect.
    """
    try:
        _parsed(_PLACEHOLDER.sub('"\\1"' if dialect not in _BACKTICKS else "`\\1`", query), dialect)
    except QueryError as error:
        return str(error)
    return None


def _parsed(query: str, dialect: str | None) -> exp.Expression:
    """Parses a query.

    Raises:
        QueryError: The query is not one SELECT that only reads tables.
    """
    try:
        statements = [statement for statement in sqlglot.parse(query, read=dialect) if statement is not None]
    except sqlglot.errors.SqlglotError:
        # The parser's message quotes the query with terminal colors.
        raise QueryError(f"this is not a query in the SQL of {dialect or 'the destination'}") from None
    if len(statements) != 1:
        raise QueryError(f"a check must be a single SELECT, and this query has {len(statements)} statements")
    [statement] = statements
    if not isinstance(statement, (exp.Select, exp.SetOperation, exp.Subquery)):
        raise QueryError(f"a check must be a SELECT, and this query is {type(statement).__name__.upper()}")
    if (write := statement.find(*_WRITES)) is not None:
        raise QueryError(f"a check may only read, and this query contains {type(write).__name__.upper()}")
    for table in statement.find_all(exp.Table):
        if isinstance(table.this, exp.Func):
            if not _ROWS_OF_ARGUMENTS.fullmatch(_function(table.this)):
                raise QueryError(f"a check reads tables only, not what `{_function(table.this)}` reads")
        elif _A_FILE.search(table.name):
            raise QueryError("a check reads tables only, not files; load the file as a table, or leave it out")
    for function in statement.find_all(exp.Func):
        if _REACHES_OUT.fullmatch(_function(function)):
            raise QueryError(f"a check reads tables only, not what `{_function(function)}` reads")
    return statement


def _function(node: Any) -> str:
    name = (
        node.name
        if isinstance(node, (exp.Anonymous, exp.AnonymousAggFunc))
        else getattr(node, "sql_name", lambda: "")()
    )
    return str(name).lower()


@contextmanager
def only_reading(client: SqlClientBase[Any], query: str) -> Iterator[Runner]:
    """Yields a function that runs queries built around a user's query and can only read tables.

    Args:
        client: dlt's open SQL client of the dataset.
        query: The query, with table names in place of placeholders.

    Raises:
        QueryError: The query is not one SELECT that only reads tables.
    """
    dialect = client.capabilities.sqlglot_dialect
    parsed = _parsed(query, dialect)
    if dialect == "duckdb":
        with _in_memory(client, parsed) as runner:
            yield runner
        return
    if dialect not in ("postgres", "redshift"):
        yield partial(_rows, client)
        return
    with client.begin_transaction():
        client.execute_sql("SET TRANSACTION READ ONLY")
        yield partial(_rows, client)


def _rows(client: SqlClientBase[Any], sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.execute_sql(sql) or ()]


@contextmanager
def _in_memory(client: SqlClientBase[Any], parsed: exp.Expression) -> Iterator[Runner]:
    """Yields a function that runs queries on in-memory copies of the tables that a query names."""
    import duckdb

    *above, _ = client.make_qualified_table_name_path("any", quote=False)
    catalog, dataset = (*map(str, _rows(client, "SELECT current_database()")[0]), *above)[-2:]
    named = {(table.catalog or catalog, table.db or dataset, table.name) for table in parsed.find_all(exp.Table)}
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(":memory:", config={"memory_limit": _MEMORY, "temp_directory": folder}) as memory,
    ):
        for where in sorted(named | {(catalog, dataset, "")}):
            _copy(client, memory, *where)
        memory.execute(f"USE {_quoted(catalog, dataset)}")
        # DuckDB would also read this program's variables as tables.
        for setting in (
            "python_enable_replacements = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            memory.execute(f"SET {setting}")
        alarm = threading.Timer(_SECONDS, memory.interrupt)
        alarm.daemon = True
        alarm.start()
        try:
            yield lambda sql: memory.execute(sql).fetchall()
        finally:
            alarm.cancel()


def _copy(client: SqlClientBase[Any], memory: Any, catalog: str, dataset: str, name: str) -> None:
    """Copies a table into an in-memory database; a missing table is skipped, so that its query fails."""
    if dataset.lower() in ("information_schema", "pg_catalog"):
        return
    if catalog.lower() not in ("memory", "temp"):
        memory.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {_quoted(catalog)}")
    memory.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(catalog, dataset)}")
    source = _quoted(catalog, dataset, name)
    try:
        columns = client.execute_sql(f"DESCRIBE SELECT * FROM {source}") if name else None
    except DestinationUndefinedEntity:
        columns = None
    if not columns:
        return
    listed = ", ".join(f"{_quoted(str(column[0]))} {column[1]}" for column in columns)
    memory.execute(f"CREATE TABLE {source} ({listed})")
    with client.execute_query(f"SELECT * FROM {source}") as cursor:
        for batch in cursor.iter_arrow(_BATCH):
            memory.register("batch", batch)
            memory.execute(f"INSERT INTO {source} SELECT * FROM batch")
            memory.unregister("batch")


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
