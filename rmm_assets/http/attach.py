"""Attaches secrets to requests as they are written to the socket, below everything that could log, store or raise a URL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote_plus, unquote_plus

from rmm_assets.http.marks import filled, names_in
from rmm_assets.http.request import Request

Headers = dict[str, str | bytes]


@dataclass(frozen=True, repr=False)
class TokenAnswer:
    """The response to a token request, not redacted, because a server may return the same token again.

    Attributes:
        document: The body as parsed JSON; None if it is not JSON.
        cookies: The cookies that the response sets, by name.
        said: Status and content type, redacted, for messages.
    """

    document: Any
    cookies: Mapping[str, str]
    said: str


FetchToken = Callable[[Request, "Auth"], TokenAnswer]
"""Sends a token request, whose path is an absolute URL, with the secrets that its own auth attaches.

It raises `TokenRefusedError` for an error response.
"""


class TokenRefusedError(Exception):
    """Raised for a token request that is answered with an error.

    Attributes:
        temporary: Whether the same request may succeed later.
    """

    def __init__(self, text: str, *, temporary: bool) -> None:
        super().__init__(text)
        self.temporary = temporary


class Auth(Protocol):
    """The interface of all kinds of auth."""

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        """Returns the request target and headers with the secret attached."""
        ...

    def attach_body(self, body: bytes, content_type: str) -> bytes:
        """Returns the request body with its secrets filled in."""
        ...

    def prepare(self, fetch: FetchToken) -> int:
        """Obtains what `attach` needs (a token); called before every request, and cheap if the token is still valid.

        Returns:
            The token's number, for `renew`.
        """
        ...

    def renew(self, refused: int) -> bool:
        """Makes `prepare` obtain something else unless it already has; returns False if there is nothing to renew."""
        ...

    def strip(self, url: str) -> str:
        """Removes a secret that the server echoed from a URL that the server sent, such as a `next` link."""
        ...


class NoAuth:
    """No auth, for an API that does not need a key."""

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        return target, headers

    def attach_body(self, body: bytes, content_type: str) -> bytes:
        return body

    def prepare(self, fetch: FetchToken) -> int:
        return 0

    def renew(self, refused: int) -> bool:
        return False

    def strip(self, url: str) -> str:
        return url


class QueryAuth(NoAuth):
    """Sends the key as a query parameter."""

    def __init__(self, name: str, secret: str) -> None:
        self._name = name
        self._pair = f"{quote_plus(name)}={quote_plus(secret)}"

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        return f"{target}{'&' if '?' in target else '?'}{self._pair}", headers

    def strip(self, url: str) -> str:
        # Edited as text, so that other parameters keep the server's own encoding, which a cursor may depend on.
        rest, hash_, fragment = url.partition("#")
        path, _, query = rest.partition("?")
        pairs = query.split("&")
        others = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != self._name]
        if len(others) == len(pairs):
            return url
        return path + ("?" + "&".join(others) if others else "") + hash_ + fragment


class HeaderAuth(NoAuth):
    """Sends the secret in a header: an API key, a bearer token, basic credentials or a cookie."""

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = header_value(value)

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        others = {name: value for name, value in headers.items() if name.lower() != self._name.lower()}
        return target, {**others, self._name: self._value}


class NamedSecrets:
    """Fills the secrets of `secrets` into the places that refer to them, in addition to another auth.

    Args:
        auth: The other auth.
        texts: The secrets by name.
        params: The endpoint's query parameters, with marks.
    """

    def __init__(self, auth: Auth, texts: Mapping[str, str], params: Mapping[str, Any]) -> None:
        self._auth, self._texts = auth, dict(texts)
        self._params = {name: quote_plus(str(value)) for name, value in params.items() if names_in(value)}
        self.prepare, self.renew = auth.prepare, auth.renew

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        written = {
            name: header_value(filled(value, self._texts)) if isinstance(value, str) else value
            for name, value in headers.items()
        }
        return self._auth.attach(filled(target, self._texts, quote_plus), written)

    def attach_body(self, body: bytes, content_type: str) -> bytes:
        write: Callable[[str], str] = str
        if "form-urlencoded" in content_type:
            write = quote_plus
        elif "json" in content_type or body.lstrip()[:1] in (b"{", b"["):
            write = _in_json
        return bytes(filled(body, self._texts, write))

    def strip(self, url: str) -> str:
        # A server that repeats the request's parameters in a link repeats the secret, which has already been masked.
        rest, hash_, fragment = self._auth.strip(url).partition("#")
        path, mark, query = rest.partition("?")
        pairs = [(pair, unquote_plus(pair.partition("=")[0])) for pair in query.split("&")]
        written = [
            f"{pair.partition('=')[0]}={self._params[name]}" if name in self._params else pair for pair, name in pairs
        ]
        return path + mark + "&".join(written) + hash_ + fragment


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def header_value(text: str) -> str | bytes:
    """Encodes a header as `requests` does: latin-1, or UTF-8 if latin-1 cannot encode it."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
    return text
