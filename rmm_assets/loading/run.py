"""Runs one resource of a connection end to end, independently of Dagster.

`open_run` sets up a run and cleans up after it. In between, `run.pipeline.run(run.source)` loads, here or through
dagster-dlt, and `run.finish(...)` does the rest after the load.
"""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import dlt
import numpy as np
from dlt.common.pipeline import LoadInfo
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.config import Connection, Resource
from rmm_assets.config.transport import rate_limit_of, transport_of
from rmm_assets.errors import PublishedError
from rmm_assets.http.auth import Secret, hidden
from rmm_assets.http.redaction import Redactors
from rmm_assets.http.tokens import Tokens
from rmm_assets.loading.attempt import Attempt, causes
from rmm_assets.loading.dlt_internals import nested_tables
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.parents import Parents
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.reads import Landing, Publishing, Reading
from rmm_assets.loading.shared import Shared
from rmm_assets.loading.source import build_source, schema_of
from rmm_assets.loading.tenants import Access, Batch, TenantsReading, build_tenants_source
from rmm_assets.loading.unread import refuse_unread, unread_of
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.report import Report
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
    mark_or_remove,
    marked_rows,
    remove_orphans,
    rows_alive,
    rows_valid,
)
from rmm_assets.tables.differences import CHANGED, NEW, UNHASHED, Differences, Spared, differences
from rmm_assets.tables.existing import INSTEAD_OF_PARQUET, look_up, takes_parquet
from rmm_assets.tables.rejects import keep_once
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import (
    latest_loaded,
    latest_of_tenants,
    loaded_tenants,
    rows_of_last_read,
    rows_of_last_reads,
)
from rmm_assets.tables.table import LOAD_ID, Table, empty_staging
from rmm_assets.tables.tenants import (
    Scope,
    Settled,
    alive_by_tenant,
    mark_those_gone,
    rows_by_tenant,
    settled,
)
from rmm_assets.tables.versions import changed_versions, new_versions

WORK_FOLDER = Path("data/work")
PREVIEW_ROWS = 10
# Tenants that a message names.
_NAMED = 10


@dataclass
class Found:
    """What was found before the load.

    Attributes:
        full: Whether the read is of everything, not of an incremental range.
        last_full_read: When the last complete read of everything started, if some reads are of a range.
        differences: How the read differs from the table; None if they were not compared.
        spared: The parents whose children may be missing from the read.
        unproven: Why it is unknown which rows are gone; empty if it is known.
        rows_before: Number of rows of each tenant that was read, in a connection with tenants.
        settled: Which rows of these tenants are gone.
    """

    full: bool = True
    last_full_read: datetime | None = None
    differences: Differences | None = None
    spared: Spared = field(default_factory=Spared)
    unproven: str = ""
    rows_before: Mapping[str, int] = field(default_factory=dict)
    settled: Settled | None = None


