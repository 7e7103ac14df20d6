"""Does what follows a load: marks or removes rows that are gone at the source, tidies the tables, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import dlt
import numpy as np
from dlt.common.pipeline import LoadInfo

from rmm_assets.loading.attempt import Attempt
from rmm_assets.loading.comparing import decided, nested_of, policy
from rmm_assets.loading.landing import Landing
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import LoadPlan
from rmm_assets.loading.reads import Reading
from rmm_assets.loading.source import schema_of
from rmm_assets.loading.tenants import TenantsReading
from rmm_assets.tables.absences import Absences, Nested, mark_or_remove, remove_orphans
from rmm_assets.tables.differences import CHANGED, NEW, UNHASHED
from rmm_assets.tables.rejects import keep_once
from rmm_assets.tables.syncs import loaded_tenants
from rmm_assets.tables.table import LOAD_ID, Table, empty_staging
from rmm_assets.tables.tenants import Scope, mark_those_gone, rows_by_tenant
from rmm_assets.tables.versions import changed_versions, new_versions

PREVIEW_ROWS = 10
# Tenants that a message names.
_NAMED = 10


def finish(attempt: Attempt, reading: Reading | TenantsReading, load_info: LoadInfo) -> Outcome:
    """Marks or removes rows that are gone at the source and counts the table, after the load.

    Args:
        attempt: The attempt, which records the outcome.
        reading: The read that was loaded.
        load_info: dlt's information about the load.
    """
    plan, pipeline, wrote = attempt.plan, reading.pipeline, bool(load_info.loads_ids)
    outcome = Outcome(
        reading.report, attempt.traffic, rows_rejected=reading.rejected,
        rows_left_out=reading.left_out, load_id=next(iter(load_info.loads_ids), reading.load_id),
        changed_types=dict(reading.changed_types), rows_written=rows_written(plan, pipeline),
    )  # fmt: skip
    proven = reading.full and reading.report.complete and not reading.report.partial
    if plan.full_seconds is not None:
        outcome.last_full_read = attempt.began if proven else reading.last_full_read
    if proven and not reading.unread_parents:
        outcome.used_values = reading.used_values
    with pipeline.sql_client() as client:
        table = Table(client, plan.table)
        nested = nested_of(schema_of(pipeline), table)
        if isinstance(reading, TenantsReading):
            outcome.absences = _resolve_absences_of_tenants(plan, reading, table, nested)
        else:
            outcome.absences = _resolve_absences(plan, reading, table, nested)
        if not plan.changes_rows:
            outcome.rows_written -= outcome.absences.marked
        tidy(plan, table, nested, outcome.load_id, wrote=wrote, rejected=bool(reading.rejected))
        outcome.rows_loaded, outcome.rows_new, outcome.rows_changed = changes_of(
            plan, reading, table, outcome.load_id, outcome.rows_written
        )
        outcome.preview_columns, outcome.preview = table.first(PREVIEW_ROWS, plan.key)
        outcome.row_count = table.count()
        if isinstance(reading, TenantsReading):
            outcome.tenants = reading.outcomes
            _count_tenants(plan, reading, table, outcome)
        outcome.table_name = table.full_name
        attempt.loaded(client, outcome)
    return outcome


def rows_written(plan: LoadPlan, pipeline: dlt.Pipeline) -> int:
    """Returns the number of rows that the pipeline's last load wrote to the table."""
    normalized = pipeline.last_trace.last_normalize_info if pipeline.last_trace else None
    return 0 if normalized is None else int(normalized.row_counts.get(plan.table, 0))


def tidy(
    plan: LoadPlan, table: Table, nested: Sequence[Nested], load_id: str, *, wrote: bool, rejected: bool
) -> None:  # fmt: skip
    """Removes what a load leaves: child rows without a row, rejected rows that are kept twice, rows in staging tables.

    Args:
        plan: How the resource was landed.
        table: The table.
        nested: Its child tables, parents first.
        load_id: Id of the load.
        wrote: Whether anything was written.
        rejected: Whether rows were rejected.
    """
    if plan.removes_orphans and wrote:
        remove_orphans(nested)
    if rejected and plan.changes_rows:
        keep_once(Table(table.client, plan.rejected_table), load_id)
    if plan.changes_rows and wrote:
        empty_staging(table.client, [plan.table, *(child.table.name for child in nested)])


class Changes(NamedTuple):
    """Counts the rows of a load: all of them, those that are new, and those that have changed or are back."""

    loaded: int
    new: int
    changed: int


