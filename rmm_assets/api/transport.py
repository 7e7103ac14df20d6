"""One request to one answer: retries, limits, redirects, TLS, and a secret that is nowhere but on the wire.

The secret is added by the connection object that writes to the socket. Whatever could log, store or raise a URL (urllib3
at DEBUG included) sees it without. Every error leaves this module as a `TransportError` built anew, without a cause.
"""

from __future__ import annotations

import email.utils
import json as jsonlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import certifi
import urllib3
from dlt.common import jsonpath
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from rmm_assets.api.auth import Auth, NoAuth, Redactor
from rmm_assets.api.pacing import Pace
from rmm_assets.api.settings import Limits, Retry, Tls

_CHUNK = 1 << 18
_MAX_REDIRECTS = 5
_EXCERPT = 200
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Answer = TypeVar("Answer")


class TransportError(Exception):
    """A request that failed for good. The text is redacted and holds at most 200 characters of an answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BodyFault(Exception):
    """A body that came with 200 but is damaged (cut off, HTML): worth another try."""


@dataclass(frozen=True)
class Request:
    """One request, without a secret.

    Attributes:
        path: Relative to the base URL, or an absolute URL of the same origin.
        label: What log lines and errors call it, such as `devices page 3`.
    """

    path: str
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    data: Any = None
    label: str = "request"


@dataclass(frozen=True)
class Reply:
    """One answer, its body decompressed and with the secret struck out."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "no content type")