@dataclass
class Run:
    """One run of one resource, while it is open.

    Attributes:
        refresh: Argument of `pipeline.run` that makes dlt recreate a table that somebody has dropped.
    """

    plan: LoadPlan
    pipeline: dlt.Pipeline
    source: dlt.sources.DltSource
    reading: Reading | TenantsReading
    found: Found
    attempt: Attempt
    refresh: Literal["drop_resources"] | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def client(self) -> SqlClientBase[Any]:
        """dlt's SQL client of the dataset, not yet open."""
        return self.pipeline.sql_client()

    def redact(self, text: str) -> str:
        """Returns a text without the secret."""
        return self.attempt.redactor.text(text)

    def finish(self, load_info: LoadInfo) -> Outcome:
        """Marks or removes rows that are gone at the source and counts the table, after the load.

        Args:
            load_info: dlt's information about the load.
        """
        reading, plan, wrote = self.reading, self.plan, bool(load_info.loads_ids)
        outcome = Outcome(
            reading.report, self.attempt.traffic, rows_rejected=reading.rejected,
            rows_left_out=reading.left_out, load_id=next(iter(load_info.loads_ids), reading.load_id),
            changed_types=dict(reading.changed_types),
        )  # fmt: skip
        proven = self.found.full and reading.report.complete and not reading.report.partial
        if plan.full_seconds is not None:
            outcome.last_full_read = self.attempt.began if proven else self.found.last_full_read
        if proven and not reading.unread_parents:
            outcome.used_values = reading.used_values
        normalized = self.pipeline.last_trace.last_normalize_info if self.pipeline.last_trace else None
        if normalized is not None:
            outcome.rows_written = int(normalized.row_counts.get(plan.table, 0))
        with self.client as client:
            table = Table(client, plan.table)
            outcome.absences = self._resolve_absences(table)
            if not plan.changes_rows:
                outcome.rows_written -= outcome.absences.marked
            settle(self.pipeline, plan, table, outcome.load_id, wrote=wrote, rejected=bool(reading.rejected))
            outcome.rows_loaded, outcome.rows_new, outcome.rows_changed = changes_of(
                plan, table, outcome.load_id, outcome.rows_written, self.found, reading
            )
            outcome.preview_columns, outcome.preview = table.first(PREVIEW_ROWS, plan.key)
            outcome.row_count = table.count()
            if isinstance(reading, TenantsReading):
                outcome.tenants = reading.outcomes
                _count_tenants(plan, table, reading, outcome, self.found)
            outcome.table_name = table.full_name
            outcome.seconds = time.monotonic() - self.started
            self.attempt.loaded(client, outcome)
        return outcome

    def landed(self) -> bool:
        """Returns whether rows of this run's load are in the table; False if that cannot be determined."""
        load_id = self.reading.load_id
        if not load_id:
            return False
        try:
            with self.client as client:
                table = Table(client, self.plan.table)
                return LOAD_ID in table.columns() and bool(
                    table.rows(f"SELECT 1 FROM {{table}} WHERE {table.quote(LOAD_ID)} = %s LIMIT 1", load_id)
                )
        except Exception:  # called after another error, which is the one to report
            return False

    def _resolve_absences(self, table: Table) -> Absences:
        reading, resource, found = self.reading, self.plan.resource, self.found
        if isinstance(reading, TenantsReading):
            return self._resolve_absences_of_tenants(table, reading)
        if found.differences is None or not self.plan.changes_rows:
            absences = _decided(self.plan, reading.report, found)
        else:
            absences = mark_or_remove(
                table, self.plan.key, found.differences, _policy(self.plan, reading.report, found),
                max_share=resource.max_absent_share, unproven=found.unproven, nested=_nested(self.pipeline, table),
            )  # fmt: skip
        if absences.held_back:
            reading.log.warning(
                "%s: %d rows of the table are missing from the read; they stay as they are: %s",
                resource.name, absences.gone, absences.held_back,
            )  # fmt: skip
        return absences

    def _resolve_absences_of_tenants(self, table: Table, reading: TenantsReading) -> Absences:
        plan, found, tenants = self.plan, self.found, reading.connection.tenants
        if found.settled is None or tenants is None:
            return Absences()
        absences = mark_or_remove(
            table,
            plan.key,
            found.settled.differences,
            plan.absences,
            max_share=1.0,
            nested=_nested(self.pipeline, table),
        )
        for tenant, why in found.settled.held_back.items():
            gone = found.settled.gone[tenant]
            reading.log.warning(
                "tenant %s: %d rows are missing from the read; they stay as they are: %s", tenant, gone, why
            )
        if tenants.gone == "mark" and plan.absences != "keep":
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
        held = "; ".join(f"{tenant}: {why}" for tenant, why in list(found.settled.held_back.items())[:3])
        return replace(absences, gone=sum(found.settled.gone.values()), held_back=held)


def _count_tenants(plan: LoadPlan, table: Table, reading: TenantsReading, outcome: Outcome, found: Found) -> None:
    """Adds to the outcomes of tenants what their rows in the table show."""
    scope = Scope(reading.column, tuple(reading.read))
    now = rows_by_tenant(table, scope)
    written = rows_by_tenant(table, scope, f"{table.quote(LOAD_ID)} = %s", outcome.load_id)
    settled, changed = found.settled, dict[str, int]()
    if plan.history is not None:
        changed = changed_versions(table, plan.key, outcome.load_id, reading.column)
    for tenant in reading.outcomes:
        if tenant.error:
            continue
        name = tenant.tenant
        tenant.row_count, tenant.rows_written = now[name], written[name]
        if plan.history is not None:
            tenant.rows_new = written[name] - changed.get(name, 0)
        elif found.differences is None:
            tenant.rows_new = written[name]
        else:
            tenant.rows_new = max(now[name] - found.rows_before.get(name, 0), 0)
        if settled is not None:
            tenant.rows_absent, tenant.held_back = settled.gone.get(name, 0), settled.held_back.get(name, "")


