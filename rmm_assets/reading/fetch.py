"""Fetches pages in worker threads, several ahead, limited by a window that adapts to rate limiting."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from rmm_assets.errors import BodyError, TransportError
from rmm_assets.http.request import Request
from rmm_assets.http.transport import BodyFault, Reply, Transport
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.failures import error_beside
from rmm_assets.reading.selector import holds_object, selector_of, stands_for_no_rows
from rmm_assets.reading.settings import EmptyAs
from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.maps import map_as_list
from rmm_assets.rows.page import Page

Taken = TypeVar("Taken")

# NUL in JSON; behind an odd number of backslashes, the last of which belongs to it.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_NO_ROWS = read_page(b"[]", None)


class Window:
    """Limits the number of requests in flight: halved when the API throttles, raised by one after a full window without it.

    A context manager that waits for room on entry.
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
        width: Maximum number of pages in flight over all endpoints.
        most_pages: Maximum number of pages of one read.
        window: Limits the pages in flight at the moment.

    Args:
        transport: Sends the requests; its `on_throttle` callback is set.
        width, most_pages: See above.
    """

    def __init__(self, transport: Transport, *, width: int = 8, most_pages: int = 100_000) -> None:
        self.transport = transport
        self.most_pages = most_pages
        self.width = width
        self.window = Window(width)
        self._workers = ThreadPoolExecutor(max_workers=width, thread_name_prefix="rmm-page")
        transport.on_throttle(self.window.throttled)

    def close(self) -> None:
        """Ends the workers and drops requests in flight."""
        self.transport.close()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def submit(self, endpoint: Endpoint, request: Request, *, first: bool = False) -> Future[Answer]:
        """Fetches one page in a worker.

        Args:
            endpoint: The page's endpoint.
            request: The request for it.
            first: Whether it is the first page of a read, for which 204 means no rows.
        """
        return self._workers.submit(self._fetch, endpoint, request, first)

    def submit_many(
        self, endpoint: Endpoint, requests: Sequence[Request], stop: threading.Event, *, first: bool = False
    ) -> Future[list[Answer | TransportError]]:
        """Fetches consecutive pages in one worker (see `_fetch_many`)."""
        return self._workers.submit(self._fetch_many, endpoint, requests, stop, first)

    def look(self, endpoint: Endpoint, request: Request, *, patient: bool = True) -> Answer | None:
        """Fetches a page that may not exist; returns None if the API does not have it.

        Failed requests are retried as for any page; a lasting server error counts as a missing page, as at some APIs.

        Args:
            endpoint: The page's endpoint.
            request: The request for it.
            patient: Whether server errors and bodies that are not JSON are retried.
        """

        def accept(reply: Reply) -> Answer | None:
            if reply.status == 204 or reply.status >= 300:
                return None
            try:
                reply = _as_json_list(endpoint, reply)
                selector = selector_of(endpoint, reply.body)
                page = _decoded(endpoint, reply, selector)
                return None if error_beside(page.envelope, selector, endpoint.wrong_signals) else Answer(reply, page)
            except BodyError as error:
                if error.reason in ("not_json", "not_xml") and patient:
                    raise BodyFault(str(error)) from None
                return None

        def refuses(reply: Reply) -> bool:
            return 400 <= reply.status < (500 if patient else 600) and reply.status != 429

        try:
            return self._workers.submit(self._send, endpoint, request, accept, tolerate=refuses).result()
        except TransportError as error:
            if error.status is None or error.status == 429 or error.status < 300:
                raise
            return None

    def reply(self, endpoint: Endpoint, request: Request) -> Reply:
        """Fetches an answer that is not a page."""
        reply: Reply = self._workers.submit(self._send, endpoint, request, lambda reply: reply).result()
        return reply

    def _fetch_many(
        self, endpoint: Endpoint, requests: Sequence[Request], stop: threading.Event, first: bool
    ) -> list[Answer | TransportError]:
        """Fetches consecutive pages one by one and decodes them together, which takes a third of the time.

        Args:
            endpoint: The pages' endpoint.
            requests: One request per page.
            stop: Set when the pages are no longer wanted.
            first: Whether the first of them is the first page of a read.

        Returns:
            The pages; fewer than requested after one so small that the end may be near. An error comes last.
        """
        failure: list[Answer | TransportError] = []
        replies: list[Reply] = []
        try:
            if len(requests) == 1:
                return [self._fetch(endpoint, requests[0], first)]
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
                found.append(self._fetch(endpoint, request, first, reply))
        except TransportError as error:
            return [*found, error]
        return [*found, *failure]

    def _fetch(self, endpoint: Endpoint, request: Request, first: bool, given: Reply | None = None) -> Answer:
        """Sends a request, unless its response is given, and decodes the response."""

        def is_ignored(reply: Reply) -> bool:
            return _is_ignored(endpoint.ignore, reply) or (first and reply.status in endpoint.refusals)

        def accept(reply: Reply) -> Answer:
            if is_ignored(reply):
                return Answer(reply, _NO_ROWS, ignored=True)
            try:
                reply = _as_json_list(endpoint, reply)
            except BodyError as error:
                raise BodyFault(str(error) if error.reason == "not_xml" else f"{error}; {_ADVICE}") from None
            return Answer(reply, _page(endpoint, reply, first))

        tolerate = is_ignored if endpoint.ignore or endpoint.refusals else None
        return self._send(endpoint, request, accept, tolerate=tolerate, given=given)

    def _send(self, endpoint: Endpoint, request: Request, accept: Callable[[Reply], Taken], **options: Any) -> Taken:
        """Sends a request as soon as the window and the endpoint's gate have room."""
        with endpoint.gate, self.window:
            return self.transport.send(request, lambda reply: accept(_without_nul(endpoint, reply)), **options)


