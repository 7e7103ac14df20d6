"""Puts a connection's secret on the wire: one class a kind of auth, with its settings.

`attach` is called by the connection object that writes to the socket, below everything that could log, store or raise a
URL. The kinds and their keys are those of dlt's `rest_api`. To add one, write a class like those below: the union that
a connection file is read with, the error messages and the reference are made from `AuthSettings.__subclasses__()`.
"""

from __future__ import annotations

import base64
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol
from urllib.parse import quote_plus, unquote_plus

from pydantic import Field, SecretStr

from rmm_assets.http.redaction import Redactor
from rmm_assets.settings import Tagged

# Renewed this long before it ends, so that a token does not run out between the check and the server.
TOKEN_MARGIN_SECONDS = 30.0

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


class QueryAuth(NoAuth):
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


class HeaderAuth(NoAuth):
    """The secret in one header: an API key, a bearer token, basic credentials, a cookie."""

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = _header_value(value)

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        others = {name: value for name, value in headers.items() if name.lower() != self._name.lower()}
        return target, {**others, self._name: self._value}


class OAuth2Token(NoAuth):
    """OAuth 2.0 client credentials (RFC 6749, section 4.4): a token is fetched, kept and renewed within the run."""

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


class AuthSettings(Tagged):
    """What a connection file says of one kind of auth. The secret is not among it."""

    @abstractmethod
    def build(self, secret: str, redactor: Redactor) -> Auth:
        """Returns the auth of a run.

        Args:
            secret: API key, bearer token, password or client secret, by the kind.
            redactor: Told of every further form in which the secret goes on the wire.
        """


class BearerAuth(AuthSettings):
    """The secret as `Authorization: Bearer ...`."""

    type: Literal["bearer"] = "bearer"

    def build(self, secret: str, redactor: Redactor) -> Auth:
        return HeaderAuth("Authorization", f"Bearer {secret}")


class ApiKeyAuth(AuthSettings):
    """The secret under a name of its own."""

    type: Literal["api_key"] = "api_key"
    name: str = Field(
        default="Authorization", min_length=1, description="Name of the header, query parameter or cookie."
    )
    location: Literal["header", "query", "param", "cookie"] = Field(
        default="header", description="Where the secret goes; `param` is dlt's second word for `query`."
    )

    def build(self, secret: str, redactor: Redactor) -> Auth:
        if self.location in ("query", "param"):
            return QueryAuth(self.name, secret)
        if self.location == "cookie":
            return HeaderAuth("Cookie", f"{self.name}={secret}")
        return HeaderAuth(self.name, secret)


class HttpBasicAuth(AuthSettings):
    """The secret as the password of HTTP basic authentication."""

    type: Literal["http_basic"] = "http_basic"
    username: str = Field(min_length=1, description="The user name, which is not secret.")

    def build(self, secret: str, redactor: Redactor) -> Auth:
        pair = base64.b64encode(f"{self.username}:{secret}".encode()).decode()
        redactor.add(pair)
        return HeaderAuth("Authorization", f"Basic {pair}")


class OAuth2ClientCredentials(AuthSettings):
    """The secret as the client secret of OAuth 2.0 client credentials; the run fetches and renews tokens."""

    type: Literal["oauth2_client_credentials"] = "oauth2_client_credentials"
    access_token_url: str = Field(min_length=1, description="URL that issues access tokens.")
    client_id: str = Field(min_length=1, description="The client id, which is not secret.")
    access_token_request_data: dict[str, Any] = Field(
        default_factory=dict, description="Further form fields of the token request, for example `scope`."
    )
    default_token_expiration: int = Field(
        default=3600, gt=0, description="Lifetime of a token in seconds where the server states none."
    )

    def build(self, secret: str, redactor: Redactor) -> Auth:
        return OAuth2Token(self, secret, redactor.add)


def hidden(secret: SecretStr | str | None) -> SecretStr | None:
    """Returns a secret as a value that shows nothing when a debugger or an error reporter prints a frame."""
    return SecretStr(secret) if isinstance(secret, str) else secret


def build_auth(settings: AuthSettings | None, secret: SecretStr | str | None, redactor: Redactor) -> Auth:
    """Returns the auth of a run. From here on this process leaves no core file: the secret would stand in it.

    Args:
        settings: `client.auth` or `endpoint.auth`; None for an API that asks for no key.
        secret: API key, bearer token, password or client secret, by the kind of auth.
        redactor: Told of every secret that this auth puts on the wire.

    Raises:
        ValueError: there is an auth and no secret, or the secret cannot be sent. Neither the text nor a variable of a
            frame holds the secret.
    """
    secret = hidden(secret)
    if settings is None:
        return NoAuth()
    if secret is None:
        raise ValueError(f"auth of type {settings.type} needs a secret: set api_key in the connection file")
    problem = _unsendable(secret)
    if problem is not None:
        raise ValueError(problem)
    no_core_files()
    redactor.add(secret.get_secret_value())
    return settings.build(secret.get_secret_value(), redactor)


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
