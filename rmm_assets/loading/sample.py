"""Requests a page or two of a resource, and describes them and what a load would make of them. Nothing is landed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from rmm_assets.config import Connection, Resource
from rmm_assets.config.names import normalized_column
from rmm_assets.config.store import store_of
from rmm_assets.errors import BodyError, RmmError
from rmm_assets.http.auth import Secret, hidden
from rmm_assets.http.redaction import Redactors
from rmm_assets.http.request import Request
from rmm_assets.http.tokens import Tokens
from rmm_assets.http.transport import Reply
from rmm_assets.loading.attempt import Attempt
from rmm_assets.loading.cursor import Bounds
from rmm_assets.loading.dlt_internals import values_at
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.reads import with_fields
from rmm_assets.loading.requests import Requests, inherited_values, plan_requests, request_of
from rmm_assets.loading.run import pager_of
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import ByPosition, ByReference, OffsetPaginator
from rmm_assets.reading.proposal import propose
from rmm_assets.reading.stated import more_mark, repeats, stated_total, total_of
from rmm_assets.rows.page import Page
from rmm_assets.rows.spool import Spool

# Number of parents that are tried if the API refuses the first one.
_MOST_PARENTS = 3


@dataclass(frozen=True)
class SampledColumn:
    """A column of the table that a load would write.

    Attributes:
        data_type: Its type in the table; None if the file declares it, and the rows do not have it.
        inferred: The type that the rows alone have.
        declared: The type that the file declares.
    """

    name: str
    data_type: str | None
    inferred: str | None
    declared: str | None


@dataclass
class Sample:
    """What a page or two of a resource show.

    Attributes:
        status: The HTTP status of the first page.
        asked: Number of rows that a page was asked for; None if the request does not say.
        rows: Number of rows on the first page.
        second: Number of rows on the second page; None if it was not requested.
        total: What the API states as the number of rows.
        proof: What would prove a read complete.
        columns: The columns of the table, those first that the API sends first.
        table: The rows that would land.
        rejected: Number of rows that would be rejected, by reason.
        keyless, repeated: Number of rows without a primary key, and with one that another row has.
        incremental: What the parameter of an incremental read changes; empty if there is none, or it was not tried.
        requests: Number of requests.
        problems: What is wrong, and what to write instead.
        notes: What to know besides.
    """

    resource: str
    status: int | None = None
    asked: int | None = None
    rows: int = 0
    second: int | None = None
    total: int | None = None
    proof: str = ""
    columns: list[SampledColumn] = field(default_factory=list)
    table: pa.Table = field(default_factory=lambda: pa.table({}))
    rejected: dict[str, int] = field(default_factory=dict)
    keyless: int = 0
    repeated: int = 0
    incremental: str = ""
    requests: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns everything but the rows."""
        found = {name: value for name, value in vars(self).items() if name != "table"}
        return {**found, "columns": [vars(column) for column in self.columns]}


def sample(
    connection: Connection, resource: Resource, secret: Secret = None, *, base_url: str | None = None, thorough: bool = False,
    log: logging.Logger | None = None, tokens: Tokens | None = None,
) -> Sample:  # fmt: skip
    """Requests the first page of a resource, for a child resource of the first row of its parent.

    Args:
        connection: The connection.
        resource: The resource.
        secret: The connection's secrets.
        base_url: The address, if the connection has none.
        thorough: Whether to request a second page as well, and a range of an incremental read.
        log: Receives warnings.
        tokens: The tokens that it shares with others; its own by default.

    Returns:
        The sample; if a request failed, its problems say why. Nothing in it contains the secret.
    """
    plan, found = plan_load(connection, resource), Sample(resource.name)
    with ExitStack() as stack:
        try:
            pager, redactor = _pager(stack, connection, plan, secret, base_url, log, tokens)
        except ValueError as error:
            found.problems.append(str(error))
            return found
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="rmm-sample-")))
        try:
            _Sampling(plan, plan_requests(connection, plan), pager, folder, found).run(thorough=thorough)
        except RmmError as error:
            found.problems.append(str(error))
        found.requests = pager.transport.traffic.requests
        found.problems = [redactor.text(problem) for problem in found.problems]
    return found


