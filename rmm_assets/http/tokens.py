"""Fetches, caches and renews access tokens, as `auth: {type: token}` and OAuth 2.0 need them."""

from __future__ import annotations

import base64
import json
import math
import secrets
import threading
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, Self
from weakref import WeakSet

from pydantic import Field, model_validator

from rmm_assets.http.attach import (
    Auth,
    FetchToken,
    HeaderAuth,
    Headers,
    NamedSecrets,
    NoAuth,
    QueryAuth,
    TokenAnswer,
    TokenRefusedError,
)
from rmm_assets.http.marks import filled, mark_of, names_in
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.request import Request
from rmm_assets.http.settings import JsonPath, Method
from rmm_assets.settings import Settings, line_error, refuse

# Tokens are renewed this long before they expire, so that none expires on its way to the server.
TOKEN_MARGIN_SECONDS = 30.0

_REFRESH_TOKEN = "refresh token"  # no name of a secret in a connection file has a space
REFRESH_TOKEN_MARK = mark_of(_REFRESH_TOKEN)

_MOST_FIELDS = 10


class BasicCredentials(Settings):
    """User name and password of HTTP basic authentication."""

    username: str = Field(min_length=1, description="The user name.")
    password: str = Field(
        description="The password, as `{secrets.NAME}`; only the word `public`, by which servers know a public client, "
        "is written as it is."
    )


class TokenRequest(Settings):
    """A request for a token; each of its values can contain `{secrets.NAME}`."""

    method: Method = Field(default="POST", description="HTTP method.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers of the request.")
    params: dict[str, Any] = Field(default_factory=dict, description="Query parameters.")
    # `json` is a method of pydantic models, so the field has another name.
    json_body: dict[str, Any] | None = Field(default=None, alias="json", description="JSON request body.")
    data: dict[str, Any] | str | None = Field(
        default=None, description="Form fields of the request body, or its whole text."
    )
    http_basic: BasicCredentials | None = Field(
        default=None, description="Credentials that the request sends by HTTP basic authentication."
    )

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.json_body is not None and self.data is not None:
            refuse([line_error(("data",), "a request has one body; write either `json` or `data`")])
        return self

    def to(self, url: str, key: str) -> Request:
        """Returns the request to a URL, named by its key in messages, with secrets as marks."""
        return Request(url, self.method, self.params, self.headers, self.json_body, self.data, key)

    def auth(self, texts: Mapping[str, str], redactor: Redactor) -> Auth:
        """Returns what fills the request's secrets in."""
        basic: Auth = NoAuth()
        if self.http_basic is not None:
            username, password = filled(self.http_basic.username, texts), filled(self.http_basic.password, texts)
            basic = basic_auth(username, password, redactor if names_in(dict(self.http_basic)) else None)
        return NamedSecrets(basic, texts, {})


class Refresh(TokenRequest):
    """A request for the next token with the refresh token of the last one, as `{refresh_token}`."""

    refresh_token_path: JsonPath = Field(
        description="JSONPath of the refresh token in the response to a token request."
    )
    url: str | None = Field(
        default=None, min_length=1, description="URL of the request; by default `access_token_url`."
    )


class Send(Settings):
    """How a token is sent with each request to the API."""

    name: str = Field(
        default="Authorization", min_length=1, description="Name of the header, query parameter or cookie."
    )
    location: Literal["header", "query", "cookie"] = Field(default="header", description="Where to send the token.")
    value: str = Field(
        default="{token}", description="What to send, with `{token}` in place of the token: `Bearer {token}`."
    )

    @model_validator(mode="after")
    def _with_token(self) -> Self:
        if "{token}" not in self.value:
            refuse([line_error(("value",), "does not contain the token; write `{token}` in its place")])
        return self

    def auth(self, token: str, texts: Mapping[str, str]) -> Auth:
        """Returns what attaches a token."""
        value = filled(self.value, texts).replace("{token}", token)
        if self.location == "query":
            return QueryAuth(self.name, value)
        if self.location == "cookie":
            return HeaderAuth("Cookie", f"{self.name}={value}")
        return HeaderAuth(self.name, value)


