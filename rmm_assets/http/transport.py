"""Sends one request and returns one response: handles retries, redirects and limits, and keeps the secret out of errors.

`wire` adds the secret in the connection that writes to the socket, so code that could log, store or raise a URL (such as
urllib3 at DEBUG) never sees the secret. This module raises every error as a new `TransportError`, without a cause or
context that contains the request as sent. See `reading` for whether the rows of a response are complete.
"""

from __future__ import annotations

import codecs
import email.utils
import json as jsonlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from dlt.common import jsonpath

from rmm_assets.errors import TransportError
from rmm_assets.http.address import address_fault, is_loopback, read_origin
from rmm_assets.http.attach import Auth, TokenAnswer, TokenRefusedError
from rmm_assets.http.rate_limit import Permits, StoppedError
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.request import Request
from rmm_assets.http.settings import Limits, Retry, Tls
from rmm_assets.http.throttle import is_spent, looks_throttled, seconds_to_reset, throttles
from rmm_assets.http.wire import LateError, TooLargeError, Wire, describe, may_pass, tls_context

_MAX_REDIRECTS = 5
_EXCERPT = 200

# Successes that answer a request for rows; so does 201 (created), to a search by POST.
_ANSWERS = frozenset((200, 203, 204, 206, 226))
_NO_ANSWERS = {
    202: "the API has accepted the request, but has not answered it yet",
    207: "a part of the request may have failed",
}

Answer = TypeVar("Answer")


class BodyFault(Exception):
    """Raised for a body with status 200 that is damaged (truncated, HTML), so that the request is retried."""


