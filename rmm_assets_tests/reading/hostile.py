"""Serves an API that fails in every possible way and echoes its client's secrets wherever it can."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from pydantic import SecretStr

from rmm_assets.http.auth import Secrets
from rmm_assets_tests.http.leaks import WRITTEN
from rmm_assets_tests.http.servers import (
    Say,
    Scripted,
    Seen,
    drip,
    free_port,
    make_certificates,
    raw_server,
    reset,
    silent,
)

PLAIN = "plain-key-0123456789"
ODD = "k3y/+=&%ü\"'\\<€> ~:zz"
TOKEN = "t0ken/of+the=server~0123456789"

AUTHS: dict[str, dict[str, Any]] = {
    "query": {"type": "api_key", "name": "api_key", "location": "query"},
    "header": {"type": "api_key", "name": "X-API-KEY", "location": "header"},
    "cookie": {"type": "api_key", "name": "session", "location": "cookie"},
    "bearer": {"type": "bearer"},
    "basic": {"type": "http_basic", "username": "me"},
    "oauth2": {"type": "oauth2_client_credentials", "client_id": "me"},
    "token": {
        "type": "token",
        "access_token_request": {
            "params": {"key": "{secrets.KEY}"},
            "headers": {"X-Key": "{secrets.KEY}"},
            "json": {"keys": ["{secrets.KEY}"]},
            "http_basic": {"username": "me", "password": "{secrets.KEY}"},
        },
        "access_token_path": "access_token",
        "send": {"name": "session", "location": "query"},
    },
}
"""Every way in which a secret travels, in a connection file's words."""

_PARTS = {"paginator": "single_page", "data_selector": "data"}
_LINKS = {"paginator": {"type": "json_link", "next_url_path": "next"}, "data_selector": "data"}


@dataclass(frozen=True)
class Case:
    """One way to fail.

    Attributes:
        endpoint: The resource's endpoint, without its path.
        settings: Further keys of the connection.
        resource: Further keys of the resource.
        red: Whether the run must fail.
        says: Text that the error must contain.
        path: The path, if it is not the name.
    """

    name: str
    base_url: str
    says: str = ""
    endpoint: dict[str, Any] = field(default_factory=lambda: dict(_PARTS))
    settings: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)
    red: bool = True

    def connection(self, auth: dict[str, Any], name: str = "acme") -> dict[str, Any]:
        """Returns the attributes of a connection file that triggers this failure."""
        reference = {"env": "ACME_API_KEY"}
        return {
            "name": name,
            "client": {"base_url": self.base_url, "auth": auth},
            **({"secrets": {"KEY": reference}} if auth["type"] == "token" else {"api_key": reference}),
            "retry": {"backoff_factor": 0.01, "max_retries": 1},
            "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
            **self.settings,
            "resources": [{"name": self.name, "endpoint": {"path": self.name, **self.endpoint}, **self.resource}],
        }