def changes_of(plan: LoadPlan, reading: Landing, table: Table, load_id: str, written: int) -> Changes:
    """Returns what a load changed.

    Args:
        plan: How the resource was landed.
        reading: The read that was loaded.
        table: The table.
        load_id: Id of the load.
        written: Number of rows that it wrote.
    """
    if plan.history is not None and table.columns():
        return Changes(written, *new_versions(table, plan.key, load_id))
    differ = reading.comparison.differences
    if differ is None:
        return Changes(written, written, 0)
    admitted = np.ones(len(differ.states), np.bool_) if reading.admitted is None else reading.admitted
    if unhashed := int(differ.are(UNHASHED).sum()):
        reading.warn(
            f"{unhashed} rows of the table were written by an older version of rmm_assets, without a hash of "
            "their content: they were all written again, and rows_changed does not count them"
        )
    return Changes(
        int(admitted.sum()), int((differ.are(NEW) & admitted).sum()), int((differ.are(CHANGED) & admitted).sum())
    )


def _resolve_absences(plan: LoadPlan, reading: Reading, table: Table, nested: Sequence[Nested]) -> Absences:
    """Marks or removes the rows that are missing from a read of all rows."""
    comparison = reading.comparison
    if comparison.differences is None or not plan.changes_rows:
        absences = decided(plan, reading)
    else:
        absences = mark_or_remove(
            table, plan.key, comparison.differences, policy(plan, reading), max_share=plan.resource.max_absent_share,
            unproven=comparison.unproven, nested=nested,
        )  # fmt: skip
    if absences.held_back:
        reading.log.warning(
            "%s: %d rows of the table are missing from the read; they stay as they are: %s",
            plan.resource.name, absences.gone, absences.held_back,
        )  # fmt: skip
    return absences


def _resolve_absences_of_tenants(
    plan: LoadPlan, reading: TenantsReading, table: Table, nested: Sequence[Nested]
) -> Absences:
    """Marks or removes the rows of tenants that are missing from their reads, and marks those of tenants that are gone."""
    found = reading.comparison.gone_by_tenant
    if found is None:
        return Absences()
    absences = mark_or_remove(table, plan.key, found.differences, plan.absences, max_share=1.0, nested=nested)
    for tenant, why in found.held_back.items():
        gone = found.rows[tenant]
        reading.log.warning(
            "tenant %s: %d rows are missing from the read; they stay as they are: %s", tenant, gone, why
        )
    _mark_tenants_gone(plan, reading, table)
    held = "; ".join(f"{tenant}: {why}" for tenant, why in list(found.held_back.items())[:3])
    return replace(absences, gone=sum(found.rows.values()), held_back=held)


def _mark_tenants_gone(plan: LoadPlan, reading: TenantsReading, table: Table) -> None:
    """Marks all rows of tenants that the connection no longer has, if the file says so."""
    tenants = reading.connection.tenants
    if tenants is None or tenants.gone != "mark" or plan.absences == "keep":
        return
    share, marked, why = plan.resource.max_absent_share, list[str](), reading.batch.unsure
    if not why:
        # A run that began later may know a tenant that came since this one read the list.
        loaded = loaded_tenants(table.client, plan.resource.name, reading.batch.listed)
        marked, why = mark_those_gone(table, tenants.column, {*reading.batch.names, *loaded}, share)
    if marked:
        more = f" and {len(marked) - _NAMED} more" if len(marked) > _NAMED else ""
        reading.warn(f"marked the rows of tenants that are gone: {', '.join(marked[:_NAMED])}{more}")
    if why:
        reading.warn(f"the rows of tenants that are gone stay as they are: {why}")


def _count_tenants(plan: LoadPlan, reading: TenantsReading, table: Table, outcome: Outcome) -> None:
    """Adds to the outcomes of tenants what their rows in the table show."""
    comparison, scope = reading.comparison, Scope(reading.column, tuple(reading.read))
    now = rows_by_tenant(table, scope)
    written = rows_by_tenant(table, scope, f"{table.quote(LOAD_ID)} = %s", outcome.load_id)
    gone, changed = comparison.gone_by_tenant, dict[str, int]()
    if plan.history is not None:
        changed = changed_versions(table, plan.key, outcome.load_id, reading.column)
    for tenant in reading.outcomes:
        if tenant.error:
            continue
        name = tenant.tenant
        tenant.row_count, tenant.rows_written = now[name], written[name]
        if plan.history is not None:
            tenant.rows_new = written[name] - changed.get(name, 0)
        elif comparison.differences is None:
            tenant.rows_new = written[name]
        else:
            tenant.rows_new = max(now[name] - comparison.rows_before.get(name, 0), 0)
        if gone is not None:
            tenant.rows_absent, tenant.held_back = gone.rows.get(name, 0), gone.held_back.get(name, "")
