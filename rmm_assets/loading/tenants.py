"""Reads a resource for several tenants at once, each from its own API with its own secrets; one's failure spares the others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import dlt

from rmm_assets.config import Connection, Resource
from rmm_assets.config.names import normalized_column, normalized_table
from rmm_assets.config.tenants import Listed, Tenant, in_file, tenants_in
from rmm_assets.config.transport import host_of, rate_limit_of, transport_of
from rmm_assets.errors import ConflictingRowsError, IncompleteError, RmmError, TenantError
from rmm_assets.http.auth import Secret
from rmm_assets.http.rate_limit import Permits
from rmm_assets.http.redaction import Redactor, Redactors
from rmm_assets.http.tokens import Tokens
from rmm_assets.http.transport import Traffic
from rmm_assets.loading.cursor import Range
from rmm_assets.loading.dlt_internals import VALIDITY_COLUMNS, cursor_state
from rmm_assets.loading.landing import Landing
from rmm_assets.loading.outcome import TenantOutcome
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.reads import Reading, read, with_fields
from rmm_assets.loading.requests import plan_requests
from rmm_assets.loading.source import landing, passing, shape_at, source_of, spool_of
from rmm_assets.loading.unread import Unread, refuse_unread, unread_of
from rmm_assets.reading.collector import MemoryCollector
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.report import Report
from rmm_assets.rows.page import Page
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import latest_loaded
from rmm_assets.tables.table import ABSENT_SINCE, Table
from rmm_assets.tables.tenants import Scope

# Tenants that are read at once; each in addition reads pages ahead, within its `limits`.
AT_ONCE = 8


class Access(NamedTuple):
    """How a tenant's API is reached.

    Attributes:
        tenant: The tenant.
        secrets: Looks up the secrets of the tenant's connection; raises `TenantError` if one is not set.
        problem: Why it cannot be reached; empty if it can.
    """

    tenant: Tenant
    secrets: Callable[[Connection], Secret]
    problem: str = ""


class Batch(NamedTuple):
    """The tenants of a run.

    Attributes:
        accesses: How each is reached.
        names: The names of all tenants, of other runs, too.
        listed: When the names were read (UTC).
        unsure: Why there may be tenants besides these; empty if there are none.
    """

    accesses: Sequence[Access]
    names: Sequence[str]
    listed: datetime
    unsure: str = ""


@dataclass(kw_only=True)
class TenantsReading(Landing):
    """What a run needs to read a resource of several tenants, and what it found.

    Attributes:
        store: Where the rows land.
        batch: The tenants to read, and the names of all.
        baselines: Number of rows that the last read of a tenant had; fewer may be a loss.
        began: When the run started (UTC).
        last_full_reads: When the last complete read of everything of a tenant started, if some reads are of a range.
        begun: Called before the first request.
        outcomes: The outcome for each tenant read, failed ones included.
        redactors: Mask the tenants' secrets.
        unproven: Why it is unknown which rows of a tenant are gone, by tenant; empty if that was not asked for.
        unread_parents: The parents whose children may not all have been read: their keys by the table's columns.
        traffic: The requests of all tenants.
        tokens: The tokens of their auth, which further resources use, too.
    """

    connection: Connection
    plan: LoadPlan
    store: Store
    batch: Batch
    begun: Callable[[], None]
    began: datetime
    baselines: Mapping[str, int] = field(default_factory=dict)
    last_full_reads: Mapping[str, datetime] = field(default_factory=dict)
    outcomes: list[TenantOutcome] = field(default_factory=list)
    redactors: Redactors = field(default_factory=Redactors)
    unproven: dict[str, str] = field(default_factory=dict)
    unread_parents: list[Mapping[str, Any]] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    tokens: Tokens = field(default_factory=Tokens)

    @property
    def column(self) -> str:
        """The column with the tenant's name."""
        assert self.connection.tenants is not None
        return self.connection.tenants.column

    @property
    def read(self) -> list[str]:
        """The tenants whose rows may land."""
        return [outcome.tenant for outcome in self.outcomes if not outcome.error]


class _TenantRows(MemoryCollector):
    """Collects the rows of one tenant, and finds those that share a key and differ."""

    def __init__(self, shape: RowShape, folder: Path) -> None:
        super().__init__(shape)
        self._folder = folder

    def conflicts(self) -> Sequence[str]:
        """Describes the first keys whose rows differ, as `Spool.conflicts` does."""
        if self.rows == self.distinct + self.keyless:
            return ()
        spool = Spool(self._shape, self._folder)
        for page in self.pages:
            spool.add(page)
        return spool.conflicts()


