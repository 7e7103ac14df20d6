"""Serves a fleet, or given rows, over real HTTP/1.1, with paging, authentication and faults.

    GET  /v1/<resource>                 rows under `data`, with `total`, by offset and limit, page (from 1)
                                        and per_page, cursor and limit, or after (the last id) and limit
    GET  /v1/<parent>/<id>/<resource>   the rows that refer to one parent
    GET  /v1/linked/<resource>          the next page's URL under `next`
    GET  /v1/link-header/<resource>     the next page's URL in a `Link` header
    POST /oauth/token                   client credentials; returns a bearer token

Each accepts `updated_since` if its rows have `updated_at`. Pages have 100 rows by default and at most 1000. See `fleet`
for the rows, `pages` for paging, and `faults` for the faults.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import math
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from types import FrameType, TracebackType
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from rmm_assets.simulator import pages
from rmm_assets.simulator.faults import Faults, Mover, Strikes
from rmm_assets.simulator.fleet import RESOURCES, Fleet

Row = dict[str, Any]

# Limits the memory of a server that runs for weeks.
_LOG_LENGTH = 100_000

_HTML = b"<!DOCTYPE html><title>Please wait</title><body><h1>Service unavailable</h1></body></html>"


@dataclass
class LoggedRequest:
    """One request as received by the server, including its credentials."""

    method: str
    path: str
    """Without the query."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    at: float
    """When it arrived, in seconds of `time.monotonic()`."""
    resource: str | None = None
    """The requested resource, `token` for the token endpoint, or None for an unknown path."""
    status: int | None = None
    """The status of the response; None until it is sent, and for a connection dropped without one."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True)
class _Route:
    resource: str
    links: Literal["body", "header"] | None = None
    parent: tuple[str, str] | None = None
    """(parent resource, id)."""


class Simulator:
    """An RMM API on loopback, which listens from construction until `close()`; also a context manager.

    The key is accepted in the query parameter `api_key`, the header `X-API-KEY`, as `Authorization: Bearer`, and as the
    password of `Authorization: Basic`. All public methods and properties are safe to use while requests are served.

    Args:
        fleet: The fleet to serve; by default `Fleet()`, unless `tables` is given.
        tables: Rows to serve instead, by resource name. Paging by `after` requires them to be sorted by `id`.
        api_key: The API key.
        client_id: The client ID of the token endpoint.
        client_secret: The client secret of the token endpoint; by default the API key.
        token_seconds: Lifetime of a token.
        host: Address to bind.
        port: Port to bind; 0 for a free one.
        tick: The fleet's tick, or a function that returns it, called for every request.
        faults: The faults.

    Raises:
        OSError: The address cannot be bound.
        ValueError: Both `fleet` and `tables` are given.
    """

    def __init__(
        self,
        *,
        fleet: Fleet | None = None,
        tables: Mapping[str, Sequence[Row]] | None = None,
        api_key: str = "demo-key",
        client_id: str = "demo-client",
        client_secret: str | None = None,
        token_seconds: float = 3600,
        host: str = "127.0.0.1",
        port: int = 0,
        tick: int | Callable[[], int] = 0,
        faults: Faults | Iterable[Faults] = (),
    ) -> None:
        if fleet is not None and tables is not None:
            raise ValueError("a simulator serves a fleet or tables, not both")
        self.api_key = api_key
        self.client_id = client_id
        self.client_secret = api_key if client_secret is None else client_secret
        self.token_seconds = token_seconds
        self.tick = tick
        """Can be changed at any time."""

        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._fleet = None if tables is not None else fleet or Fleet()
        self._tables = {name: list(rows) for name, rows in (tables or {}).items()}
        self._ticks: dict[str, int] = {}
        self._movers: dict[str, Mover] = {}
        self._tokens: dict[str, float] = {}
        self._log: deque[LoggedRequest] = deque(maxlen=_LOG_LENGTH)
        self._open = self._most_open = 0
        self.set_faults(faults)

        self._server = _Server(self, host, port)
        bound_host, bound_port = self._server.server_address[:2]
        self.base_url = f"http://{bound_host!s}:{bound_port}"
        # `close()` waits for up to one poll interval.
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.01},
            name="rmm-simulator",
            daemon=True,
        )
        self._thread.start()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening and closes every connection; does nothing if already closed."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    @property
    def requests(self) -> list[LoggedRequest]:
        """Returns copies of the requests so far (the last 100,000), in order of arrival."""
        with self._lock:
            return [replace(entry) for entry in self._log]

    @property
    def connections(self) -> int:
        """Returns the number of TCP connections accepted so far."""
        return self._server.accepted

    @property
    def most_at_once(self) -> int:
        """Returns the largest number of requests that were served concurrently."""
        with self._lock:
            return self._most_open

    def rows(self, resource: str) -> list[Row]:
        """Returns the current rows of a resource, in the order in which they are served, after any moves.

        Raises:
            KeyError: There is no such resource.
        """
        with self._lock:
            return list(self._held(resource))

    def set_rows(self, resource: str, rows: Sequence[Row]) -> None:
        """Replaces the rows of a resource, or adds a resource. The next tick regenerates a fleet's rows."""
        with self._lock:
            self._tables[resource] = list(rows)
            if self._fleet is not None and resource in RESOURCES:
                self._ticks[resource] = self._now()

    def set_faults(self, faults: Faults | Iterable[Faults]) -> None:
        """Replaces the faults, and resets their counts and those of reads in progress."""
        with self._lock:
            self._strikes = Strikes([faults] if isinstance(faults, Faults) else faults)
            self._movers.clear()

    def _now(self) -> int:
        return self.tick() if callable(self.tick) else self.tick

    def _held(self, resource: str) -> list[Row]:
        if self._fleet is not None and resource in RESOURCES:
            tick = self._now()
            if self._ticks.get(resource) != tick:
                self._tables[resource] = self._fleet.rows(resource, tick)
                self._ticks[resource] = tick
        return self._tables[resource]

    def _has(self, resource: str) -> bool:
        return resource in self._tables or (self._fleet is not None and resource in RESOURCES)

    def _answer(self, request: LoggedRequest, target: str, body: bytes) -> _Answer | None:
        """Answers one request, and logs it with its status; returns None to drop the connection."""
        with self._lock:
            self._log.append(request)
            self._open += 1
            self._most_open = max(self._most_open, self._open)
        try:
            answer = self._answer_unlogged(request, target, body)
        finally:
            with self._lock:
                self._open -= 1
        with self._lock:
            request.status = answer.status if answer else None
        return answer

    def _answer_unlogged(self, request: LoggedRequest, target: str, body: bytes) -> _Answer | None:
        if request.path == "/oauth/token":
            request.resource, allowed = "token", "POST"
        else:
            route = self._route(request.path)
            if route is None:
                return _error(404, f"no such path: {request.path}")
            request.resource, allowed = route.resource, "GET"
        if request.method != allowed:
            return _error(405, f"use {allowed} for this path", headers={"Allow": allowed})

        with self._lock:
            fault = self._strikes.next(request.resource)
        # Not sleep(), so that closing the simulator does not wait for delayed responses.
        self._closing.wait(fault.delay)
        if fault.drop:
            return None
        if fault.status is not None or fault.html or fault.redirect is not None:
            return self._failure(request, target, fault)
        if request.resource == "token":
            return _spoil(self._token(request, body), fault)
        if not any(self._opens(credential) for credential in _credentials(request)):
            return _error(401, "missing or wrong API key" + _echo(request, fault))
        try:
            return _spoil(self._page(request, cast(_Route, route), fault), fault)
        except pages.BadQuery as error:
            return _error(400, str(error))

    def _route(self, path: str) -> _Route | None:
        parts = [unquote(part) for part in path.split("/")]
        with self._lock:
            match parts:
                case ["", "v1", resource] if self._has(resource):
                    return _Route(resource)
                case ["", "v1", "linked", resource] if self._has(resource):
                    return _Route(resource, links="body")
                case ["", "v1", "link-header", resource] if self._has(resource):
                    return _Route(resource, links="header")
                case ["", "v1", parent, parent_id, resource] if self._has(parent) and self._has(resource):
                    if any(str(row.get("id")) == parent_id for row in self._held(parent)):
                        return _Route(resource, parent=(parent, parent_id))
        return None

    def _opens(self, credential: str) -> bool:
        with self._lock:
            return credential == self.api_key or self._tokens.get(credential, -math.inf) > time.monotonic()

    def _failure(self, request: LoggedRequest, target: str, fault: Faults) -> _Answer:
        headers = {}
        if fault.retry_after is not None:
            headers["Retry-After"] = (
                formatdate(math.ceil(time.time() + fault.retry_after), usegmt=True)
                if fault.retry_after_as_date
                else f"{fault.retry_after:g}"
            )
        if fault.redirect is not None:
            headers["Location"] = fault.redirect + (target if fault.echo_key else _without_key(request))
            return _Answer(fault.status or HTTPStatus.PERMANENT_REDIRECT, b"", headers)
        if fault.html:
            return _Answer(fault.status or 200, _HTML, {**headers, "Content-Type": "text/html; charset=utf-8"})
        status = fault.status or 200
        text = fault.text if fault.text is not None else "internal error" if status < 400 else _phrase(status)
        waits = {} if fault.wait_in_body is None else {"retry_after": fault.wait_in_body}
        return _spoil(_json(status, {"error": text + _echo(request, fault), **waits}, headers), fault)

    def _token(self, request: LoggedRequest, body: bytes) -> _Answer:
        if "json" in request.headers.get("content-type", ""):
            try:
                form = json.loads(body)
            except ValueError:
                form = None
            form = form if isinstance(form, dict) else {}
        else:
            form = dict(parse_qsl(body.decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials":
            return _json(400, {"error": "unsupported_grant_type"})
        basic = _basic(request)
        credentials = basic or (form.get("client_id"), form.get("client_secret"))
        if credentials != (self.client_id, self.client_secret):
            return _json(401, {"error": "invalid_client"})
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = time.monotonic() + self.token_seconds
        return _json(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.token_seconds})

    def _page(self, request: LoggedRequest, route: _Route, fault: Faults) -> _Answer:
        query = request.query
        with self._lock:
            held = self._held(route.resource)
            mover = self._movers.setdefault(route.resource, Mover(route.resource))
            mover.before_page(held, fault.move, first=pages.is_first(query))
            rows = list(held)
        if route.parent is not None:
            rows = pages.belonging_to(rows, *route.parent)
        if query.get("updated_since") and any("updated_at" in row for row in rows):
            rows = pages.updated_since(rows, query["updated_since"])
        if fault.duplicate_every:
            rows = pages.with_duplicates(rows, fault.duplicate_every)
        if fault.empty:
            rows = []

        asked = pages.position(query, rows, clamp=fault.clamp)
        start = 0 if fault.same_page else asked.start
        body: dict[str, Any] = {}
        if not fault.no_data:
            body["data"] = rows[start : start + asked.size]
        if not fault.no_total:
            body["total"] = len(rows) + fault.total_off

        following: int | None = asked.start + asked.size
        if fault.stuck_next:
            following = asked.start
        elif fault.no_next or asked.start + asked.size >= len(rows):
            following = None
        headers = {}
        if route.links is None:
            if asked.gives_cursor:
                body["next_cursor"] = None if following is None else pages.cursor_at(following)
        else:
            link = None if following is None else self._link(request, fault, following, asked.size)
            if route.links == "body":
                body["next"] = link
            elif link is not None:
                headers["Link"] = f'<{link}>; rel="next"'
        return _json(200, body, headers)

    def _link(self, request: LoggedRequest, fault: Faults, start: int, size: int) -> str:
        origin = fault.next_origin or self.base_url
        return origin + _without_key(request, offset=str(start), limit=str(size))


def run(
    host: str = "127.0.0.1",
    port: int = 8099,
    seed: int = 7,
    tick_seconds: float = 60,
    faults: Faults | Iterable[Faults] = (),
    *,
    api_key: str = "demo-key",
) -> None:
    """Serves a default fleet until SIGINT or SIGTERM, with one tick every `tick_seconds`.

    Call it from the main thread, because it handles signals. It prints the URL and the key to stdout once it listens.

    Raises:
        OSError: The address cannot be bound.
        ValueError: `tick_seconds` is not above 0.
    """
    if tick_seconds <= 0:
        raise ValueError(f"tick_seconds must be above 0, got {tick_seconds}")
    began = time.monotonic()
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    def tick() -> int:
        return int((time.monotonic() - began) // tick_seconds)

    # Installed before the URL is printed, because a reader may send a signal immediately.
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Simulator(
            fleet=Fleet(seed=seed), api_key=api_key, host=host, port=port, tick=tick, faults=faults
        ) as simulator:
            print(f"Simulated RMM at {simulator.base_url}, API key {api_key}, one tick every {tick_seconds:g} s")
            print(f"Try: curl '{simulator.base_url}/v1/devices?limit=2&api_key={api_key}'")
            print(f"Resources: {', '.join(RESOURCES)}. Stop with Ctrl-C.", flush=True)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(ThreadingMixIn, TCPServer):
    # Not http.server.HTTPServer, because it looks up its host name when it binds, which can take seconds.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, simulator: Simulator, host: str, port: int) -> None:
        self.simulator = simulator
        self.accepted = 0
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self.accepted += 1
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Wakes the threads that wait on kept-alive connections, each of which then closes its socket."""
        with self._connections_lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client has already closed it
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that disconnect are normal; any other error is a bug and is printed.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "rmm-simulator"
    sys_version = ""
    # With Nagle's algorithm on, each answer on a kept-alive connection can wait 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = LoggedRequest(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            at=time.monotonic(),
        )
        answer = cast(_Server, self.server).simulator._answer(request, self.path, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.cut:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(answer.body)
        self.wfile.flush()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, because the request line contains the key."""


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> _Answer:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return _Answer(status, text.encode(), {"Content-Type": "application/json", **(headers or {})})


def _error(status: int, text: str, *, headers: Mapping[str, str] | None = None) -> _Answer:
    return _json(status, {"error": text}, headers)


def _spoil(answer: _Answer, fault: Faults) -> _Answer:
    body = answer.body[: len(answer.body) // 2] if fault.truncated else answer.body
    return replace(answer, body=body, cut=fault.cut)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _basic(request: LoggedRequest) -> tuple[str, str] | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return user, password


def _credentials(request: LoggedRequest) -> list[str]:
    """Returns every key or token of a request, in any of the accepted forms."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    basic = _basic(request)
    credentials = [
        request.query.get("api_key"),
        request.headers.get("x-api-key"),
        bearer.strip() if scheme.lower() == "bearer" else None,
        basic[1] if basic else None,
    ]
    return [credential for credential in credentials if credential]


def _echo(request: LoggedRequest, fault: Faults) -> str:
    return f" (key {_credentials(request)[0]!r})" if fault.echo_key and _credentials(request) else ""


def _without_key(request: LoggedRequest, **changed: str) -> str:
    query = {name: value for name, value in request.query.items() if name != "api_key"} | changed
    return request.path + ("?" + urlencode(query) if query else "")