def _without_nul(endpoint: Endpoint, reply: Reply) -> Reply:
    """Returns a response without the character NUL if the destination cannot store it: U+FFFD stands for it."""
    if not endpoint.replaces_nul or b"u0000" not in reply.body:
        return reply
    body = _NUL.sub(rb"\1\\ufffd", reply.body)
    endpoint.learned.nul_replaced |= body != reply.body
    return replace(reply, body=body)


def _page(endpoint: Endpoint, reply: Reply, first: bool) -> Page:
    """Returns the page in a response.

    Raises:
        BodyFault: The response has no list of rows. This is not an end, and a retry may bring one.
        TransportError: The body exceeds a limit.
    """
    if reply.status == 204 and not reply.body:
        if first or "no_content" in endpoint.empty_as:
            return _NO_ROWS
        raise BodyFault("a page after the first has no content; if this means no rows, write empty_as: no_content")
    try:
        # Checked before decoding: a bare null kills Arrow's reader.
        selector = selector_of(endpoint, reply.body)
        if len(reply.body) < _SMALL and _has_no_list(endpoint, reply, selector):
            return _NO_ROWS
        page = _decoded(endpoint, reply, selector)
        _refuse_error(endpoint, page.envelope, selector)
        if page.rows > 1:
            return page
        if _has_no_list(endpoint, reply, selector):
            return _NO_ROWS
        if not endpoint.single_object and holds_object(reply.body, selector):
            raise BodyFault(
                f"the value at {selector!r} is an object, not a list; {_ADVICE}, or write single_object: true if it is a row"
            )
        return page
    except BodyError as error:
        if error.reason == "no_selector" and endpoint.selector and _has_no_list(endpoint, reply, endpoint.selector):
            return _NO_ROWS
        if error.reason != "too_large":
            raise BodyFault(f"{error}; {_ADVICE}" if error.reason != "not_json" else str(error)) from None
        problem = str(error)
    # A retry would not help.
    raise TransportError(f"{endpoint.name}: {problem}")


