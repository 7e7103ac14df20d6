"""One origin to single exchanges on kept-alive connections; the secret joins a request on its way into the socket.

The pool knows this one origin and no other, so that no address, however written, takes the key elsewhere. Proxies, TLS,
limits of time and size are seen to here. Whether an answer is a good one, and what to do if not, is for `transport`.
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
from rmm_assets.http.auth import Auth
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.settings import Limits, Tls

_CHUNK = 1 << 18


class TooLargeError(Exception):
    """A body beyond `max_response_bytes`."""


class LateError(Exception):
    """The moment by which an answer had to be here has passed."""


@dataclass(frozen=True)
class RawReply:
    """One answer, its body decompressed and otherwise as it came: it may hold an echoed secret."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes


class Wire:
    """Exchanges with one origin.

    Args:
        url: Any address of the origin.
        auth: Attaches the secret.
        redactor: Told of a proxy's password.
        limits: Timeouts (s), size of an answer (bytes), how many connections are kept.
        context: From `tls_context`; needed for https.

    Raises:
        ValueError: the environment names a proxy of a kind that is not spoken here.
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
        """Send one request and read the answer to its end.

        Args:
            method: In upper case.
            url: Absolute; only what follows the origin is looked at.
            headers: Beside the secret's.
            body: What is sent.
            until: Moment of `time.monotonic()` by which the answer must be here.

        Raises:
            LateError, TooLargeError: as they say.
            urllib3.exceptions.HTTPError, OSError: what the network did.
            ValueError: a URL or header that cannot be sent.
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
            response.release_conn()  # the pool waits for it, closed as it is
            raise
        finally:
            with self._lock:
                self._responses.discard(response)
        response.release_conn()
        if self._aborts != aborts:
            # Hung up among the headers, or in a body of no stated length, it looks like an answer that has ended.
            raise LateError
        return RawReply(response.status, response.headers, content)

    def abort(self) -> None:
        """End every exchange under way, however slowly its bytes drip in; connections made later work again."""
        with self._lock:
            self._aborts += 1
            connections, responses = list(self._connections), list(self._responses)
        for connection in connections:
            connection.hang_up()
        # A connection that the server ends after its answer is gone from the first list while its body still comes.
        for response in responses:
            with suppress(OSError, RuntimeError, ValueError):  # it has just ended
                response.shutdown()

    def close(self) -> None:
        """End every exchange under way and drop kept connections."""
        self.abort()
        self._pool.close()

    def _read(self, response: urllib3.BaseHTTPResponse, until: float) -> bytes:
        most = self._limits.max_response_bytes
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > most:
            raise TooLargeError
        content = bytearray()
        # Piece by piece, decompressed: a small packed body may be a huge one.
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > most:
                raise TooLargeError
            if time.monotonic() > until:
                raise LateError
        return bytes(content)

    def _pool_classes(self, auth: Auth) -> dict[str, type[HTTPConnectionPool]]:
        """urllib3's pools, with connections that attach the secret below everything that logs."""
        wire = self

        class Attaching(_SecretConnection):
            def attach(self, url: str, headers: dict[str, Any]) -> tuple[str, dict[str, Any]]:
                return auth.attach(url, headers)

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
    """An answer of which urllib3 finds nothing to log."""

    def begin(self) -> None:
        super().begin()
        # Of headers that cannot be parsed, urllib3 makes a warning with the whole address and all that was sent.
        self.headers.defects.clear()
        self.headers.set_payload("")