class TokenSettings(Settings):
    """How to fetch a token, read it from the response, renew it and send it."""

    access_token_url: str = Field(min_length=1, description="URL that issues tokens; https, like `client.base_url`.")
    access_token_request: TokenRequest = Field(default=TokenRequest(), description="The request for a token.")
    access_token_path: JsonPath | None = Field(
        default=None,
        description="JSONPath of the token in the response, for example `access_token`. Leave it out if the response sets the "
        "token as the cookie that `send` names.",
    )
    expires_in_path: JsonPath | None = Field(
        default=None, description="JSONPath of the token's lifetime in the response, in seconds."
    )
    default_token_expiration: float | None = Field(
        default=None,
        gt=0,
        description="Lifetime of a token in seconds, if the response does not state one. Without either, a token is used until "
        "the API refuses it (401).",
    )
    refresh: Refresh | None = Field(
        default=None,
        description="Another request for the next token, with a refresh token. If it is refused, the run sends "
        "`access_token_request` again.",
    )
    send: Send = Field(
        default=Send(value="Bearer {token}"),
        description="How the token is sent; by default `Authorization: Bearer ...`.",
    )

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.access_token_path is None and self.send.location != "cookie":
            advice = "write the JSONPath of the token in the response, for example `access_token_path: access_token`"
            refuse([line_error(("access_token_path",), f"missing; {advice}")])
        return self

    @property
    def addresses(self) -> dict[tuple[str, ...], str]:
        """Returns the URLs to which secrets are sent, by their keys."""
        found: dict[tuple[str, ...], str] = {("access_token_url",): self.access_token_url}
        if self.refresh is not None and self.refresh.url is not None:
            found["refresh", "url"] = self.refresh.url
        return found


class _Token:
    """A token, and what is needed to renew it. Change it with its lock held.

    Attributes:
        sent: Attaches it.
        refresh: The refresh token; empty if there is none.
        number: Increases with each token.
        ends: When it must be renewed, as in `time.monotonic()`.
    """

    def __init__(self, sent: Auth) -> None:
        self.lock = threading.Lock()
        self.sent, self.refresh, self.number, self.ends = sent, "", 0, 0.0
        self._texts = set[str]()
        self._redactors = WeakSet[Redactor]()

    def redacted_by(self, redactor: Redactor) -> None:
        """Makes a redactor mask this token and those that follow."""
        self._redactors.add(redactor)
        for text in self._texts:
            redactor.add(text)

    def learn(self, text: str) -> None:
        """Masks a text everywhere, before it is sent."""
        self._texts.add(text)
        for redactor in self._redactors:
            redactor.add(text)