class _Read(NamedTuple):
    """The read of one tenant.

    Attributes:
        range: The incremental range; None if everything was read.
        unproven: Why it is unknown which rows are gone; None if it is known.
        unread_parents: The parents whose children may be missing, by the table's columns.
        unread: Why these cannot be identified; empty if they can.
    """

    outcome: TenantOutcome
    range: Range | None = None
    pages: Sequence[Page] = ()
    unproven: str | None = None
    unread_parents: Sequence[Mapping[str, Any]] = ()
    unread: str = ""


def tenants_of(connection: Connection, store: Store) -> Listed:
    """Returns the tenants of a connection as its file, the file beside it, or the table that it names have them now.

    Raises:
        TenantError: The file or the table cannot be read, or has no tenant.
    """
    said = connection.tenants
    if said is None:
        return Listed([], [])
    if said.list is not None:
        return Listed(list(said.list), [])
    if said.file is not None:
        return in_file(Path(said.file), connection.setting_names())
    assert said.from_ is not None
    dataset, _, resource = said.from_.partition("/")
    columns = [normalized_column(name) for name in (said.name, *said.settings.values())]
    if store.is_missing:
        raise TenantError(f"{said.from_}: the table does not exist yet; sync {dataset} first")
    with replace(store, dataset=dataset).reading(f"{connection.name}__tenants") as client:
        table = Table(client, normalized_table(resource))
        there = table.columns()
        if missing := [name for name in columns if name not in there]:
            what = f"has no column {missing[0]}" if there else f"does not exist yet; sync {dataset} first"
            raise TenantError(f"{said.from_}: the table {what}")
        present = [f"{table.quote(name)} IS NULL" for name in (ABSENT_SINCE, VALIDITY_COLUMNS[1]) if name in there]
        listed, those = ", ".join(map(table.quote, columns)), f" WHERE {' AND '.join(present)}" if present else ""
        rows = table.rows(f"SELECT {listed} FROM {{table}}{those} ORDER BY {table.quote(columns[0])}")
        last = latest_loaded(client).get(resource)
    found = []
    for name, *values in rows:
        settings = {key: value for key, value in zip(said.settings, values, strict=True) if value is not None}
        found.append({"name": name, "settings": settings})
    tenants = tenants_in(found, said.from_)
    if last is not None and last.verdict != "loaded":
        # Rows that were not received are missing from the table if each read replaces it.
        tenants.faults.append(f"{said.from_}: its last load is not proven complete ({last.verdict.replace('_', ' ')})")
    return tenants


def build_tenants_source(reading: TenantsReading) -> dlt.sources.DltSource:
    """Returns the `rest_api` source of a resource, with the rows of all tenants of the run."""
    plan = reading.plan

    def rows() -> Iterator[Any]:
        shape = shape_at(plan, reading)
        reading.begun()
        spool = spool_of(plan, shape, reading.folder)
        _read_all(reading, shape, spool)
        yield from landing(plan, shape, spool, reading, None)

    return source_of(reading.connection, plan, rows)


def _read_all(reading: TenantsReading, shape: RowShape, spool: Spool | RecordSpool) -> None:
    """Reads all tenants and adds the rows of those whose read is proven complete to the spool.

    Raises:
        TenantError: None could be read.
    """
    report = reading.report
    report.complete = True
    with ExitStack() as stack:
        workers = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="rmm-tenant")
        batch = _Workers(reading, shape, stack)
        # After an error in this thread, such as an interrupt, reads in progress end when their transports close.
        stack.callback(workers.shutdown, wait=False, cancel_futures=True)
        waiting: deque[Future[_Read]] = deque()
        for number, access in enumerate(reading.batch.accesses):
            waiting.append(workers.submit(batch.read, number, access, _range_of(reading, access.tenant.name)))
            if len(waiting) >= 2 * AT_ONCE:
                _take(waiting.popleft().result(), reading, shape, spool)
        while waiting:
            _take(waiting.popleft().result(), reading, shape, spool)
    report.rows, report.distinct = spool.rows, spool.distinct
    report.duplicates = spool.rows - spool.distinct - spool.keyless
    report.empty = not report.rows
    failed = [outcome for outcome in reading.outcomes if outcome.error]
    report.reason = f"{len(reading.read)} of {len(reading.outcomes)} tenants were read to the end"
    if failed and len(failed) == len(reading.outcomes):
        raise TenantError(_all_failed(failed))


