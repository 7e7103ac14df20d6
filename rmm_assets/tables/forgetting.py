"""Deletes a resource from a dataset: its tables, and dlt's schema and state of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.tables.locks import LOCKS
from rmm_assets.tables.syncs import SYNCS
from rmm_assets.tables.table import Table

VERSIONS, LOADS, STATES = "_dlt_version", "_dlt_loads", "_dlt_pipeline_state"
# The tables of a dataset that belong to all of its resources.
OWN = (VERSIONS, LOADS, STATES, SYNCS, LOCKS)


def schemas_like(client: SqlClientBase[Any], prefix: str) -> list[str]:
    """Returns a dataset's dlt schemas whose names start with a prefix: one per resource that was ever loaded."""
    versions = Table(client, VERSIONS)
    if not versions.exists():
        return []
    names = [str(name) for (name,) in versions.rows("SELECT DISTINCT schema_name FROM {table} ORDER BY schema_name")]
    return [name for name in names if name.startswith(prefix)]


def tables_of(client: SqlClientBase[Any], schema: str) -> list[str]:
    """Returns the existing tables of a dlt schema: rows, children, rejects."""
    versions = Table(client, VERSIONS)
    if not versions.exists():
        return []
    found = versions.rows(
        'SELECT "schema" FROM {table} WHERE schema_name = %s ORDER BY inserted_at DESC LIMIT 1', schema
    )
    names = [name for (text,) in found for name in json.loads(text)["tables"] if not name.startswith("_dlt")]
    return sorted(name for name in names if Table(client, name).exists())


def forget(client: SqlClientBase[Any], schema: str, tables: Sequence[str]) -> None:
    """Drops tables in the dataset and in dlt's staging dataset, and deletes a schema's versions, loads and state."""
    _forget(client, schema, tables)
    forget_staging(client, schema, tables)


def forget_staging(client: SqlClientBase[Any], schema: str, tables: Sequence[str]) -> None:
    """Does the same, but only in dlt's staging dataset."""
    with client.with_staging_dataset():
        if client.has_dataset():
            _forget(client, schema, tables)


def drop_own_tables(client: SqlClientBase[Any]) -> None:
    """Drops dlt's tables and `rmm_syncs`, in the dataset and in dlt's staging dataset; the user's tables stay."""
    client.drop_tables(*OWN)
    drop_own_staging(client)


def drop_own_staging(client: SqlClientBase[Any]) -> None:
    """Drops dlt's tables in its staging dataset."""
    with client.with_staging_dataset():
        if client.has_dataset():
            client.drop_tables(*OWN)


def _forget(client: SqlClientBase[Any], schema: str, tables: Sequence[str]) -> None:
    client.drop_tables(*tables)
    for name, column in ((STATES, "pipeline_name"), (LOADS, "schema_name"), (VERSIONS, "schema_name")):
        table = Table(client, name)
        if table.exists():
            table.change(f"DELETE FROM {{table}} WHERE {table.quote(column)} = %s", schema)