class Tokens:
    """The tokens that the resources of a connection share in one process, as some vendors allow a user only one at a time.

    A token is shared only if everything that its request needs is the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key = secrets.token_bytes()
        self._tokens: dict[bytes, _Token] = {}

    def shared(self, settings: TokenSettings, texts: Mapping[str, str], token: _Token) -> _Token:
        """Returns the token of these settings and secrets; the given one if there is none yet."""
        whole = json.dumps([settings.model_dump(mode="json"), sorted(texts.items())]).encode()
        with self._lock:
            return self._tokens.setdefault(blake2b(whole, key=self._key).digest(), token)


class FetchedToken(NoAuth):
    """Sends a token that it fetches, renews before it expires, and renews when the API refuses it.

    Args:
        settings: The requests, and where the token is in their responses.
        texts: The secrets of these requests, by name.
        redactor: Receives every token.
    """

    def __init__(self, settings: TokenSettings, texts: Mapping[str, str], redactor: Redactor) -> None:
        self._settings, self._texts, self._redactor = settings, dict(texts), redactor
        self._use(_Token(settings.send.auth("", self._texts)))

    def share(self, tokens: Tokens) -> None:
        """Uses the same token as others with the same settings and secrets. Call it before the first request."""
        self._use(tokens.shared(self._settings, self._texts, self._token))

    def _use(self, token: _Token) -> None:
        with token.lock:
            token.redacted_by(self._redactor)
        self._token = token

    def attach(self, target: str, headers: Headers) -> tuple[str, Headers]:
        return self._token.sent.attach(target, headers)

    def strip(self, url: str) -> str:
        return self._token.sent.strip(url)

    def prepare(self, fetch: FetchToken) -> int:
        with self._token.lock:
            if time.monotonic() >= self._token.ends and not self._refreshed(fetch):
                settings = self._settings
                url, request = settings.access_token_url, settings.access_token_request
                answer = fetch(request.to(url, "access_token_url"), request.auth(self._texts, self._redactor))
                if not self._take(answer):
                    raise ValueError(f"no token from {url.partition('?')[0]}: {answer.said}: {self._lack(answer)}")
            return self._token.number

    def renew(self, refused: int) -> bool:
        with self._token.lock:
            # If eight workers are refused at the same time, they need one new token, not eight.
            if refused == self._token.number:
                self._token.ends = 0.0
        return True

    def _refreshed(self, fetch: FetchToken) -> bool:
        """Returns whether the refresh token of the last response was exchanged for a token."""
        settings, refresh, token = self._settings, self._settings.refresh, self._token
        if refresh is None or not token.refresh:
            return False
        texts = {**self._texts, _REFRESH_TOKEN: token.refresh}
        request = refresh.to(refresh.url or settings.access_token_url, "refresh.url")
        try:
            if self._take(fetch(request, refresh.auth(texts, self._redactor))):
                return True
        except TokenRefusedError as error:
            if error.temporary:
                raise
        token.refresh = ""
        return False

    def _take(self, answer: TokenAnswer) -> bool:
        """Takes the token and its lifetime from a response; returns False if it has no token."""
        settings = self._settings
        if settings.access_token_path is None:
            text = answer.cookies.get(settings.send.name)
        else:
            text = _value_at(settings.access_token_path, answer.document)
        if not isinstance(text, str) or not text:
            return False
        token = self._token
        token.learn(text)
        following = settings.refresh and _value_at(settings.refresh.refresh_token_path, answer.document)
        if isinstance(following, str) and following:
            token.learn(following)
            token.refresh = following  # a response without one leaves the old one valid (RFC 6749, section 6)
        lifetime = self._lifetime(answer)
        token.sent = settings.send.auth(text, self._texts)
        token.number += 1
        token.ends = time.monotonic() + max(lifetime - TOKEN_MARGIN_SECONDS, lifetime / 2)
        return True

    def _lifetime(self, answer: TokenAnswer) -> float:
        settings = self._settings
        stated = _value_at(settings.expires_in_path, answer.document) if settings.expires_in_path else None
        if stated in (None, ""):
            return settings.default_token_expiration or math.inf
        try:
            return float(stated)
        except (TypeError, ValueError):
            raise ValueError(
                f"{settings.access_token_url.partition('?')[0]}: the token's lifetime at `{settings.expires_in_path}` is not a "
                "number of seconds; leave out `expires_in_path`, and set `default_token_expiration`"
            ) from None

    def _lack(self, answer: TokenAnswer) -> str:
        path = self._settings.access_token_path
        if path is None:
            return f"sets no cookie `{self._settings.send.name}`"
        if not isinstance(answer.document, Mapping):
            return "not a JSON object"
        fields = ", ".join(f"`{name}`" for name in list(answer.document)[:_MOST_FIELDS]) or "nothing"
        return f"no text at access_token_path `{path}`; the response contains {fields}"


def basic_auth(username: str, password: str, redactor: Redactor | None) -> HeaderAuth:
    """Returns HTTP basic authentication; the redactor receives the credentials as they are sent."""
    named = f"{username}:{password}"
    pair = base64.b64encode(named.encode()).decode()
    if redactor is not None:
        redactor.add(pair)
        redactor.add(named)
    return HeaderAuth("Authorization", f"Basic {pair}")


def _value_at(path: str, document: Any) -> Any:
    from dlt.common import jsonpath

    found = jsonpath.find_values(path, document)
    return found[0] if found else None