def _range_of(reading: TenantsReading, tenant: str) -> Range | None:
    """Returns the range that a tenant's read goes on with, while dlt extracts; None if every read reads everything."""
    plan = reading.plan
    if plan.cursor is None:
        return None
    states = cursor_state(plan.resource.name, plan.cursor.path).setdefault("tenants", {})
    full = plan.reads_everything(reading.began, reading.last_full_reads.get(tenant))
    return Range(plan.cursor, states.setdefault(tenant, {}), full=full)


def _all_failed(failed: Sequence[TenantOutcome]) -> str:
    """Says that no tenant could be read, with the first reason."""
    first = failed[0]
    more = f"; {len(failed) - 1} more tenants failed" if len(failed) > 1 else ""
    return f"tenant {first.tenant}: {first.error}{more}"


def _take(read: _Read, reading: TenantsReading, shape: RowShape, spool: Spool | RecordSpool) -> None:
    outcome = read.outcome
    reading.outcomes.append(outcome)
    parents = [{reading.column: outcome.tenant, **parent} for parent in read.unread_parents]
    if not outcome.error and outcome.report.complete:  # otherwise the file says to load it nevertheless
        outcome.error = _lost_by(read, parents, reading, shape)
    for name, value in vars(outcome.traffic).items():
        setattr(reading.traffic, name, getattr(reading.traffic, name) + value)
    if outcome.error:
        reading.log.error("tenant %s: %s", outcome.tenant, outcome.error)
        return
    reading.report.add(outcome.report)
    reading.report.complete &= outcome.report.complete
    reading.unread_parents += parents
    if read.unproven is not None:
        reading.unproven[outcome.tenant] = read.unproven
    for page in read.pages:
        spool.add(with_fields(page, {reading.column: outcome.tenant}))
    if read.range is not None:
        outcome.rows_left_out = read.range.left_out
        reading.left_out += read.range.left_out
        for said in read.range.close():
            reading.warn(f"tenant {outcome.tenant}: {said}")


def _lost_by(read: _Read, parents: Sequence[Mapping[str, Any]], reading: TenantsReading, shape: RowShape) -> str:
    """Returns why a load would lose rows of a tenant that may still exist; empty if it does not."""
    plan = reading.plan
    unread = unread_of(parents, shape.known)
    if read.unread:
        unread = Unread(why=read.unread)
    if not plan.loses_rows or not (unread.why or parents):
        return ""
    store = reading.store
    with store.writing(reading.log), store.held(), reading.pipeline.sql_client() as client:
        table, scope = Table(client, plan.table), Scope(reading.column, (read.outcome.tenant,))
        if not table.exists():
            return ""
        try:
            refuse_unread(plan, unread, table, shape, scope.condition(table), scope.names)
        except IncompleteError as error:
            return str(error)
    return ""


def _admitted(page: Page, range: Range) -> Page:
    """Returns a page without the rows that are outside of a range."""
    rows, kept = page.objects(), list[Any]()
    for row in rows:
        # What is not an object is rejected when it lands, whatever the range.
        if not isinstance(row, dict) or range.admit([passing(range.cursor, row)]).all():
            kept.append(row)
    return Page(len(kept), None, page.size, None, b"", None, kept)


