"""One resource of a connection, end to end: from its first request to a settled table. Knows nothing of Dagster.

`open_run` makes what a run needs and takes it away again. Between, `run.pipeline.run(run.source)` loads, here or
through dagster-dlt, and `run.settle(...)` does what remains once the load is in.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dlt
from dlt.common.pipeline import LoadInfo
from dlt.common.schema.typing import DEFAULT_VALIDITY_COLUMN_NAMES
from dlt.common.schema.utils import get_nested_tables
from dlt.destinations.sql_client import SqlClientBase
from dlt.extract.source import DltSource
from pydantic import SecretStr

from rmm_assets.config import Connection, Resource
from rmm_assets.config.names import normalized_column
from rmm_assets.errors import SuspiciousLossError
from rmm_assets.http.auth import build_auth, hidden
from rmm_assets.http.rate_limit import RateLimit
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.transport import Traffic, Transport
from rmm_assets.loading.source import (
    REJECTED_SUFFIX,
    Reading,
    build_source,
    is_incremental,
    settles_absences,
    skips_unchanged,
    source_name,
    uses_arrow,
)
from rmm_assets.reading.completeness import Report
from rmm_assets.reading.fetch import Pager
from rmm_assets.tables.absences import (
    Absences,
    Nested,
    forget_unfinished,
    remove_orphans,
    rows_alive,
    rows_of_last_load,
    rows_valid,
    settle,
)
from rmm_assets.tables.changes import compare, remember
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table

WORK_FOLDER = Path("data/work")
PREVIEW_ROWS = 10


@dataclass
class Outcome:
    """What a run of one resource did, in numbers for people and sensors.

    Attributes:
        rows_loaded: Rows that this run brought into the table, rejects not included.
        rows_new: Rows that were not in the table before.
        rows_changed: Rows that were, with another content, or marked absent.
        row_count: Rows in the table now.
        preview: Up to ten rows, in the order of `preview_columns`.
        seconds: From the first request to the settled table.
        table_name: `database.dataset.table`.
    """

    report: Report
    traffic: Traffic
    rows_loaded: int = 0
    rows_rejected: int = 0
    rows_new: int = 0
    rows_changed: int = 0
    row_count: int = 0
    seconds: float = 0.0
    load_id: str = ""
    table_name: str = ""
    absences: Absences = field(default_factory=Absences)
    changed_types: dict[str, tuple[str, str]] = field(default_factory=dict)
    preview_columns: tuple[str, ...] = ()
    preview: tuple[tuple[Any, ...], ...] = ()


@dataclass
class _Before:
    """The table before the load: rows that were alive in it, and whether a copy of it was made."""

    alive: int = 0
    copied: bool = False


@dataclass
class Run:
    """One run of one resource, while it is open."""

    connection: Connection
    resource: Resource
    store: Store
    pipeline: dlt.Pipeline
    source: DltSource
    reading: Reading
    client: SqlClientBase[Any]
    before: _Before
    started: float = field(default_factory=time.monotonic)

    def redact(self, text: str) -> str:
        """A text without the secret."""
        return self.reading.pager.transport.redactor.text(text)

    def settle(self, load_info: LoadInfo) -> Outcome:
        """Mark what is gone at the source and count what is there, after the load.

        Args:
            load_info: What dlt says of the load.
        """
        report, resource = self.reading.report, self.resource
        outcome = Outcome(
            report, self.reading.pager.transport.traffic, rows_rejected=self.reading.rejected,
            load_id=next(iter(load_info.loads_ids), ""), changed_types=dict(self.reading.changed_types),
        )  # fmt: skip
        normalized = self.pipeline.last_trace.last_normalize_info if self.pipeline.last_trace else None
        if normalized is not None:
            outcome.rows_loaded = int(normalized.row_counts.get(resource.table, 0))
        with self.client as client:
            table = Table(client, resource.table)
            if report.complete and not report.partial and settles_absences(resource):
                outcome.absences = settle(
                    table, outcome.load_id, resource.absent, max_share=resource.max_absent_share,
                    alive_before=self.before.alive, present=self.reading.rejected_keys,
                    nested=_nested(self.pipeline, table),
                )  # fmt: skip
                if outcome.absences.held_back:
                    self.reading.log.warning(
                        "%s: %d rows are gone at the source, more than max_absent_share (%.0f %%) of those that were "
                        "there: they stay as they are",
                        resource.name, outcome.absences.gone, 100 * resource.max_absent_share,
                    )  # fmt: skip
            if resource.child_tables and resource.disposition == "merge" and uses_arrow(resource):
                # Where dlt's normalizer made the ids, rows have other ones now, and an upsert finds children by them.
                remove_orphans(_nested(self.pipeline, table))
            keys = [normalized_column(key) for key in resource.keys]
            if self.before.copied and outcome.load_id:
                changes = compare(table, keys, outcome.load_id)
                outcome.rows_new, outcome.rows_changed = changes.new, changes.changed
            else:
                outcome.rows_new = outcome.rows_loaded
            outcome.preview_columns, outcome.preview = table.first(PREVIEW_ROWS, keys)
            outcome.row_count = table.count()
            outcome.table_name = table.full_name
        outcome.seconds = time.monotonic() - self.started
        return outcome


def _nested(pipeline: dlt.Pipeline, table: Table) -> list[Nested]:
    """The table's child tables, parents before children."""
    schema: str | None = pipeline.default_schema_name
    if schema is None:
        return []
    found = get_nested_tables(pipeline.default_schema.tables, table.name, include_self=False)
    named = [(Table(table.client, str(entry["name"])), Table(table.client, str(entry["parent"]))) for entry in found]
    return [Nested(child, parent) for child, parent in named if child.exists()]


