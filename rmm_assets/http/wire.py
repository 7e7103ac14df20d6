"""Exchanges single requests with one origin over kept-alive connections, and adds the secret as each request is written.

The connection pool is bound to that origin, so no URL can send the key elsewhere. This module handles proxies, TLS, and
limits of time and size. See `transport` for how responses are judged and retried.
"""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import make_headers, parse_url

from rmm_assets.http.address import PORTS, is_loopback, read_origin
from rmm_assets.http.attach import Auth
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.settings import Limits, Tls

_CHUNK = 1 << 18
# Statuses of responses that precede the response (RFC 2518, RFC 8297), and how many of them are read.
_INTERIM = (102, 103)
_MOST_INTERIM = 10


class TooLargeError(Exception):
    """Raised when a body exceeds `max_response_bytes`."""


class LateError(Exception):
    """Raised when a response does not arrive in time."""


@dataclass(frozen=True)
class RawReply:
    """One response as received, decompressed; it may contain an echoed secret."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes


class Wire:
    """An HTTP client for one origin.

    Args:
        url: Any URL of the origin.
        auth: Attaches the secret.
        redactor: Receives the proxy's password.
        limits: Timeouts (s), size of a response (bytes), number of kept-alive connections.
        context: From `tls_context`; required for https.

    Raises:
        ValueError: The environment's proxy is of an unsupported kind.
    """

    def __init__(
        self, url: str, *, auth: Auth, redactor: Redactor, limits: Limits, context: ssl.SSLContext | None
    ) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[_SecretConnection] = weakref.WeakSet()
        self._responses: set[urllib3.BaseHTTPResponse] = set()
        self._aborts = 0
        options: dict[str, Any] = {"maxsize": limits.max_concurrency, "block": True, "ssl_context": context}
        address, proxy_headers = _proxy_for(url, redactor)
        self._proxied_openly = address is not None and read_origin(url)[0] == "http"
        manager: urllib3.PoolManager
        if address is None:
            manager = urllib3.PoolManager(**options)
        else:
            manager = urllib3.ProxyManager(
                address, proxy_headers=proxy_headers, proxy_ssl_context=context or tls_context(None), **options
            )
        manager.pool_classes_by_scheme = self._pool_classes(auth)
        self._pool = manager.connection_from_url(url)

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, until: float
    ) -> RawReply:
        """Sends one request and reads the whole response.

        Args:
            method: The method, in upper case.
            url: An absolute URL, of which only the part after the origin is used.
            headers: The headers, without the secret.
            body: The request body.
            until: Time, as in `time.monotonic()`, by which the response must have arrived.

        Raises:
            LateError: The response did not arrive in time.
            TooLargeError: The response exceeds `max_response_bytes`.
            urllib3.exceptions.HTTPError, OSError: A network error occurred.
            ValueError: The URL or a header cannot be sent.
        """
        left = until - time.monotonic()
        if left <= 0:
            raise LateError
        limits, aborts = self._limits, self._aborts
        response = self._pool.urlopen(
            method, url if self._proxied_openly else parse_url(url).request_uri, body=body, headers=headers,
            retries=False, redirect=False, preload_content=False,
            assert_same_host=not self._proxied_openly, pool_timeout=math.ceil(left),
            timeout=urllib3.Timeout(connect=min(limits.connect_timeout, left), read=min(limits.read_timeout, left)),
        )  # fmt: skip
        with self._lock:
            self._responses.add(response)
        try:
            content = self._read(response, until)
        except BaseException:
            response.close()
            response.release_conn()  # the pool waits for it even though it is closed
            raise
        finally:
            with self._lock:
                self._responses.discard(response)
        response.release_conn()
        if self._aborts != aborts:
            # An abort within the headers, or within a body without a length, looks like a complete response.
            raise LateError
        return RawReply(response.status, response.headers, content)

    def abort(self) -> None:
        """Aborts every exchange in progress, even one that keeps receiving bytes; later exchanges work again."""
        with self._lock:
            self._aborts += 1
            connections, responses = list(self._connections), list(self._responses)
        for connection in connections:
            connection.hang_up()
        # If the server closes the connection after its response, only the second list has it while the body is being read.
        for response in responses:
            with suppress(OSError, RuntimeError, ValueError):  # it has just ended
                response.shutdown()

    def close(self) -> None:
        """Aborts every exchange in progress and closes kept-alive connections."""
        self.abort()
        self._pool.close()

    def _read(self, response: urllib3.BaseHTTPResponse, until: float) -> bytes:
        # http.client bounds headers too, but only at 100 of 64 KiB.
        headers = sum(len(name) + len(value) for name, value in response.headers.items())
        most = self._limits.max_response_bytes - headers
        announced = response.headers.get("Content-Length", "")
        if most < 0 or (announced.isdigit() and int(announced) > most):
            raise TooLargeError
        content = bytearray()
        # In chunks after decompression, because a small compressed body may be huge.
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > most:
                raise TooLargeError
            if time.monotonic() > until:
                raise LateError
        return bytes(content)

    def _pool_classes(self, auth: Auth) -> dict[str, type[HTTPConnectionPool]]:
        """Returns urllib3's pools, with connections that attach the secret below everything that logs."""
        wire = self

        class Attaching(_SecretConnection):
            def attach(self, url: str, headers: dict[str, Any]) -> tuple[str, dict[str, Any]]:
                return auth.attach(url, headers)

            def attach_body(self, body: Any, headers: dict[str, Any]) -> Any:
                kind = next((str(value) for name, value in headers.items() if name.lower() == "content-type"), "")
                return auth.attach_body(body, kind.lower()) if isinstance(body, bytes) else body

            def register(self) -> None:
                with wire._lock:
                    wire._connections.add(self)

        class SecretHTTPConnection(Attaching, HTTPConnection):
            pass

        class SecretHTTPSConnection(Attaching, HTTPSConnection):
            pass

        class PoolHTTP(HTTPConnectionPool):
            ConnectionCls = SecretHTTPConnection

        class PoolHTTPS(HTTPSConnectionPool):
            ConnectionCls = SecretHTTPSConnection

        return {"http": PoolHTTP, "https": PoolHTTPS}


