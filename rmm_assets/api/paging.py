"""One endpoint to its pages, in order, read ahead where the next addresses are known.

Offsets and page numbers are walked here: by the rows that came, never by the rows that were asked for. Links and cursors
are walked by dlt's own paginators. Whether what came is all there is, is for `completeness` to say.
"""

from __future__ import annotations

import json as jsonlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests
from dlt.common import jsonpath
from dlt.common.utils import str2bool
from dlt.sources.helpers.rest_client.paginators import BasePaginator, BaseReferencePaginator
from requests.structures import CaseInsensitiveDict

from rmm_assets.api.transport import BodyFault, Reply, Request, Transport, TransportError
from rmm_assets.warehouse.keys import row_identity, same_rows
from rmm_assets.warehouse.rows import BodyError, Hints, Page, RowShape, read_page


class PagingError(Exception):
    """The server's paging cannot be followed to the end; the text says what was asked, what came, what to do."""


@dataclass(frozen=True)
class Endpoint:
    """What to read: an endpoint in dlt's words, defaults merged in, placeholders filled in.

    Attributes:
        name: The resource, for log lines and errors.
        paginator: dlt's paginator config, such as `{type: offset, limit: 100}`.
        total_path: JSONPath of the total number of rows, where the paginator has no word for it.
        ignore: Answers that mean "nothing here": dlt's `response_actions` with action `ignore`.
        shape: What tells the endpoint's rows apart.
        hints: What the endpoint's pages have shown of their types.
    """

    name: str
    path: str
    paginator: Mapping[str, Any]
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    data: Any = None
    data_selector: str | None = None
    total_path: str | None = None
    ignore: tuple[Mapping[str, Any], ...] = ()
    shape: RowShape = field(default_factory=lambda: RowShape(table=""), compare=False)
    hints: Hints = field(default_factory=Hints, compare=False)


@dataclass(frozen=True)
class PageRead:
    """A page as it came.

    Attributes:
        page: Its rows.
        number: From 1.
        total: Rows that the server says there are, if it says so on this page.
    """

    page: Page
    number: int
    total: int | None


@dataclass
class PassFacts:
    """What one pass over an endpoint showed, beside its rows.

    Attributes:
        ended: How the end was seen: `empty page`, `total`, `no next page`, `no more`, `maximum`, `single page`.
        moved: A row that was asked for twice was not where it stood before: rows moved while they were read.
        moved_at_first_overlap: So it was at the first try, which may also mean that the server takes round offsets only.
        cap: Rows a page holds where the server sends fewer than asked for.
    """

    pages: int = 0
    totals: set[int] = field(default_factory=set)
    first_total: int | None = None
    last_total: int | None = None
    moved: bool = False
    moved_at_first_overlap: bool = False
    ended: str = ""
    cap: int | None = None