def _has_no_list(endpoint: Endpoint, reply: Reply, selector: str) -> bool:
    """Returns whether a response has something else than a list of rows, and the connection file says that it means no rows.

    Raises:
        BodyFault: It has something else, and the file does not say that, or the response says that the request failed.
    """
    word = stands_for_no_rows(reply.body, selector)
    if word is None:
        return False
    if word in endpoint.empty_as:
        _refuse_error(endpoint, orjson.loads(reply.body) if reply.body.strip() else None, selector)
        return True
    raise BodyFault(f"{_NO_LIST[word].format(selector)}; {_ADVICE}, or write empty_as: {word} if this means no rows")


def _refuse_error(endpoint: Endpoint, envelope: Any, selector: str) -> None:
    """Refuses a response that says that the request failed.

    Raises:
        BodyFault: It does.
    """
    if problem := error_beside(envelope, selector, endpoint.wrong_signals):
        raise BodyFault(
            f"`{problem}` next to the rows says that the request failed, or a part of it. If it does not mean that, list it in "
            "wrong_signals"
        )


def _as_json_list(endpoint: Endpoint, reply: Reply) -> Reply:
    """Returns a response in JSON whose rows are a list.

    Raises:
        BodyError: The body is not XML although the file says so, or the rows are a map whose values are not rows.
    """
    if endpoint.xml_path is not None and reply.body:
        from rmm_assets.rows.xml import xml_as_json

        reply = replace(reply, body=xml_as_json(reply.body, endpoint.xml_path))
    if endpoint.map_key is None or endpoint.selector is None:
        return reply
    return replace(reply, body=map_as_list(reply.body, endpoint.selector, endpoint.map_key))


def _decoded(endpoint: Endpoint, reply: Reply, selector: str) -> Page:
    """Returns the page in a response.

    Raises:
        BodyError: It has none, or something else stands in place of one of several lists.
    """
    page = read_page(reply.body, selector, endpoint.types, null_values=endpoint.null_values)
    for gap in sorted(page.gaps - set(endpoint.empty_as)):
        raise BodyError(
            "no_selector",
            f"{selector!r} leads to lists, and one of them is {_GAPS[gap]}; write empty_as: {gap} if this means no rows",
        )
    return page


_ADVICE = "check data_selector and what the API means by this response"
_NO_LIST: dict[EmptyAs, str] = {
    "null": "the value at {!r} is null, not a list",
    "missing": "the body has no {!r}, where the rows should be",
    "object": "the value at {!r} is an empty object, not a list",
    "empty_body": "the body is empty",
    "no_content": "there is no content",
}
_GAPS = {"null": "null", "missing": "missing", "object": "an empty object"}
# Bodies without a list are small; larger ones are checked only after decoding.
_SMALL = 4096


def _read_many(endpoint: Endpoint, replies: Sequence[Reply]) -> list[Page] | None:
    """Returns the pages of several responses; None if each must be decoded separately."""
    if len(replies) < 2 or any(len(reply.body) < _SHORTEST for reply in replies):
        return None
    try:
        selector = selector_of(endpoint, replies[0].body)
        bodies = [reply.body for reply in replies]
        pages = read_pages(bodies, selector, endpoint.types, null_values=endpoint.null_values)
    except BodyError:
        return None
    if pages is None or not all(page.rows > 1 for page in pages):
        return None
    # Decoded separately, the page next to an error raises its own.
    failed = any(error_beside(page.envelope, selector, endpoint.wrong_signals) for page in pages)
    return None if failed else pages


# No page of two rows is shorter; shorter bodies may be null.
_SHORTEST = 8


def _is_ignored(actions: tuple[Mapping[str, Any], ...], reply: Reply) -> bool:
    for action in actions:
        status, content = action.get("status_code"), action.get("content")
        if (status is None or int(status) == reply.status) and (content is None or content.encode() in reply.body):
            return True
    return False