def _policy(plan: LoadPlan, report: Report, found: Found) -> Policy:
    """Returns what to do with rows that are missing from a read."""
    if not found.full or report.partial or not (report.complete or found.spared.keys):
        return "keep"
    # Only a complete read removes rows.
    return "mark" if plan.absences == "remove" and not report.complete else plan.absences


def _decided(plan: LoadPlan, report: Report, found: Found) -> Absences:
    if found.differences is None:
        return Absences()
    policy, share = _policy(plan, report, found), plan.resource.max_absent_share
    return decide(found.differences, policy, max_share=share, unproven=found.unproven)


def prepare(
    plan: LoadPlan, pipeline: dlt.Pipeline, table: Table, reading: Landing, spool: Spool | RecordSpool, shape: RowShape,
    found: Found, *, alone: bool,
) -> Publishing:  # fmt: skip
    """Prepares a table for the rows of a finished read, and compares the two.

    Args:
        plan: How the resource is landed.
        pipeline: The pipeline that will load.
        table: The table.
        reading: The read.
        spool: The rows received.
        shape: Describes them.
        found: Learns what was found.
        alone: Whether nobody else can write to the table.

    Raises:
        IncompleteError: Rows that the read does not show to be gone would be lost.
        SuspiciousLossError: The read has far fewer rows than the last one.
    """
    _clear_up(plan, pipeline, table)
    if table.count() == 0:
        publishing = Publishing(into_empty=alone)
    elif isinstance(reading, TenantsReading):
        publishing = _prepare_tenants(plan, table, reading, spool, shape, found)
    else:
        publishing = _prepare_all(plan, table, reading, spool, shape, found)
    return publishing._replace(scope=_scope(plan, table, reading), file_format=_file_format(plan, pipeline, table))


def _file_format(plan: LoadPlan, pipeline: dlt.Pipeline, table: Table) -> str | None:
    """Returns how Arrow tables are handed to the destination, if the table does not take what the plan says."""
    names = [table.name, *(str(child["name"]) for child in nested_tables(schema_of(pipeline).tables, table.name))]
    if plan.hints.get("file_format") == "parquet" and not takes_parquet(table.client, names):
        return INSTEAD_OF_PARQUET
    return None


def _scope(plan: LoadPlan, table: Table, reading: Landing) -> str:
    """Returns the SQL condition for the rows that a load may delete or end; empty for those that its disposition says."""
    if plan.scope is not None and isinstance(reading, TenantsReading):
        return Scope(reading.column, tuple(reading.read)).literal(table)
    return in_staging(table, plan.compared, plan.key) if plan.compared else ""


def _prepare_all(
    plan: LoadPlan, table: Table, reading: Landing, spool: Spool | RecordSpool, shape: RowShape, found: Found
) -> Publishing:
    """Compares what was read with all rows of the table."""
    if isinstance(reading, Reading):
        unread = unread_of(reading.unread_parents, shape.known)
        found.spared, found.unproven = unread
        if reading.report.complete:  # otherwise the file says to load it nevertheless
            refuse_unread(plan, unread, table, shape)
    if found.full:
        _refuse_loss(plan, reading.report, table)
    if not plan.compares:
        return Publishing(into_empty=False)
    types = {name: column_type(shape.known[name]) for name in (*plan.key, *found.spared.columns)}
    found.differences = differences(table, plan.key, types, spool.received(), found.spared, spool.folder)
    wanted = _wanted(plan, found.differences)
    if plan.changes_rows or not _decided(plan, reading.report, found).marked:
        return Publishing(False, wanted)
    return Publishing(False, wanted, marked_rows(table, plan.key, found.differences.gone))


def _wanted(plan: LoadPlan, found: Differences) -> Mask | None:
    """Returns a mask of the rows to write; None for all."""
    return found.wanted if plan.writes_changes else None


def _prepare_tenants(
    plan: LoadPlan, table: Table, reading: TenantsReading, spool: Spool | RecordSpool, shape: RowShape, found: Found
) -> Publishing:
    """Compares what was read of some tenants with their rows in the table."""
    scope = Scope(reading.column, tuple(reading.read))
    found.rows_before = rows_by_tenant(table, scope)
    if not plan.compares:
        return Publishing(into_empty=False)
    found.spared, unknown = unread_of(reading.unread_parents, shape.known)
    if unknown:
        names = {str(parent[reading.column]) for parent in reading.unread_parents}
        reading.unproven |= dict.fromkeys(names, unknown)
    types = {name: column_type(shape.known[name]) for name in (*plan.key, *found.spared.columns)}
    found.differences = differences(
        table, plan.key, types, spool.received(), found.spared, spool.folder, scope.condition(table), scope.names
    )
    wanted = _wanted(plan, found.differences)
    if plan.absences == "keep":
        return Publishing(False, wanted)
    found.settled = settled(
        found.differences, alive_by_tenant(table, scope), plan.resource.max_absent_share, reading.unproven
    )
    if plan.changes_rows or not found.settled.differences.gone:
        return Publishing(False, wanted)
    return Publishing(False, wanted, marked_rows(table, plan.key, found.settled.differences.gone))


