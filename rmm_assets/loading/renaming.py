"""Moves the tables of a renamed connection or resource, and dlt's schema and state of them, to the new name.

Everything happens in one transaction at the destination, so a rename that is killed changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dlt.destinations.exceptions import DatabaseException
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.config import Connection
from rmm_assets.config.names import normalized_table
from rmm_assets.loading.dlt_internals import renamed_schema, renamed_state
from rmm_assets.loading.plan import REJECTED_SUFFIX, plan_load
from rmm_assets.tables import syncs
from rmm_assets.tables.dialects import moved
from rmm_assets.tables.forgetting import (
    LOADS,
    OWN,
    STATES,
    VERSIONS,
    drop_own_staging,
    forget_staging,
    schemas_like,
    tables_of,
)
from rmm_assets.tables.table import Table

Client = SqlClientBase[object]

# Destinations whose tables can be moved in one transaction.
DESTINATIONS = ("duckdb", "postgres")


@dataclass(frozen=True)
class Move:
    """The new names of one resource.

    Attributes:
        pipeline: The former name of its dlt pipeline and schema.
        new_pipeline: Their new name.
        tables: Its tables' new names by the former ones.
        resources: The resource's new name by the former one; empty if it keeps its name.
    """

    pipeline: str
    new_pipeline: str
    tables: Mapping[str, str]
    resources: Mapping[str, str]


def moves_of_connection(client: Client, old: str, connection: Connection) -> list[Move]:
    """Returns a move for each resource that was ever loaded under the connection's former name.

    Args:
        client: dlt's SQL client of the former dataset.
        old: The former name.
        connection: The connection, under its new name.

    Raises:
        ValueError: There is nothing to move, or the dataset also contains tables of other connections.
    """
    names = schemas_like(client, f"{old}__")
    if not names:
        raise ValueError(f"the dataset {client.dataset_name} has no tables of {old}")
    others = set(schemas_like(client, "")) - set(names)
    if others and connection.dataset_name != client.dataset_name:
        raise ValueError(
            f"the dataset {client.dataset_name} also contains tables of {', '.join(sorted(others))}, so it cannot be renamed: "
            f"write `dataset: {client.dataset_name}` in the connection file"
        )
    new = {name: f"{connection.name}__{name.removeprefix(f'{old}__')}" for name in names}
    return [Move(name, new[name], {table: table for table in tables_of(client, name)}, {}) for name in names]


def move_of_resource(client: Client, old: str, connection: Connection, new: str) -> Move:
    """Returns the move of a resource.

    Args:
        client: dlt's SQL client of the dataset.
        old: The former name.
        connection: The connection, in which the resource has its new name.
        new: The new name.

    Raises:
        ValueError: There is nothing to move, or a table's new name cannot be determined.
    """
    plan = plan_load(connection, connection.resource(new))
    former, known = normalized_table(old), schemas_like(client, f"{connection.name}__")
    # With `table_name`, the table may have kept its name.
    table = next((name for name in (former, plan.table) if f"{connection.name}__{name}" in known), None)
    if table is None:
        raise ValueError(f"the dataset {client.dataset_name} has no table of {connection.name}/{old}")
    pipeline, tables = f"{connection.name}__{table}", dict[str, str]()
    for name in tables_of(client, pipeline):
        rest = name.removeprefix(table)
        if not (name.startswith(table) and (rest in ("", REJECTED_SUFFIX) or rest.startswith("__"))):
            raise ValueError(
                f"the new name of the table {name} cannot be determined, because its name is shortened: set "
                f"`table_name: {table}` on the resource, and its tables keep their names"
            )
        tables[name] = plan.table + rest
    return Move(pipeline, plan.source_name, tables, {old: new})


def refuse_taken(client: Client, dataset: str, moves: Sequence[Move]) -> None:
    """Refuses to overwrite existing tables.

    Raises:
        ValueError: A new name is already in use.
    """
    if client.dataset_name != dataset:
        if there := _tables_in(client, dataset):
            raise ValueError(f"the dataset {dataset} already has tables: {', '.join(sorted(there)[:5])}")
        return
    former = {table for move in moves for table in move.tables}
    for move in moves:
        if move.new_pipeline != move.pipeline and move.new_pipeline in schemas_like(client, ""):
            raise ValueError(f"{move.new_pipeline.replace('__', '/', 1)} has been loaded already")
        if there := (set(move.tables.values()) - former) & _tables_in(client, dataset):
            raise ValueError(f"the dataset {dataset} already has the table {', '.join(sorted(there))}")


def carry_out(client: Client, dataset: str, moves: Sequence[Move]) -> None:
    """Moves tables, schemas, states and rows of `rmm_syncs`. The next load recreates the tables of the staging dataset.

    Args:
        client: dlt's SQL client of the former dataset, open for writing.
        dataset: The new dataset.
        moves: The moves.
    """
    former, moving = client.dataset_name, client.dataset_name != dataset
    # Checked before the transaction, because PostgreSQL aborts it if a table is missing.
    own = [name for name in OWN if Table(client, name).exists()]
    tables = [pair for move in moves for pair in move.tables.items()]
    with client.begin_transaction():
        if moving:
            with client.with_alternative_dataset_name(dataset):
                if not client.has_dataset():
                    client.create_dataset()
        for name, new_name in [*((name, name) for name in own), *tables]:
            _move(client, name, dataset, new_name)
        with client.with_alternative_dataset_name(dataset):
            for move in moves:
                _rename_in_dlt(client, move)
                if syncs.SYNCS in own:
                    for old, new in move.resources.items():
                        syncs.forget(client, old, new)
    for move in moves:
        forget_staging(client, move.pipeline, list(move.tables))
    if moving:
        drop_own_staging(client)
        for name in (former, client.staging_dataset_name):
            _drop_if_empty(client, name)


def _move(client: Client, name: str, dataset: str, new_name: str) -> None:
    """Moves one table within the dataset or to another one."""
    table = Table(client, name)
    if client.dataset_name == dataset:
        if name != new_name:
            table.change(f"ALTER TABLE {{table}} RENAME TO {table.quote(new_name)}")
        return
    if (statement := moved(client, name, dataset)) is not None:
        client.execute_sql(statement)
        return
    with client.with_alternative_dataset_name(dataset):
        target = Table(client, new_name).source
    table.change(f"CREATE TABLE {target} AS SELECT * FROM {{table}}")
    for column in _not_null(client, name):
        table.change(f"ALTER TABLE {target} ALTER COLUMN {table.quote(column)} SET NOT NULL")
    client.drop_tables(name)


def _not_null(client: Client, name: str) -> Iterator[str]:
    rows = Table(client, name).rows(
        "SELECT column_name FROM information_schema.columns WHERE table_catalog = current_database() "
        "AND table_schema = %s AND table_name = %s AND is_nullable = 'NO'",
        client.dataset_name, name,
    )  # fmt: skip
    yield from (str(column) for (column,) in rows)


def _rename_in_dlt(client: Client, move: Move) -> None:
    versions, loads, states = (Table(client, name) for name in (VERSIONS, LOADS, STATES))
    newest, *older = versions.rows(
        'SELECT version_hash, "schema" FROM {table} WHERE schema_name = %s ORDER BY inserted_at DESC', move.pipeline
    )
    for version_hash, _ in older:
        versions.change("DELETE FROM {table} WHERE schema_name = %s AND version_hash = %s", move.pipeline, version_hash)
    schema = renamed_schema(newest[1], move.new_pipeline, move.tables, move.resources)
    versions.change(
        f"UPDATE {{table}} SET schema_name = %s, version = %s, version_hash = %s, {versions.quote('schema')} = %s "
        "WHERE schema_name = %s",
        move.new_pipeline, schema.version, schema.version_hash, schema.text, move.pipeline,
    )  # fmt: skip
    loads.change("UPDATE {table} SET schema_name = %s WHERE schema_name = %s", move.new_pipeline, move.pipeline)
    for version_hash, text in states.rows(
        "SELECT version_hash, state FROM {table} WHERE pipeline_name = %s", move.pipeline
    ):
        state = renamed_state(text, move.new_pipeline, client.dataset_name, move.resources)
        states.change(
            "UPDATE {table} SET pipeline_name = %s, version = %s, version_hash = %s, state = %s "
            "WHERE pipeline_name = %s AND version_hash = %s",
            move.new_pipeline, state.version, state.version_hash, state.text, move.pipeline, version_hash,
        )  # fmt: skip


def _tables_in(client: Client, dataset: str) -> set[str]:
    rows = Table(client, VERSIONS).rows(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database() AND table_schema = %s",
        dataset,
    )
    return {str(name) for (name,) in rows}


def _drop_if_empty(client: Client, dataset: str) -> None:
    with client.with_alternative_dataset_name(dataset), suppress(DatabaseException):
        if client.has_dataset() and not _tables_in(client, dataset):
            # Without CASCADE, so that a schema with other objects than tables stays.
            client.execute_sql(f"DROP SCHEMA {client.fully_qualified_dataset_name()}")
