"""Tries rejected rows again: those that can land now do, as any row of a read, and the others stay with their reason.

The API is not asked. A row does not land if the table holds a newer one with its key.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dlt
import numpy as np
import pyarrow as pa
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.http.redaction import Redactors
from rmm_assets.loading.comparing import nested_of, prepare
from rmm_assets.loading.finishing import changes_of, rows_written, tidy
from rmm_assets.loading.landing import Landing, Publishing
from rmm_assets.loading.opening import opened
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.source import landing, range_of, schema_of, shape_at, source_of, spool_of
from rmm_assets.reading.report import Report
from rmm_assets.rows.json_text import loads
from rmm_assets.rows.keys import NO_KEY, keys_of_texts, landed_texts, row_keys
from rmm_assets.rows.page import Page
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.tables.rejects import REJECTION_ID, forget_rejections
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import latest_loaded, latest_of_tenants
from rmm_assets.tables.table import LOAD_ID, Table

# The state of a resource without a key: up to which load its rejected rows were tried again, by tenant. It is stored with the
# rows, so that they do not land twice if a run is killed before their rejections are deleted.
_TRIED = "rejections_tried"
# Number of the table's keys that are compared at once.
_FETCHED = 100_000


@dataclass
class Retried:
    """What became of a resource's rejected rows.

    Attributes:
        landed: Number of rows that are in the table now.
        new: Number of these whose key was not in the table.
        changed: Number of these that were in the table with other content.
        rejected: Number of rows that still cannot land.
        outdated: Number of rows that were left: the table, or a later rejection, has a newer one with their key.
        earlier: Number of rows that were left: they are from an earlier read than the last, which read everything.
    """

    landed: int = 0
    new: int = 0
    changed: int = 0
    rejected: int = 0
    outdated: int = 0
    earlier: int = 0


class _Rejected(NamedTuple):
    row: Any
    load_id: str
    rejection_id: str
    tenant: str = ""


def retry_rejected(
    connection: Connection, resource: Resource, *, store: Store | None = None, log: logging.Logger | None = None,
    tenants: Collection[str] = (),
) -> Retried:  # fmt: skip
    """Tries the rejected rows of a resource again.

    Args:
        connection: The connection.
        resource: The resource.
        store: Where rows land; by default as the connection says.
        log: Receives progress and warnings.
        tenants: In a connection with tenants, the names of those whose rows are tried.

    Raises:
        ValueError: Rows of this resource cannot be added to its table one by one.
        ForeignTableError: The table belongs to another connection or resource.
        dlt.pipeline.exceptions.PipelineStepFailed: Nothing was published; its cause says why.
    """
    plan, log = plan_load(connection, resource), log or logging.getLogger("rmm_assets")
    _refuse(plan)
    store = store or store_of(connection)
    column = None if connection.tenants is None else connection.tenants.column
    store.prepare()
    if store.is_missing:
        return Retried()
    with opened(store, plan, log, Redactors()) as loader:
        pipeline, retried, tried = loader.pipeline, Retried(), list[str]()

        def before_publishing(spool: Spool | RecordSpool, shape: RowShape) -> Publishing:
            with pipeline.sql_client() as client:
                return prepare(plan, found, Table(client, plan.table), spool, shape, alone=store.is_file)

        found = Landing(
            pipeline=pipeline, folder=loader.folder, before_publishing=before_publishing, existing=loader.existing,
            report=Report(resource.name, complete=True, partial=True), log=log,
        )  # fmt: skip

        def rows() -> Iterator[Any]:
            shape = shape_at(plan, found)
            with pipeline.sql_client() as client:
                chosen = _chosen(client, plan, shape, retried, column, tenants)
            if not chosen:
                return
            spool = spool_of(plan, shape, loader.folder)
            received = [each.row for each in chosen]
            spool.add(Page(len(received), None, 0, None, b"", None, received))
            tried.extend(each.rejection_id for each in chosen)
            if not plan.key:
                latest = {each.tenant: each.load_id for each in chosen}
                dlt.current.resource_state(resource.name)[_TRIED] = {**_tried(plan), **latest}
            if resource.disposition == "replace":
                dlt.current.resource().apply_hints(write_disposition="append")
            # Ranges of tenants have moved on: their rows pass them when they are read.
            cursor_range = range_of(plan, late=True) if column is None else None
            yield from landing(plan, shape, spool, found, cursor_range)

        load_info = pipeline.run(source_of(connection, plan, rows))
        load_info.raise_on_failed_jobs()
        if load_info.loads_ids:
            retried.rejected = found.rejected
            with pipeline.sql_client() as client:
                table, written = Table(client, plan.table), rows_written(plan, pipeline)
                nested = nested_of(schema_of(pipeline), table)
                tidy(plan, table, nested, found.load_id, wrote=True, rejected=bool(found.rejected))
                retried.landed, retried.new, retried.changed = changes_of(plan, found, table, found.load_id, written)
                forget_rejections(Table(client, plan.rejected_table), tried, found.load_id)
        shutil.rmtree(pipeline.working_dir, ignore_errors=True)
    return retried


def _refuse(plan: LoadPlan) -> None:
    resource = plan.resource
    why = ""
    if not plan.changes_rows:
        why = "its destination cannot change rows"
    elif plan.history is not None:
        why = "with history, every row that is not in a load ends"
    elif resource.merge_key:
        why = "with merge_key, rows take the place of all that share it"
    elif plan.deletes_rows and resource.disposition == "merge":
        why = "its merge deletes rows that are not in a load"
    if why:
        raise ValueError(
            f"{resource.name}: rejected rows cannot be tried again, as {why}; the next run reads them again"
        )


def _reads_everything(plan: LoadPlan) -> bool:
    return plan.cursor is None and plan.resource.disposition != "append"


def _tried(plan: LoadPlan) -> Mapping[str, str]:
    """Returns up to which load rejected rows were tried again, by tenant."""
    found = dlt.current.resource_state(plan.resource.name).get(_TRIED, {})
    return {"": found} if isinstance(found, str) else found  # as older versions stored it


def _chosen(
    client: SqlClientBase[Any], plan: LoadPlan, shape: RowShape, retried: Retried, column: str | None,
    tenants: Collection[str],
) -> list[_Rejected]:  # fmt: skip
    """Returns the rows to try, oldest first; of tenants, those of some."""
    table = Table(client, plan.rejected_table)
    if REJECTION_ID not in table.columns():
        return []
    load = table.quote(LOAD_ID)
    found = [
        _of_tenant(_Rejected(loads(text), load_id, rejection_id), column)
        for text, load_id, rejection_id in table.rows(
            f"SELECT {table.quote('row_json')}, {load}, {table.quote(REJECTION_ID)} FROM {{table}} ORDER BY {load}"
        )
    ]
    if column is not None:
        found = [each for each in found if each.tenant in tenants]
    if plan.resource.disposition == "append":
        for tenant, load_id in _tried(plan).items():
            # Left by a run that was killed.
            left = [each.rejection_id for each in found if each.tenant == tenant and each.load_id <= load_id]
            forget_rejections(table, left, load_id, until=True)
            found = [each for each in found if each.tenant != tenant or each.load_id > load_id]
    if found and _reads_everything(plan):
        # Rows of an earlier read are in the last one, too: in the table, rejected anew, or gone.
        syncs = latest_of_tenants(client, loaded=True) if column is not None else latest_loaded(client).values()
        ids = {sync.tenant or "": sync.load_id for sync in syncs if sync.resource == plan.resource.name}
        last = [each for each in found if each.tenant in ids and each.load_id >= ids[each.tenant]]
        retried.earlier, found = len(found) - len(last), last
    if not found or not plan.key:
        return found
    newest = _without_outdated(client, plan, shape, found)
    retried.outdated = len(found) - len(newest)
    return newest


def _of_tenant(rejected: _Rejected, column: str | None) -> _Rejected:
    if column is None or not isinstance(rejected.row, dict):
        return rejected
    return rejected._replace(tenant=str(rejected.row.get(column, "")))


def _without_outdated(
    client: SqlClientBase[Any], plan: LoadPlan, shape: RowShape, found: Sequence[_Rejected]
) -> list[_Rejected]:
    """Returns the rows without those of which a newer one is in the table or among the rejected ones."""
    rows = [each.row for each in found]
    keys = row_keys(Page(len(rows), None, 0, None, b"", None, rows), shape)
    latest = {bytes(key): number for number, key in enumerate(keys)}
    outdated = {number for number, key in enumerate(keys) if key != NO_KEY and latest[bytes(key)] != number}
    table = Table(client, plan.table)
    if {*plan.key, LOAD_ID} <= set(table.columns()):
        names, load = ", ".join(map(table.quote, plan.key)), table.quote(LOAD_ID)
        # A row that a later load found unchanged keeps its load id, so it may be newer than it says.
        since = "" if plan.writes_changes and plan.cursor is not None else min(each.load_id for each in found)
        with table.cursor(f"SELECT {names}, {load} FROM {{table}} WHERE {load} >= %s", since) as cursor:
            while chunk := cursor.fetchmany(_FETCHED):
                *columns, load_ids = zip(*chunk, strict=True)
                there = keys_of_texts([landed_texts(pa.array(column)) for column in columns])
                for index in np.flatnonzero(np.isin(there, keys)):
                    number = latest[bytes(there[index])]
                    if not since or load_ids[index] >= found[number].load_id:
                        outdated.add(number)
    return [each for number, each in enumerate(found) if number not in outdated]
