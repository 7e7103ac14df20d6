"""Maintains the table `rmm_syncs`, with one row per run and resource, failed runs included.

It is in the same dataset as the tables it describes, for dashboards and `rmm status`. It is written in plain SQL, as a dlt
load would take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from dlt.common.data_types import TDataType
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
        started: When the run started the resource (UTC).
        seconds: How long reading and loading took.
        verdict: `loaded`; `incomplete`, landed by `on_incomplete: warn`; `failed`, nothing was published;
            `failed_after_load`, the rows are in the table and a later step failed.
        evidence: What ended the read, as in the asset's metadata; empty if nothing did.
        rows_received: Number of different rows that the API sent; null in rows that an older version wrote.
        rows_loaded: Number of rows received that the table holds as received.
        rows_written: Number of rows written to the table for it; null in rows that an older version wrote.
        row_count: Number of rows in the table afterwards; null if the run failed.
        last_full_read: When the last complete read of everything started (UTC); null without `full_every`, and if the run
            failed.
        used_values: A digest of the values that child resources use in their requests, if the table has exactly the rows of a
            complete read; else empty.
        error: Why it failed, in one line without the secret; empty if it did not.
    """

    run_id: str
    resource: str
    started: datetime
    seconds: float
    verdict: Verdict
    evidence: str = ""
    rows_received: int | None = None
    rows_loaded: int = 0
    rows_written: int | None = None
    rows_new: int = 0
    rows_changed: int = 0
    rows_absent: int = 0
    rows_rejected: int = 0
    row_count: int | None = None
    requests: int = 0
    retries: int = 0
    load_id: str = ""
    last_full_read: datetime | None = None
    used_values: str = ""
    error: str = ""


_TYPES: Mapping[str, TDataType] = {
    "str": "text", "Verdict": "text", "datetime": "timestamp", "float": "double",
    "datetime | None": "timestamp",
}  # fmt: skip
COLUMNS: Mapping[str, TDataType] = {field.name: _TYPES.get(str(field.type), "bigint") for field in fields(Sync)}


def write(client: SqlClientBase[Any], sync: Sync) -> None:
    """Writes the row of a run and resource, replacing an earlier one.

    Args:
        client: dlt's SQL client of the dataset, open for writing.
        sync: The row.
    """
    table = Table(client, SYNCS)
    table.prepare(COLUMNS)
    quote, values = table.quote, asdict(sync)
    table.change(
        f"DELETE FROM {{table}} WHERE {quote('run_id')} = %s AND {quote('resource')} = %s", sync.run_id, sync.resource
    )
    # BigQuery cannot tell the type of a parameter that is null.
    listed = ["NULL" if value is None else "%s" for value in values.values()]
    table.change(
        f"INSERT INTO {{table}} ({', '.join(map(quote, values))}) VALUES ({', '.join(listed)})",
        *(value for value in values.values() if value is not None),
    )


def latest(client: SqlClientBase[Any]) -> dict[str, Sync]:
    """Returns the last row of each resource that has one."""
    return _newest(Table(client, SYNCS), "1 = 1")


def rows_of_last_read(client: SqlClientBase[Any], resource: str) -> int | None:
    """Returns the number of different rows that the resource's last complete read received; None if it is unknown."""
    table = Table(client, SYNCS)
    if "rows_received" not in table.columns():
        return None
    started, name, verdict = map(table.quote, ("started", "resource", "verdict"))
    found = table.rows(
        f"SELECT {table.quote('rows_received')} FROM {{table}} WHERE {name} = %s AND {verdict} = 'loaded' "
        f"ORDER BY {started} DESC LIMIT 1",
        resource,
    )
    return None if not found or found[0][0] is None else int(found[0][0])


def latest_loaded(client: SqlClientBase[Any]) -> dict[str, Sync]:
    """Returns each resource's last row of a run that loaded rows into the table."""
    table = Table(client, SYNCS)
    return _newest(table, f"{table.quote('verdict')} <> 'failed'")


def used_values(client: SqlClientBase[Any], run_id: str, resource: str) -> str:
    """Returns the digest that a run's load of a resource left; empty if it left none."""
    table = Table(client, SYNCS)
    if "used_values" not in table.columns():
        return ""
    run, name = table.quote("run_id"), table.quote("resource")
    found = table.rows(
        f"SELECT {table.quote('used_values')} FROM {{table}} WHERE {run} = %s AND {name} = %s", run_id, resource
    )
    return str(found[0][0] or "") if found else ""


def prune(client: SqlClientBase[Any], before: datetime, keep_last: int) -> int:
    """Deletes rows of runs that started before `before`, except each resource's `keep_last` latest and its last load.

    Returns:
        The number of deleted rows.
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
        until = min(before, _aware(newest[-1][0])) if newest else before
        condition, parameters = f"{resource} = %s AND {started} < %s", [name, until]
        if last_load is not None:
            condition, parameters = f"{condition} AND {started} <> %s", [*parameters, last_load]
        deleted += int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {condition}", *parameters)[0][0])
        table.change(f"DELETE FROM {{table}} WHERE {condition}", *parameters)
    return deleted


def forget(client: SqlClientBase[Any], resource: str, new_name: str | None = None) -> None:
    """Deletes a resource's rows, or renames the resource in them."""
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
    return {
        sync.resource: replace(
            sync,
            started=_aware(sync.started),
            last_full_read=None if sync.last_full_read is None else _aware(sync.last_full_read),
        )
        for sync in syncs
    }


def _aware(time: datetime | str) -> datetime:
    """Returns a time with its zone, as SQLite has times as text, and MySQL without their zone, which is UTC."""
    time = datetime.fromisoformat(time) if isinstance(time, str) else time
    return time if time.tzinfo else time.replace(tzinfo=UTC)
