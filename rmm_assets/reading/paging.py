"""One endpoint to its pages, in order, read ahead where the next addresses are known.

Offsets and page numbers are walked here: by the rows that came, never by the rows that were asked for. Links and cursors
are walked by dlt's own paginators. Whether what came is all there is, is for `completeness` to say.
"""

from __future__ import annotations

import json as jsonlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
from dlt.common import jsonpath
from dlt.common.utils import str2bool
from dlt.sources.helpers.rest_client.detector import RECORD_KEY_PATTERNS, find_all_lists
from dlt.sources.helpers.rest_client.paginators import BaseNextUrlPaginator, BasePaginator, BaseReferencePaginator
from requests.structures import CaseInsensitiveDict

from rmm_assets.errors import BodyError, PagingError, TransportError
from rmm_assets.http.transport import BodyFault, Reply, Request, Transport
from rmm_assets.rows.decode import Hints, Page, read_page, read_pages
from rmm_assets.rows.keys import NO_KEY, row_identity, row_keys, same_rows
from rmm_assets.rows.layout import RowShape

# How servers refuse an address that they do not have: a page behind the last one, an offset that is not round.
_NO_SUCH_PAGE = (400, 404, 410, 416, 422)

# Pages that one worker fetches before they are decoded at once: from here on more of them save nothing (measured).
_MOST_AT_ONCE = 16
_MOST_BYTES_AT_ONCE = 1 << 20

Taken = TypeVar("Taken")


@dataclass(frozen=True)
class Endpoint:
    """What to read: an endpoint in dlt's words, defaults merged in, placeholders filled in.

    Attributes:
        name: The resource, for log lines and errors.
        paginator: dlt's paginator config, such as `{type: offset, limit: 100}`.
        data_selector: Where the rows are; None leaves it to the first page, as in dlt.
        total_path: JSONPath of the total number of rows, where the paginator has no word for it.
        gate: Held while a request is under way: a semaphore where the endpoint bears fewer than the pager sends.
        ignore: Answers that mean "nothing here": dlt's `response_actions` with action `ignore`.
        shape: What tells the endpoint's rows apart.
        hints: What the endpoint's pages have shown of their types.
        found_selector: The data selector that the first page has shown, once it has.
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
    gate: AbstractContextManager[Any] = field(default_factory=nullcontext, compare=False)
    ignore: tuple[Mapping[str, Any], ...] = ()
    shape: RowShape = field(default_factory=lambda: RowShape(table=""), compare=False)
    hints: Hints = field(default_factory=Hints, compare=False)
    found_selector: list[str] = field(default_factory=list, compare=False)


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
        totals: Every number of rows that the server stated.
        turns: Pages behind the first one that brought rows.
        moved: A row that was asked for twice was not where it stood before: rows moved while they were read.
        moved_at_once: So it was at the first try, which may also mean that the server takes round offsets only.
        round_offsets: It surely means that: the server refused the address, or sent the first page again.
        unproven: Boundaries between pages of which nothing shows that no row moved across.
        ended: How the end was seen: `empty page`, `total`, `no next page`, `no more`, `maximum`, `single page`.
        cap: Rows a page holds where the server sends fewer than asked for.
    """

    pages: int = 0
    turns: int = 0
    totals: set[int] = field(default_factory=set)
    first_total: int | None = None
    last_total: int | None = None
    moved: bool = False
    moved_at_once: bool = False
    round_offsets: bool = False
    unproven: int = 0
    ended: str = ""
    cap: int | None = None

    def state(self, total: int | None) -> None:
        """Take in the number of rows that a page states."""
        if total is not None:
            self.totals.add(total)
            self.last_total = total
            if self.first_total is None:
                self.first_total = total


