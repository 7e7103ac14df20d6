"""Runs one resource of a connection end to end, independently of Dagster.

`open_run` sets up a run and cleans up after it. In between, `run.pipeline.run(run.source)` loads, here or through
dagster-dlt, and `run.finish(...)` does the rest after the load.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

import dlt
from dlt.common.pipeline import LoadInfo
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.config.transport import rate_limit_of, transport_of
from rmm_assets.errors import PublishedError
from rmm_assets.http.auth import Secret, hidden
from rmm_assets.http.tokens import Tokens
from rmm_assets.loading.attempt import Attempt, causes
from rmm_assets.loading.comparing import prepare, rows_of_tenants
from rmm_assets.loading.finishing import finish
from rmm_assets.loading.landing import Publishing
from rmm_assets.loading.opening import Opened, opened
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.parents import Parents
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.reads import Reading
from rmm_assets.loading.shared import Shared
from rmm_assets.loading.source import build_source
from rmm_assets.loading.tenants import Batch, TenantsReading, build_tenants_source
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.report import Report
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import latest_loaded, latest_of_tenants
from rmm_assets.tables.table import LOAD_ID, Table
from rmm_assets.tables.tenants import Scope


@dataclass
class Run:
    """One run of one resource, while it is open.

    Attributes:
        refresh: Argument of `pipeline.run` that makes dlt recreate a table that somebody has dropped.
    """

    attempt: Attempt
    source: dlt.sources.DltSource
    reading: Reading | TenantsReading
    refresh: Literal["drop_resources"] | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def plan(self) -> LoadPlan:
        """How the resource is read and landed."""
        return self.attempt.plan

    @property
    def pipeline(self) -> dlt.Pipeline:
        """The resource's pipeline."""
        return self.reading.pipeline

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
        outcome = finish(self.attempt, self.reading, load_info)
        outcome.seconds = time.monotonic() - self.started
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
    store, shared = replace(store or store_of(connection), run_id=run_id or str(uuid4())), shared or Shared()
    batch = [access.tenant.name for access in tenants.accesses] if tenants is not None else ()
    attempt = Attempt(store, plan, log, batch=batch)
    try:
        store.prepare()
        with ExitStack() as stack:
            loader = stack.enter_context(opened(store, plan, log, attempt.redactor, progress=progress))

            def before_publishing(spool: Spool | RecordSpool, shape: RowShape) -> Publishing:
                # Locked only now, so that others could use the file while pages were fetched.
                stack.enter_context(store.writing(log))
                stack.enter_context(store.held())
                if loader.lock is not None:
                    loader.lock.ensure()
                with loader.pipeline.sql_client() as client:
                    return prepare(plan, reading, Table(client, plan.table), spool, shape, alone=store.is_file)

            landing: Any = {
                "pipeline": loader.pipeline, "folder": loader.folder, "before_publishing": before_publishing,
                "report": Report(resource.name), "log": log, "begun": loader.release, "existing": loader.existing,
            }  # fmt: skip
            reading: Reading | TenantsReading
            if tenants is None:
                pager = pager_of(stack, connection, attempt, hidden(secret), base_url, tokens=shared.tokens)
                reading = Reading(
                    pager=pager, parents=Parents(store.run_id, shared.parents), **_range(attempt, loader), **landing
                )
                source = build_source(connection, plan, reading)
            else:
                reading = _tenants_reading(connection, attempt, loader, tenants, shared.tokens, landing)
                source = build_tenants_source(reading)
            run = Run(attempt, source, reading, "drop_resources" if loader.existing.dropped else None)
            with _published(run):
                yield run
            shutil.rmtree(loader.pipeline.working_dir, ignore_errors=True)
    except Exception as error:
        attempt.failed(error)
        raise


@contextmanager
def _published(run: Run) -> Iterator[None]:
    """Raises another error if one comes after rows of the load are in the table.

    Raises:
        PublishedError: One came.
    """
    try:
        yield
    except Exception as error:
        if not run.landed():
            raise
        run.attempt.load_id = run.reading.load_id
        innermost = causes(error)[-1]
        raise PublishedError(
            f"{run.plan.resource.name}: the rows of load {run.reading.load_id} are in the table, but a step after the load failed: "
            f"{str(innermost)[:300] or type(innermost).__name__}"
        ) from error


def _range(attempt: Attempt, loader: Opened) -> dict[str, Any]:
    """Returns whether a resource is read in full and when it last was: an incremental one is if that was long ago."""
    plan = attempt.plan
    if plan.cursor is None or plan.full_seconds is None:
        return {"full": plan.cursor is None}
    last = None
    if not loader.existing.dropped:
        with loader.pipeline.sql_client() as client:
            sync = latest_loaded(client).get(plan.resource.name)
        last = sync.last_full_read if sync is not None else None
    due = plan.reads_everything(attempt.began, last)
    if due:
        attempt.log.info("%s: reading everything, because full_every is due", plan.resource.name)
    return {"full": due, "last_full_read": last}


def _tenants_reading(
    connection: Connection, attempt: Attempt, loader: Opened, tenants: Batch, tokens: Tokens, landing: Any
) -> TenantsReading:
    """Looks up what earlier reads of the tenants found."""
    assert connection.tenants is not None
    plan, last_full_reads = attempt.plan, dict[str, datetime]()
    with loader.pipeline.sql_client() as client:
        baselines = rows_of_tenants(plan, client, Scope(connection.tenants.column, tuple(attempt.batch)))
        for sync in latest_of_tenants(client, loaded=True) if plan.full_seconds is not None else ():
            if sync.resource == plan.resource.name and sync.last_full_read is not None:
                last_full_reads[str(sync.tenant)] = sync.last_full_read
    return TenantsReading(
        connection=connection, plan=plan, store=attempt.store, batch=tenants, began=attempt.began, baselines=baselines,
        last_full_reads=last_full_reads, tokens=tokens, outcomes=attempt.tenants, redactors=attempt.redactor,
        traffic=attempt.traffic, **landing,
    )  # fmt: skip


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
