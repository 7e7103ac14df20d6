"""A connection's one secret to what a request carries on the wire, and to what everything else may show of it.

`attach` is called by the connection object that writes to the socket, below everything that could log, store or raise a
URL; `Redactor` strikes out what comes back. Sending is the business of `wire` and `transport`. The auth types and their
keys are those of dlt's `rest_api`.
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote, quote_plus, unquote_plus

from pydantic import SecretStr

# Renewed this long before it ends, so that a token does not run out between the check and the server.
TOKEN_MARGIN_SECONDS = 30.0

MASK = "***"

Headers = dict[str, str | bytes]

PostForm = Callable[[str, dict[str, str]], Mapping[str, Any]]
"""Posts a form (URL, fields) and answers the JSON object that came back."""


class Auth(Protocol):
    """How a secret reaches the API."""

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        """The request target and headers as they go on the wire."""
        ...

    def prepare(self, post_form: PostForm) -> int:
        """Obtain what `attach` needs (a token); called before every request, cheap when nothing is due.

        Returns:
            The token's number, for `renew`.
        """
        ...

    def renew(self, refused: int) -> bool:
        """Have `prepare` fetch a new token, unless it did since that one; False where there is nothing to renew."""
        ...

    def strip(self, url: str) -> str:
        """A URL that came from the server (a `next` link) without the secret that the server echoed into it."""
        ...


class NoAuth:
    """An API that asks for no key."""

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        return target, headers

    def prepare(self, post_form: PostForm) -> int:
        return 0

    def renew(self, refused: int) -> bool:
        return False

    def strip(self, url: str) -> str:
        return url


class QueryKey(NoAuth):
    """The key as a query parameter."""

    def __init__(self, name: str, secret: str) -> None:
        self._name = name
        self._pair = f"{quote_plus(name)}={quote_plus(secret)}"

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        return f"{target}{'&' if '?' in target else '?'}{self._pair}", headers

    def strip(self, url: str) -> str:
        # Textually: other parameters keep the server's own spelling, which a cursor may depend on.
        rest, hash_, fragment = url.partition("#")
        path, _, query = rest.partition("?")
        pairs = query.split("&")
        kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != self._name]
        if len(kept) == len(pairs):
            return url
        return path + ("?" + "&".join(kept) if kept else "") + hash_ + fragment


class HeaderSecret(NoAuth):
    """The secret in one header: an API key, a bearer token, basic credentials, a cookie."""

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = _header_value(value)

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        others = {name: value for name, value in headers.items() if name.lower() != self._name.lower()}
        return target, {**others, self._name: self._value}


class ClientCredentials(NoAuth):
    """OAuth 2.0 client credentials (RFC 6749, section 4.4): a token is fetched, kept and renewed within the run."""

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
        self._token = ""
        self._number = 0
        self._ends = 0.0

    def prepare(self, post_form: PostForm) -> int:
        with self._lock:
            if time.monotonic() >= self._ends:
                self._fetch(post_form)
            return self._number

    def _fetch(self, post_form: PostForm) -> None:
        answer = post_form(self._url, self._form)
        token = answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise ValueError(f"{self._url} answered without an access_token")
        lifetime = float(answer.get("expires_in") or self._default_seconds)
        self._on_token(token)
        self._token = token
        self._number += 1
        self._ends = time.monotonic() + max(lifetime - TOKEN_MARGIN_SECONDS, lifetime / 2)

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        others = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        return target, {**others, "Authorization": _header_value(f"Bearer {self._token}")}

    def renew(self, refused: int) -> bool:
        with self._lock:
            # Eight workers are refused together and need one new token, not eight.
            if refused == self._number:
                self._ends = 0.0
        return True


class Redactor:
    """Strikes a secret out of text and bytes, in every form in which it may come back.

    Forms: as it is, URL-encoded (once and twice, either case), escaped in HTML, as Python prints it, each of these in
    JSON and in JSON within JSON, and in base64 at each of the three alignments. Not: any other encoding, or pieces.
    """

    # A shorter secret is struck out of messages but not of rows and links, where it could be an innocent word.
    SHORTEST_IN_BODIES = 8

    def __init__(self) -> None:
        self._in_messages: tuple[_Forms[str], ...] = ()
        self._in_bodies: tuple[_Forms[bytes], ...] = ()

    def add(self, secret: str) -> None:
        """Strike this out, too, from now on."""
        if not secret:
            return
        written, packed = _written_forms(secret), set[str]()
        core = max(re.findall("[A-Za-z0-9]+", secret), key=len, default="")
        if len(secret) >= self.SHORTEST_IN_BODIES:
            packed = _base64_forms(secret.encode())
            in_latin = {form.encode("latin-1", "replace") for form in written}
            bodies = _Forms(
                core.encode(), _longest_first({form.encode() for form in written} | in_latin),
                _longest_first({form.encode() for form in packed}),
            )  # fmt: skip
            self._in_bodies = (*self._in_bodies, bodies)
        # UTF-16 read as UTF-8, which is how an error page of another encoding ends up in a message.
        packed.add("\0".join(secret))
        messages = _Forms(core, _longest_first(written), _longest_first(packed))
        self._in_messages = (*self._in_messages, messages)

    def text(self, text: str) -> str:
        """The text with the secret masked."""
        for forms in self._in_messages:
            for form in forms.to_look_for(text):
                if form in text:
                    text = text.replace(form, MASK)
        return text

    def body(self, body: bytes) -> bytes:
        """A response body with the secret masked, so that an echoed key reaches no table, link or message."""
        for forms in self._in_bodies:
            for form in forms.to_look_for(body):
                if form in body:
                    body = body.replace(form, MASK.encode())
        return body

    def header(self, value: str) -> str:
        """A response header's value with the secret masked."""
        # http.client reads a header's bytes as latin-1.
        return self.body(value.encode("latin-1", "replace")).decode("latin-1")


Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True)
class _Forms(Generic[Text]):
    """One secret's forms, the longest first, so that none leaves the rest of a longer one behind.

    Attributes:
        core: Letters and digits that every written form holds as they are.
        written: Forms that a search for `core` rules out.
        packed: All others.
    """

    core: Text
    written: tuple[Text, ...]
    packed: tuple[Text, ...]

    def to_look_for(self, text: Text) -> tuple[Text, ...]:
        # A secret with special characters has some hundred forms, and every page is searched.
        return self.written + self.packed if self.core in text else self.packed