def settle(
    pipeline: dlt.Pipeline, plan: LoadPlan, table: Table, load_id: str, *, wrote: bool, rejected: bool
) -> None:  # fmt: skip
    """Puts the tables in order after a load: child rows without a row, rejected rows that are kept twice, staging tables.

    Args:
        pipeline: The pipeline that loaded.
        plan: How the resource was landed.
        table: The table.
        load_id: Id of the load.
        wrote: Whether anything was written.
        rejected: Whether rows were rejected.
    """
    if plan.removes_orphans and wrote:
        remove_orphans(_nested(pipeline, table))
    if rejected and plan.changes_rows:
        keep_once(Table(table.client, plan.rejected_table), load_id)
    if plan.changes_rows and wrote:
        empty_staging(table.client, [plan.table, *(nested.table.name for nested in _nested(pipeline, table))])


class Changes(NamedTuple):
    """Counts the rows of a load: all of them, those that are new, and those that have changed or are back."""

    loaded: int
    new: int
    changed: int


def changes_of(plan: LoadPlan, table: Table, load_id: str, written: int, found: Found, reading: Landing) -> Changes:
    """Returns what a load changed.

    Args:
        written: Number of rows that it wrote.
    """
    if plan.history is not None and table.columns():
        return Changes(written, *new_versions(table, plan.key, load_id))
    if found.differences is None:
        return Changes(written, written, 0)
    differ = found.differences
    admitted = np.ones(len(differ.states), np.bool_) if reading.admitted is None else reading.admitted
    if unhashed := int(differ.are(UNHASHED).sum()):
        reading.warn(
            f"{unhashed} rows of the table were written by an older version of rmm_assets, without a hash of "
            "their content: they were all written again, and rows_changed does not count them"
        )
    return Changes(
        int(admitted.sum()), int((differ.are(NEW) & admitted).sum()), int((differ.are(CHANGED) & admitted).sum())
    )


def store_of(connection: Connection) -> Store:
    """Returns where a connection's tables land. It reads environment variables, so call it when a run starts."""
    destination = connection.destination
    return Store(
        destination=destination.type,
        credentials=destination.resolved_credentials(),
        dataset=connection.dataset_name,
        work=WORK_FOLDER,
        options=destination.options,
        memory_limit=destination.memory_limit,
    )


@contextmanager
def open_run(
    connection: Connection,
    resource: Resource,
    secret: Secret,
    *,
    base_url: str | None = None,
    store: Store | None = None,
    log: logging.Logger | None = None,
    progress: Any = None,
    plan: LoadPlan | None = None,
    run_id: str | None = None,
    shared: Shared | None = None,
    tenants: Batch | None = None,
) -> Iterator[Run]:
    """Sets up one run of one resource, and cleans up after it whatever happened.

    Args:
        connection: The connection.
        resource: The resource to load.
        secret: The connection's secrets, or only that of `api_key`.
        base_url: The API's address if it is not the connection file's (the embedded RMM's).
        store: Where rows land; by default as the connection says.
        log: Receives progress, retries and warnings.
        progress: dlt's progress collector.
        plan: How the resource is read and landed; made here if None.
        run_id: The run's id in `rmm_syncs`; a new one by default.
        shared: What resources of the connection share in this process; nothing by default.
        tenants: The tenants to read, in a connection with tenants.

    Raises:
        ValueError: There is no base URL, or an auth lacks its secret.
        ForeignTableError: The table belongs to another connection or resource.
        PublishedError: Something failed after rows of the load were in the table.
    """
    plan, log = plan or plan_load(connection, resource), log or logging.getLogger("rmm_assets")
    store = replace(store or store_of(connection), run_id=run_id or str(uuid4()))
    batch = [access.tenant.name for access in tenants.accesses] if tenants is not None else ()
    attempt = Attempt(store, plan, log, batch=batch)
    try:
        with _open_run(connection, attempt, secret, base_url, progress, shared or Shared(), tenants) as run:
            yield run
    except Exception as error:
        attempt.failed(error)
        raise