class Window:
    """How many pages may be under way: halved when the API asks for less, grown by one after a quiet round."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return max(1, int(self._size))

    def throttled(self) -> None:
        with self._lock:
            self._size = max(1.0, self._size / 2)

    def quiet(self) -> None:
        with self._lock:
            self._size = min(float(self._most), self._size + 1 / self._size)


class Pager:
    """Reads endpoints through a transport.

    Attributes:
        width: Pages under way at once at most, over all endpoints.

    Args:
        transport: Sends requests; its `on_throttle` is taken.
        width: See above.
    """

    def __init__(self, transport: Transport, *, width: int = 8) -> None:
        self.transport = transport
        self.width = width
        self._window = Window(width)
        self._workers = ThreadPoolExecutor(max_workers=width, thread_name_prefix="rmm-page")
        transport.on_throttle(self._window.throttled)

    def close(self) -> None:
        """End the workers; what is under way is dropped."""
        self.transport.close()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def pages(self, endpoint: Endpoint, facts: PassFacts, *, overlapping: bool = True) -> Iterator[PageRead]:
        """One pass over an endpoint.

        Args:
            endpoint: What to read.
            facts: Filled in while the pages come.
            overlapping: Ask for the last row of each page again with the next one, where the paging allows it: the
                only proof, short of reading twice, that no row moved across the boundary.

        Raises:
            TransportError: a page could not be had.
            PagingError: the paging does not lead on, or not to an end.
        """
        kind = endpoint.paginator["type"]
        if kind in ("offset", "page_number"):
            walk = self._range(endpoint, facts, overlapping=overlapping and kind == "offset")
        else:
            walk = self._chain(endpoint, facts)
        for read in walk:
            facts.pages += 1
            if read.total is not None:
                facts.totals.add(read.total)
                facts.last_total = read.total
                if facts.first_total is None:
                    facts.first_total = read.total
            yield read

    # Known addresses

    def _range(self, endpoint: Endpoint, facts: PassFacts, *, overlapping: bool) -> Iterator[PageRead]:
        """Offsets and page numbers: requests run ahead of the pages, pages are checked in order."""
        walk = _RangeWalk(_RangePlan(endpoint), facts, endpoint.shape, overlapping=overlapping)
        pending: deque[tuple[int, Future[_Fetched]]] = deque()
        try:
            while not facts.ended and not facts.moved:
                while len(pending) < walk.width(self._window.size):
                    position = walk.after(pending[-1][0]) if pending else walk.position
                    if position is None:
                        break
                    number = facts.pages + len(pending) + 1
                    pending.append((position, self._submit(endpoint, walk.plan.request(position, number))))
                _, future = pending.popleft()
                try:
                    fetched = future.result()
                except TransportError as error:
                    if walk.only_overlap_may_be_wrong and 400 <= (error.status or 0) < 500:
                        facts.moved = facts.moved_at_first_overlap = True
                        return
                    raise
                self._window.quiet()
                read = walk.arrive(fetched)
                if read is not None:
                    yield read
                if pending and pending[0][0] != walk.position:
                    _drop(pending)
        finally:
            _drop(pending)

    # Addresses that each page names

    def _chain(self, endpoint: Endpoint, facts: PassFacts) -> Iterator[PageRead]:
        """Links, cursors and single pages: the next request goes out before this page is worked on."""
        paginator, has_more_path, stop_after_empty = _dlt_paginator(endpoint.paginator)
        request = requests.Request(
            endpoint.method, endpoint.path, headers=dict(endpoint.headers), params=dict(endpoint.params),
            json=endpoint.json, data=endpoint.data,
        )  # fmt: skip
        paginator.init_request(request)
        future = self._submit(endpoint, _from_requests(request, f"{endpoint.name} page 1"))
        number = 0
        seen: set[str] = set()
        before: Page | None = None
        largest = 0
        while True:
            fetched = future.result()
            number += 1
            page = fetched.page
            last = self._last_of_chain(
                endpoint, facts, paginator, request, fetched, number, largest, has_more_path, stop_after_empty
            )
            if before is not None and page.rows > 1 and same_rows(page, before, endpoint.shape):
                raise PagingError(
                    f"{endpoint.name}: page {number} is the same as page {number - 1}; the server does not follow its "
                    "own paging. Check the paginator's parameter names against the API's documentation"
                )
            if not last:
                reference = _reference(paginator, request)
                if reference in seen:
                    raise PagingError(
                        f"{endpoint.name}: page {number} names a next page that was read already: the cursor does not move"
                    )
                seen.add(reference)
                if len(seen) == 1 and endpoint.params and _same_as_first(reference, endpoint):
                    raise PagingError(f"{endpoint.name}: the next page is the first one: the cursor does not move")
                future = self._submit(endpoint, _from_requests(request, f"{endpoint.name} page {number + 1}"))
            yield PageRead(page, number, fetched.row_total)
            largest = max(largest, page.rows)
            before = page
            if last:
                return

    def _last_of_chain(
        self, endpoint: Endpoint, facts: PassFacts, paginator: BasePaginator, request: requests.Request,
        fetched: _Fetched, number: int, largest: int, has_more_path: Any, stop_after_empty: bool,
    ) -> bool:  # fmt: skip
        """Moves the paginator on; whether there is no next page, and whether that may be believed."""
        if endpoint.paginator["type"] == "single_page":
            facts.ended = "single page"
            return True
        if fetched.ignored:
            facts.ended = "no next page"
            return True
        response = _Response(fetched.reply)
        if stop_after_empty and not fetched.page.rows:
            facts.ended = "empty page"
            return True
        more = _has_more(has_more_path, response) if has_more_path is not None else None
        if more is False:
            facts.ended = "no more"
            return True
        try:
            paginator.update_state(response, [None] * fetched.page.rows)
        except Exception as error:  # dlt puts the whole body, customer data included, into these messages
            raise PagingError(f"{endpoint.name}: page {number}: {type(error).__name__} in the paginator: the answer "
                              "does not hold what it needs") from None
        empty_reference = isinstance(paginator, BaseReferencePaginator) and not paginator._next_reference
        if not paginator.has_next_page or empty_reference:
            self._believe_end(endpoint, fetched, number, largest, more, response)
            facts.ended = "no next page"
            return True
        before = request.url
        paginator.update_request(request)
        if request.url != before and request.url is not None:
            request.url = self.transport.same_origin(request.url)
        return False

    def _believe_end(
        self, endpoint: Endpoint, fetched: _Fetched, number: int, largest: int, more: bool | None, response: _Response
    ) -> None:
        """A missing cursor on a page that is full looks like an end and may be a cut.

        Raises:
            PagingError: the server says there is more, or the page is full and nothing says that it was the last one.
        """
        rows = fetched.page.rows
        if more:
            raise PagingError(f"{endpoint.name}: page {number} says there is more, but names no next page")
        if fetched.row_total is not None or not rows or _says_end(endpoint.paginator, response):
            return
        asked = _asked_rows(endpoint)
        if rows == asked or (asked is None and number > 1 and rows >= largest):
            raise PagingError(
                f"{endpoint.name}: page {number} is full ({rows} rows) and names no next page. Rows may be missing: if the "
                "API has an end mark, name it with has_more_path; if it states a total, with total_path"
            )

    # Fetching

    def _submit(self, endpoint: Endpoint, request: Request) -> Future[_Fetched]:
        return self._workers.submit(self._fetch, endpoint, request)

    def _fetch(self, endpoint: Endpoint, request: Request) -> _Fetched:
        """In a worker: send, decode, look up what the paging needs."""
        ignored = [False]

        def accept(reply: Reply) -> _Fetched:
            if _is_ignored(endpoint.ignore, reply):
                ignored[0] = True
                return _Fetched(reply, read_page(b"[]", None), ignored=True)
            try:
                page = read_page(reply.body, endpoint.data_selector, endpoint.hints)
            except BodyError as error:
                if error.reason == "not_json":
                    raise BodyFault(str(error)) from None
                raise TransportError(
                    f"{request.label}: HTTP {reply.status}, {reply.content_type}: {error}; the answer is "
                    f"{self.transport.excerpt(reply.body)!r}. Check data_selector, or what the API means by it",
                    status=reply.status,
                ) from None
            return _Fetched(reply, page, **_look_up(endpoint, page.envelope))

        if endpoint.ignore:
            return self.transport.send(request, accept, tolerate=lambda reply: _is_ignored(endpoint.ignore, reply))
        return self.transport.send(request, accept)


@dataclass(frozen=True)
class _Fetched:
    reply: Reply
    page: Page
    total: int | None = None
    row_total: int | None = None
    has_more: bool | None = None
    ignored: bool = False


class _RangePlan:
    """The addresses of an offset or page number paginator, from dlt's config."""

    def __init__(self, endpoint: Endpoint) -> None:
        config = endpoint.paginator
        self._endpoint = endpoint
        self.name = endpoint.name
        self.offset = config["type"] == "offset"
        self.base = 0 if self.offset else int(config.get("base_page") or 0)
        if self.offset:
            self.limit = int(config["limit"])
            self.start = int(config.get("offset") or 0)
            self._place = (config.get("offset_param"), config.get("offset_body_path"), "offset")
            self._limit_place = (config.get("limit_param"), config.get("limit_body_path"), "limit")
            maximum = config.get("maximum_offset")
        else:
            self.limit = _asked_rows(endpoint) or 0
            self.start = int(config["page"]) if config.get("page") is not None else self.base
            self._place = (config.get("page_param"), config.get("page_body_path"), "page")
            maximum = config.get("maximum_page")
        self.maximum = int(maximum) if maximum is not None else None
        self.parameter = self._place[0] or self._place[1] or self._place[2]

    def request(self, position: int, number: int) -> Request:
        """The request for the page that starts there (row for offsets, number for pages)."""
        params = dict(self._endpoint.params)
        json = self._endpoint.json
        places = [(self._place, position)]
        if self.offset:
            places.append((self._limit_place, self.limit))
        for (param, body_path, default), value in places:
            if body_path:
                json = jsonlib.loads(jsonlib.dumps(json if json is not None else {}))
                jsonpath.set_value_at_path(json, body_path, value)
            else:
                params[param or default] = value
        endpoint = self._endpoint
        return Request(
            endpoint.path, endpoint.method, params, endpoint.headers, json, endpoint.data,
            label=f"{endpoint.name} page {number} ({self.parameter} {position})",
        )  # fmt: skip