class _SecretConnection(HTTPConnection):
    """A connection that adds the secret to what it sends, and can be hung up from another thread."""

    # http.client prints what it sends, secret and all, where somebody switched that on for every connection.
    debuglevel = 0
    response_class = _Answer

    _handle: socket.socket | None = None

    def attach(self, url: str, headers: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def register(self) -> None:
        raise NotImplementedError

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        url, headers = self.attach(url, dict(headers or {}))
        super().request(method, url, body=body, headers=headers, **options)

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        # A second handle on the connection: TLS takes the first one away for as long as its handshake lasts.
        self._handle = connected.dup()
        self.register()
        return connected

    def hang_up(self) -> None:
        """Wake whoever waits for bytes here; they find the connection ended."""
        handle = self._handle
        if handle is not None:
            with suppress(OSError):  # it ended by itself
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        super().close()
        if handle is not None:
            handle.close()


def tls_context(tls: Tls | None) -> ssl.SSLContext:
    """What certificates are verified against: certifi's authorities, as in `requests`, and a private one beside them.

    Raises:
        ValueError: the private authority's file cannot be read.
    """
    # Of urllib3: TLS 1.2 or newer, certificate and host name always verified.
    context = urllib3.util.ssl_.create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.load_verify_locations(certifi.where())
    if tls is not None and tls.ca_file is not None:
        try:
            context.load_verify_locations(tls.ca_file)
        except ssl.SSLError:
            raise ValueError(f"tls.ca_file: {tls.ca_file} holds no certificate in PEM form") from None
        except OSError as error:
            raise ValueError(f"tls.ca_file: {tls.ca_file}: {error.strerror}") from None
    return context


def _proxy_for(url: str, redactor: Redactor) -> tuple[str | None, dict[str, str]]:
    """Address and headers of the proxy that the environment names for a URL, as `requests` reads it."""
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
        raise ValueError(f"the environment names a proxy of kind {scheme}; only http and https ones are spoken here")
    headers = {str(k): str(v) for k, v in make_headers(proxy_basic_auth=f"{user}:{password}").items()} if user else {}
    redactor.add(headers.get("proxy-authorization", "").partition(" ")[2])
    return address, headers


def may_pass(error: BaseException) -> bool:
    """Whether the same request may go well a moment later: a certificate that is not trusted stays so."""
    if isinstance(error, (urllib3.exceptions.LocationValueError, urllib3.exceptions.URLSchemeUnknown)):
        return False
    tls = _tls_error(error)
    return tls is None or isinstance(tls, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))


def describe(error: BaseException, limits: Limits) -> str:
    """What the network did, in words; a secret that libraries put there is still to be struck out."""
    known = urllib3.exceptions
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted: {tls.verify_message}. If an authority of your own signed it, "
            "give that as tls.ca_file"
        )
    if tls is not None and may_pass(error):
        return "the connection was cut during TLS"
    if tls is not None:
        return f"TLS failed: {tls.reason or tls}. Does this port speak https?"
    if isinstance(error, known.ProxyError):
        return f"the proxy of the environment: {describe(error.original_error, limits)}"
    if isinstance(error, known.NameResolutionError):
        return f"the host's name is not known: {error.__cause__}"
    if isinstance(error, known.NewConnectionError):
        return f"no connection: {_words(error.__cause__ or error)}"
    if isinstance(error, known.ConnectTimeoutError):
        return f"no connection within {limits.connect_timeout:g} s"
    if isinstance(error, known.ReadTimeoutError):
        return f"no bytes came for {limits.read_timeout:g} s"
    if isinstance(error, known.IncompleteRead):
        return f"the answer was cut off after {error.partial} bytes"
    if isinstance(error, known.ProtocolError) and len(error.args) > 1 and isinstance(error.args[1], BaseException):
        inner = error.args[1]
        if isinstance(inner, known.IncompleteRead) or type(inner).__name__ == "IncompleteRead":
            return "the answer was cut off"
        return f"the connection was dropped: {_words(inner)}"
    return f"{type(error).__name__}: {_words(error)}"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS library's own error in one of urllib3."""
    if isinstance(error, ssl.SSLError):
        return error
    if isinstance(error, urllib3.exceptions.ProxyError):
        return _tls_error(error.original_error)
    for inner in error.args:
        if isinstance(inner, ssl.SSLError):
            return inner
    return None
