"""Compares a finished read with its table before anything lands, and decides what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dlt
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.loading.dlt_internals import nested_tables
from rmm_assets.loading.landing import Landing, Publishing
from rmm_assets.loading.plan import LoadPlan
from rmm_assets.loading.reads import Reading
from rmm_assets.loading.source import schema_of
from rmm_assets.loading.tenants import TenantsReading
from rmm_assets.loading.unread import refuse_unread, unread_of
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.rows.targets import column_type
from rmm_assets.tables.absences import (
    Absences,
    Nested,
    Policy,
    decide,
    forget_unfinished,
    in_staging,
    is_valid,
    marked_rows,
    rows_alive,
    rows_valid,
)
from rmm_assets.tables.differences import Differences, differences
from rmm_assets.tables.existing import INSTEAD_OF_PARQUET, takes_parquet
from rmm_assets.tables.syncs import rows_of_last_read, rows_of_last_reads
from rmm_assets.tables.table import Table
from rmm_assets.tables.tenants import Scope, alive_by_tenant, gone_by_tenant, rows_by_tenant


def prepare(
    plan: LoadPlan, reading: Landing, table: Table, spool: Spool | RecordSpool, shape: RowShape, *, alone: bool
) -> Publishing:
    """Prepares a table for the rows of a finished read, and compares the two.

    Args:
        plan: How the resource is landed.
        reading: The read; its `comparison` is filled in.
        table: The table.
        spool: The rows received.
        shape: Describes them.
        alone: Whether nobody else can write to the table.

    Raises:
        IncompleteError: Rows that the read does not show to be gone would be lost.
        SuspiciousLossError: The read has far fewer rows than the last one.
    """
    schema = schema_of(reading.pipeline)  # once, as dlt reads it from its file each time
    _clear_up(plan, schema, table)
    if table.count() == 0:
        publishing = Publishing(into_empty=alone)
    elif isinstance(reading, TenantsReading):
        publishing = _prepare_tenants(plan, reading, table, spool, shape)
    else:
        publishing = _prepare_all(plan, reading, table, spool, shape)
    file_format = _file_format(plan, schema, table)
    return publishing._replace(scope=_scope(plan, reading, table), file_format=file_format)


def _clear_up(plan: LoadPlan, schema: dlt.Schema, table: Table) -> None:
    """Removes what a killed run left in append-only tables; a merge overwrites it anyway."""
    if not plan.changes_rows or plan.table not in schema.tables:
        return
    forget_unfinished(Table(table.client, plan.rejected_table), schema.name)
    if plan.resource.disposition == "append":
        forget_unfinished(table, schema.name, nested_of(schema, table))


def nested_of(schema: dlt.Schema, table: Table) -> list[Nested]:
    """Returns the table's child tables, parents first."""
    found = nested_tables(schema.tables, table.name)
    named = [(Table(table.client, str(entry["name"])), Table(table.client, str(entry["parent"]))) for entry in found]
    return [Nested(child, parent) for child, parent in named if child.exists()]


def _prepare_all(
    plan: LoadPlan, reading: Landing, table: Table, spool: Spool | RecordSpool, shape: RowShape
) -> Publishing:
    """Compares what was read with all rows of the table."""
    comparison = reading.comparison
    if isinstance(reading, Reading):
        unread = unread_of(reading.unread_parents, shape.known)
        comparison.spared, comparison.unproven = unread
        if reading.report.complete:  # otherwise the file says to load it nevertheless
            refuse_unread(plan, unread, table, shape)
    if reading.full:
        _refuse_loss(plan, reading, table)
    if not plan.compares:
        return Publishing(into_empty=False)
    found, wanted = _compare(plan, reading, table, spool, shape)
    if plan.changes_rows or not decided(plan, reading).marked:
        return Publishing(False, wanted)
    return Publishing(False, wanted, marked_rows(table, plan.key, found.gone))


