"""Attaches a connection's secret to requests: one class per kind of auth, with its settings.

`attach` and `attach_body` are called by the connection object that writes to the socket, below everything that could
log, store or raise a URL. The kinds and their keys are those of dlt's `rest_api`. To add one, subclass `AuthSettings`:
the connection file's schema, the error messages and the reference are generated from `AuthSettings.__subclasses__()`.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, Protocol, Self
from urllib.parse import quote_plus, unquote_plus

from pydantic import Field, SecretStr, model_validator

from rmm_assets.http.marks import filled, names_in
from rmm_assets.http.redaction import Redactor
from rmm_assets.settings import Tagged, line_error, refuse

# Tokens are renewed this long before they expire, so that none expires on its way to the server.
TOKEN_MARGIN_SECONDS = 30.0

Headers = dict[str, str | bytes]

PostForm = Callable[[str, dict[str, str]], Mapping[str, Any]]
"""Posts a form (URL, fields) and returns the JSON object in the response."""


class Auth(Protocol):
    """The interface of all kinds of auth."""

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        """Returns the request target and headers with the secret attached."""
        ...

    def attach_body(self, body: bytes, content_type: str) -> bytes:
        """Returns the request body with its secrets filled in."""
        ...

    def prepare(self, post_form: PostForm) -> int:
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

    def prepare(self, post_form: PostForm) -> int:
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
        self._value = _header_value(value)

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        others = {name: value for name, value in headers.items() if name.lower() != self._name.lower()}
        return target, {**others, self._name: self._value}


class OAuth2Token(NoAuth):
    """Implements OAuth 2.0 client credentials (RFC 6749, section 4.4): fetches, caches and renews a token."""

    def __init__(self, settings: OAuth2ClientCredentials, secret: str, on_token: Callable[[str], None]) -> None:
        self._url = settings.access_token_url
        self._form = {
            "grant_type": "client_credentials",
            "client_id": settings.client_id,
            "client_secret": secret,
            **{key: str(value) for key, value in settings.access_token_request_data.items()},
        }
        self._default_seconds = float(settings.default_token_expiration)
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
            raise ValueError(f"{self._url} returned no access_token")
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
            # If eight workers are refused at the same time, they need one new token, not eight.
            if refused == self._number:
                self._ends = 0.0
        return True


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
            name: _header_value(filled(value, self._texts)) if isinstance(value, str) else value
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


class ChangingAuth:
    """Looks up the secrets again when the API refuses them, so a rotated secret takes effect during a run.

    Args:
        build: Builds the auth from the secrets.
        secrets: The current secrets.
        again: Looks them up again.
    """

    _NUMBERS = 1 << 32  # of tokens, before the secrets change

    def __init__(self, build: Callable[[Secrets], Auth], secrets: Secrets, again: Callable[[], Secrets | None]) -> None:
        self._build, self._secrets, self._again = build, secrets, again
        self._lock = threading.Lock()
        self._changes = 0
        self._auth = build(secrets)

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        return self._auth.attach(target, headers)

    def attach_body(self, body: bytes, content_type: str) -> bytes:
        return self._auth.attach_body(body, content_type)

    def strip(self, url: str) -> str:
        return self._auth.strip(url)

    def prepare(self, post_form: PostForm) -> int:
        with self._lock:
            changes, auth = self._changes, self._auth
        try:
            return changes * self._NUMBERS + auth.prepare(post_form)
        except Exception:  # the server that issues tokens refuses the secret
            if not self._changed(changes):
                raise
        return self._changes * self._NUMBERS + self._auth.prepare(post_form)

    def renew(self, refused: int) -> bool:
        changes, number = divmod(refused, self._NUMBERS)
        return self._changed(changes) or self._auth.renew(number)

    def _changed(self, since: int) -> bool:
        """Returns whether the secrets have changed; the first of several workers to ask looks them up."""
        with self._lock:
            if self._changes == since:
                found = self._again()
                if found is None or found == self._secrets:
                    return False
                self._auth, self._secrets = self._build(found), found
                self._changes += 1
            return True


class AuthSettings(Tagged):
    """The base class of the settings of each kind of auth, without the secret."""

    @abstractmethod
    def build(self, secret: str, redactor: Redactor) -> Auth:
        """Builds the auth of a run.

        Args:
            secret: API key, bearer token, password or client secret, depending on the kind.
            redactor: Receives every other form in which the secret is sent.
        """


class BearerAuth(AuthSettings):
    """Sends the secret as `Authorization: Bearer ...`."""

    type: Literal["bearer"] = "bearer"

    def build(self, secret: str, redactor: Redactor) -> Auth:
        return HeaderAuth("Authorization", _after_scheme("Bearer", secret))


class ApiKeyAuth(AuthSettings):
    """Sends the secret in a header, query parameter or cookie of your choice."""

    type: Literal["api_key"] = "api_key"
    name: str = Field(
        default="Authorization", min_length=1, description="Name of the header, query parameter or cookie."
    )
    location: Literal["header", "query", "param", "cookie"] = Field(
        default="header", description="Where to send the secret; `param` is dlt's alias of `query`."
    )
    prefix: Annotated[str, Field(pattern=r"^[!-~]+( [!-~]+)*$", max_length=40)] | None = Field(
        default=None,
        description="Not in dlt: the scheme that precedes the secret in its header, for example `Token` for "
        "`Authorization: Token ...`. A space follows it unless it ends with `=` or `:`.",
    )

    @model_validator(mode="after")
    def _prefix_in_a_header(self) -> Self:
        if self.prefix is not None and self.location != "header":
            refuse([line_error(("prefix",), "only a header has a prefix; leave it out, or write `location: header`")])
        return self

    def build(self, secret: str, redactor: Redactor) -> Auth:
        if self.location in ("query", "param"):
            return QueryAuth(self.name, secret)
        if self.location == "cookie":
            return HeaderAuth("Cookie", f"{self.name}={secret}")
        return HeaderAuth(self.name, _after_scheme(self.prefix, secret) if self.prefix else secret)


class HttpBasicAuth(AuthSettings):
    """Sends the secret as the password of HTTP basic authentication."""

    type: Literal["http_basic"] = "http_basic"
    username: str = Field(min_length=1, description="The user name, which is not a secret.")

    def build(self, secret: str, redactor: Redactor) -> Auth:
        named = f"{self.username}:{secret}"
        pair = base64.b64encode(named.encode()).decode()
        redactor.add(pair)
        redactor.add(named)
        return HeaderAuth("Authorization", f"Basic {pair}")


class OAuth2ClientCredentials(AuthSettings):
    """Uses the secret as the client secret of OAuth 2.0 client credentials; the run fetches and renews tokens."""

    type: Literal["oauth2_client_credentials"] = "oauth2_client_credentials"
    access_token_url: str = Field(min_length=1, description="URL that issues access tokens.")
    client_id: str = Field(min_length=1, description="The client ID, which is not a secret.")
    access_token_request_data: dict[str, Any] = Field(
        default_factory=dict, description="Additional form fields of the token request, for example `scope`."
    )
    default_token_expiration: int = Field(
        default=3600, gt=0, description="Lifetime of a token in seconds, if the server does not state one."
    )

    def build(self, secret: str, redactor: Redactor) -> Auth:
        return OAuth2Token(self, secret, redactor.add)


def _after_scheme(scheme: str, secret: str) -> str:
    """Returns a header's value: the scheme, and the secret.

    Raises:
        ValueError: The secret already contains the scheme.
    """
    if secret.lower().startswith(f"{scheme.lower()} "):
        raise ValueError(
            f"the secret already starts with `{scheme}`, which auth adds; store the key without `{scheme}`"
        )
    return f"{scheme}{'' if scheme[-1] in '=:' else ' '}{secret}"


@dataclass(frozen=True)
class Secrets:
    """The secrets of one connection, by their references in its file.

    Attributes:
        api_key: The secret of `api_key`; None if there is none.
        named: The secrets of `secrets`, by name.
        again: Looks up all of them again; returns None if one is missing.
    """

    api_key: SecretStr | None = None
    named: Mapping[str, SecretStr] = field(default_factory=dict)
    again: Callable[[], Secrets | None] | None = field(default=None, compare=False, repr=False)


Secret = Secrets | SecretStr | str | None
"""A connection's secrets, or only that of `api_key`."""