class _Workers:
    """Reads tenants in worker threads. Transports close with the stack; limits are shared by tenants of one host."""

    def __init__(self, reading: TenantsReading, shape: RowShape, stack: ExitStack) -> None:
        self._reading, self._shape, self._stack = reading, shape, stack
        self._lock = threading.Lock()
        self._rate_limits: dict[str, Permits] = {}

    def read(self, number: int, access: Access, range: Range | None) -> _Read:
        """Reads one tenant; a failure is part of the result."""
        reading, started, redactor = self._reading, time.monotonic(), self._reading.redactors.new()
        report, traffic = Report(reading.plan.resource.name), Traffic()
        outcome = TenantOutcome(access.tenant.name, report, traffic)
        try:
            read = self._read(number, access, range, redactor, outcome)
        except RmmError as error:
            outcome.error = redactor.text(str(error).removeprefix(f"tenant {outcome.tenant}: "))
            read = _Read(outcome)
        except Exception as error:  # whatever it is, the other tenants are read
            outcome.error = redactor.text(f"{type(error).__name__}: {error}")
            read = _Read(outcome)
        outcome.seconds = time.monotonic() - started
        return read

    def _read(
        self, number: int, access: Access, range: Range | None, redactor: Redactor, outcome: TenantOutcome
    ) -> _Read:
        reading, plan, name = self._reading, self._reading.plan, access.tenant.name
        if access.problem:
            raise TenantError(access.problem)
        connection = reading.connection.of_tenant(access.tenant)
        resource = connection.resource(plan.resource.name)
        with ExitStack() as stack:
            transport = transport_of(
                connection,
                resource,
                access.secrets(connection),
                redactor,
                self._rate_limit(connection),
                log=reading.log,
                tokens=reading.tokens,
            )
            outcome.traffic = transport.traffic
            pager = Pager(transport, width=connection.limits.max_concurrency, most_pages=connection.limits.max_pages)
            stack.callback(pager.close)
            self._stack.callback(transport.close)
            folder = reading.folder / "tenants" / str(number)
            folder.mkdir(parents=True)
            requests = plan_requests(connection, plan_load(connection, resource))
            shape = self._shape_of(resource)
            requests = replace(requests, endpoint=replace(requests.endpoint, shape=shape))
            rows = _TenantRows(shape, folder / "rows")
            own = Reading(
                pager=pager, pipeline=reading.pipeline, folder=folder, before_publishing=reading.before_publishing,
                report=outcome.report, log=reading.log,
            )  # fmt: skip
            unproven: str | None = None
            try:
                read(requests, own, rows, None if range is None else range.bounds)
            except IncompleteError as error:
                if resource.on_incomplete == "fail" or isinstance(error, ConflictingRowsError):
                    raise
                unproven = str(error)
                reading.log.warning(
                    "tenant %s: %s; landing the rows received, because on_incomplete is warn", name, error
                )
        plan.refuse_unproven_ends(outcome.report)
        everything = range is None or range.full
        outcome.rows_received = outcome.report.distinct
        if everything and not outcome.report.partial:
            plan.refuse_loss(outcome.rows_received, reading.baselines.get(name, 0))
        self._refuse_own_column(resource, rows.pages)
        if plan.full_seconds is not None:
            proven = everything and outcome.report.complete and not outcome.report.partial
            outcome.last_full_read = reading.began if proven else reading.last_full_reads.get(name)
        if outcome.report.partial:
            unproven = "the read ended at a maximum that the connection sets"
        parents, unread = own.unread_parents, ""
        if isinstance(parents, str):
            unproven = unread = parents
            parents = ()
        pages = rows.pages if range is None else [_admitted(page, range) for page in rows.pages]
        return _Read(outcome, range, pages, unproven if everything else "", parents, unread)

    def _shape_of(self, resource: Resource) -> RowShape:
        """Describes the rows as the API sends them, which do not say whose they are."""
        columns, known = dict(self._shape.columns), dict(self._shape.known)
        for named in (columns, known):
            named.pop(self._reading.column, None)
        return replace(self._shape, primary_key=resource.keys, columns=columns, known=known, hashes_contents=False)

    def _refuse_own_column(self, resource: Resource, pages: Sequence[Page]) -> None:
        """Refuses rows that have a value of their own in the column of tenants.

        Raises:
            TenantError: They have.
        """
        column = self._reading.column
        for page in pages:
            rows = (
                page.objects() if page.structs is None else [dict.fromkeys(field.name for field in page.structs.type)]
            )
            if any(normalized_column(str(name)) == column for row in rows if isinstance(row, dict) for name in row):
                raise TenantError(
                    f"{resource.name}: the rows have a field that lands in the column {column}: write `column: ...` with another "
                    "name under `tenants`, before the first load"
                )

    def _rate_limit(self, connection: Connection) -> Permits:
        """Returns the permits for the tenant's host, which its other tenants share."""
        host = host_of(connection)
        with self._lock:
            if host not in self._rate_limits:
                limit = rate_limit_of(connection, self._reading.store.work, host)
                self._stack.callback(limit.close)
                self._rate_limits[host] = limit
            return self._rate_limits[host]