@dataclass
class Traffic:
    """What a run asked of the API: requests sent, retries among them, seconds spent waiting for it."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    seconds_waiting: float = 0.0


class Transport:
    """Sends a connection's requests.

    Args:
        base_url: Of the API; the only origin that a request may go to.
        auth: Attaches the secret.
        redactor: Knows the secret in all its forms.
        pace: Permits, shared by the connection's processes.
        headers: Sent with every request.
        retry: Which statuses are tried again, how often, after how long.
        limits: Timeouts (s), size of an answer (bytes), throttle signals.
        tls: A private CA.
        allow_http: Plain http to a host that is not this machine.
        log: Where a retry is a line.

    Raises:
        ValueError: the base URL is plain http to another machine, and `allow_http` is not set.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: Auth,
        redactor: Redactor,
        pace: Pace,
        retry: Retry,
        limits: Limits,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        allow_http: bool = False,
        log: logging.Logger | None = None,
    ) -> None:
        self.base_url = base_url
        self.traffic = Traffic()
        self.redactor = redactor
        self._auth = auth
        self._pace = pace
        self._retry = retry
        self._limits = limits
        self._headers = dict(headers or {})
        self._allow_http = allow_http
        self._log = log or logging.getLogger("rmm_assets")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._deadline = time.monotonic() + limits.deadline
        self._wait_path = jsonpath.compile_path(limits.wait_path) if limits.wait_path else None
        self._on_throttle: Callable[[], None] = lambda: None
        self._refuse_plain_http(base_url)
        self._origin = _origin(base_url)
        if urlsplit(base_url).hostname not in _LOOPBACK:
            # On loopback, packing costs more than it saves.
            self._headers.setdefault("Accept-Encoding", "gzip, deflate")
        self._timeout = urllib3.Timeout(connect=limits.connect_timeout, read=limits.read_timeout)
        ca_file = tls.ca_file if tls is not None else None
        # certifi's bundle, as requests has it: a slim container has no certificates of its own.
        self._tls_options = {"cert_reqs": "CERT_REQUIRED", "ca_certs": str(ca_file or certifi.where())}
        self._pool = self._pool_for(base_url, auth)

    def close(self) -> None:
        """Drop kept-alive connections; requests under way fail soon."""
        self._closing.set()
        self._pool.clear()

    def on_throttle(self, callback: Callable[[], None]) -> None:
        """Call this whenever the API asks for less."""
        self._on_throttle = callback

    def send(
        self, request: Request, accept: Callable[[Reply], Answer], *, tolerate: Callable[[Reply], bool] | None = None
    ) -> Answer:
        """Send a request until `accept` takes the answer.

        Args:
            request: What to ask for.
            accept: Turns the answer into what the caller wants, in the calling thread. It may raise `BodyFault` to have
                the request sent again.
            tolerate: Whether an answer goes to `accept` although its status speaks against it.

        Raises:
            TransportError: the last try failed, or the answer is not one to be tried again.
        """
        attempt = 1
        renewed = False
        while True:
            wait: float | None = None
            problem: TransportError
            status: int | None = None
            reply: Reply | None = None
            try:
                reply = self._once(request)
                status = reply.status
                problem_text = None if tolerate is not None and tolerate(reply) else self._objection(reply)
                if problem_text is None:
                    return accept(reply)
                wait = self._wait_asked_for(reply)
                throttled = reply.status in (429, 503) or self._is_throttle(reply)
                retryable = throttled or reply.status in self._retry.status_codes
                if throttled:
                    with self._lock:
                        self.traffic.throttled += 1
                    self._on_throttle()
                if reply.status == 401 and not renewed and self._auth.renew():
                    renewed, retryable, wait = True, True, 0.0
                problem = TransportError(problem_text, status=reply.status)
            except BodyFault as error:
                problem, retryable = TransportError(self._say(request, reply, str(error)), status=status), True
            except urllib3.exceptions.HTTPError as error:
                problem, retryable = TransportError(self._describe(error)), _may_pass(error)
            except OSError as error:
                problem, retryable = TransportError(self._describe(error)), True
            except ValueError as error:
                # http.client and urllib3 refuse a malformed URL or header with the URL in the text.
                problem, retryable = TransportError(self._describe(error)), False
            # Out of the except block, so that nothing that saw the wire hangs on to the new error as its context.
            if self._closing.is_set():
                raise TransportError(f"{request.label}: stopped")
            if not retryable or attempt > self._retry.max_retries:
                tries = f" after {attempt} requests" if retryable else ""
                raise TransportError(f"{request.label}: {problem}{tries}", status=problem.status)
            if wait is None:
                wait = self._retry.backoff_factor * 2 ** (attempt - 1)
            elif reply is not None and wait > 0:
                self._pace.pause(min(wait, self._retry.max_wait))
            wait = min(wait, self._retry.max_wait)
            if time.monotonic() + wait > self._deadline:
                raise TransportError(f"{request.label}: {problem}; the deadline of {self._limits.deadline:g} s "
                                     f"leaves no time to wait {wait:g} s", status=problem.status)
            self._log.warning(
                "%s: %s; retry %d of %d in %.1f s",
                request.label, problem, attempt, self._retry.max_retries, wait,
            )
            with self._lock:
                self.traffic.retries += 1
            self._closing.wait(wait)
            attempt += 1

    def same_origin(self, url: str) -> str:
        """A URL that the server named, absolute and without an echoed key.

        Raises:
            TransportError: it leads to another origin, where the key must not go.
        """
        absolute = urljoin(self.base_url, url)
        if _origin(absolute) != self._origin:
            raise TransportError(
                f"the server points to another origin, {self.redactor.text(_without_query(absolute))}; the key goes to "
                f"{_without_query(self.base_url)} only. If that host is right, set it as client.base_url"
            )
        return self._auth.strip(absolute)

    def excerpt(self, body: bytes) -> str:
        """The first 200 characters of a body, on one line, redacted."""
        text = " ".join(self.redactor.text(body[: 8 * _EXCERPT].decode("utf-8", "replace")).split())
        return text[:_EXCERPT]

    def _once(self, request: Request) -> Reply:
        if time.monotonic() > self._deadline:
            raise urllib3.exceptions.TimeoutError(f"the deadline of {self._limits.deadline:g} s has passed")
        url = self._url(request)
        headers = {**self._headers, **request.headers}
        body: bytes | None = None
        if request.json is not None:
            body = jsonlib.dumps(request.json).encode()
            headers.setdefault("Content-Type", "application/json")
        elif request.data is not None:
            body = request.data.encode() if isinstance(request.data, str) else urlencode(request.data, doseq=True).encode()
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        with self._pace.permit():
            self._auth.prepare(self._post_form)
            started = time.monotonic()
            try:
                reply = self._exchange(self._pool, request.method.upper(), url, headers, body)
                for _ in range(_MAX_REDIRECTS):
                    if reply.status not in (301, 302, 303, 307, 308) or "Location" not in reply.headers:
                        break
                    url = self._redirect(reply)
                    reply = self._exchange(self._pool, request.method.upper(), url, headers, body)
                return reply
            finally:
                with self._lock:
                    self.traffic.requests += 1
                    self.traffic.seconds_waiting += time.monotonic() - started

    def _redirect(self, reply: Reply) -> str:
        try:
            return self.same_origin(urljoin(reply.url, reply.headers["Location"]))
        except TransportError as error:
            raise ValueError(f"HTTP {reply.status}: {error}") from None

    def _exchange(
        self, pool: urllib3.PoolManager, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        response = pool.urlopen(
            method, url, body=body, headers=headers, retries=False, redirect=False, preload_content=False,
            timeout=self._timeout,
        )  # fmt: skip
        content = bytearray()
        try:
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > self._limits.max_response_bytes:
                    raise ValueError(
                        f"the answer is larger than max_response_bytes ({self._limits.max_response_bytes:,}); "
                        "ask for smaller pages or raise the limit"
                    )
                if time.monotonic() > self._deadline:
                    raise urllib3.exceptions.TimeoutError(f"the deadline of {self._limits.deadline:g} s has passed")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        headers_out = urllib3.HTTPHeaderDict({k: self.redactor.text(v) for k, v in response.headers.items()})
        return Reply(response.status, headers_out, self.redactor.body(bytes(content)), url)

    def _post_form(self, url: str, fields: dict[str, str]) -> Mapping[str, Any]:
        """The token request of OAuth: to its own URL, never with the API's auth."""
        self._refuse_plain_http(url)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        pool = self._pool_for(url, NoAuth())
        try:
            reply = self._exchange(pool, "POST", url, headers, urlencode(fields).encode())
        finally:
            pool.clear()
        if reply.status in self._retry.status_codes:
            raise urllib3.exceptions.HTTPError(f"{url} answered HTTP {reply.status}")
        try:
            answer = jsonlib.loads(reply.body)
        except ValueError:
            answer = None
        if reply.status >= 400 or not isinstance(answer, dict):
            raise ValueError(f"{url} gave no token: HTTP {reply.status}, {self.excerpt(reply.body)!r}")
        return answer

    def _url(self, request: Request) -> str:
        if urlsplit(request.path).scheme in ("http", "https"):
            url = self.same_origin(request.path)
        else:
            url = f"{self.base_url.rstrip('/')}/{request.path.lstrip('/')}" if request.path else self.base_url
        params = {key: value for key, value in request.params.items() if value is not None}
        if params:
            flat = {key: _wire(value) for key, value in params.items()}
            url += ("&" if "?" in url else "?") + urlencode(flat, doseq=True)
        return url

    def _pool_for(self, url: str, auth: Auth) -> urllib3.PoolManager:
        """A pool whose connections attach the secret, through the environment's proxy if there is one."""
        from requests.utils import get_environ_proxies, select_proxy

        proxy = select_proxy(url, get_environ_proxies(url))
        options: dict[str, Any] = {"maxsize": self._limits.max_concurrency, "block": True, **self._tls_options}
        pool: urllib3.PoolManager
        pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        pool.pool_classes_by_scheme = _pool_classes(auth)
        return pool

    def _objection(self, reply: Reply) -> str | None:
        """Why this answer is not one to read rows from; None where it is."""
        if reply.status >= 400 or self._is_throttle(reply):
            hint = {401: "the API refused the key; ", 403: "the key may not read this; "}.get(reply.status, "")
            return f"HTTP {reply.status}: {hint}{reply.content_type}, {self.excerpt(reply.body)!r}"
        if reply.status >= 300:
            return f"HTTP {reply.status}: a redirect that leads nowhere"
        return None

    def _say(self, request: Request, reply: Reply | None, what: str) -> str:
        if reply is None:
            return what
        return f"HTTP {reply.status}, {reply.content_type}: {what}, {self.excerpt(reply.body)!r}"

    def _is_throttle(self, reply: Reply) -> bool:
        if not self._limits.throttle:
            return False
        return any(
            reply.status == signal.status
            and (not signal.text or signal.text.lower() in reply.body.decode("utf-8", "replace").lower())
            for signal in self._limits.throttle
        )

    def _wait_asked_for(self, reply: Reply) -> float | None:
        """Seconds the server asks to wait, from `Retry-After` in either form or from the body."""
        value = reply.headers.get("Retry-After")
        if value:
            try:
                return max(0.0, float(value))
            except ValueError:
                moment = email.utils.parsedate_tz(value)
                if moment is not None:
                    return max(0.0, email.utils.mktime_tz(moment) - time.time())
        if self._wait_path is not None:
            try:
                found = jsonpath.find_values(self._wait_path, jsonlib.loads(reply.body))
                return max(0.0, float(found[0])) if found else None
            except (ValueError, TypeError):
                return None
        return None

    def _describe(self, error: BaseException) -> str:
        """An exception's text: what happened, redacted, without object addresses."""
        reason = getattr(error, "reason", None)
        text = str(reason if isinstance(reason, BaseException) else error) or type(error).__name__
        head, separator, tail = text.partition(">: ") if text.startswith("<") else ("", "", text)
        return self.redactor.text((tail if separator else text) or head)[: 2 * _EXCERPT]

    def _refuse_plain_http(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http(s) URL")
        if parts.scheme == "http" and not self._allow_http and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{_without_query(url)} is plain http: the key would travel readable. "
                             "Use https, or set allow_http: true if the network is yours")


def _pool_classes(auth: Auth) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools with connections that attach the secret below everything that logs."""

    def keyed(base: type[HTTPConnection]) -> type[HTTPConnection]:
        class Keyed(base):  # type: ignore[misc, valid-type]
            def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
                url, headers = auth.attach(url, dict(headers or {}))
                super().request(method, url, body=body, headers=headers, **options)

        return Keyed

    class KeyedHTTP(HTTPConnectionPool):
        ConnectionCls = keyed(HTTPConnection)

    class KeyedHTTPS(HTTPSConnectionPool):
        ConnectionCls = keyed(HTTPSConnection)  # type: ignore[assignment]

    return {"http": KeyedHTTP, "https": KeyedHTTPS}


def _may_pass(error: urllib3.exceptions.HTTPError) -> bool:
    """Whether trying again can help: a certificate that is not trusted stays so."""
    cause = error.args[0] if error.args else None
    tls = (ssl.SSLError, urllib3.exceptions.SSLError)
    if isinstance(error, tls) or isinstance(cause, tls):
        return "CERTIFICATE" not in str(error).upper() and "hostname" not in str(error)
    return not isinstance(error, (urllib3.exceptions.LocationValueError, urllib3.exceptions.TimeoutError)) or isinstance(
        error, (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ConnectTimeoutError)
    )


def _wire(value: Any) -> Any:
    """A parameter's value as APIs expect it: true, not Python's True."""
    return str(value).lower() if isinstance(value, bool) else value


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _without_query(url: str) -> str:
    return url.partition("?")[0]