class _RangeWalk:
    """Where a pass over offsets or page numbers stands: what came, where the next page starts, whether this was the end.

    The next offset follows from the rows that came. A server that sends fewer than asked for (a cap, a short page in the
    middle) moves the plan; requests that were sent for other addresses are dropped by the caller.
    """

    def __init__(self, plan: _RangePlan, facts: PassFacts, shape: RowShape, *, overlapping: bool) -> None:
        self.plan = plan
        self.position = plan.start
        self._facts = facts
        self._shape = shape
        self._overlapping = overlapping
        self._covered = plan.start
        self._total: int | None = None
        self._overlap = 0
        self._largest = 0
        self._short: int | None = None
        self._before: Page | None = None
        self._number = 0

    @property
    def only_overlap_may_be_wrong(self) -> bool:
        """The second page, asked for with an overlap: a server of round offsets refuses it."""
        return self._overlap > 0 and self._number == 1

    def width(self, window: int) -> int:
        """Pages that may be under way: one until the page size is known, and one where this page looks like the last."""
        return 1 if not self._number or (self._total is None and self._short is not None) else window

    def after(self, position: int) -> int | None:
        """The address behind this one, if a page may lie there."""
        following = position + (max(self._largest - self._overlap, 1) if self.plan.offset else 1)
        maximum = self.plan.maximum
        if maximum is not None and following >= maximum:
            return None
        return following if self._total is None or following < self._total + self.plan.base else None

    def arrive(self, fetched: _Fetched) -> PageRead | None:
        """Take the page that starts at `position`; None where it only shows that rows moved.

        Raises:
            PagingError: the server sent the page before once more.
        """
        facts, plan, page = self._facts, self.plan, fetched.page
        self._number += 1
        row_total = fetched.total if plan.offset and fetched.row_total is None else fetched.row_total
        self._total = row_total if plan.offset else fetched.total
        overlap, before = self._overlap, self._before
        if before is not None and page.rows > 1 and same_rows(page, before, self._shape):
            if not overlap:
                raise PagingError(
                    f"{plan.name}: page {self._number} is the same as page {self._number - 1}: the server ignores "
                    f"{plan.parameter!r}. Check the paginator's parameter names against the API's documentation"
                )
            facts.moved = facts.moved_at_first_overlap = True
            return None
        if overlap and before is not None and not self._continues(before, page):
            facts.moved, facts.moved_at_first_overlap = True, self._number == 2
            return None
        new = page.rows - overlap
        if new > 0 and self._short is not None and plan.offset:
            facts.cap = self._short
        self._covered += new
        self._short = page.rows if page.rows < max(self._largest, plan.limit) else None
        self._largest = max(self._largest, page.rows)
        self._before = page
        facts.ended = self._end(fetched, new)
        self._overlap = 1 if self._overlapping and self._total is not None and page.rows > 1 else 0
        self.position = self._covered - self._overlap if plan.offset else self.position + 1
        if not facts.ended and plan.maximum is not None and self.position >= plan.maximum:
            facts.ended = "maximum"
        return PageRead(page.slice(overlap) if overlap else page, self._number, row_total)

    def _continues(self, before: Page, page: Page) -> bool:
        """Whether the page begins with the row that the one before ended on."""
        return page.rows > 0 and row_identity(page, self._shape, 0) == row_identity(before, self._shape, -1)

    def _end(self, fetched: _Fetched, new: int) -> str:
        """How this page shows the end; empty where it does not. A full page at the stated end shows nothing yet."""
        if fetched.ignored:
            return "no next page"
        if new <= 0:
            return "empty page"
        if fetched.has_more is False:
            return "no more"
        if self._total is not None and self._short is not None:
            if self.plan.offset and self._covered >= self._total:
                return "total"
            if not self.plan.offset and self.position + 1 >= self._total + self.plan.base:
                return "total"
        return ""


