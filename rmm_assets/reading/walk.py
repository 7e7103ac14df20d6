"""Walks over an endpoint's pages once, in order; `completeness` decides whether they are all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

from rmm_assets.errors import PagingError, TransportError
from rmm_assets.http.request import Request
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PageRead, PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import ByPosition, ByReference
from rmm_assets.reading.positions import MOST_AT_ONCE, Positions
from rmm_assets.reading.references import References
from rmm_assets.reading.signals import Signals

# An API that filters the rows of a page may send some without any; a cursor that counts up behind the last row never ends.
_FEW_PAGES = 100
# Statuses for a page that does not exist, such as one past the end or at an offset that is not round.
_NO_SUCH_PAGE = (400, 404, 410, 416, 422)


def walk(
    pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, *, overlapping: bool = True,
    past_total: bool = False,
) -> Generator[PageRead]:  # fmt: skip
    """Walks once over an endpoint's pages.

    Args:
        pager: Fetches the pages.
        endpoint: The endpoint.
        facts: Filled in as pages are received.
        signals: The run's signals; those of this pass are added.
        overlapping: Request the last row of each page again with the next page, if the paging allows it: the only proof,
            short of reading twice, that no row moved across the boundary.
        past_total: Do not treat the stated total as the end but continue to an empty page.

    Raises:
        TransportError: A page could not be fetched.
        PagingError: The paging does not advance or does not end.
    """
    paginator = endpoint.paginator
    if isinstance(paginator, ByPosition):
        place = Positions(endpoint, paginator, facts, signals, overlapping=overlapping, past_total=past_total)
        pages = _walk_positions(pager, endpoint, place, facts)
    else:
        assert isinstance(paginator, ByReference), "a style is one of the two kinds"
        pages = _walk_references(pager, endpoint, paginator, facts, signals)
    without_rows, most_without_rows = 0, max(_FEW_PAGES, pager.most_pages // 100)
    for read in pages:
        facts.pages += 1
        without_rows = 0 if read.page.rows else without_rows + 1
        if without_rows > most_without_rows:
            raise PagingError(
                f"{endpoint.name}: {without_rows:,} pages in a row have no rows, and the API says that there are more. Name its "
                "end with has_more_path, last_path or stop_after_empty_page; if there really are more, raise limits.max_pages, "
                "of which a hundredth may follow each other without rows"
            )
        if facts.pages > pager.most_pages:
            raise PagingError(
                f"{endpoint.name}: more than {pager.most_pages:,} pages were received and the API has more; if it really has "
                "this many, raise limits.max_pages"
            )
        facts.state(read.total)
        yield read


# Known addresses


@dataclass(frozen=True)
class _Ahead:
    """Consecutive pages that one worker fetches."""

    positions: list[int]
    future: Future[list[Answer | TransportError]]
    stop: threading.Event


def _walk_positions(pager: Pager, endpoint: Endpoint, place: Positions, facts: PassFacts) -> Iterator[PageRead]:
    """Walks over offsets or page numbers: requests run ahead, pages are checked in order."""
    pending: deque[_Ahead] = deque()
    try:
        while not facts.ended and not facts.moved:
            while len(pending) < place.width(pager.window.size):
                # Responses that may be ignored are checked one by one.
                most = 1 if endpoint.ignore else MOST_AT_ONCE
                positions = place.ahead(pending[-1].positions[-1] if pending else None, pager.window.size, most)
                if not positions:
                    break
                number = facts.pages + sum(len(ahead.positions) for ahead in pending) + 1
                requests = [place.request(at, number + index) for index, at in enumerate(positions)]
                stop = threading.Event()
                future = pager.submit_many(endpoint, requests, stop, first=number == 1)
                pending.append(_Ahead(positions, future, stop))
            ahead = pending.popleft()
            for position, answer in zip(ahead.positions, ahead.future.result(), strict=False):
                if position != place.position or facts.ended or facts.moved:
                    break
                if isinstance(answer, TransportError):
                    if answer.status in _NO_SUCH_PAGE and place.expects_refusal(answer.status):
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
    """Drops pages that were requested too early; the responses of requests in flight are ignored."""
    while pending:
        ahead = pending.pop()
        ahead.stop.set()
        ahead.future.cancel()


# Addresses that each page names


def _walk_references(
    pager: Pager, endpoint: Endpoint, paginator: ByReference, facts: PassFacts, signals: Signals
) -> Iterator[PageRead]:
    """Walks over links, cursors or a single page: the next request is sent before a page is processed."""
    request = endpoint.request()
    chain = References(endpoint, paginator, facts, signals)
    future = pager.submit(endpoint, _labelled(endpoint, request, 1), first=True)
    number, seen = 1, {_address(request)}
    while True:
        answer = future.result()
        pager.window.quiet()
        if chain.ends_in_itself(request, answer):
            return
        total = chain.arrive(answer)
        following = chain.following(request, answer)
        if following is None and chain.needs_another_look:
            again = pager.submit(endpoint, _labelled(endpoint, request, number), first=number == 1).result()
            following = chain.look_again(request, again)
        elif chain.zero is not None:
            found = None if _address(chain.zero) in seen else _look(pager, endpoint, chain.zero)
            following = chain.zero if chain.goes_on_at_zero(found) else None
        if following is not None:
            if "://" in following.path:
                following = replace(following, path=pager.transport.same_origin(following.path))
            number, request = number + 1, following
            if _address(request) in seen and not paginator.stays:
                raise PagingError(
                    f"{endpoint.name}: page {number - 1} names a next page that was already read: the cursor does not move"
                )
            seen.add(_address(request))
            future = pager.submit(endpoint, _labelled(endpoint, request, number))
        yield PageRead(answer.page, chain.number, total)
        if following is None:
            return


def _look(pager: Pager, endpoint: Endpoint, request: Request) -> Answer | None:
    """Returns the response to a request that may fail, which says nothing; None if it does."""
    try:
        return pager.look(
            endpoint, replace(request, label=f"{endpoint.name}, a page that may not exist"), patient=False
        )
    except TransportError:
        return None


def _labelled(endpoint: Endpoint, request: Request, number: int) -> Request:
    return replace(request, label=f"{endpoint.name} page {number}")


def _address(request: Request) -> str:
    """Returns a text that identifies a page's request."""
    parts = (request.params, request.headers)
    return repr((request.path, *(sorted(part.items(), key=repr) for part in parts), request.json))
