"""Looks up a table at the destination before a load: whether it exists, who loaded it, which columns it has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dlt.common.destination.client import JobClientBase, WithStateSync
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from dlt.destinations.job_client_impl import SqlJobClientBase
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.errors import ForeignTableError
from rmm_assets.tables.table import Table

# dlt's format of load files where Parquet does not work.
INSTEAD_OF_PARQUET = "insert_values"


@dataclass(frozen=True)
class Existing:
    """What the destination has of a resource.

    Attributes:
        dropped: Whether the table is in the stored dlt schema but has been dropped.
        columns: dlt column schemas of a table that exists but is in no dlt schema; otherwise empty, as dlt knows the table.
        schema: The stored dlt schema, if it has the table, in dlt's form. dlt restores it only together with the pipeline's
            state, which is written last: a first load that was killed after its rows were in the table has none.
        decimal_digits: How many digits of a decimal the destination keeps; None if all that its type has.
    """

    dropped: bool = False
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    decimal_digits: int | None = None


def look_up(client: JobClientBase, schema: str, table: str) -> Existing:
    """Returns what the destination has of a resource.

    Args:
        client: dlt's client of the dataset, not yet open.
        schema: Name of the resource's own dlt schema.
        table: Name of the table.

    Raises:
        ForeignTableError: The table belongs to another dlt schema.
    """
    if isinstance(client, FilesystemClient):
        with client:
            stored = _stored(client, schema)
        return Existing(schema=stored if _columns(stored, table) else None)
    if not isinstance(client, SqlJobClientBase):
        return Existing()
    # SQLite stores decimals as doubles.
    digits = 15 if client.capabilities.sqlglot_dialect == "sqlite" else None
    return replace(_look_up(client, schema, table), decimal_digits=digits)


def _look_up(client: SqlJobClientBase, schema: str, table: str) -> Existing:
    with client:
        is_there = Table(client.sql_client, table).exists()
        stored = _stored(client, schema)
        listed = _columns(stored, table)
        if not is_there:
            return Existing(dropped=any("data_type" in column for column in listed.values()))
        if listed:
            return Existing(schema=stored)
        owner = _owner(client, schema, table)
        if owner is not None:
            raise ForeignTableError(
                f"{schema}: the table {Table(client.sql_client, table).full_name} was loaded as {owner} by another "
                "connection or resource: give this connection another `dataset` or the resource another "
                f"`table_name`. If {owner} is the former name of this resource, run `rmm rename`"
            )
        found = dict(client.get_storage_tables([table]))
        return Existing(columns={name: dict(column) for name, column in found.get(table, {}).items()})


def takes_parquet(client: SqlClientBase[Any], names: Sequence[str]) -> bool:
    """Returns whether Parquet files can be loaded into tables and their staging tables.

    In PostgreSQL, dlt makes `json` columns for Parquet files and `jsonb` columns for others, and ADBC cannot copy into these
    (1.31.0).
    """
    if client.capabilities.sqlglot_dialect != "postgres":
        return True
    with client.with_staging_dataset():
        datasets = [client.dataset_name]
    found = client.execute_sql(
        "SELECT 1 FROM information_schema.columns WHERE udt_name = 'jsonb' AND table_schema = ANY(%s) AND table_name = ANY(%s)",
        [*datasets, client.dataset_name], list(names),
    )  # fmt: skip
    return not found


def _stored(client: WithStateSync, schema: str) -> Mapping[str, Any]:
    """Returns the newest version of a dlt schema; empty if there is none."""
    try:
        stored = client.get_stored_schema(schema)
    except DestinationUndefinedEntity:
        return {}
    found: Mapping[str, Any] = json.loads(stored.schema) if stored is not None else {}
    return found


def _columns(stored: Mapping[str, Any], table: str) -> Mapping[str, Any]:
    columns: Mapping[str, Any] = stored.get("tables", {}).get(table, {}).get("columns", {})
    return columns


def _owner(client: SqlJobClientBase, schema: str, table: str) -> str | None:
    """Returns the dlt schema, other than this one, that contains the table."""
    try:
        found = Table(client.sql_client, "_dlt_version").rows(
            'SELECT DISTINCT schema_name FROM {table} WHERE schema_name <> %s AND "schema" LIKE %s',
            schema,
            f'%"{table}"%',
        )
    except DestinationUndefinedEntity:
        return None
    return next((name for (name,) in found if _columns(_stored(client, str(name)), table)), None)