class Hostile:
    """The API, for one client.

    Args:
        way: A key of `AUTHS`.
        key: The client's secret.
        folder: Folder for certificates.

    Attributes:
        secrets: Texts that must not appear anywhere: the secret, and what is derived from it.
        arrived: Number of requests that contained the secret, as they should.
    """

    def __init__(self, way: str, key: str, folder: Path) -> None:
        self.way, self.key = way, key
        self.secrets = [key]
        if way in ("oauth2", "token"):
            self.secrets.append(TOKEN)
        if way in ("basic", "token"):
            self.secrets.append(base64.b64encode(f"me:{key}".encode()).decode())
        self.echo = " ".join(
            [write(secret) for secret in self.secrets for write in WRITTEN.values()]
            + [
                base64.b64encode(b"x" * before + secret.encode()).decode()
                for secret in self.secrets
                for before in range(3)
            ]
        )
        self.arrived = 0
        self._folder = folder
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[list[Case]]:
        """Starts the API.

        Yields:
            Every way to fail.
        """
        self._folder.mkdir(parents=True)
        certificates = make_certificates(self._folder, self_signed=True)
        line = self.echo.encode()
        with (
            Scripted(self._answer) as api,
            Scripted(lambda seen: Say()) as other,
            Scripted(self._answer, context=certificates.context()) as tls,
            raw_server(reset) as (resetting, _),
            raw_server(silent) as (mute, _),
            raw_server(drip(b"HTTP/1.1 200 OK\r\n\r\n" + line, b"x")) as (dripping, _),
            raw_server(_say(line + b"\r\n\r\n")) as (no_http, _),
            raw_server(_say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + line + b"\r\n")) as (chunks, _),
            raw_server(_say(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n" + line)) as (headers, _),
            raw_server(_say(b"HTTP/1.1 400 " + line + b"\r\nContent-Length: 0\r\n\r\n")) as (reason, _),
        ):
            self.url, self.other = api.url, other
            yield [
                *self._over_http(api.url),
                Case("nobody_there", f"http://127.0.0.1:{free_port()}", "Connection refused"),
                Case("reset", resetting, "reset by peer"),
                Case("silence", mute, "no bytes received", settings={"limits": {"read_timeout": 0.05}}),
                Case("drip", dripping, "deadline", settings={"limits": {"deadline": 0.3}}),
                Case("not_http", no_http, "dropped"),
                Case("bad_chunk", chunks, "nobody|HTTP|cut off|dropped|Error"),
                Case("bad_headers", headers, "HTTP 200|JSON"),
                Case("bad_reason", reason, "HTTP 400"),
                Case("untrusted", tls.url, "not trusted"),
                Case("no_tls", api.url.replace("http:", "https:"), "TLS failed"),
            ]

    def auth(self, token_path: str = "token") -> dict[str, Any]:
        """Returns the value of `client.auth`."""
        auth = dict(AUTHS[self.way])
        return auth | {"access_token_url": f"{self.url}/{token_path}"} if self.way in ("oauth2", "token") else auth

    def connection_secrets(self) -> Secrets:
        """Returns the client's secret, as the connection file refers to it."""
        key = SecretStr(self.key)
        return Secrets(None, {"KEY": key}) if self.way == "token" else Secrets(key)

    def _over_http(self, url: str) -> list[Case]:
        throttle = {"limits": {"throttle": [{"status": 200, "text": "slow down"}]}}
        return [
            Case("refused_401", url, "HTTP 401"),
            Case("refused_403", url, "HTTP 403"),
            Case("bad_request", url, "HTTP 400"),
            Case("down", url, "HTTP 500"),
            Case("throttled", url, "HTTP 429"),
            Case("throttled_200", url, "rate limited by the API", settings=throttle),
            Case("page_of_html", url, "HTTP 200"),
            Case("cut_json", url, "HTTP 200"),
            Case("cut_body", url, "cut off"),
            Case("bad_gzip", url, "DecodeError|decod"),
            Case("other_selector", url, "HTTP 200"),
            Case("too_large", url, "max_response_bytes", settings={"limits": {"max_response_bytes": 500}}),
            Case("redirect_away", url, "another origin"),
            Case("redirect_here", url, "HTTP 404"),
            Case("redirect_circle", url, "more than 5 redirects"),
            Case("next_away", url, "another origin", endpoint=_LINKS),
            Case("next_stuck", url, "already read|does not move|the same as", endpoint=_LINKS),
            Case("next_here", url, endpoint=_LINKS, red=False),
            Case("total_lies", url, "reports 99 rows",
                 endpoint={"paginator": {"type": "offset", "limit": 10}, "data_selector": "data"}),
            Case("cursor", url, endpoint={"paginator": {"type": "cursor", "cursor_path": "cursor"},
                                          "data_selector": "data"}, red=False),
            Case("rows", url, red=False),
            Case("rows_of_dlt", url, resource={"normalizer": "dlt"}, red=False),
            Case("rejected", url, resource={"columns": {"size": {"data_type": "bigint"}}}, red=False),
            Case("since", url, endpoint={**_PARTS, "incremental": {"cursor_path": "name", "initial_value": ""}},
                 red=False),
        ]  # fmt: skip

    def _answer(self, seen: Seen) -> Say | None:
        path, _, query = seen.target.partition("?")
        name = path.strip("/").partition("/")[0]
        if name == "token":
            return Say({"access_token": TOKEN, "expires_in": 3600, "echo": self.echo})
        if name == "no_token":
            return Say({"error": [write(self.key) for write in WRITTEN.values()]}, 400)
        if name == "bare_token":
            return Say(TOKEN.encode())
        if self._carries_secret(seen):
            with self._lock:
                self.arrived += 1
        echo = self.echo
        in_header = echo.encode().decode("latin-1")
        spread = (
            ("Content-Type", f"application/json; key={in_header}"),
            ("X-Echo", in_header),
            ("Set-Cookie", in_header),
        )
        row = {"id": 1, "name": echo, "nested": {"key": echo, "deep": {"list": [echo]}}, "list": [echo, {"a": echo}]}
        link = f"api_key={quote(self.key, safe='')}&k={quote(self.secrets[-1], safe='')}"
        match name:
            case "refused_401" | "refused_403" | "bad_request" | "down":
                status = {"refused_401": 401, "refused_403": 403, "bad_request": 400, "down": 500}[name]
                return Say({"error": echo}, status, spread)
            case "throttled":
                return Say({"error": echo}, 429, (*spread, ("Retry-After", "0.01")))
            case "throttled_200":
                return Say({"error": f"{echo} slow down"}, 200, spread)
            case "page_of_html":
                return Say(f"<html><body>{echo}</body></html>".encode(), 200, (("Content-Type", "text/html"),))
            case "cut_json":
                return Say(('{"data": [{"id": 1, "name": "' + self.key).encode())
            case "cut_body":
                return Say({"data": [row]}, length=10**6)
            case "bad_gzip":
                return Say(echo.encode(), 200, (("Content-Encoding", "gzip"),))
            case "other_selector":
                return Say({self.key: echo, "nothing": [row]}, 200, spread)
            case "too_large":
                return Say({"data": [row]})
            case "redirect_away":
                return Say({"error": echo}, 302, (("Location", f"{self.other.url}/{quote(self.key, safe='')}?{link}"),))
            case "redirect_here":
                return Say({"error": echo}, 302, (("Location", f"/gone/{quote(self.key, safe='')}?{link}"),))
            case "redirect_circle":
                return Say({"error": echo}, 302, (("Location", f"/redirect_circle?{link}"),))
            case "next_away":
                return Say({"data": [row], "next": f"{self.other.url}/v1?{link}"})
            case "next_stuck":
                return Say({"data": [row, *({"id": 2 + n} for n in range(9))], "next": f"{self.url}/next_stuck?{link}"})
            case "next_here":
                more = "page=2" not in query
                following = f"{self.url}/next_here?page=2&{link}" if more else None
                return Say({"data": [{**row, "id": len(query)}], "next": following})
            case "total_lies":
                return Say({"data": [row] if "offset=0" in query else [], "total": 99})
            case "cursor":
                return Say({"data": [{**row, "id": len(query)}], "cursor": None if "cursor=" in query else self.key})
            case "rows" | "rows_of_dlt":
                return Say({"data": [row, {"id": 2, "name": self.key, f"column {self.key}": 1}]}, 200, spread)
            case "rejected":
                return Say({"data": [{**row, "id": None}, {**row, "size": echo}, {"id": 3, "size": 1}]})
            case "since":
                return Say({"data": [row]})
            case _:
                return Say({"error": echo}, 404, spread)

    def _carries_secret(self, seen: Seen) -> bool:
        headers, key = seen.headers, self.key
        sent = key.encode("latin-1") if key.isascii() else key.encode()
        match self.way:
            case "query":
                return parse_qs(seen.target.partition("?")[2]).get("api_key") == [key]
            case "header":
                return headers.get("x-api-key", "").encode("latin-1") == sent
            case "cookie":
                return headers.get("cookie", "").encode("latin-1") == b"session=" + sent
            case "basic":
                return headers.get("authorization") == f"Basic {self.secrets[-1]}"
            case "token":
                return parse_qs(seen.target.partition("?")[2]).get("session") == [TOKEN]
            case "oauth2":
                return headers.get("authorization") == f"Bearer {TOKEN}"
            case _:
                return headers.get("authorization", "").encode("latin-1") == b"Bearer " + sent


def _say(answer: bytes) -> Any:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        time.sleep(0.01)

    return talk