class _Answer(http.client.HTTPResponse):
    """A response without parse defects, so that urllib3 does not log them, and without those that only precede it."""

    def _read_status(self) -> tuple[str, int, str]:
        # http.client skips 100 Continue, but takes 102 Processing and 103 Early Hints for the response.
        for _ in range(_MOST_INTERIM):
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if found[1] not in _INTERIM:
                return found
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_MOST_INTERIM} responses precede the response")

    def begin(self) -> None:
        super().begin()
        # For headers that cannot be parsed, urllib3 logs a warning with the full URL and everything that was sent.
        self.headers.defects.clear()
        self.headers.set_payload("")


class _SecretConnection(HTTPConnection):
    """A connection that adds the secret to what it sends, and can be closed from another thread."""

    # If debugging is enabled globally, http.client prints everything that it sends, including the secret.
    debuglevel = 0
    response_class = _Answer

    _handle: socket.socket | None = None

    def attach(self, url: str, headers: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def attach_body(self, body: Any, headers: dict[str, Any]) -> Any:
        raise NotImplementedError

    def register(self) -> None:
        raise NotImplementedError

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        url, headers = self.attach(url, dict(headers or {}))
        body = self.attach_body(body, headers)
        super().request(method, url, body=body, headers=headers, **options)

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        # A second handle of the socket, because the first is not accessible during the TLS handshake.
        self._handle = connected.dup()
        self.register()
        return connected

    def hang_up(self) -> None:
        """Shuts down the socket, which wakes the thread that waits for bytes."""
        handle = self._handle
        if handle is not None:
            with suppress(OSError):  # it is already closed
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        super().close()
        if handle is not None:
            handle.close()


def tls_context(tls: Tls | None) -> ssl.SSLContext:
    """Returns a context that trusts certifi's CAs, as `requests` does, and optionally a private one.

    Raises:
        ValueError: The private CA's file cannot be read.
    """
    # urllib3's defaults: TLS 1.2 or newer, certificate and host name always verified.
    context = urllib3.util.ssl_.create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.load_verify_locations(certifi.where())
    if tls is not None and tls.ca_file is not None:
        try:
            context.load_verify_locations(tls.ca_file)
        except ssl.SSLError:
            raise ValueError(f"tls.ca_file: {tls.ca_file} does not contain a PEM certificate") from None
        except OSError as error:
            raise ValueError(f"tls.ca_file: {tls.ca_file}: {error.strerror}") from None
    return context


def _proxy_for(url: str, redactor: Redactor) -> tuple[str | None, dict[str, str]]:
    """Returns URL and headers of the environment's proxy for a URL, found as `requests` does."""
    from requests.utils import get_auth_from_url, get_environ_proxies, select_proxy, urldefragauth

    if is_loopback(read_origin(url)[1]):
        return None, {}
    named = select_proxy(url, get_environ_proxies(url))
    if not named:
        return None, {}
    address = named if "://" in named else f"http://{named}"
    user, password = get_auth_from_url(address)
    redactor.add(password)
    address = urldefragauth(address)
    scheme = address.partition("://")[0]
    if scheme not in PORTS:
        raise ValueError(f"the environment sets a proxy of kind {scheme}; only http and https proxies are supported")
    headers = {str(k): str(v) for k, v in make_headers(proxy_basic_auth=f"{user}:{password}").items()} if user else {}
    redactor.add(headers.get("proxy-authorization", "").partition(" ")[2])
    return address, headers


def may_pass(error: BaseException) -> bool:
    """Returns whether retrying may help; it does not for a certificate that is not trusted."""
    if isinstance(error, (urllib3.exceptions.LocationValueError, urllib3.exceptions.URLSchemeUnknown)):
        return False
    tls = _tls_error(error)
    return tls is None or isinstance(tls, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))