def first_reply(connection: Connection, resource: Resource, secret: Secret = None) -> Reply:
    """Requests a resource's first page and returns the response as it is.

    Raises:
        RmmError: The request failed.
        ValueError: The secret is missing or cannot be sent.
    """
    plan = plan_load(connection, resource)
    with ExitStack() as stack:
        pager, _ = _pager(stack, connection, plan, secret, None, None)
        endpoint = plan_requests(connection, plan).endpoint
        return pager.reply(endpoint, _first_request(endpoint))


def _pager(
    stack: ExitStack, connection: Connection, plan: LoadPlan, secret: Secret, base_url: str | None,
    log: logging.Logger | None, tokens: Tokens | None = None,
) -> tuple[Pager, Redactors]:  # fmt: skip
    store = store_of(connection)
    if not store.work.exists():  # nothing has run here that could share the connection's limits
        store = replace(store, work=Path(stack.enter_context(TemporaryDirectory(prefix="rmm-sample-"))))
    attempt = Attempt(store, plan, log or logging.getLogger("rmm_assets"))
    pager = pager_of(stack, connection, attempt, hidden(secret), base_url, width=1, tokens=tokens)
    return pager, attempt.redactor


@dataclass
class _Sampling:
    plan: LoadPlan
    requests: Requests
    pager: Pager
    folder: Path
    found: Sample

    def run(self, *, thorough: bool) -> None:
        rows: Sequence[Mapping[str, Any] | None] = [None]
        if self.requests.parent is not None:
            rows = self._first_rows(self.requests.parent)
            if not rows:
                self.found.notes.append(f"{self.requests.parent.resource.name} has no rows, so nothing was requested")
                return
        for row in rows:
            endpoint = request_of(self.requests, self.requests.first_bounds, row)
            request = _first_request(endpoint)
            try:
                answer = self.pager.submit(endpoint, request, first=True).result()
            except RmmError as error:
                self.found.status = getattr(error, "status", None)
                if self.found.status is None or self.found.status < 400:
                    self._propose(endpoint, request)
                raise
            if not (answer.ignored and answer.reply.status in endpoint.refusals):
                break
        self.found.status, self.found.rows = answer.reply.status, answer.page.rows
        self.found.asked = endpoint.paginator.asked_rows(request)
        if answer.ignored and answer.reply.status in endpoint.refusals and self.requests.parent is not None:
            self.found.problems.append(
                f"the API refuses the requests for the first {len(rows)} rows of {self.requests.parent.resource.name} (HTTP "
                f"{answer.reply.status}), and a load fails if it refuses all: correct the path, or give the key permissions"
            )
            return
        if answer.ignored:
            self.found.notes.append(f"response_actions ignored the response (HTTP {answer.reply.status})")
            return
        self._totals(endpoint, answer)
        inherited = {} if row is None else inherited_values(self.requests, row)
        self._rows(with_fields(answer.page, inherited) if inherited else answer.page)
        if not answer.page.rows:
            self.found.notes.append("there are no rows; a key that lacks permissions may see none, too")
        elif thorough:
            self._second(endpoint, request, answer)
            self._range(endpoint, answer, row)

    def _first_rows(self, requests: Requests) -> Sequence[Mapping[str, Any]]:
        """Returns a few rows of a parent resource, as the API may have nothing for the first of them."""
        aboves: Sequence[Mapping[str, Any] | None] = (
            [None] if requests.parent is None else self._first_rows(requests.parent)
        )
        for above in aboves:
            endpoint = request_of(requests, requests.first_bounds, above)
            page = self.pager.submit(endpoint, _first_request(endpoint), first=True).result().page
            if page.rows:
                return page.objects()[:_MOST_PARENTS]
        return []

    def _propose(self, endpoint: Endpoint, request: Request) -> None:
        """Adds what the response suggests, if it was received but has no rows where the file says."""
        try:
            found = propose(self.pager.reply(endpoint, request))
        except (RmmError, BodyError):
            return
        if found.selector.value != endpoint.data_selector:
            self.found.problems.append(f"write data_selector: {found.selector.value} ({found.selector.reason})")

    def _totals(self, endpoint: Endpoint, answer: Answer) -> None:
        paginator = endpoint.paginator
        total, pages = total_of(endpoint, answer), ABSENT
        own = getattr(paginator, "total_path", None)
        if own and isinstance(paginator, OffsetPaginator) and total is ABSENT:
            total = stated_total(answer, own)
        elif own:
            pages = stated_total(answer, own)
        self.found.total = None if total is ABSENT else total
        if self.found.total is not None:
            self.found.proof = "the stated total"
        elif pages is not ABSENT and pages is not None:
            self.found.proof = "the stated number of pages"
        elif isinstance(paginator, ByReference) and paginator.place:
            self.found.proof = "the API marks the end"
        elif isinstance(paginator, ByReference):
            self.found.proof = "the connection file says so"
        elif more_mark(answer, paginator) not in (ABSENT, None):
            self.found.proof = "the API marks the end"
        else:
            self.found.proof = "an empty page, and a second read"
        missing = [
            (name, path)
            for name, path, value in (("total_path", endpoint.total_path, total), ("paginator.total_path", own, pages))
            if path and value is ABSENT and (name == "total_path" or "total_path" in paginator.model_fields_set)
        ]
        if isinstance(paginator, OffsetPaginator):
            missing = [(name, path) for name, path in missing if self.found.total is None]
        self.found.problems += [
            f"{name} `{path}` is not in the response: correct it, or write null if the API states no total"
            for name, path in missing
        ]

    def _rows(self, page: Page) -> None:
        found, shape = self.found, self.requests.endpoint.shape
        spool = Spool(shape, self.folder / "rows")
        spool.add(page)
        tables = [table for name, table in spool.tables() if name == shape.table]
        found.table = pa.concat_tables(tables) if tables else spool.schema.empty_table()
        bare = Spool(replace(shape, primary_key=(), columns={}, stamps={}), self.folder / "inferred")
        bare.add(page)
        inferred = {name: str(column.get("data_type")) for name, column in bare.columns().items()}
        declared = {
            normalized_column(name): hints.data_type
            for name, hints in self.plan.resource.columns.items()
            if hints.data_type is not None
        }
        for name in (name for name, kind in declared.items() if kind == "json"):  # objects stay whole
            parts = [part for part in inferred if part.startswith(f"{name}__")]
            for part in parts:
                del inferred[part]
            inferred |= {name: "json"} if parts else {}
        landing = {name: str(column.get("data_type")) for name, column in spool.columns().items()}
        names = [name for name in (*inferred, *landing, *declared) if not name.startswith("_content")]
        found.columns = [
            SampledColumn(name, landing.get(name) if name in inferred else None, inferred.get(name), declared.get(name))
            for name in dict.fromkeys(names)
        ]
        reasons = Counter(reason for table in spool.rejected() for reason in table["reason"].to_pylist())
        found.rejected = dict(reasons)
        found.keyless = spool.keyless if shape.primary_key else 0
        found.repeated = spool.rows - spool.distinct - spool.keyless if shape.primary_key else 0
        key = ", ".join(shape.primary_key)
        if found.keyless:
            found.problems.append(
                f"{found.keyless} of {page.rows} rows have no primary key ({key}); write another primary_key"
            )
        if found.repeated and spool.conflicts():
            found.problems.append(
                f"{found.repeated} of {page.rows} rows have the primary key ({key}) of another row and differ from it; write a "
                "primary_key that distinguishes them"
            )
        others = {reason: rows for reason, rows in reasons.items() if "primary key" not in reason}
        found.problems += [f"{rows} of {page.rows} rows would be rejected: {reason}" for reason, rows in others.items()]
        if page.rows:
            absent = [column.name for column in found.columns if column.inferred is None]
            found.notes += [f"no row of the page has {', '.join(absent)}, which the file declares"] if absent else []

    def _second(self, endpoint: Endpoint, request: Request, answer: Answer) -> None:
        following = _next_request(endpoint, request, answer)
        if following is None:
            return
        found, paginator = self.found, endpoint.paginator
        second = self.pager.look(endpoint, following)
        found.second = second.page.rows if second is not None else 0
        if second is not None and repeats(second.page, answer.page, endpoint.shape):
            name = (
                paginator.parameter if isinstance(paginator, ByPosition) else getattr(paginator, "cursor_param", None)
            )
            found.problems.append(
                f"the second page repeats the first: the API ignores `{name or 'cursor'}`; correct the paginator's parameter"
            )
        elif found.second and found.asked is not None and answer.page.rows < found.asked:
            found.notes.append(f"the API caps pages at {answer.page.rows} rows, asked for {found.asked}")
        elif found.second and found.total is not None and found.total <= answer.page.rows:
            found.problems.append(
                f"the stated total of {found.total} counts the rows of the page; leave total_path out"
            )

    def _range(self, endpoint: Endpoint, answer: Answer, row: Mapping[str, Any] | None) -> None:
        """Requests what changed since the newest row of the page, and compares."""
        cursor = self.requests.cursor
        if cursor is None:
            return
        rows = [each for each in answer.page.objects() if isinstance(each, dict)]
        values = [value for each in rows for value in values_at(cursor.path, each) if value is not None]
        if not values:
            self.found.problems.append(f"no row has `{cursor.path}`; correct cursor_path")
            return
        newest = (max if cursor.newest == "max" else min)(values, key=cursor.order)
        bounds = Bounds(cursor.initial, newest, newest, cursor.end)
        later = request_of(self.requests, bounds, row)
        since = self.pager.submit(later, _first_request(later), first=True).result()

        def older(values: Iterable[Any]) -> int:
            first = cursor.order(newest)
            orders = [order for value in values if value is not None and (order := cursor.order(value)) != first]
            return sum((order < first) is (cursor.newest == "max") for order in orders)

        before, after = (
            older(values),
            older(value for each in since.page.objects() for value in values_at(cursor.path, each)),
        )
        name = cursor.start_param or "the placeholder of the range"
        self.found.incremental = f"{since.page.rows} rows since {newest}" + (
            f", {after} of them older" if after else ""
        )
        # Some APIs also send rows that changed in another way, for example jobs that have ended since.
        if after and after >= before:
            self.found.incremental = "ignored"
            self.found.problems.append(
                f"the API ignores `{name}`: of {since.page.rows} rows since {newest}, {after} are older; correct "
                "start_param, or leave `incremental` out"
            )


def _first_request(endpoint: Endpoint) -> Request:
    request, paginator = endpoint.request(), endpoint.paginator
    if isinstance(paginator, ByPosition):
        request = paginator.at(request, paginator.start)
    return replace(request, label=endpoint.name)


def _next_request(endpoint: Endpoint, request: Request, answer: Answer) -> Request | None:
    paginator = endpoint.paginator
    if isinstance(paginator, ByPosition):
        step = answer.page.rows if paginator.counts_rows else 1
        return paginator.at(request, paginator.start + step)
    assert isinstance(paginator, ByReference), "a style is one of the two kinds"
    reference = paginator.reference(answer)
    if reference is ABSENT or not reference or more_mark(answer, paginator) is False:
        return None
    return paginator.following(request, answer, reference)
