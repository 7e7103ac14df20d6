"""Walks over an endpoint's pages, in order, once: what came is counted here, whether it is all is judged elsewhere."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from rmm_assets.errors import PagingError, TransportError
from rmm_assets.http.transport import Request
from rmm_assets.reading.answers import ABSENT, Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PageRead, PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import ByPosition, ByReference, SinglePagePaginator
from rmm_assets.reading.positions import MOST_AT_ONCE, Positions
from rmm_assets.reading.stated import more_mark, repeats, whole_number
from rmm_assets.rows.decode import Page

# How servers refuse an address that they do not have: a page behind the last one, an offset that is not round.
_NO_SUCH_PAGE = (400, 404, 410, 416, 422)


def walk(
    pager: Pager, endpoint: Endpoint, facts: PassFacts, *, overlapping: bool = True, past_total: bool = False
) -> Iterator[PageRead]:
    """Walks once over an endpoint.

    Args:
        facts: Filled in while the pages come.
        overlapping: Ask for the last row of each page again with the next one, where the paging allows it: the only
            proof, short of reading twice, that no row moved across the boundary.
        past_total: Do not take the stated total for the end: go on to a page that is empty.

    Raises:
        TransportError: a page could not be had.
        PagingError: the paging does not lead on, or not to an end.
    """
    paginator = endpoint.paginator
    if isinstance(paginator, ByPosition):
        pages = _walk_positions(pager, endpoint, paginator, facts, overlapping=overlapping, past_total=past_total)
    else:
        assert isinstance(paginator, ByReference), "a style is one of the two kinds"
        pages = _walk_references(pager, endpoint, paginator, facts)
    for read in pages:
        facts.pages += 1
        facts.state(read.total)
        yield read


# Known addresses


@dataclass(frozen=True)
class _Ahead:
    """Neighbouring pages that one worker fetches."""

    positions: list[int]
    future: Future[list[Answer | TransportError]]
    stop: threading.Event


def _walk_positions(
    pager: Pager, endpoint: Endpoint, paginator: ByPosition, facts: PassFacts, *, overlapping: bool, past_total: bool
) -> Iterator[PageRead]:
    """Offsets and page numbers: requests run ahead of the pages, pages are checked in order."""
    place = Positions(endpoint, paginator, facts, overlapping=overlapping, past_total=past_total)
    pending: deque[_Ahead] = deque()
    try:
        while not facts.ended and not facts.moved:
            while len(pending) < place.width(pager.window.size):
                # Answers that mean something else are looked at one by one.
                most = 1 if endpoint.ignore else MOST_AT_ONCE
                positions = place.ahead(pending[-1].positions[-1] if pending else None, pager.window.size, most)
                if not positions:
                    break
                number = facts.pages + sum(len(ahead.positions) for ahead in pending) + 1
                requests = [place.request(at, number + index) for index, at in enumerate(positions)]
                stop = threading.Event()
                pending.append(_Ahead(positions, pager.submit_many(endpoint, requests, stop), stop))
            ahead = pending.popleft()
            for position, answer in zip(ahead.positions, ahead.future.result(), strict=False):
                if position != place.position or facts.ended or facts.moved:
                    break
                if isinstance(answer, TransportError):
                    if answer.status in _NO_SUCH_PAGE and place.expects_refusal():
                        break
                    raise answer
                pager.window.quiet()
                read = place.arrive(answer)
                if read is not None:
                    yield read
            if pending and pending[0].positions[0] != place.position:
                _drop(pending)
    finally:
        _drop(pending)


def _drop(pending: deque[_Ahead]) -> None:
    """Forgets pages that were asked for too early; requests under way finish unseen."""
    while pending:
        ahead = pending.pop()
        ahead.stop.set()
        ahead.future.cancel()


# Addresses that each page names


def _walk_references(pager: Pager, endpoint: Endpoint, paginator: ByReference, facts: PassFacts) -> Iterator[PageRead]:
    """Links, cursors and single pages: the next request goes out before this page is worked on."""
    request = endpoint.request()
    seen = {_address(request)}
    future = _ask(pager, endpoint, request, 1)
    number = largest = 0
    before: Page | None = None
    while True:
        answer = future.result()
        pager.window.quiet()
        number += 1
        page, total = answer.page, whole_number(answer, endpoint.total_path)
        following = _following(endpoint, paginator, facts, request, answer, number, largest, total)
        if before is not None and repeats(page, before, endpoint.shape):
            raise PagingError(
                f"{endpoint.name}: page {number} is the same as page {number - 1}; the server does not follow its "
                "own paging. Check the paginator's parameter names against the API's documentation"
            )
        if following is not None:
            request = (
                replace(following, path=pager.transport.same_origin(following.path))
                if ("://" in following.path)
                else following
            )
            if _address(request) in seen:
                raise PagingError(
                    f"{endpoint.name}: page {number} names a next page that was read already: the cursor does not move"
                )
            seen.add(_address(request))
            future = _ask(pager, endpoint, request, number + 1)
        yield PageRead(page, number, total)
        largest = max(largest, page.rows)
        before = page
        if following is None:
            return


def _ask(pager: Pager, endpoint: Endpoint, request: Request, number: int) -> Future[Answer]:
    return pager.submit(endpoint, replace(request, label=f"{endpoint.name} page {number}"))


def _address(request: Request) -> str:
    """What tells one page's request from another's."""
    parts = (request.params, request.headers)
    return repr((request.path, *(sorted(part.items(), key=repr) for part in parts), request.json))


def _following(
    endpoint: Endpoint, paginator: ByReference, facts: PassFacts, asked: Request, answer: Answer, number: int,
    largest: int, total: int | None,
) -> Request | None:  # fmt: skip
    """The request for the next page; None at an end that may be believed."""
    if isinstance(paginator, SinglePagePaginator):
        facts.ended = "single page"
        return None
    if answer.ignored:
        facts.ended = "no next page"
        return None
    if paginator.stops_at_empty and not answer.page.rows:
        facts.ended = "empty page"
        return None
    mark = more_mark(answer, paginator.more_path)
    if mark is False:
        facts.ended = "no more"
        return None
    reference = paginator.reference(answer)
    if reference is not ABSENT and reference:
        try:
            return paginator.following(asked, answer, reference)
        except PagingError as error:
            raise PagingError(f"{endpoint.name}: page {number}: {error}") from None
    if mark is not None:  # a null mark is the end, as on SuperOps' last page
        _believe_end(endpoint, asked, answer, number, largest, mark, total, reference)
    facts.ended = "no next page"
    return None


def _believe_end(
    endpoint: Endpoint, asked: Request, answer: Answer, number: int, largest: int, mark: Any, total: int | None,
    reference: Any,
) -> None:  # fmt: skip
    """Believes that there is no next page, unless it may have been lost.

    Raises:
        PagingError: the server says there is more, or the page is full and nothing says that it was the last one.
    """
    rows = answer.page.rows
    if mark is True:
        raise PagingError(f"{endpoint.name}: page {number} says there is more, but names no next page")
    if total is not None or not rows or reference is not ABSENT:
        return
    size = endpoint.paginator.asked_rows(asked)
    if rows == size or (size is None and number > 1 and rows >= largest):
        raise PagingError(
            f"{endpoint.name}: page {number} is full ({rows} rows) and names no next page. Rows may be missing: if the "
            "API has an end mark, name it with has_more_path; if it states a total, with total_path"
        )