class _Response(requests.Response):
    """An answer in the form that dlt's paginators read; its JSON is parsed once."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self._content = reply.body
        self.status_code = reply.status
        self.headers = CaseInsensitiveDict(reply.headers)
        self.url = reply.url
        self._parsed: Any = None

    def json(self, **_: Any) -> Any:
        if self._parsed is None:
            self._parsed = jsonlib.loads(self._content or b"null")
        return self._parsed


def _dlt_paginator(config: Mapping[str, Any]) -> tuple[BasePaginator, Any, bool]:
    """dlt's paginator, and what is looked at before it is asked: its end marks, where dlt fails on a null."""
    from dlt.sources.rest_api.config_setup import create_paginator

    options = dict(config)
    path = options.pop("has_more_path", None)
    stop = bool(options.pop("stop_after_empty_page", False))
    paginator = create_paginator(options)  # type: ignore[arg-type]
    assert paginator is not None, "auto is refused at load"
    return paginator, jsonpath.compile_path(path) if path else None, stop


def _from_requests(request: requests.Request, label: str) -> Request:
    return Request(
        str(request.url), str(request.method), dict(request.params or {}), dict(request.headers or {}),
        jsonlib.loads(jsonlib.dumps(request.json)) if request.json else None, request.data or None, label,
    )  # fmt: skip