@dataclass(frozen=True)
class Reply:
    """One response, decompressed, redacted and without a byte order mark."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    @property
    def content_type(self) -> str:
        """Returns the `Content-Type` header, or `no content type`."""
        return self.headers.get("Content-Type", "no content type")


@dataclass
class Traffic:
    """Counts the requests of a run.

    Attributes:
        requests: Requests sent, including retries and followed redirects, but not token requests.
        retries: Requests repeated after a fault.
        throttled: Responses that were rate limited.
        seconds_waiting: Time from request to response, summed over all workers.
    """

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    seconds_waiting: float = 0.0


@dataclass(frozen=True)
class _Failure:
    """Why an attempt failed; a plain value, so that the original exception and its frames are released.

    Attributes:
        text: The reason, redacted.
        wait: Seconds that the server asked to wait.
        throttled: Whether the request was rate limited.
        late: Whether the response timed out, as the server may be overloaded.
    """

    text: str
    status: int | None = None
    retryable: bool = False
    wait: float | None = None
    throttled: bool = False
    late: bool = False


class _NoTokenError(TokenRefusedError):
    """Raised when the token endpoint answers with an error."""

    def __init__(self, failure: _Failure) -> None:
        super().__init__(failure.text, temporary=failure.retryable)
        self.failure = failure


class Transport:
    """Sends a connection's requests. The deadline starts with the first one.

    Args:
        base_url: URL of the API; the secret is only sent to its origin.
        auth: Attaches the secret.
        redactor: Masks the secret in all its forms.
        rate_limit: Permits, shared by the connection's processes.
        headers: Headers of every request.
        retry: Which statuses are retried, how often and after how long.
        limits: Timeouts (s), deadline (s), size of a response (bytes), throttle signals.
        tls: A private CA.
        allow_http: Whether plain http to other machines is allowed.
        log: The logger for retries.

    Raises:
        ValueError: The base URL is invalid, contains a password, or is plain http to another machine although
            `allow_http` is not set; the private CA's file cannot be read; or the environment's proxy is of an
            unsupported kind.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: Auth,
        redactor: Redactor,
        rate_limit: Permits,
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
        self._rate_limit = rate_limit
        self._retry = retry
        self._limits = limits
        self._tls = tls
        self._headers = dict(headers or {})
        self._allow_http = allow_http
        self._log = log or logging.getLogger("rmm_assets")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._deadline: float | None = None
        self._received = 0
        self._alarm: threading.Timer | None = None
        self._wait_path = jsonpath.compile_path(limits.wait_path) if limits.wait_path else None
        self._on_throttle: Callable[[], None] = lambda: None
        self._refuse_address("client.base_url", base_url)
        self._origin = read_origin(base_url)
        if not is_loopback(self._origin[1]):
            # On loopback, compression costs more than it saves.
            self._headers.setdefault("Accept-Encoding", "gzip, deflate")
        self._wire = self._wire_to(base_url, auth)
        self._token_wires: list[Wire] = []

    def close(self) -> None:
        """Aborts requests and waits in progress, and closes kept-alive connections."""
        self._closing.set()
        if self._alarm is not None:
            self._alarm.cancel()
        for wire in self._wires():
            wire.close()

    def on_throttle(self, callback: Callable[[], None]) -> None:
        """Registers a callback for responses that are rate limited or late, after which fewer parallel requests are better."""
        self._on_throttle = callback

    def send(
        self, request: Request, accept: Callable[[Reply], Answer], *, tolerate: Callable[[Reply], bool] | None = None,
        given: Reply | None = None,
    ) -> Answer:  # fmt: skip
        """Sends a request, and retries it until `accept` returns.

        Args:
            request: The request.
            accept: Converts the response for the caller, in the calling thread. It may raise `BodyFault` to have the
                request retried.
            tolerate: Returns whether to pass a response to `accept` although its status is an error.
            given: The response to the first attempt, if it was already received.

        Raises:
            TransportError: The last attempt failed, or the response must not be retried.
        """
        retry, attempt = self._retry, 1
        while True:
            outcome = self._attempt(request, accept, tolerate, given)
            given = None
            if not isinstance(outcome, _Failure):
                return outcome
            # No exception is being handled here, so the raised one has neither cause nor context.
            if self._closing.is_set():
                raise TransportError(f"{request.label}: stopped")
            problem = f"{request.label}: {outcome.text}"
            wait = retry.backoff_factor * 2 ** (attempt - 1) if outcome.wait is None else outcome.wait
            wait = min(wait, retry.max_wait)
            if outcome.throttled:
                with self._lock:
                    self.traffic.throttled += 1
            if outcome.throttled or outcome.late:
                self._on_throttle()
            # A 503 without `Retry-After` may concern one endpoint; any other throttling concerns the key.
            if outcome.retryable and (outcome.wait or (outcome.throttled and outcome.status != 503)):
                self._rate_limit.pause(wait)
            if request.moves_on and not outcome.throttled:
                raise TransportError(
                    f"{problem}; it is not repeated, as the cursor has moved on", status=outcome.status
                )
            if not outcome.retryable or attempt > retry.max_retries:
                tries = f" (after {attempt} requests)" if attempt > 1 else ""
                raise TransportError(problem + tries, status=outcome.status)
            if time.monotonic() + wait >= self._start_clock():
                raise TransportError(f"{problem}; the deadline of {self._limits.deadline:g} s leaves no time to wait "
                                     f"{wait:g} s and try again", status=outcome.status)  # fmt: skip
            self._log.warning("%s; retry %d of %d in %.1f s", problem, attempt, retry.max_retries, wait)
            with self._lock:
                self.traffic.retries += 1
            if self._closing.wait(wait):
                raise TransportError(f"{request.label}: stopped")
            attempt += 1

    def same_origin(self, url: str, *, relative_to: str | None = None) -> str:
        """Returns a URL from the server as an absolute URL without an echoed key.

        Args:
            url: The URL as the server sent it.
            relative_to: The URL that it is relative to; by default the base URL.

        Raises:
            TransportError: It has another origin, to which the key must not be sent.
        """
        try:
            absolute = urljoin(relative_to or self.base_url, url)
            same = read_origin(absolute) == self._origin
        except ValueError:
            absolute, same = url, False
        if not same:
            redacted = self.redactor.text(_without_query(absolute))[:_EXCERPT]
            raise TransportError(
                f"the server points to another origin, {redacted!r}; the key is only sent to "
                f"{_without_query(self.base_url)}. If the other origin is correct, set it as client.base_url"
            )
        return self._auth.strip(absolute)

    def excerpt(self, body: bytes) -> str:
        """Returns the first 200 characters of a body, on one line and redacted."""
        text = self.redactor.text(self.redactor.body(body[: 1 << 16]).decode("utf-8", "replace"))
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_EXCERPT]

    def _attempt(
        self, request: Request, accept: Callable[[Reply], Answer], tolerate: Callable[[Reply], bool] | None,
        given: Reply | None,
    ) -> Answer | _Failure:  # fmt: skip
        """Makes one attempt, and returns its result or why it failed."""
        reply = self._ask(request) if given is None else given
        if isinstance(reply, _Failure):
            return reply
        tolerated = tolerate is not None and tolerate(reply)
        throttled = self._throttles(reply, tolerated=tolerated)
        # A rate-limited response says nothing about the rows, even if its status is tolerated.
        if throttled or not tolerated:
            failure = self._objection(reply, throttled) or self._not_an_answer(reply, request)
            if failure is not None:
                return failure
        try:
            return accept(reply)
        except BodyFault as error:
            text = f"HTTP {reply.status}, {reply.content_type}: {error}, {self.excerpt(reply.body)!r}"
            return _Failure(self.redactor.text(text), reply.status, retryable=True)

    def _ask(self, request: Request) -> Reply | _Failure:
        """Sends a request and reads the whole response, with a new token if the old one is refused."""
        deadline = self._start_clock()
        try:
            with self._rate_limit.permit(stop=self._closing, until=deadline):
                token = self._auth.prepare(self._fetch_token)
                reply = self._follow(request)
                if reply.status == 401 and self._auth.renew(token):
                    self._log.warning("%s: HTTP 401; sent again with a new token or secret", request.label)
                    self._auth.prepare(self._fetch_token)
                    reply = self._follow(request)
                return reply
        except StoppedError:
            return _Failure("stopped")
        except _NoTokenError as error:
            return error.failure
        except TooLargeError:
            most = f"{self._limits.max_response_bytes:,}"
            return _Failure(
                f"the response exceeds limits.max_response_bytes ({most}); request smaller pages or raise the limit"
            )
        except TransportError as error:
            return _Failure(str(error), error.status)
        except (urllib3.exceptions.HTTPError, OSError, LateError) as error:
            if time.monotonic() >= deadline:
                return _Failure(f"limits.deadline of {self._limits.deadline:g} s for one resource is exceeded")
            late = isinstance(error, (urllib3.exceptions.TimeoutError, LateError, TimeoutError))
            return _Failure(self._redacted(describe(error, self._limits)), retryable=may_pass(error), late=late)
        except ValueError as error:
            # http.client and urllib3 quote a malformed URL or header in full.
            return _Failure(self._redacted(str(error)))

    def _follow(self, request: Request) -> Reply:
        """Sends a request, and follows redirects within the origin."""
        method, url, headers = request.method.upper(), self._url(request), {**self._headers, **request.headers}
        body = _body_of(request, headers)
        for _ in range(_MAX_REDIRECTS + 1):
            reply = self._exchange(method, url, headers, body)
            if reply.status not in (301, 302, 303, 307, 308) or "Location" not in reply.headers:
                return reply
            try:
                url = self.same_origin(reply.headers["Location"], relative_to=url)
            except TransportError as error:
                raise TransportError(f"HTTP {reply.status}: {error}", status=reply.status) from None
            if reply.status == 303 or (reply.status in (301, 302) and method == "POST"):
                method, body = "GET", None  # as every client does
        raise TransportError(f"HTTP {reply.status}: more than {_MAX_REDIRECTS} redirects", status=reply.status)

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        started = time.monotonic()
        try:
            raw = self._wire.exchange(method, url, headers, body, until=self._start_clock())
        finally:
            with self._lock:
                self.traffic.requests += 1
                self.traffic.seconds_waiting += time.monotonic() - started
        with self._lock:
            self._received += len(raw.body)
            too_much = self._received > self._limits.max_total_bytes
        if too_much:
            raise TransportError(
                f"the responses exceed limits.max_total_bytes ({self._limits.max_total_bytes:,}); raise the limit if the "
                "API really has this much data"
            )
        response_headers = urllib3.HTTPHeaderDict({k: self.redactor.header(v) for k, v in raw.headers.itermerged()})
        return Reply(raw.status, response_headers, self.redactor.body(raw.body).removeprefix(codecs.BOM_UTF8), url)

    def _fetch_token(self, request: Request, auth: Auth) -> TokenAnswer:
        """Sends a token request to its own URL, as set in the connection file, without the API's auth."""
        self._refuse_address(f"client.auth.{request.label}", request.path)
        headers = {"Accept": "application/json", **request.headers}
        body, url = _body_of(request, headers), _with_parameters(request.path, request.params)
        wire = self._wire_to(request.path, auth)
        with self._lock:
            self._token_wires.append(wire)
        try:
            raw = wire.exchange(request.method, url, headers, body, until=self._start_clock())
        finally:
            with self._lock:
                self._token_wires.remove(wire)
            wire.close()
        redacted = urllib3.HTTPHeaderDict({k: self.redactor.header(v) for k, v in raw.headers.itermerged()})
        reply = Reply(raw.status, redacted, self.redactor.body(raw.body), request.path)
        failure = self._objection(reply, self._throttles(reply))
        if failure is not None:
            raise _NoTokenError(replace(failure, text=f"no token from {_without_query(request.path)}: {failure.text}"))
        try:
            document = jsonlib.loads(raw.body)
        except ValueError:
            document = None
        cookies = [cookie.partition(";")[0].partition("=") for cookie in raw.headers.getlist("Set-Cookie")]
        named = {name.strip(): value.strip() for name, _, value in cookies}
        return TokenAnswer(document, named, f"HTTP {reply.status}, {reply.content_type}")

    def _url(self, request: Request) -> str:
        if urlsplit(request.path).scheme in ("http", "https"):
            url = self.same_origin(request.path)
        else:
            url = f"{self.base_url.rstrip('/')}/{request.path.lstrip('/')}" if request.path else self.base_url
        return _with_parameters(url, request.params)

    def _wire_to(self, url: str, auth: Auth) -> Wire:
        context = tls_context(self._tls) if read_origin(url)[0] == "https" else None
        return Wire(url, auth=auth, redactor=self.redactor, limits=self._limits, context=context)

    def _wires(self) -> list[Wire]:
        with self._lock:
            return [self._wire, *self._token_wires]

    def _abort(self) -> None:
        for wire in self._wires():
            wire.abort()

    def _start_clock(self) -> float:
        """Returns the time of the deadline, which the first call sets."""
        with self._lock:
            if self._deadline is None:
                seconds = self._limits.deadline
                self._deadline = time.monotonic() + seconds
                # A read timeout only ends silence. The timer also ends a response that keeps trickling in.
                self._alarm = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._abort)
                self._alarm.name, self._alarm.daemon = "rmm-deadline", True
                self._alarm.start()
            return self._deadline

    def _objection(self, reply: Reply, signal: bool) -> _Failure | None:
        """Returns why a response is an error, or None if rows can be read from it.

        Args:
            signal: Whether the response means "rate limited", regardless of its status.
        """
        if reply.status < 300 and not signal:
            return None
        throttled = signal or reply.status in (429, 503)
        hints = {401: "the API refused the key; ", 403: "the key may not read this; "}
        hint = "rate limited by the API; " if throttled else hints.get(reply.status, "")
        if reply.status == 304:
            hint = "not modified; remove If-None-Match and If-Modified-Since from the headers; "
        elif 300 <= reply.status < 400:
            hint = "a redirect that cannot be followed; "
        text = f"HTTP {reply.status}: {hint}{reply.content_type}, {self.excerpt(reply.body)!r}"
        retryable = signal or reply.status in self._retry.status_codes
        return _Failure(text, reply.status, retryable, self._wait_asked_for(reply, throttled), throttled)

    def _not_an_answer(self, reply: Reply, request: Request) -> _Failure | None:
        """Returns why a success is not the answer to a request for rows, or None if it is; it may be a moment later."""
        if reply.status in _ANSWERS or (reply.status == 201 and request.method.upper() == "POST"):
            return None
        why = _NO_ANSWERS.get(reply.status, "this status does not mean that these are the rows")
        text = f"HTTP {reply.status}: {why}; {reply.content_type}, {self.excerpt(reply.body)!r}"
        return _Failure(text, reply.status, True, self._wait_asked_for(reply, False))

    def _throttles(self, reply: Reply, *, tolerated: bool = False) -> bool:
        """Returns whether a response is rate limited; a tolerated response is checked for more signals."""
        if throttles(reply.status, reply.headers, reply.body, self._limits.throttle):
            return True
        return tolerated and reply.status >= 400 and looks_throttled(reply.status, reply.headers, reply.body)

    def _wait_asked_for(self, reply: Reply, throttled: bool) -> float | None:
        """Returns the seconds that the server asks to wait: in `Retry-After` in either form, in the body, or until a reset."""
        # By the server's clock, if it sends `Date`: ours may be wrong.
        sent = _epoch_seconds(reply.headers.get("Date", ""))
        now = time.time() if sent is None else sent
        value = reply.headers.get("Retry-After")
        if value:
            try:
                return max(0.0, float(value))
            except ValueError:
                moment = _epoch_seconds(value)
                if moment is not None:
                    return max(0.0, moment - now)
        if throttled and self._wait_path is not None:
            with suppress(ValueError, TypeError):
                values = jsonpath.find_values(self._wait_path, jsonlib.loads(reply.body))
                if values:
                    return max(0.0, float(values[0]))
        # APIs that state their limits do so in every response, also in a 503 for another reason.
        if throttled and (reply.status != 503 or is_spent(reply.headers)):
            return seconds_to_reset(reply.headers, now)
        return None

    def _refuse_address(self, key: str, url: str) -> None:
        if fault := address_fault(url, allow_http=self._allow_http):
            raise ValueError(f"{key}: {fault}")  # without the URL, which may contain a password

    def _redacted(self, text: str) -> str:
        return self.redactor.text(text)[: 2 * _EXCERPT]