def _prepare_tenants(
    plan: LoadPlan, reading: TenantsReading, table: Table, spool: Spool | RecordSpool, shape: RowShape
) -> Publishing:
    """Compares what was read of some tenants with their rows in the table."""
    comparison, scope = reading.comparison, Scope(reading.column, tuple(reading.read))
    comparison.rows_before = rows_by_tenant(table, scope)
    if not plan.compares:
        return Publishing(into_empty=False)
    comparison.spared, unknown = unread_of(reading.unread_parents, shape.known)
    if unknown:
        names = {str(parent[reading.column]) for parent in reading.unread_parents}
        reading.unproven |= dict.fromkeys(names, unknown)
    found, wanted = _compare(plan, reading, table, spool, shape, scope.condition(table), scope.names)
    if plan.absences == "keep":
        return Publishing(False, wanted)
    comparison.gone_by_tenant = gone = gone_by_tenant(
        found, alive_by_tenant(table, scope), plan.resource.max_absent_share, reading.unproven
    )
    if plan.changes_rows or not gone.differences.gone:
        return Publishing(False, wanted)
    return Publishing(False, wanted, marked_rows(table, plan.key, gone.differences.gone))


def _compare(
    plan: LoadPlan, reading: Landing, table: Table, spool: Spool | RecordSpool, shape: RowShape,
    where: str = "1 = 1", parameters: Sequence[str] = (),
) -> tuple[Differences, Mask | None]:  # fmt: skip
    """Compares what was read with the rows of the table that meet a condition.

    Returns:
        The differences, and a mask of the rows to write; None for all.
    """
    spared = reading.comparison.spared
    types = {name: column_type(shape.known[name]) for name in (*plan.key, *spared.columns)}
    found = differences(table, plan.key, types, spool.received(), spared, spool.folder, where, parameters)
    reading.comparison.differences = found
    return found, found.wanted if plan.writes_changes else None


def _refuse_loss(plan: LoadPlan, reading: Landing, table: Table) -> None:
    """Refuses a read with far fewer rows than last time.

    Raises:
        SuspiciousLossError: More than `max_absent_share` of the rows of the last read are gone.
    """
    if plan.loss_baseline == "none" or reading.report.partial:
        return
    if plan.history is not None:
        before = rows_valid(table, plan.history.valid_to, plan.history.open_end)
    else:
        last = rows_of_last_read(table.client, plan.resource.name) if plan.loss_baseline == "last read" else None
        before = rows_alive(table) if last is None else last
    plan.refuse_loss(reading.report.distinct, before)


def rows_of_tenants(plan: LoadPlan, client: SqlClientBase[Any], scope: Scope) -> Mapping[str, int]:
    """Returns the number of rows that the last read of each tenant had, if few rows in the next one mean a loss."""
    if plan.loss_baseline == "none":
        return {}
    table = Table(client, plan.table)
    if plan.history is not None:
        if plan.history.valid_to not in table.columns():
            return {}
        condition, parameters = is_valid(table, plan.history.valid_to, plan.history.open_end)
        return rows_by_tenant(table, scope, condition, *parameters)
    last = rows_of_last_reads(client, plan.resource.name) if plan.loss_baseline == "last read" else {}
    return {**alive_by_tenant(table, scope), **last}


def decided(plan: LoadPlan, reading: Landing) -> Absences:
    """Returns what is to be done with rows that are missing from a read of all rows."""
    comparison = reading.comparison
    if comparison.differences is None:
        return Absences()
    share = plan.resource.max_absent_share
    return decide(comparison.differences, policy(plan, reading), max_share=share, unproven=comparison.unproven)


def policy(plan: LoadPlan, reading: Landing) -> Policy:
    """Returns what may be done with rows that are missing from a read."""
    report = reading.report
    if not reading.full or report.partial or not (report.complete or reading.comparison.spared.keys):
        return "keep"
    # Only a complete read removes rows.
    return "mark" if plan.absences == "remove" and not report.complete else plan.absences


def _scope(plan: LoadPlan, reading: Landing, table: Table) -> str:
    """Returns the SQL condition for the rows that a load may delete or end; empty for those that its disposition says."""
    if plan.scope is not None and isinstance(reading, TenantsReading):
        return Scope(reading.column, tuple(reading.read)).literal(table)
    return in_staging(table, plan.compared, plan.key) if plan.compared else ""


def _file_format(plan: LoadPlan, schema: dlt.Schema, table: Table) -> str | None:
    """Returns how Arrow tables are handed to the destination, if the table does not take what the plan says."""
    names = [table.name, *(str(child["name"]) for child in nested_tables(schema.tables, table.name))]
    if plan.hints.get("file_format") == "parquet" and not takes_parquet(table.client, names):
        return INSTEAD_OF_PARQUET
    return None
