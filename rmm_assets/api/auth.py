"""A connection's one secret to what a request carries on the wire.

Nothing here is logged, stored or raised: `attach` is called by the connection object that writes to the socket, below
everything that could print a URL. The auth types and their keys are those of dlt's `rest_api`.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, quote_plus, urlencode, urlsplit, urlunsplit

# Renewed this long before it ends, so that a token does not run out between the check and the server.
TOKEN_MARGIN_SECONDS = 30.0

MASK = "***"


class Auth(Protocol):
    """How a secret reaches the API."""

    def attach(self, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        """The request target and headers as they go on the wire."""
        ...

    def prepare(self, post_form: PostForm) -> None:
        """Obtain what `attach` needs (a token); called before every request, cheap when nothing is due."""
        ...

    def renew(self) -> bool:
        """Forget a token the server refused; False where there is nothing to renew."""
        ...

    def strip(self, url: str) -> str:
        """A URL that came from the server (a `next` link) without the secret that the server echoed into it."""
        ...


PostForm = Callable[[str, dict[str, str]], Mapping[str, Any]]
"""Posts a form (URL, fields) and answers the JSON object that came back."""


class NoAuth:
    """An API that asks for no key."""

    def attach(self, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        return url, headers

    def prepare(self, post_form: PostForm) -> None:
        return

    def renew(self) -> bool:
        return False

    def strip(self, url: str) -> str:
        return url


class QueryKey(NoAuth):
    """The key as a query parameter."""

    def __init__(self, name: str, secret: str) -> None:
        self._name = name
        self._pair = f"{quote_plus(name)}={quote_plus(secret)}"

    def attach(self, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        return f"{url}{'&' if '?' in url else '?'}{self._pair}", headers

    def strip(self, url: str) -> str:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        kept = [pair for pair in pairs if pair[0] != self._name]
        if len(kept) == len(pairs):
            return url
        return urlunsplit(parts._replace(query=urlencode(kept)))


class HeaderSecret(NoAuth):
    """The secret in one header: an API key, a bearer token, basic credentials, a cookie."""

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = value

    def attach(self, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        return url, {**headers, self._name: self._value}


class ClientCredentials(NoAuth):
    """OAuth 2.0 client credentials (RFC 6749, section 4.4): a token that is fetched, kept and renewed within the run."""

    def __init__(self, config: Mapping[str, Any], secret: str, on_token: Callable[[str], None]) -> None:
        self._url = str(config["access_token_url"])
        self._form = {
            "grant_type": "client_credentials",
            "client_id": str(config["client_id"]),
            "client_secret": secret,
            **{key: str(value) for key, value in (config.get("access_token_request_data") or {}).items()},
        }
        self._default_seconds = float(config.get("default_token_expiration") or 3600)
        self._on_token = on_token
        self._lock = threading.Lock()
        self._token: str | None = None
        self._ends = 0.0

    def prepare(self, post_form: PostForm) -> None:
        with self._lock:
            if self._token is not None and time.monotonic() < self._ends:
                return
            answer = post_form(self._url, self._form)
            token = answer.get("access_token")
            if not isinstance(token, str) or not token:
                raise ValueError(f"{self._url} answered without an access_token")
            lifetime = float(answer.get("expires_in") or self._default_seconds)
            self._on_token(token)
            self._token = token
            self._ends = time.monotonic() + max(lifetime - TOKEN_MARGIN_SECONDS, lifetime / 2)

    def attach(self, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        return url, {**headers, "Authorization": f"Bearer {self._token}"}

    def renew(self) -> bool:
        with self._lock:
            self._token = None
        return True


class Redactor:
    """Strikes a secret out of text and bytes, in every form in which it may come back.

    Forms: as it is, URL-encoded, escaped in JSON, and in base64 at each of the three alignments.
    """

    # A shorter secret is struck out of messages but not of rows, where it could be an innocent word.
    SHORTEST_IN_BODIES = 8

    def __init__(self) -> None:
        self._forms: tuple[str, ...] = ()
        self._bytes: tuple[bytes, ...] = ()

    def add(self, secret: str) -> None:
        """Strike this out, too, from now on."""
        if not secret:
            return
        forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
        forms |= {form.lower() for form in forms if "%" in form and form.lower() != form}
        forms.add(secret.encode("unicode_escape").decode().replace('"', '\\"'))
        forms.add(secret.replace("\\", "\\\\").replace('"', '\\"').replace("/", "\\/"))
        if len(secret) >= self.SHORTEST_IN_BODIES:
            forms |= _base64_forms(secret.encode())
        self._forms = tuple(sorted({*self._forms, *forms}, key=len, reverse=True))
        if len(secret) >= self.SHORTEST_IN_BODIES:
            self._bytes = tuple(
                sorted({*self._bytes, *(form.encode() for form in forms)}, key=len, reverse=True)
            )

    def text(self, text: str) -> str:
        """The text with the secret masked."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def body(self, body: bytes) -> bytes:
        """A response body with the secret masked, so that an echoed key reaches no table, link or message."""
        for form in self._bytes:
            if form in body:
                body = body.replace(form, MASK.encode())
        return body


def _base64_forms(secret: bytes) -> set[str]:
    """What stays the same of a secret's base64, whatever stands before and after it."""
    forms: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        # The first characters mix with what stands before, the last one with what stands after.
        stable = encoded[(0, 2, 3)[before] : len(encoded) if (before + len(secret)) % 3 == 0 else -1]
        forms |= {stable, stable.replace("+", "-").replace("/", "_")}
    return forms


def build_auth(config: Mapping[str, Any] | str | None, secret: str | None, redactor: Redactor) -> Auth:
    """The auth of a connection.

    Args:
        config: dlt's `client.auth` (or `endpoint.auth`) without the secret.
        secret: API key, bearer token, password or client secret, by the auth's type.
        redactor: Told of every secret that this auth puts on the wire.

    Raises:
        ValueError: the type is not one of dlt's, or there is an auth and no secret.
    """
    if not config:
        return NoAuth()
    options: Mapping[str, Any] = {"type": config} if isinstance(config, str) else config
    kind = options.get("type", "bearer")
    if secret is None:
        raise ValueError(f"auth of type {kind} needs a secret: set api_key in the connection file")
    redactor.add(secret)
    if kind == "api_key":
        name, location = options.get("name") or "Authorization", options.get("location") or "header"
        if location in ("query", "param"):
            return QueryKey(name, secret)
        return HeaderSecret("Cookie", f"{name}={secret}") if location == "cookie" else HeaderSecret(name, secret)
    if kind == "bearer":
        return HeaderSecret("Authorization", f"Bearer {secret}")
    if kind == "http_basic":
        pair = base64.b64encode(f"{options['username']}:{secret}".encode()).decode()
        redactor.add(pair)
        return HeaderSecret("Authorization", f"Basic {pair}")
    if kind == "oauth2_client_credentials":
        return ClientCredentials(options, secret, redactor.add)
    raise ValueError(f"unknown auth type {kind!r}: bearer, api_key, http_basic or oauth2_client_credentials")