def hidden(secret: Secret) -> Secrets:
    """Wraps a secret so that debuggers and error reporters do not print it."""
    if isinstance(secret, Secrets):
        return secret
    return Secrets(SecretStr(secret) if isinstance(secret, str) else secret)


def build_auth(
    settings: AuthSettings | None, secret: Secret, redactor: Redactor, params: Mapping[str, Any] | None = None
) -> Auth:
    """Builds the auth of a run, and disables core dumps of this process, because they would contain the secret.

    Args:
        settings: `client.auth` or `endpoint.auth`; None for an API that does not need a key.
        secret: API key, bearer token, password or client secret, depending on the kind of auth; and the secrets by name.
        redactor: Receives every secret that this auth sends.
        params: The endpoint's query parameters, which may contain marks of named secrets.

    Raises:
        ValueError: The secret is missing or cannot be sent. Neither the message nor a variable of a frame contains the
            secret.
    """
    known = hidden(secret)
    if known.again is None:
        return _built(settings, known, redactor, params or {})
    return ChangingAuth(partial(_built, settings, redactor=redactor, params=params or {}), known, known.again)


def _built(settings: AuthSettings | None, known: Secrets, redactor: Redactor, params: Mapping[str, Any]) -> Auth:
    if settings is not None and known.api_key is None:
        raise ValueError(f"auth of type {settings.type} needs a secret; set api_key in the connection file")
    named = {f"secrets.{name}": value for name, value in known.named.items()}
    used = {**({"api_key": known.api_key} if settings is not None and known.api_key is not None else {}), **named}
    for name, value in used.items():
        if (problem := _unsendable(value)) is not None:
            raise ValueError(problem if name == "api_key" else f"{name}: {problem}")
    if used:
        no_core_files()
    for name, value in used.items():
        redactor.add(value.get_secret_value(), name)
    texts = {name: value.get_secret_value() for name, value in known.named.items()}
    auth: Auth = NoAuth()
    if settings is not None and known.api_key is not None:
        written = {name: filled(value, texts) for name, value in settings if names_in(value)}
        auth = settings.model_copy(update=written).build(known.api_key.get_secret_value(), redactor)
    return NamedSecrets(auth, texts, params) if texts else auth


def no_core_files() -> None:
    """Disables core dumps of this process and its children.

    Only the soft limit is set, so that it can be raised again to debug a crash. systemd-coredump and apport, to which
    the kernel pipes cores regardless of the limit, also respect it.
    """
    try:
        import resource
    except ImportError:  # Windows does not write core dumps unless an administrator enables them
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _unsendable(secret: SecretStr) -> str | None:
    """Returns why a secret cannot be sent, or None if it can."""
    value = secret.get_secret_value()
    if not value:
        return "the secret is empty"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return "the secret contains a line break or another control character, often the trailing newline of a file"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "the secret is not valid UTF-8"
    return None


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _header_value(text: str) -> str | bytes:
    """Encodes a header as `requests` does: latin-1, or UTF-8 if latin-1 cannot encode it."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
    return text