class Window:
    """How many requests may be under way: halved when the API asks for less, grown by one after a quiet round.

    A context manager: who enters waits until there is room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._under_way = 0
        self._room = threading.Condition()

    @property
    def size(self) -> int:
        return max(1, int(self._size))

    def throttled(self) -> None:
        with self._room:
            self._size = max(1.0, self._size / 2)

    def quiet(self) -> None:
        with self._room:
            self._size = min(float(self._most), self._size + 1 / self._size)
            self._room.notify()

    def __enter__(self) -> None:
        with self._room:
            self._room.wait_for(lambda: self._under_way < self.size)
            self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._room:
            self._under_way -= 1
            self._room.notify()


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

    def pages(
        self, endpoint: Endpoint, facts: PassFacts, *, overlapping: bool = True, past_total: bool = False
    ) -> Iterator[PageRead]:
        """One pass over an endpoint.

        Args:
            endpoint: What to read.
            facts: Filled in while the pages come.
            overlapping: Ask for the last row of each page again with the next one, where the paging allows it: the
                only proof, short of reading twice, that no row moved across the boundary.
            past_total: Do not take the stated total for the end: go on to a page that is empty.

        Raises:
            TransportError: a page could not be had.
            PagingError: the paging does not lead on, or not to an end.
        """
        if endpoint.paginator["type"] in ("offset", "page_number"):
            walk = self._range(endpoint, facts, overlapping=overlapping, past_total=past_total)
        else:
            walk = self._chain(endpoint, facts)
        for read in walk:
            facts.pages += 1
            facts.state(read.total)
            yield read

    # Known addresses

    def _range(
        self, endpoint: Endpoint, facts: PassFacts, *, overlapping: bool, past_total: bool
    ) -> Iterator[PageRead]:
        """Offsets and page numbers: requests run ahead of the pages, pages are checked in order."""
        walk = _RangeWalk(_RangePlan(endpoint), facts, endpoint.shape, overlapping=overlapping, past_total=past_total)
        pending: deque[_Ahead] = deque()
        try:
            while not facts.ended and not facts.moved:
                while len(pending) < walk.width(self._window.size):
                    # Answers that mean something else are looked at one by one.
                    most = 1 if endpoint.ignore else _MOST_AT_ONCE
                    positions = walk.ahead(pending[-1].positions[-1] if pending else None, self._window.size, most)
                    if not positions:
                        break
                    number = facts.pages + sum(len(ahead.positions) for ahead in pending) + 1
                    requests = [walk.plan.request(at, number + index) for index, at in enumerate(positions)]
                    stop = threading.Event()
                    future = self._workers.submit(self._fetch_many, endpoint, requests, stop)
                    pending.append(_Ahead(positions, future, stop))
                ahead = pending.popleft()
                for position, fetched in zip(ahead.positions, ahead.future.result(), strict=False):
                    if position != walk.position or facts.ended or facts.moved:
                        break
                    if isinstance(fetched, TransportError):
                        if fetched.status in _NO_SUCH_PAGE and walk.expects_refusal():
                            break
                        raise fetched
                    self._window.quiet()
                    read = walk.arrive(fetched)
                    if read is not None:
                        yield read
                if pending and pending[0].positions[0] != walk.position:
                    _drop(pending)
        finally:
            _drop(pending)

    # Addresses that each page names

    def _chain(self, endpoint: Endpoint, facts: PassFacts) -> Iterator[PageRead]:
        """Links, cursors and single pages: the next request goes out before this page is worked on."""
        paginator, has_more_path, stop_after_empty = _dlt_paginator(endpoint.paginator)
        # Copies: dlt's paginators write into the request's parts, and the next pass begins at the beginning.
        request = requests.Request(
            endpoint.method, endpoint.path, headers=dict(endpoint.headers), params=dict(endpoint.params),
            json=deepcopy(endpoint.json), data=endpoint.data,
        )  # fmt: skip
        paginator.init_request(request)
        seen = {_reference(request)}
        future = self._submit(endpoint, _from_requests(request, f"{endpoint.name} page 1"))
        number = largest = 0
        before: Page | None = None
        while True:
            fetched = future.result()
            self._window.quiet()
            number += 1
            last = self._last_of_chain(
                endpoint, facts, paginator, request, fetched, number, largest, has_more_path, stop_after_empty
            )
            if before is not None and _repeats(fetched.page, before, endpoint.shape):
                raise PagingError(
                    f"{endpoint.name}: page {number} is the same as page {number - 1}; the server does not follow its "
                    "own paging. Check the paginator's parameter names against the API's documentation"
                )
            if not last:
                reference = _reference(request)
                if reference in seen:
                    raise PagingError(
                        f"{endpoint.name}: page {number} names a next page that was read already: the cursor does not move"
                    )
                seen.add(reference)
                future = self._submit(endpoint, _from_requests(request, f"{endpoint.name} page {number + 1}"))
            yield PageRead(fetched.page, number, fetched.row_total)
            largest = max(largest, fetched.page.rows)
            before = fetched.page
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
        mark = _end_mark(has_more_path, response.json()) if has_more_path is not None else _ABSENT
        if mark is False:
            facts.ended = "no more"
            return True
        try:
            paginator.update_state(response, [None] * fetched.page.rows)
        except Exception as error:  # dlt puts the whole body, customer data included, into these messages
            raise PagingError(
                f"{endpoint.name}: page {number}: {type(error).__name__} in the paginator: the answer "
                "does not hold what it needs"
            ) from None
        empty_reference = isinstance(paginator, BaseReferencePaginator) and not paginator._next_reference
        if not paginator.has_next_page or empty_reference:
            if mark is not None:  # a null mark is the end, as on SuperOps' last page
                self._believe_end(endpoint, fetched, number, largest, mark, response)
            facts.ended = "no next page"
            return True
        if isinstance(paginator, BaseNextUrlPaginator):
            # What a relative link is relative to.
            request.url = fetched.reply.url
            paginator.update_request(request)
            request.url = self.transport.same_origin(str(request.url))
        else:
            paginator.update_request(request)
        return False

    def _believe_end(
        self, endpoint: Endpoint, fetched: _Fetched, number: int, largest: int, mark: Any, response: _Response
    ) -> None:
        """A missing cursor on a page that is full looks like an end and may be a cut.

        Raises:
            PagingError: the server says there is more, or the page is full and nothing says that it was the last one.
        """
        rows = fetched.page.rows
        if mark is True:
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

    def _fetch_many(
        self, endpoint: Endpoint, requests: Sequence[Request], stop: threading.Event
    ) -> list[_Fetched | TransportError]:
        """In a worker: neighbouring pages, one request after the other, decoded at once, which takes a third of the time.

        Args:
            stop: Set when the pages are no longer wanted.

        Returns:
            The pages, fewer than asked for where one is so small that the end may be there; an error is the last one.
        """
        failure: list[_Fetched | TransportError] = []
        replies: list[Reply] = []
        try:
            if len(requests) == 1:
                return [self._fetch(endpoint, requests[0])]
            for request in requests:
                if stop.is_set():
                    break
                replies.append(self._send(endpoint, request, lambda reply: reply))
                if 2 * len(replies[-1].body) < len(replies[0].body):
                    break
        except TransportError as error:
            failure.append(error)
        pages = _read_many(endpoint, replies)
        if pages is not None:
            looked_up = (_look_up(endpoint, page.envelope) for page in pages)
            return [*map(_fetched, replies, pages, looked_up), *failure]
        found: list[_Fetched | TransportError] = []
        try:
            for request, reply in zip(requests, replies, strict=False):
                found.append(self._fetch(endpoint, request, reply))
        except TransportError as error:
            return [*found, error]
        return [*found, *failure]

    def _fetch(self, endpoint: Endpoint, request: Request, given: Reply | None = None) -> _Fetched:
        """In a worker: send, decode, look up what the paging needs.

        Args:
            given: The answer, where it is here already.
        """

        def accept(reply: Reply) -> _Fetched:
            if _is_ignored(endpoint.ignore, reply):
                return _Fetched(reply, _NO_ROWS, ignored=True)
            if reply.status == 204 and not reply.body:
                return _Fetched(reply, _NO_ROWS)
            try:
                page = read_page(reply.body, _selector(endpoint, reply.body), endpoint.hints)
            except BodyError as error:
                if error.reason == "not_json":
                    raise BodyFault(str(error)) from None
                raise TransportError(
                    f"{request.label}: HTTP {reply.status}, {reply.content_type}: {error}; the answer is "
                    f"{self.transport.excerpt(reply.body)!r}. Check data_selector, or what the API means by it",
                    status=reply.status,
                ) from None
            return _fetched(reply, page, _look_up(endpoint, page.envelope))

        if endpoint.ignore:
            return self._send(endpoint, request, accept, tolerate=lambda reply: _is_ignored(endpoint.ignore, reply))
        return self._send(endpoint, request, accept, given=given)

    def _send(self, endpoint: Endpoint, request: Request, accept: Callable[[Reply], Taken], **options: Any) -> Taken:
        """What the transport makes of a request, once there is room for one more."""
        with endpoint.gate, self._window:
            return self.transport.send(request, accept, **options)


# An end mark that is not there at all, which says nothing; one that is null is None.
_ABSENT: Any = object()
_NO_ROWS = read_page(b"[]", None)


@dataclass(frozen=True)
class _Fetched:
    """An answer, decoded.

    Attributes:
        total: What the paginator's `total_path` says: rows for offsets, pages for page numbers.
        row_total: What the resource's `total_path` says.
        mark: What `has_more_path` says: True, False, None for null, or `_ABSENT`.
        ignored: A response action says that it means nothing.
    """

    reply: Reply
    page: Page
    total: int | None = None
    row_total: int | None = None
    mark: Any = _ABSENT
    ignored: bool = False


def _fetched(reply: Reply, page: Page, looked_up: Mapping[str, Any]) -> _Fetched:
    return _Fetched(reply, page, **looked_up)


@dataclass(frozen=True)
class _Ahead:
    """Neighbouring pages that one worker fetches."""

    positions: list[int]
    future: Future[list[_Fetched | TransportError]]
    stop: threading.Event


def _read_many(endpoint: Endpoint, replies: Sequence[Reply]) -> list[Page] | None:
    """The pages of several answers; None where each must be looked at by itself."""
    if len(replies) < 2 or any(reply.status == 204 for reply in replies):
        return None
    try:
        return read_pages([reply.body for reply in replies], _selector(endpoint, replies[0].body), endpoint.hints)
    except BodyError:
        return None


def _repeats(page: Page, other: Page, shape: RowShape) -> bool:
    """Whether the page holds the other one's rows, in the same order."""
    if not page.rows or not same_rows(page, other, shape):
        return False
    # Rows without a key are all alike to their keys.
    return bool((row_keys(page, shape) != NO_KEY).all()) or page.objects() == other.objects()


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
        self.stops_at_empty = config.get("stop_after_empty_page") is not False
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
                json = deepcopy(json) if json is not None else {}
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

    def __init__(
        self, plan: _RangePlan, facts: PassFacts, shape: RowShape, *, overlapping: bool, past_total: bool
    ) -> None:
        self.plan = plan
        self.position = plan.start
        self._facts = facts
        self._shape = shape
        self._past_total = past_total
        # A maximum says where to stop, and a page that may be empty has no row to begin with.
        self._overlapping = overlapping and plan.offset and plan.maximum is None and plan.stops_at_empty
        self._covered = plan.start
        self._total: int | None = None
        self._stated: list[int] = []
        self._overlap = 0
        self._largest = 0
        self._short = False
        self._before: Page | None = None
        self._number = 0

    def width(self, window: int) -> int:
        """Workers' loads that may be asked for: one until the page size is known. With no total to say where the end is,
        as many as there were pages, and one where this page looks like the last. With one, two windows, so that no worker
        waits until somebody has taken what it brought.
        """
        if not self._number or (self._total is None and self._short):
            return 1
        if self._total is None:
            return min(window, self._number)
        # Only the second page shows whether the server pages as it is asked to.
        return 2 * window if self._number > 1 else window

    def ahead(self, last: int | None, window: int, most: int) -> list[int]:
        """The addresses that one worker fetches next.

        Args:
            last: The last one that is asked for already; None where there is none.
            window: Workers.
            most: Addresses at most.
        """
        first = self.position if last is None else self.after(last)
        if first is None:
            return []
        if self._total is not None and self._before is not None:
            # A stated end lets several pages be one worker's: no more than came so far, because only what came shows how
            # this server pages, and fewer towards the end, so that no worker is alone there.
            step = max(self._largest, 1) if self.plan.offset else 1
            left = (self._total + self.plan.base - first) // step // (2 * window)
            most = min(most, left, self._number, _MOST_BYTES_AT_ONCE // max(self._before.size, 1))
        else:
            most = 1
        positions = [first]
        while len(positions) < most and (following := self.after(positions[-1])) is not None:
            positions.append(following)
        return positions

    def after(self, position: int) -> int | None:
        """The address behind this one, if a page may lie there."""
        following = position + (max(self._largest - self._overlap, 1) if self.plan.offset else 1)
        maximum = self.plan.maximum
        if maximum is not None and following >= maximum:
            return None
        return None if self._is_behind(following) else following

    def _is_behind(self, position: int) -> bool:
        """Whether the address lies behind the stated end."""
        return self._total is not None and position >= self._total + self.plan.base

    def expects_refusal(self) -> bool:
        """A page that the server refuses to have: whether that says something, and is no fault."""
        if self._overlap and self._number == 1:
            self._facts.moved = self._facts.moved_at_once = self._facts.round_offsets = True
        elif self._number and self._is_behind(self.position):
            self._facts.unproven += 0 if self._overlap else 1
            self._facts.ended = "total"
        else:
            return False
        return True

    def arrive(self, fetched: _Fetched) -> PageRead | None:
        """Take the page that starts at `position`; None where it only shows that rows moved.

        Raises:
            PagingError: the server sent the page before once more, or says that more follows an empty page.
        """
        facts, plan, page = self._facts, self.plan, fetched.page
        self._number += 1
        overlap, before = self._overlap, self._before
        if before is not None and _repeats(page, before, self._shape):
            if overlap:
                facts.moved = True
                facts.moved_at_once = facts.round_offsets = self._number == 2
                return None
            raise PagingError(
                f"{plan.name}: page {self._number} is the same as page {self._number - 1}: the server ignores "
                f"{plan.parameter!r}, or sends its last page for every page behind it. Check the paginator's parameter "
                "names against the API's documentation, and name the end with has_more_path or total_path"
            )
        if before is not None and overlap:
            first = row_identity(page, self._shape, 0) if page.rows else None
            if first != row_identity(before, self._shape, -1):
                facts.moved, facts.moved_at_once = True, self._number == 2
                return None
            if first == NO_KEY:
                facts.unproven += 1
        elif before is not None:
            facts.unproven += 1
        row_total = fetched.total if plan.offset and fetched.row_total is None else fetched.row_total
        stated = row_total if plan.offset else fetched.total
        if stated is not None:
            self._total = stated
            self._stated.append(stated)
        new = page.rows - overlap
        if new > 0 and before is not None:
            facts.turns += 1
            if before.rows < plan.limit:
                facts.cap = max(facts.cap or 0, before.rows)
        if new > 0:
            self._covered += new
        elif not plan.stops_at_empty:
            self._covered += plan.limit
        # Where nothing says what a full page is, the first page may be a short one.
        self._short = page.rows < (self._largest if self._largest else plan.limit or page.rows + 1)
        self._largest = max(self._largest, page.rows)
        self._before = page
        facts.ended = self._end(fetched, new)
        if facts.ended == "empty page" and not plan.offset and row_total is None and not self._is_behind(self.position):
            # Fewer pages than `total` says there are: it counts rows, as in many APIs, or some are missing.
            for total in self._stated:
                facts.state(total)
        self._overlap = 1 if self._overlapping and page.rows > 1 else 0
        self.position = self._covered - self._overlap if plan.offset else self.position + 1
        if not facts.ended and plan.maximum is not None and self.position >= plan.maximum:
            facts.ended = "maximum"
        return PageRead(page.slice(overlap) if overlap else page, self._number, row_total)

    def _end(self, fetched: _Fetched, new: int) -> str:
        """How this page shows the end; empty where it does not. A full page at the stated end shows nothing yet."""
        plan = self.plan
        if fetched.ignored:
            return "no next page"
        if fetched.mark is False:
            return "no more"
        stated_end = self._is_behind(self._covered if plan.offset else self.position + 1)
        endless = self._total is None and plan.maximum is None and fetched.mark is _ABSENT
        if new <= 0 and (plan.stops_at_empty or endless):
            if fetched.mark is True:
                raise PagingError(
                    f"{plan.name}: page {self._number} is empty but says there is more. If pages may be empty, set "
                    "stop_after_empty_page: false"
                )
            return "empty page"
        if stated_end and not self._past_total and (self._short or not plan.stops_at_empty):
            return "total"
        return "no more" if fetched.mark is None and self._short else ""


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
        deepcopy(request.json), request.data or None, label,
    )  # fmt: skip