def _reference(paginator: BasePaginator, request: requests.Request) -> str:
    """What tells this next page from others."""
    return jsonlib.dumps([request.url, request.params or {}, request.json], sort_keys=True, default=str)


def _same_as_first(reference: str, endpoint: Endpoint) -> bool:
    first = jsonlib.dumps([endpoint.path, dict(endpoint.params), endpoint.json], sort_keys=True, default=str)
    return reference == first


def _says_end(config: Mapping[str, Any], response: _Response) -> bool:
    """Whether the server says, by a null or an empty mark where the next one would stand, that this is the end."""
    kind = config["type"]
    if kind in ("json_link", "json_response"):
        return bool(jsonpath.find_values(config.get("next_url_path", "next"), response.json()))
    if kind == "cursor":
        return bool(jsonpath.find_values(config.get("cursor_path", "cursors.next"), response.json()))
    if kind == "header_link":
        return bool(response.links)
    return config.get("cursor_key", "next") in response.headers


def _has_more(path: Any, response: _Response) -> bool:
    """The server's end mark; null and absent mean no, as on SuperOps' last page."""
    found = jsonpath.find_values(path, response.json())
    value = found[0] if found else None
    if isinstance(value, str):
        return bool(value) and str2bool(value)
    return bool(value)


def _asked_rows(endpoint: Endpoint) -> int | None:
    """The page size that a request asks for by one of its usual names."""
    names = ("limit", "page_size", "pagesize", "per_page", "page-size", "max", "pagelimit", "itemsinpage", "size", "$top")
    for source in (endpoint.params, endpoint.json if isinstance(endpoint.json, Mapping) else {}):
        for name, value in source.items():
            if str(name).lower() in names and str(value).isdigit():
                return int(value)
    return None


def _look_up(endpoint: Endpoint, envelope: Any) -> dict[str, Any]:
    """What the paging needs from around the rows: totals and end marks."""
    config = endpoint.paginator
    found: dict[str, Any] = {}
    total_path = config.get("total_path", "total") if config["type"] == "offset" else config.get("total_path")
    if config["type"] in ("offset", "page_number") and total_path:
        found["total"] = _integer(envelope, total_path)
    if endpoint.total_path:
        found["row_total"] = _integer(envelope, endpoint.total_path)
    if config.get("has_more_path") and config["type"] in ("offset", "page_number"):
        marks = jsonpath.find_values(config["has_more_path"], envelope) if isinstance(envelope, Mapping) else []
        mark = marks[0] if marks else None
        found["has_more"] = (bool(mark) and str2bool(mark)) if isinstance(mark, str) else bool(mark)
    return found


def _integer(envelope: Any, path: str) -> int | None:
    if not isinstance(envelope, Mapping):
        return None
    value = envelope.get(path) if path in envelope else next(iter(jsonpath.find_values(path, envelope)), None)
    try:
        return int(value) if value is not None and not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None


def _is_ignored(actions: tuple[Mapping[str, Any], ...], reply: Reply) -> bool:
    for action in actions:
        status, content = action.get("status_code"), action.get("content")
        if (status is None or int(status) == reply.status) and (content is None or content.encode() in reply.body):
            return True
    return False


def _drop(pending: deque[tuple[int, Future[_Fetched]]]) -> None:
    """Forget pages that were asked for too early; those under way finish unseen."""
    while pending:
        pending.pop()[1].cancel()