def _longest_first(forms: set[Text]) -> tuple[Text, ...]:
    return tuple(sorted(forms, key=len, reverse=True))


def _written_forms(secret: str) -> set[str]:
    """How people, browsers, servers and Python write a secret down, and that within JSON within JSON."""
    encoded = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    # encodeURIComponent and encodeURI of browsers leave more as it is than Python does.
    encoded |= {quote(secret, safe="!*'()~"), quote(secret, safe="!*'()~;/?:@&=+$,#")}
    encoded |= {quote(form, safe="") for form in encoded}
    encoded |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded}
    pages = {html.escape(secret), html.escape(secret, quote=False), html.escape(secret).replace("&quot;", "&#34;")}
    pages |= {page.replace("&#x27;", "&#39;") for page in pages}
    printed = {repr(secret)[1:-1], repr(secret.encode())[2:-1], repr(secret.encode("latin-1", "replace"))[2:-1]}
    forms = {secret} | encoded | pages | printed | _json_forms({secret})
    forms |= _json_forms(forms)
    return forms | _json_forms(forms)


def _json_forms(texts: Iterable[str]) -> set[str]:
    forms: set[str] = set()
    for text in texts:
        ascii_only = json.dumps(text)[1:-1]
        forms |= {ascii_only, json.dumps(text, ensure_ascii=False)[1:-1]}
        forms.add(re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), ascii_only))
    return forms | {form.replace("/", "\\/") for form in forms}