def store_of(connection: Connection) -> Store:
    """Where a connection's tables land. Reads the environment: call it when a run starts."""
    destination = connection.destination
    return Store(
        destination=destination.type,
        credentials=destination.resolved_credentials(),
        dataset=connection.dataset_name,
        work=WORK_FOLDER,
        options=destination.options,
    )


@contextmanager
def open_run(
    connection: Connection,
    resource: Resource,
    secret: SecretStr | str | None,
    *,
    base_url: str | None = None,
    store: Store | None = None,
    log: logging.Logger | None = None,
    progress: Any = None,
) -> Iterator[Run]:
    """What one run of one resource needs; taken away at the end, whatever happened.

    Args:
        secret: The connection's secret.
        base_url: Of the API, where it is not the connection file's (the embedded RMM's).
        store: Where rows land; by default what the connection says.
        log: Where progress, retries and warnings go.
        progress: dlt's progress collector.

    Raises:
        ValueError: no base URL, or an auth without a secret.
    """
    secret = hidden(secret)
    log = log or logging.getLogger("rmm_assets")
    store = store or store_of(connection)
    store.prepare()
    name = source_name(connection, resource)
    address = base_url or connection.client.base_url
    if not address:
        raise ValueError(f"{connection.name}: client.base_url is not set")
    redactor = Redactor()
    auth = build_auth(resource.endpoint.auth or connection.client.auth, secret, redactor)
    limits = connection.limits
    if resource.deadline is not None:
        limits = limits.model_copy(update={"deadline": resource.deadline})
    with ExitStack() as stack:
        stack.enter_context(store.alone(name, log))
        folder = store.work / "pages" / name
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        rate_limit = RateLimit(
            store.work / "pace" / connection.name,
            max_concurrency=limits.max_concurrency,
            requests_per_minute=limits.requests_per_minute,
        )
        stack.callback(rate_limit.close)
        transport = Transport(
            address, auth=auth, redactor=redactor, rate_limit=rate_limit, retry=connection.retry, limits=limits,
            tls=connection.tls, headers=connection.client.headers, allow_http=connection.allow_http, log=log,
        )  # fmt: skip
        pager = Pager(transport, width=limits.max_concurrency)
        stack.callback(pager.close)
        # A killed run leaves half a state behind; all that counts comes back from the destination.
        shutil.rmtree(store.working_folder(name), ignore_errors=True)
        pipeline = store.pipeline(name, progress=progress)
        report = Report(resource.name)

        client = pipeline.sql_client()

        before = _Before()

        def before_publishing(report: Report) -> bool:
            # Only now: while pages are fetched, others may read the file.
            stack.enter_context(store.held())
            with client as opened:
                table = Table(opened, resource.table)
                _clear_up(resource, table, pipeline)
                before.alive = rows_alive(table)
                _refuse_loss(resource, report, table)
                if resource.disposition == "merge" and resource.keys and not resource.history:
                    before.copied = remember(table)
                return store.is_file and table.count() == 0

        reading = Reading(pager, folder, before_publishing, report, log)
        source = build_source(connection, resource, reading)
        yield Run(connection, resource, store, pipeline, source, reading, client, before)
        shutil.rmtree(pipeline.working_dir, ignore_errors=True)


def _clear_up(resource: Resource, table: Table, pipeline: dlt.Pipeline) -> None:
    """Take away what a killed run left in tables that are only ever added to; a merge overwrites it by itself."""
    schema: str | None = pipeline.default_schema_name
    if schema is None:
        return
    forget_unfinished(Table(table.client, resource.table + REJECTED_SUFFIX), schema)
    if resource.disposition == "append":
        forget_unfinished(table, schema, _nested(pipeline, table))


def _refuse_loss(resource: Resource, report: Report, table: Table) -> None:
    """An answer with far fewer rows than last time is not believed.

    Raises:
        SuspiciousLossError: more than `max_absent_share` of the rows of the last read are gone.
    """
    if is_incremental(resource) or resource.disposition == "append" or report.partial:
        return
    if resource.strategy == "scd2":
        # A row that does not change keeps the load id of its version.
        disposition = resource.write_disposition
        names = disposition.validity_column_names if disposition else None
        before = rows_valid(
            table, names[1] if names else DEFAULT_VALIDITY_COLUMN_NAMES[1],
            disposition.active_record_timestamp if disposition else None,
        )  # fmt: skip
    else:
        before = rows_alive(table) if skips_unchanged(resource) else rows_of_last_load(table)
    now = report.distinct if resource.keys else report.rows
    if before and now < before * (1 - resource.max_absent_share):
        raise SuspiciousLossError(
            f"{resource.name}: the API sent {now} rows where the last read had {before}: more than "
            f"{resource.max_absent_share:.0%} are gone. A key that lost its rights looks like this too. If the rows "
            "are really gone, raise max_absent_share for one run"
        )


def sync(
    connection: Connection, resource: Resource, secret: SecretStr | str | None, *, base_url: str | None = None,
    store: Store | None = None, log: logging.Logger | None = None,
) -> Outcome:  # fmt: skip
    """Bring one resource into its table, without Dagster.

    Raises:
        dlt.pipeline.exceptions.PipelineStepFailed: nothing was published; its cause says why.
    """
    secret = hidden(secret)
    with open_run(connection, resource, secret, base_url=base_url, store=store, log=log) as run:
        run.pipeline.drop()  # local state is rebuilt from the destination, as dagster-dlt does
        load_info = run.pipeline.run(run.source)
        load_info.raise_on_failed_jobs()
        return run.settle(load_info)
