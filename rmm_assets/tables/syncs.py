"""Keeps a table of what each run did to each resource: `rmm_syncs`, one row a run and resource, red runs too.

It stands in the dataset of the tables that it speaks of, for dashboards and `rmm status`. dlt knows nothing of it: a row is
one statement beside a load, where a dlt load of its own would take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from dlt.common.data_types import TDataType
from dlt.destinations.exceptions import DatabaseException
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.tables.table import Table

SYNCS = "rmm_syncs"

Verdict = Literal["loaded", "incomplete", "failed", "failed_after_load"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Sync:
    """What a run did to one resource; a row of `rmm_syncs`.

    Attributes:
        run_id: Dagster's id of the run.
        started: When it began with the resource (UTC).
        seconds: How long it took, reading and landing.
        verdict: `loaded`; `incomplete` where `on_incomplete: warn` let it land; `failed`, and nothing was published;
            `failed_after_load`, the rows are in the table and something behind the load failed.
        evidence: What ended the read, as in the asset's metadata; empty where nothing did.
        row_count: Rows in the table after it; null where the run failed.
        error: Why it failed: one line without the secret, empty where it did not.
    """

    run_id: str
    resource: str
    started: datetime
    seconds: float
    verdict: Verdict
    evidence: str = ""
    rows_loaded: int = 0
    rows_new: int = 0
    rows_changed: int = 0
    rows_absent: int = 0
    rows_rejected: int = 0
    row_count: int | None = None
    requests: int = 0
    retries: int = 0
    load_id: str = ""
    error: str = ""


_TYPES: Mapping[str, TDataType] = {"str": "text", "Verdict": "text", "datetime": "timestamp", "float": "double"}
COLUMNS: Mapping[str, TDataType] = {field.name: _TYPES.get(str(field.type), "bigint") for field in fields(Sync)}


def write(client: SqlClientBase[Any], sync: Sync) -> None:
    """Writes the row of a run and resource, in place of one that is there already.

    Args:
        client: dlt's SQL client of the dataset, open for writing.
    """
    table = Table(client, SYNCS)
    _prepare(table)
    quote, values = table.quote, asdict(sync)
    table.change(
        f"DELETE FROM {{table}} WHERE {quote('run_id')} = %s AND {quote('resource')} = %s", sync.run_id, sync.resource
    )
    table.change(
        f"INSERT INTO {{table}} ({', '.join(map(quote, values))}) VALUES ({', '.join(['%s'] * len(values))})",
        *values.values(),
    )


def latest(client: SqlClientBase[Any]) -> dict[str, Sync]:
    """Returns the last row of each resource; none where no run has written one yet."""
    return _newest(Table(client, SYNCS), "1 = 1")


def latest_loaded(client: SqlClientBase[Any]) -> dict[str, Sync]:
    """Returns the last row of each resource whose run brought its rows into the table."""
    table = Table(client, SYNCS)
    return _newest(table, f"{table.quote('verdict')} <> 'failed'")


def prune(client: SqlClientBase[Any], before: datetime, keep_last: int) -> int:
    """Deletes the rows of runs from before then, except the last ones of each resource and its last load.

    Returns:
        How many rows were deleted.
    """
    table = Table(client, SYNCS)
    if not table.columns():
        return 0
    quote = table.quote
    started, resource = quote("started"), quote("resource")
    loaded = f"CASE WHEN {quote('verdict')} <> 'failed' THEN {started} END"
    deleted = 0
    for name, last_load in table.rows(f"SELECT {resource}, max({loaded}) FROM {{table}} GROUP BY {resource}"):
        newest = table.rows(
            f"SELECT {started} FROM {{table}} WHERE {resource} = %s ORDER BY {started} DESC LIMIT {keep_last}", name
        )
        if len(newest) < keep_last:
            continue
        until = min(before, newest[-1][0]) if newest else before
        condition, parameters = f"{resource} = %s AND {started} < %s", [name, until]
        if last_load is not None:
            condition, parameters = f"{condition} AND {started} <> %s", [*parameters, last_load]
        deleted += int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {condition}", *parameters)[0][0])
        table.change(f"DELETE FROM {{table}} WHERE {condition}", *parameters)
    return deleted


def forget(client: SqlClientBase[Any], resource: str, new_name: str | None = None) -> None:
    """Deletes what is noted of a resource, or notes it under another name."""
    table = Table(client, SYNCS)
    if not table.columns():
        return
    name = table.quote("resource")
    if new_name is None:
        table.change(f"DELETE FROM {{table}} WHERE {name} = %s", resource)
    else:
        table.change(f"UPDATE {{table}} SET {name} = %s WHERE {name} = %s", new_name, resource)


def _newest(table: Table, condition: str) -> dict[str, Sync]:
    known = [name for name in COLUMNS if name in table.columns()]
    if not known:
        return {}
    quote = table.quote
    listed, started, resource = ", ".join(map(quote, known)), quote("started"), quote("resource")
    rows = table.rows(
        f"SELECT {listed} FROM (SELECT {listed}, row_number() OVER (PARTITION BY {resource} ORDER BY {started} DESC) "
        f"AS place FROM {{table}} WHERE {condition}) AS numbered WHERE place = 1"
    )
    syncs = [Sync(**dict(zip(known, row, strict=True))) for row in rows]
    return {sync.resource: sync for sync in syncs}


def _prepare(table: Table) -> None:
    """Creates the table, or adds the columns that a newer version of this package writes."""
    there = table.columns()
    if not there:
        if not table.client.has_dataset():  # the first run of a connection, and it failed
            table.client.create_dataset()
        try:
            table.change(f"CREATE TABLE {{table}} ({', '.join(_defined(table, name) for name in COLUMNS)})")
        except DatabaseException:  # another run was faster
            if not table.columns():
                raise
        return
    for name in COLUMNS:
        if name not in there:
            table.change(f"ALTER TABLE {{table}} ADD COLUMN {_defined(table, name)}")


def _defined(table: Table, name: str) -> str:
    types: Any = table.client.capabilities.get_type_mapper()
    # Nullable, as every warehouse can add and few can add otherwise.
    kind = types.to_destination_type({"name": name, "data_type": COLUMNS[name], "nullable": True}, {"name": SYNCS})
    return f"{table.quote(name)} {kind}"