def describe(error: BaseException, limits: Limits) -> str:
    """Describes a network error, without redacting secrets."""
    known = urllib3.exceptions
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted: {tls.verify_message}. If a private CA signed it, set tls.ca_file"
        )
    if tls is not None and may_pass(error):
        return "the connection was cut during TLS"
    if tls is not None:
        return f"TLS failed: {tls.reason or tls}. Does this port speak https?"
    if isinstance(error, known.ProxyError):
        return f"the environment's proxy failed: {describe(error.original_error, limits)}"
    if isinstance(error, known.NameResolutionError):
        return f"the host name cannot be resolved: {error.__cause__}"
    if isinstance(error, known.NewConnectionError):
        return f"no connection: {_message(error.__cause__ or error)}"
    if isinstance(error, known.ConnectTimeoutError):
        return f"no connection within {limits.connect_timeout:g} s"
    if isinstance(error, known.ReadTimeoutError):
        return f"no bytes received for {limits.read_timeout:g} s"
    if isinstance(error, known.IncompleteRead):
        return f"the response was cut off after {error.partial} bytes"
    if isinstance(error, known.ProtocolError) and len(error.args) > 1 and isinstance(error.args[1], BaseException):
        inner = error.args[1]
        if isinstance(inner, known.IncompleteRead) or type(inner).__name__ == "IncompleteRead":
            return "the response was cut off"
        return f"the connection was dropped: {_message(inner)}"
    return f"{type(error).__name__}: {_message(error)}"


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """Returns the TLS library's error inside a urllib3 error, or None."""
    if isinstance(error, ssl.SSLError):
        return error
    if isinstance(error, urllib3.exceptions.ProxyError):
        return _tls_error(error.original_error)
    for inner in error.args:
        if isinstance(inner, ssl.SSLError):
            return inner
    return None