def _base64_forms(secret: bytes) -> set[str]:
    """What stays the same of a secret's base64, whatever stands before and after it."""
    forms: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        # The first characters mix with what stands before, the last one with what stands after.
        stable = encoded[(0, 2, 3)[before] : len(encoded) if (before + len(secret)) % 3 == 0 else -1]
        forms |= {stable, stable.replace("+", "-").replace("/", "_")}
    return forms


def hidden(secret: SecretStr | str | None) -> SecretStr | None:
    """A secret as a value that shows nothing when a debugger, or an error reporter, prints a frame's variables."""
    return SecretStr(secret) if isinstance(secret, str) else secret


def build_auth(config: Mapping[str, Any] | str | None, secret: SecretStr | str | None, redactor: Redactor) -> Auth:
    """The auth of a connection. From here on this process leaves no core file: the secret would stand in it.

    Args:
        config: dlt's `client.auth` (or `endpoint.auth`) without the secret.
        secret: API key, bearer token, password or client secret, by the auth's type.
        redactor: Told of every secret that this auth puts on the wire.

    Raises:
        ValueError: the type is not one of dlt's, there is an auth and no secret, or the secret cannot be sent. Neither
            the text nor a variable of a frame holds the secret.
    """
    secret = hidden(secret)
    if not config:
        return NoAuth()
    options: Mapping[str, Any] = {"type": config} if isinstance(config, str) else config
    kind = options.get("type", "bearer")
    if secret is None:
        raise ValueError(f"auth of type {kind} needs a secret: set api_key in the connection file")
    if kind not in _KINDS:
        raise ValueError(f"unknown auth type {kind!r}: {', '.join(_KINDS)}")
    problem = _unsendable(secret)
    if problem is not None:
        raise ValueError(problem)
    no_core_files()
    redactor.add(secret.get_secret_value())
    return _KINDS[kind](options, secret.get_secret_value(), redactor)


def _api_key(options: Mapping[str, Any], secret: str, _: Redactor) -> Auth:
    name, location = options.get("name") or "Authorization", options.get("location") or "header"
    if location in ("query", "param"):
        return QueryKey(name, secret)
    return HeaderSecret("Cookie", f"{name}={secret}") if location == "cookie" else HeaderSecret(name, secret)


def _bearer(_: Mapping[str, Any], secret: str, __: Redactor) -> Auth:
    return HeaderSecret("Authorization", f"Bearer {secret}")


def _basic(options: Mapping[str, Any], secret: str, redactor: Redactor) -> Auth:
    pair = base64.b64encode(f"{options['username']}:{secret}".encode()).decode()
    redactor.add(pair)
    return HeaderSecret("Authorization", f"Basic {pair}")


def _client_credentials(options: Mapping[str, Any], secret: str, redactor: Redactor) -> Auth:
    return ClientCredentials(options, secret, redactor.add)


_KINDS: Mapping[str, Callable[[Mapping[str, Any], str, Redactor], Auth]] = {
    "bearer": _bearer,
    "api_key": _api_key,
    "http_basic": _basic,
    "oauth2_client_credentials": _client_credentials,
}


def no_core_files() -> None:
    """Have this process, and the children it starts, write no core file when it crashes.

    The soft limit only, so that somebody who hunts a crash can raise it again. systemd-coredump and apport, which the
    kernel pipes cores to whatever the limit is, honour it too.
    """
    try:
        import resource
    except ImportError:  # Windows writes none unless an administrator asks for them
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _unsendable(secret: SecretStr) -> str | None:
    """Why a secret cannot go onto the wire."""
    value = secret.get_secret_value()
    if not value:
        return "the secret is empty"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return "the secret holds a line break or another control character; often a file's last line break"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "the secret is not valid UTF-8"
    return None


def _header_value(text: str) -> str | bytes:
    """As `requests` sends it: latin-1, and UTF-8 where that has no such letter."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
    return text
