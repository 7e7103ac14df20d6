"""Defines the kinds of auth, one class each with its settings, and builds the auth of a run.

The kinds and their keys are those of dlt's `rest_api`, and `token`. To add one, subclass `AuthSettings`: the connection
file's schema, the error messages and the reference are generated from `AuthSettings.__subclasses__()`.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from rmm_assets.http.attach import Auth, FetchToken, HeaderAuth, Headers, NamedSecrets, NoAuth, QueryAuth
from rmm_assets.http.marks import filled, mark_of, names_in
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.tokens import FetchedToken, TokenRequest, Tokens, TokenSettings, basic_auth
from rmm_assets.settings import Tagged, line_error, refuse

_CLIENT_SECRET = "client secret"  # no name of a secret in a connection file has a space


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

    def prepare(self, fetch: FetchToken) -> int:
        with self._lock:
            changes, auth = self._changes, self._auth
        try:
            return changes * self._NUMBERS + auth.prepare(fetch)
        except Exception:  # the server that issues tokens refuses the secret
            if not self._changed(changes):
                raise
        return self._changes * self._NUMBERS + self._auth.prepare(fetch)

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

    needs_api_key: ClassVar[bool] = True
    """Whether it sends the secret of `api_key`, and not only secrets of `secrets`."""

    @property
    def addresses(self) -> dict[tuple[str, ...], str]:
        """Returns the URLs besides the API's to which secrets are sent, by their keys."""
        return {}

    @abstractmethod
    def build(self, secret: str, named: Mapping[str, str], redactor: Redactor) -> Auth:
        """Builds the auth of a run.

        Args:
            secret: API key, bearer token, password or client secret, depending on the kind.
            named: The secrets of `secrets`; they are already filled into texts of the settings, but not into mappings below.
            redactor: Receives every other form in which the secret is sent.
        """


class BearerAuth(AuthSettings):
    """Sends the secret as `Authorization: Bearer ...`."""

    type: Literal["bearer"] = "bearer"

    def build(self, secret: str, named: Mapping[str, str], redactor: Redactor) -> Auth:
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

    def build(self, secret: str, named: Mapping[str, str], redactor: Redactor) -> Auth:
        if self.location in ("query", "param"):
            return QueryAuth(self.name, secret)
        if self.location == "cookie":
            return HeaderAuth("Cookie", f"{self.name}={secret}")
        return HeaderAuth(self.name, _after_scheme(self.prefix, secret) if self.prefix else secret)


class HttpBasicAuth(AuthSettings):
    """Sends the secret as the password of HTTP basic authentication."""

    type: Literal["http_basic"] = "http_basic"
    username: str = Field(min_length=1, description="The user name, which is not a secret.")

    def build(self, secret: str, named: Mapping[str, str], redactor: Redactor) -> Auth:
        return basic_auth(self.username, secret, redactor)


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

    @property
    def addresses(self) -> dict[tuple[str, ...], str]:
        return {("access_token_url",): self.access_token_url}

    def build(self, secret: str, named: Mapping[str, str], redactor: Redactor) -> Auth:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": mark_of(_CLIENT_SECRET),
        }
        settings = TokenSettings(
            access_token_url=self.access_token_url,
            access_token_request=TokenRequest(data={**form, **self.access_token_request_data}),
            access_token_path="access_token",
            expires_in_path="expires_in",
            default_token_expiration=self.default_token_expiration,
        )
        return FetchedToken(settings, {**named, _CLIENT_SECRET: secret}, redactor)


class TokenAuth(TokenSettings, AuthSettings):
    """Fetches a token with requests of your choice and sends it; the run renews it before it expires, and once on a 401.

    It covers OAuth2 password and refresh grants, logins that return a session, and two-step tokens. Its secrets are those of
    `secrets`.
    """

    type: Literal["token"] = "token"
    needs_api_key: ClassVar[bool] = False

    def build(self, secret: str, named: Mapping[str, str], redactor: Redactor) -> Auth:
        return FetchedToken(self, named, redactor)


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
    settings: AuthSettings | None, secret: Secret, redactor: Redactor, params: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
) -> Auth:  # fmt: skip
    """Builds the auth of a run, and disables core dumps of this process, because they would contain the secret.

    Args:
        settings: `client.auth` or `endpoint.auth`; None for an API that does not need a key.
        secret: API key, bearer token, password or client secret, depending on the kind of auth; and the secrets by name.
        redactor: Receives every secret that this auth sends.
        params: The endpoint's query parameters, which may contain marks of named secrets.
        tokens: The tokens to share; by default, this auth fetches its own.

    Raises:
        ValueError: The secret is missing or cannot be sent. Neither the message nor a variable of a frame contains the
            secret.
    """
    known = hidden(secret)
    if known.again is None:
        return _built(settings, known, redactor, params or {}, tokens)
    build = partial(_built, settings, redactor=redactor, params=params or {}, tokens=tokens)
    return ChangingAuth(build, known, known.again)


def _built(
    settings: AuthSettings | None, known: Secrets, redactor: Redactor, params: Mapping[str, Any], tokens: Tokens | None
) -> Auth:
    key = known.api_key if settings is not None and settings.needs_api_key else None
    if settings is not None and settings.needs_api_key and key is None:
        raise ValueError(f"auth of type {settings.type} needs a secret; set api_key in the connection file")
    used = {
        **({} if key is None else {"api_key": key}),
        **{f"secrets.{name}": value for name, value in known.named.items()},
    }
    for name, value in used.items():
        if (problem := _unsendable(value)) is not None:
            raise ValueError(problem if name == "api_key" else f"{name}: {problem}")
    if used:
        no_core_files()
    for name, value in used.items():
        redactor.add(value.get_secret_value(), name)
    texts = {name: value.get_secret_value() for name, value in known.named.items()}
    auth: Auth = NoAuth()
    if settings is not None:
        written = {name: filled(value, texts) for name, value in settings if isinstance(value, str) and names_in(value)}
        auth = settings.model_copy(update=written).build("" if key is None else key.get_secret_value(), texts, redactor)
    if tokens is not None and isinstance(auth, FetchedToken):
        auth.share(tokens)
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