@contextmanager
def _open_run(
    connection: Connection, attempt: Attempt, secret: Secret, base_url: str | None, progress: Any, shared: Shared,
    tenants: Batch | None,
) -> Iterator[Run]:  # fmt: skip
    store, plan, log, resource = attempt.store, attempt.plan, attempt.log, attempt.plan.resource
    store.prepare()
    with ExitStack() as stack:
        stack.enter_context(store.alone(plan.source_name, log))
        folder = store.work / "pages" / plan.source_name
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if tenants is None:
            pager = pager_of(stack, connection, attempt, hidden(secret), base_url, tokens=shared.tokens)
        stack.enter_context(masked_in_logs(attempt.redactor, store.password))
        lock = stack.enter_context(store.locked(plan.source_name, log))
        # A killed run leaves an incomplete state behind; the destination has the valid one.
        shutil.rmtree(store.working_folder(plan.source_name), ignore_errors=True)
        pipeline = store.pipeline(plan.source_name, progress=progress)
        # Held until dlt has restored its state; others may use the file while this run reads the API.
        opening = stack.enter_context(ExitStack())
        opening.enter_context(store.writing(log))
        opening.enter_context(store.held())
        existing = look_up(pipeline.destination_client(), plan.source_name, plan.table)
        found = Found()
        if plan.cursor is not None and tenants is None:
            found = _found_before(plan, pipeline, attempt, is_there=not existing.dropped)

        def before_publishing(spool: Spool | RecordSpool, shape: RowShape) -> Publishing:
            # Locked only now, so that others could use the file while pages were fetched.
            stack.enter_context(store.writing(log))
            stack.enter_context(store.held())
            if lock is not None:
                lock.ensure()
            with pipeline.sql_client() as client:
                return prepare(
                    plan, pipeline, Table(client, plan.table), reading, spool, shape, found, alone=store.is_file
                )

        landing: Any = {
            "pipeline": pipeline, "folder": folder, "before_publishing": before_publishing,
            "report": Report(resource.name), "log": log, "begun": opening.close, "existing": existing,
        }  # fmt: skip
        reading: Reading | TenantsReading
        if tenants is None:
            reading = Reading(
                pager=pager, full=found.full and plan.cursor is not None, parents=Parents(store.run_id, shared.parents),
                **landing,
            )  # fmt: skip
            source = build_source(connection, plan, reading)
        else:
            assert connection.tenants is not None
            with pipeline.sql_client() as client:
                baselines = _baselines(plan, client, connection.tenants.column, tenants.accesses)
                loaded = latest_of_tenants(client, loaded=True) if plan.full_seconds is not None else []
            reading = TenantsReading(
                connection=connection, plan=plan, store=store, batch=tenants,
                began=attempt.began, baselines=baselines, last_full_reads={
                    str(sync.tenant): sync.last_full_read
                    for sync in loaded if sync.resource == resource.name and sync.last_full_read is not None
                },
                tokens=shared.tokens, outcomes=attempt.tenants, redactors=attempt.redactor, traffic=attempt.traffic, **landing,
            )  # fmt: skip
            source = build_tenants_source(reading)
        run = Run(plan, pipeline, source, reading, found, attempt, "drop_resources" if existing.dropped else None)
        try:
            yield run
        except Exception as error:
            if not run.landed():
                raise
            attempt.load_id = reading.load_id
            raise PublishedError(
                f"{resource.name}: the rows of load {reading.load_id} are in the table, but a step after the load failed: "
                f"{str(causes(error)[-1])[:300] or type(causes(error)[-1]).__name__}"
            ) from error
        shutil.rmtree(pipeline.working_dir, ignore_errors=True)


def pager_of(
    stack: ExitStack, connection: Connection, attempt: Attempt, secret: Secret, base_url: str | None,
    width: int | None = None, tokens: Tokens | None = None,
) -> Pager:  # fmt: skip
    """Opens what fetches a resource's pages; it closes with the stack.

    Raises:
        ValueError: There is no base URL, or an auth lacks its secret.
    """
    rate_limit = stack.enter_context(closing(rate_limit_of(connection, attempt.store.work)))
    transport = transport_of(
        connection,
        attempt.plan.resource,
        secret,
        attempt.redactor.new(),
        rate_limit,
        base_url=base_url,
        log=attempt.log,
        tokens=tokens,
    )
    attempt.traffic = transport.traffic
    pager = Pager(transport, width=width or connection.limits.max_concurrency, most_pages=connection.limits.max_pages)
    stack.callback(pager.close)
    return pager


