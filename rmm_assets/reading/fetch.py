"""Fetches pages: one request to one decoded answer, in workers, several ahead, within a window."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from rmm_assets.errors import BodyError, TransportError
from rmm_assets.http.transport import BodyFault, Reply, Request, Transport
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.selector import selector_of
from rmm_assets.rows.decode import Page, read_page, read_pages

Taken = TypeVar("Taken")

_NO_ROWS = read_page(b"[]", None)


class Window:
    """How many requests may be under way: halved when the API throttles, grown by one after a quiet round.

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
    """Fetches the pages of any number of endpoints through one transport.

    Attributes:
        width: Pages under way at once at most, over all endpoints.
        window: How many of them may be under way now.

    Args:
        transport: Sends requests; its `on_throttle` is taken.
        width: See above.
    """

    def __init__(self, transport: Transport, *, width: int = 8) -> None:
        self.transport = transport
        self.width = width
        self.window = Window(width)
        self._workers = ThreadPoolExecutor(max_workers=width, thread_name_prefix="rmm-page")
        transport.on_throttle(self.window.throttled)

    def close(self) -> None:
        """Ends the workers; what is under way is dropped."""
        self.transport.close()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def submit(self, endpoint: Endpoint, request: Request) -> Future[Answer]:
        """Has a worker fetch one page."""
        return self._workers.submit(self._fetch, endpoint, request)

    def submit_many(
        self, endpoint: Endpoint, requests: Sequence[Request], stop: threading.Event
    ) -> Future[list[Answer | TransportError]]:
        """Has one worker fetch neighbouring pages, see `_fetch_many`."""
        return self._workers.submit(self._fetch_many, endpoint, requests, stop)

    def _fetch_many(
        self, endpoint: Endpoint, requests: Sequence[Request], stop: threading.Event
    ) -> list[Answer | TransportError]:
        """Fetches neighbouring pages, one request after the other, decoded at once, which takes a third of the time.

        Args:
            stop: Set when the pages are no longer wanted.

        Returns:
            The pages, fewer than asked for where one is so small that the end may be there; an error is the last one.
        """
        failure: list[Answer | TransportError] = []
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
            return [*map(Answer, replies, pages), *failure]
        found: list[Answer | TransportError] = []
        try:
            for request, reply in zip(requests, replies, strict=False):
                found.append(self._fetch(endpoint, request, reply))
        except TransportError as error:
            return [*found, error]
        return [*found, *failure]

    def _fetch(self, endpoint: Endpoint, request: Request, given: Reply | None = None) -> Answer:
        """Sends a request and decodes the answer.

        Args:
            given: The answer, where it is here already.
        """

        def accept(reply: Reply) -> Answer:
            if _is_ignored(endpoint.ignore, reply):
                return Answer(reply, _NO_ROWS, ignored=True)
            if reply.status == 204 and not reply.body:
                return Answer(reply, _NO_ROWS)
            try:
                return Answer(reply, read_page(reply.body, selector_of(endpoint, reply.body), endpoint.hints))
            except BodyError as error:
                if error.reason == "not_json":
                    raise BodyFault(str(error)) from None
                raise TransportError(
                    f"{request.label}: HTTP {reply.status}, {reply.content_type}: {error}; the answer is "
                    f"{self.transport.excerpt(reply.body)!r}. Check data_selector, or what the API means by it",
                    status=reply.status,
                ) from None

        if endpoint.ignore:
            return self._send(endpoint, request, accept, tolerate=lambda reply: _is_ignored(endpoint.ignore, reply))
        return self._send(endpoint, request, accept, given=given)

    def _send(self, endpoint: Endpoint, request: Request, accept: Callable[[Reply], Taken], **options: Any) -> Taken:
        """Returns what the transport makes of a request, once there is room for one more."""
        with endpoint.gate, self.window:
            return self.transport.send(request, accept, **options)


def _read_many(endpoint: Endpoint, replies: Sequence[Reply]) -> list[Page] | None:
    """The pages of several answers; None where each must be looked at by itself."""
    if len(replies) < 2 or any(reply.status == 204 for reply in replies):
        return None
    try:
        return read_pages([reply.body for reply in replies], selector_of(endpoint, replies[0].body), endpoint.hints)
    except BodyError:
        return None


def _is_ignored(actions: tuple[Mapping[str, Any], ...], reply: Reply) -> bool:
    for action in actions:
        status, content = action.get("status_code"), action.get("content")
        if (status is None or int(status) == reply.status) and (content is None or content.encode() in reply.body):
            return True
    return False