def _reference(request: requests.Request) -> str:
    """What tells one page's request from another's."""
    return jsonlib.dumps([request.url, request.params or {}, request.json], sort_keys=True, default=str)


def _says_end(config: Mapping[str, Any], response: _Response) -> bool:
    """Whether the server says, by a null or an empty mark where the next one would stand, that this is the end."""
    kind = config["type"]
    if kind == "json_link":
        return bool(jsonpath.find_values(config.get("next_url_path", "next"), response.json()))
    if kind == "cursor":
        return bool(jsonpath.find_values(config.get("cursor_path", "cursors.next"), response.json()))
    if kind == "header_link":
        return bool(response.links)
    return config.get("cursor_key", "next") in response.headers


def _end_mark(path: Any, document: Any) -> Any:
    """The server's word on whether more follows: True, False, None for null, `_ABSENT` where it says nothing."""
    found = jsonpath.find_values(path, document) if isinstance(document, (dict, list)) else []  # type: ignore[arg-type]
    if not found:
        return _ABSENT
    value = found[0]
    if isinstance(value, str):
        return str2bool(value) if value else None
    return None if value is None else bool(value)


def _asked_rows(endpoint: Endpoint) -> int | None:
    """The page size that a request asks for by one of its usual names."""
    names = (
        "limit",
        "page_size",
        "pagesize",
        "per_page",
        "page-size",
        "max",
        "pagelimit",
        "itemsinpage",
        "size",
        "$top",
    )
    for source in (endpoint.params, endpoint.json if isinstance(endpoint.json, Mapping) else {}):
        for name, value in source.items():
            if str(name).lower() in names and str(value).isdigit():
                return int(value)
    return None