def _baselines(plan: LoadPlan, client: SqlClientBase[Any], column: str, tenants: Sequence[Access]) -> dict[str, int]:
    """Returns the number of rows that the last read of each tenant had, if few rows in the next one mean a loss."""
    if plan.loss_baseline == "none":
        return {}
    scope, table = Scope(column, tuple(access.tenant.name for access in tenants)), Table(client, plan.table)
    if plan.history is not None:
        if plan.history.valid_to not in table.columns():
            return {}
        condition, parameters = is_valid(table, plan.history.valid_to, plan.history.open_end)
        return rows_by_tenant(table, scope, condition, *parameters)
    last = rows_of_last_reads(client, plan.resource.name) if plan.loss_baseline == "last read" else {}
    return {**alive_by_tenant(table, scope), **last}


def _found_before(plan: LoadPlan, pipeline: dlt.Pipeline, attempt: Attempt, *, is_there: bool) -> Found:
    """Returns whether an incremental resource is to be read in full, as the last such read is long ago."""
    if plan.full_seconds is None:
        return Found(full=False)
    last = None
    if is_there:
        with pipeline.sql_client() as client:
            sync = latest_loaded(client).get(plan.resource.name)
        last = sync.last_full_read if sync is not None else None
    due = plan.reads_everything(attempt.began, last)
    if due:
        attempt.log.info("%s: reading everything, because full_every is due", plan.resource.name)
    return Found(full=due, last_full_read=last)


@contextmanager
def masked_in_logs(redactors: Redactors, password: str | None) -> Iterator[None]:
    """Masks the API's secret and the database's password in dlt's log, which quotes database errors, which quote rows."""
    if password:
        redactors.new().add(password)

    def mask(record: logging.LogRecord) -> bool:
        record.msg, record.args = redactors.text(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redactors.text("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None
        return True

    log = logging.getLogger("dlt")
    log.addFilter(mask)
    try:
        yield
    finally:
        log.removeFilter(mask)


def _clear_up(plan: LoadPlan, pipeline: dlt.Pipeline, table: Table) -> None:
    """Removes what a killed run left in append-only tables; a merge overwrites it anyway."""
    schema = schema_of(pipeline)
    if not plan.changes_rows or plan.table not in schema.tables:
        return
    forget_unfinished(Table(table.client, plan.rejected_table), schema.name)
    if plan.resource.disposition == "append":
        forget_unfinished(table, schema.name, _nested(pipeline, table))


def _nested(pipeline: dlt.Pipeline, table: Table) -> list[Nested]:
    """Returns the table's child tables, parents first."""
    found = nested_tables(schema_of(pipeline).tables, table.name)
    named = [(Table(table.client, str(entry["name"])), Table(table.client, str(entry["parent"]))) for entry in found]
    return [Nested(child, parent) for child, parent in named if child.exists()]


def _refuse_loss(plan: LoadPlan, report: Report, table: Table) -> None:
    """Refuses a read with far fewer rows than last time.

    Raises:
        SuspiciousLossError: More than `max_absent_share` of the rows of the last read are gone.
    """
    resource = plan.resource
    if plan.loss_baseline == "none" or report.partial:
        return
    if plan.history is not None:
        before = rows_valid(table, plan.history.valid_to, plan.history.open_end)
    else:
        last = rows_of_last_read(table.client, resource.name) if plan.loss_baseline == "last read" else None
        before = rows_alive(table) if last is None else last
    plan.refuse_loss(report.distinct, before)


def sync(
    connection: Connection, resource: Resource, secret: Secret = None, *, base_url: str | None = None,
    store: Store | None = None, log: logging.Logger | None = None, tenants: Batch | None = None,
) -> Outcome:  # fmt: skip
    """Loads one resource into its table without Dagster.

    Raises:
        dlt.pipeline.exceptions.PipelineStepFailed: Nothing was published; its cause says why.
        PublishedError: The rows are in the table, but a step after the load failed.
    """
    secret = hidden(secret)
    with open_run(connection, resource, secret, base_url=base_url, store=store, log=log, tenants=tenants) as run:
        run.pipeline.drop()  # local state is rebuilt from the destination, as dagster-dlt does
        load_info = run.pipeline.run(run.source, refresh=run.refresh)  # type: ignore[arg-type]
        load_info.raise_on_failed_jobs()
        return run.finish(load_info)
