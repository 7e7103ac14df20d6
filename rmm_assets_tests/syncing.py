"""Runs `sync` on connections to test servers, into DuckDB files, and reads the tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from rmm_assets.config import Connection
from rmm_assets.http.auth import Secret, hidden
from rmm_assets.http.transport import Traffic
from rmm_assets.loading import reads
from rmm_assets.loading.attempt import Attempt
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import plan_load, shape_of
from rmm_assets.loading.requests import plan_requests
from rmm_assets.loading.run import pager_of, sync
from rmm_assets.reading.report import Report
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.spool import Spool
from rmm_assets.tables.store import Store

KEY = "demo-key"

Row = dict[str, Any]


def devices(number: int, first: int = 1, **more: Any) -> list[Row]:
    """Returns rows with the ids `first`, `first + 1`, ...."""
    return [{"id": i, "name": f"PC-{i:04}", "status": "online", **more} for i in range(first, first + number)]


def resource(name: str = "devices", **changes: Any) -> dict[str, Any]:
    """Returns a resource of the simulator that merges by `id`; keys of `endpoint` are merged one by one."""
    endpoint = {
        "path": f"/v1/{name}",
        "data_selector": "data",
        "paginator": {"type": "offset", "limit": 100},
        **changes.pop("endpoint", {}),
    }
    return {"name": name, "endpoint": endpoint, "primary_key": "id", "write_disposition": "merge", **changes}


def connection(*resources: Mapping[str, Any], **changes: Any) -> Connection:
    """Returns a connection `acme`; without resources, it has `devices`."""
    return Connection.model_validate(
        {
            "name": "acme",
            "client": {
                "base_url": "http://127.0.0.1:9",
                "auth": {"type": "api_key", "name": "api_key", "location": "query"},
            },
            "api_key": {"env": "ACME_API_KEY"},
            "retry": {"backoff_factor": 0.001},
            "resources": list(resources) or [resource()],
            **changes,
        }
    )


def store_in(folder: Path, dataset: str = "acme") -> Store:
    return Store("duckdb", str(folder / "rmm.duckdb"), dataset, folder / "work")


def run(folder: Path, base_url: str, made: Connection | None = None, name: str = "devices", **options: Any) -> Outcome:
    """Runs a resource once, into the folder's database.

    Raises:
        Exception: The error that explains the failure, without dlt's wrapper.
    """
    made = made or connection()
    try:
        return sync(made, made.resource(name), KEY, base_url=base_url, store=store_in(folder), **options)
    except Exception as error:
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        raise cause from None


def read(
    folder: Path, base_url: str | None, made: Connection | None = None, name: str = "devices"
) -> tuple[Report, list[Row]]:
    """Reads a resource with its connection's requests, as its first run does, but loads nothing, which takes a second.

    Returns:
        The report of the read, and its rows.

    Raises:
        RmmError: The read is not complete.
    """
    made = made or connection()
    plan = plan_load(made, made.resource(name))
    requests = plan_requests(made, plan)
    log = logging.getLogger("rmm_assets")
    with ExitStack() as stack:
        pager = pager_of(stack, made, Attempt(store_in(folder), plan, log), hidden(KEY), base_url)
        collector = RecordSpool(requests.endpoint.shape, folder / "rows")
        reading = reads.Reading(
            pager=pager, pipeline=NotImplemented, folder=folder, before_publishing=NotImplemented,
            report=Report(name), log=log,
        )  # fmt: skip
        reads.read(requests, reading, collector, requests.first_bounds)
        rows = [row for batch in collector.records() for row in batch]
        return reading.report, [{k: v for k, v in row.items() if k != "_content_hash"} for row in rows]


class Received(NamedTuple):
    """What a read received: its report and requests, the rows that would land, and the number of those that would not."""

    report: Report
    traffic: Traffic
    rows: list[Row]
    rejected: int


def receive(folder: Path, made: Connection, name: str, secret: Secret = KEY) -> Received:
    """Reads a resource as its first run does, and types its rows as they would land, in half of the time of a load.

    Raises:
        RmmError: The read is not complete.
    """
    plan = plan_load(made, made.resource(name))
    requests = plan_requests(made, plan)
    shape = replace(shape_of(plan), used_paths=requests.endpoint.shape.used_paths)
    requests = replace(requests, endpoint=replace(requests.endpoint, shape=shape))
    attempt = Attempt(store_in(folder), plan, logging.getLogger("rmm_assets"))
    with ExitStack() as stack:
        pager = pager_of(stack, made, attempt, hidden(secret), None)
        spool = Spool(shape, folder / "rows")
        reading = reads.Reading(
            pager=pager, pipeline=NotImplemented, folder=folder, before_publishing=NotImplemented,
            report=Report(name), log=attempt.log,
        )  # fmt: skip
        reads.read(requests, reading, spool, requests.first_bounds)
        plan.refuse_unproven_ends(reading.report)
        rows = [row for table_name, table in spool.tables() if table_name == plan.table for row in table.to_pylist()]
        return Received(reading.report, attempt.traffic, rows, spool.rejected_rows)


def rows_of(folder: Path, name: str = "devices", *, own: bool = False) -> list[Row]:
    """Returns a table's rows by id, without dlt's columns and ours unless `own`; empty without a table."""
    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        if not client.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = 'acme' AND table_name = ?", [name]
        ).fetchall():
            return []
        found: list[Row] = client.sql(f'SELECT * FROM acme."{name}"').to_arrow_table().to_pylist()
    shown = [
        {k: v for k, v in row.items() if own or not k.startswith(("_dlt", "_absent", "_content"))} for row in found
    ]
    return sorted(shown, key=lambda row: (str(type(row.get("id"))), row.get("id") or 0))


def absent(folder: Path, name: str = "devices") -> set[Any]:
    """Returns the ids that are marked absent."""
    return {row["id"] for row in rows_of(folder, name, own=True) if row.get("_absent_since") is not None}


def ids(rows: Sequence[Row]) -> list[Any]:
    return [row["id"] for row in rows]
