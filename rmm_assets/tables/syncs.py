"""Maintains the table `rmm_syncs`, with one row per run and resource, failed runs included.

It is in the same dataset as the tables it describes, for dashboards and `rmm status`. It is written in plain SQL, as a dlt
load would take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from dlt.common.data_types import TDataType
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.tables.dialects import quoted
from rmm_assets.tables.table import Table

SYNCS = "rmm_syncs"

# Rows that one statement inserts: SQL Server takes 2,100 parameters.
_ROWS_AT_ONCE = 50

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
        load_id: dlt's id of the load; empty if nothing was published.
        last_full_read: When the last complete read of everything started (UTC); null without `full_every`, and if the run
            failed.
        used_values: A digest of the values that child resources use in their requests, if the table has exactly the rows of a
            complete read; else empty.
        error: Why it failed, in one line without the secret; empty if it did not.
        tenant: The tenant whose rows the row is about; null in connections without tenants.
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
    tenant: str | None = None


_TYPES: Mapping[str, TDataType] = {
    "str": "text", "Verdict": "text", "datetime": "timestamp", "float": "double",
    "datetime | None": "timestamp", "str | None": "text",
}  # fmt: skip
COLUMNS: Mapping[str, TDataType] = {field.name: _TYPES.get(str(field.type), "bigint") for field in fields(Sync)}


def write(client: SqlClientBase[Any], *syncs: Sync) -> None:
    """Writes the rows of a run and resource, replacing earlier ones.

    Args:
        client: dlt's SQL client of the dataset, open for writing.
        syncs: The row, or one for each tenant.
    """
    table, quote = Table(client, SYNCS), quoted
    table.prepare(COLUMNS)
    table.change(
        f"DELETE FROM {{table}} WHERE {quote('run_id')} = %s AND {quote('resource')} = %s",
        syncs[0].run_id, syncs[0].resource,
    )  # fmt: skip
    for start in range(0, len(syncs), _ROWS_AT_ONCE):
        rows = [asdict(sync) for sync in syncs[start : start + _ROWS_AT_ONCE]]
        # BigQuery cannot tell the type of a parameter that is null.
        listed = [f"({', '.join('NULL' if value is None else '%s' for value in row.values())})" for row in rows]
        table.change(
            f"INSERT INTO {{table}} ({', '.join(map(quote, COLUMNS))}) VALUES {', '.join(listed)}",
            *(value for row in rows for value in row.values() if value is not None),
        )


def latest(client: SqlClientBase[Any]) -> dict[str, Sync]:
    """Returns the last row of each resource that has one."""
    return _by_resource(_newest(Table(client, SYNCS), "1 = 1"))


def latest_of_tenants(client: SqlClientBase[Any], *, loaded: bool = False) -> list[Sync]:
    """Returns the last row of each resource and tenant.

    Args:
        client: dlt's SQL client of the dataset.
        loaded: Whether to return only rows of runs that loaded rows into the table, also if a later step failed.
    """
    table = Table(client, SYNCS)
    if "tenant" not in table.columns():
        return []
    condition = f" AND {quoted('verdict')} <> 'failed'" if loaded else ""
    return _newest(table, f"{quoted('tenant')} IS NOT NULL{condition}")


def loaded_tenants(client: SqlClientBase[Any], resource: str, since: datetime) -> set[str]:
    """Returns the tenants of a resource that runs have loaded that started after a point in time."""
    table = Table(client, SYNCS)
    if "tenant" not in table.columns():
        return set()
    condition = f"{quoted('resource')} = %s AND {quoted('verdict')} <> 'failed' AND {quoted('started')} >= %s"
    rows = table.rows(f"SELECT DISTINCT {quoted('tenant')} FROM {{table}} WHERE {condition}", resource, since)
    return {str(tenant) for (tenant,) in rows}


def rows_of_last_reads(client: SqlClientBase[Any], resource: str) -> dict[str, int]:
    """Returns the number of different rows that the last complete read of each tenant received, where it is known."""
    table = Table(client, SYNCS)
    if not {"tenant", "rows_received"} <= {*table.columns()}:
        return {}
    loaded = f"{quoted('verdict')} = 'loaded' AND {quoted('tenant')} IS NOT NULL AND {quoted('resource')} = %s"
    return {
        str(sync.tenant): sync.rows_received
        for sync in _newest(table, loaded, resource) if sync.rows_received is not None
    }  # fmt: skip


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
    """Returns each resource's last row of a run that loaded rows into the table, also if a later step failed."""
    table = Table(client, SYNCS)
    return _by_resource(_newest(table, f"{table.quote('verdict')} <> 'failed'"))


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
    """Deletes rows of runs that started before `before`, except the `keep_last` latest and the last load of each resource.

    Of a connection with tenants, those of each tenant are kept.

    Returns:
        The number of deleted rows.
    """
    table, deleted = Table(client, SYNCS), 0
    there = table.columns()
    if not there:
        return 0
    started, of = quoted("started"), [quoted(name) for name in ("resource", "tenant") if name in there]
    loaded = f"CASE WHEN {quoted('verdict')} <> 'failed' THEN {started} END"
    for *names, last_load in table.rows(
        f"SELECT {', '.join(of)}, max({loaded}) FROM {{table}} GROUP BY {', '.join(of)} "
        f"HAVING count(*) >= {keep_last} AND min({started}) < %s", before
    ):  # fmt: skip
        condition = " AND ".join(
            f"{name} IS NULL" if value is None else f"{name} = %s" for name, value in zip(of, names, strict=True)
        )
        own = [value for value in names if value is not None]
        newest = table.rows(
            f"SELECT {started} FROM {{table}} WHERE {condition} ORDER BY {started} DESC LIMIT {keep_last}", *own
        )
        until = min(before, _aware(newest[-1][0])) if newest else before
        condition, parameters = f"{condition} AND {started} < %s", [*own, until]
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


def _newest(table: Table, condition: str, *parameters: Any) -> list[Sync]:
    """Returns the newest row of each resource, and of each of its tenants, among those that meet a condition."""
    there = table.columns()
    known = [name for name in COLUMNS if name in there]
    if not known:
        return []
    listed = ", ".join(map(quoted, known))
    of = ", ".join(quoted(name) for name in ("resource", "tenant") if name in there)
    rows = table.rows(
        f"SELECT {listed} FROM (SELECT {listed}, row_number() OVER (PARTITION BY {of} ORDER BY {quoted('started')} DESC) "
        f"AS place FROM {{table}} WHERE {condition}) AS numbered WHERE place = 1",
        *parameters,
    )
    syncs = [Sync(**dict(zip(known, row, strict=True))) for row in rows]
    return [
        replace(
            sync,
            started=_aware(sync.started),
            last_full_read=None if sync.last_full_read is None else _aware(sync.last_full_read),
        )
        for sync in syncs
    ]


def _by_resource(syncs: Sequence[Sync]) -> dict[str, Sync]:
    """Returns the newest row of each resource."""
    return {sync.resource: sync for sync in sorted(syncs, key=lambda sync: sync.started)}


def _aware(time: datetime | str) -> datetime:
    """Returns a time with its zone, as SQLite has times as text, and MySQL without their zone, which is UTC."""
    time = datetime.fromisoformat(time) if isinstance(time, str) else time
    return time if time.tzinfo else time.replace(tzinfo=UTC)