def _epoch_seconds(http_date: str) -> float | None:
    parts = email.utils.parsedate_tz(http_date)
    try:
        # HTTP dates are in GMT, regardless of this machine's time zone.
        return None if parts is None else float(email.utils.mktime_tz((*parts[:9], parts[9] or 0)))
    except (ValueError, OverflowError):
        return None


def _body_of(request: Request, headers: dict[str, str]) -> bytes | None:
    """Returns the body of a request, and adds its content type to the headers unless they have one."""
    if request.json is not None:
        body, kind = jsonlib.dumps(request.json), "application/json"
    elif request.data is not None:
        body = request.data if isinstance(request.data, str) else _encoded(request.data)
        kind = "application/x-www-form-urlencoded"
    else:
        return None
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    return body.encode()


def _with_parameters(url: str, params: Mapping[str, Any]) -> str:
    encoded = _encoded(params)
    return f"{url}{'&' if '?' in url else '?'}{encoded}" if encoded else url


def _encoded(fields: Mapping[str, Any]) -> str:
    """Encodes query parameters or the fields of a form, without those that are null; a list gives one for each item."""
    return urlencode({key: _as_parameter(value) for key, value in fields.items() if value is not None}, doseq=True)


def _as_parameter(value: Any) -> Any:
    """Converts a parameter's value to what APIs expect: `true`, not Python's `True`."""
    if isinstance(value, (list, tuple)):
        return [_as_parameter(inner) for inner in value]
    return str(value).lower() if isinstance(value, bool) else value


def _without_query(url: str) -> str:
    return url.partition("?")[0]