def _selector(endpoint: Endpoint, body: bytes) -> str:
    """Where the rows are: what the connection says, else the list that dlt would take on the first page.

    Raises:
        BodyError: there is no list in a page of a list, or there are several, and none has a name that dlt knows.
    """
    if endpoint.data_selector is not None:
        return endpoint.data_selector
    if not endpoint.found_selector:
        try:
            document = jsonlib.loads(body)
        except ValueError:
            return "$"  # no JSON: reading the page says so
        lists = find_all_lists(document, result=[]) or [] if isinstance(document, dict) else None
        if lists is None or (not lists and endpoint.paginator["type"] == "single_page"):
            return "$"
        known = [path for path, _ in lists if path[-1] in RECORD_KEY_PATTERNS]
        top = [path for path, _ in lists if len(path) == min(len(other) for other, _ in lists)]
        if not known and len(top) != 1:
            which = ", ".join(".".join(path) for path in top) or "no list"
            raise BodyError("no_selector", f"without a data_selector, the rows could be in {which}")
        path = (known or top)[0]
        endpoint.found_selector.append(".".join(k if re.fullmatch(r"[A-Za-z_]\w*", k) else f"'{k}'" for k in path))
    return endpoint.found_selector[0]


def _look_up(endpoint: Endpoint, envelope: Any) -> dict[str, Any]:
    """What the paging needs from around the rows: totals and end marks."""
    config = endpoint.paginator
    found: dict[str, Any] = {}
    if endpoint.total_path:
        found["row_total"] = _integer(envelope, endpoint.total_path)
    if config["type"] in ("offset", "page_number"):
        total_path = config.get("total_path", "total")
        if total_path:
            found["total"] = _integer(envelope, total_path)
        if config.get("has_more_path"):
            found["mark"] = _end_mark(config["has_more_path"], envelope)
    return found


def _integer(envelope: Any, path: str) -> int | None:
    if not isinstance(envelope, dict):
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


def _drop(pending: deque[_Ahead]) -> None:
    """Forget pages that were asked for too early; requests under way finish unseen."""
    while pending:
        ahead = pending.pop()
        ahead.stop.set()
        ahead.future.cancel()
