"""Provides the base of servers that speak vendors' APIs over one shared fleet.

Each vendor's module is written from the vendor's published description, not from the profile, and uses nothing of the
code that reads. The servers answer as strictly as the vendor: a wrong key, path or page is refused or cut as it would be there.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from rmm_assets.simulator import Fleet
from rmm_assets_tests.http.servers import Say, Seen

Row = dict[str, Any]
Rows = list[Row]

KEY = "k3y-5f1d2c9a8b7e"
NOT_FOUND = Say({"message": "Not Found"}, 404)


class Millis(int):
    """A time as an API writes it: milliseconds since 1970."""

    @classmethod
    def of(cls, text: str | None) -> Millis | None:
        """Returns a time of the fleet."""
        return None if text is None else cls(datetime.fromisoformat(text).timestamp() * 1000)


class Whole(dict[str, Any]):
    """An object whose keys are data, not names of fields, so that it belongs in one column."""


# The shared fleet; every vendor has rows of it, in the vendor's fields.
_FLEET = Fleet(organizations=2300, devices=2300, alerts=2300, patches=2300)
ORGANIZATIONS: Rows = list(_FLEET.rows("organizations"))
DEVICES: Rows = list(_FLEET.rows("devices"))
ALERTS: Rows = list(_FLEET.rows("alerts"))
PATCHES: Rows = list(_FLEET.rows("patches"))


def three_pages(size: int) -> int:
    """Returns a number of rows that fills two pages and a part of a third."""
    return 2 * size + size // 3 + 1


@dataclass(frozen=True)
class Asked:
    """A request, taken apart."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, seen: Seen) -> Asked:
        parts = urlsplit(seen.target)
        return cls(seen.method, parts.path, parse_qs(parts.query, keep_blank_values=True), seen.headers, seen.body)

    def first(self, name: str, default: str = "") -> str:
        """Returns a query parameter's first value."""
        return self.query.get(name, [default])[0]

    def number(self, name: str, default: int) -> int:
        value = self.first(name)
        return int(value) if value.lstrip("-").isdigit() else default

    @property
    def form(self) -> Mapping[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def basic(self) -> tuple[str, str]:
        """Returns user and password of HTTP basic authentication."""
        scheme, _, pair = self.headers.get("authorization", "").partition(" ")
        user, _, password = base64.b64decode(pair).decode().partition(":") if scheme == "Basic" else ("", "", "")
        return user, password


@dataclass(frozen=True)
class List:
    """A list of an API.

    Attributes:
        rows: All its rows.
        most: The largest page.
        usual: The page size without a parameter for it.
        params: The documented query parameters.
    """

    rows: Rows
    most: int
    usual: int
    params: frozenset[str] = frozenset()

    def size(self, asked: str) -> int:
        return min(int(asked), self.most) if asked.isdigit() and int(asked) > 0 else self.usual


@dataclass
class Dialect(ABC):
    """One vendor's API.

    Attributes:
        faults: Called before each response; returns one to send instead.
        answered: Path and number of rows of each page that was sent.
        strange: Query parameters that the vendor does not document, as path and name.
    """

    profile: ClassVar[str]
    settings: ClassVar[Mapping[str, str]] = {}
    hosts: ClassVar[tuple[str, ...]]
    """The vendor's hosts, for these settings."""
    secrets: ClassVar[Mapping[str, str]] = {"api_key": KEY}
    unpaged: ClassVar[frozenset[str]] = frozenset()
    """The resources that the vendor sends in one response."""
    page_sizes: ClassVar[Mapping[str, int]] = {}
    """The largest pages of resources for which no page size can be asked for."""

    faults: Callable[[Asked, int], Say | None] = lambda asked, number: None
    answered: list[tuple[str, int]] = field(default_factory=list)
    strange: set[tuple[str, str]] = field(default_factory=set)
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @abstractmethod
    def resources(self) -> Mapping[str, Rows]:
        """Returns the rows of each resource, parents' fields included."""

    @abstractmethod
    def respond(self, asked: Asked) -> Say:
        """Returns the response to a request."""

    def answer(self, seen: Seen) -> Say:
        """Returns what a scripted server sends."""
        asked = Asked.of(seen)
        with self._lock:
            self.requests += 1
            number = self.requests
        return self.faults(asked, number) or self.respond(asked)

    def page(self, asked: Asked, found: List, rows: Rows) -> Rows:
        """Notes a page that is sent, and the parameters that the vendor does not document."""
        with self._lock:
            self.answered.append((asked.path, len(rows)))
            self.strange |= {(asked.path, name) for name in asked.query if name not in found.params}
        return rows


@dataclass
class Sessions(Dialect):
    """An API whose requests carry a token that a login returned.

    Attributes:
        tokens: The tokens that were issued, and when they end.
        logins: How often tokens were asked for with the login itself.
    """

    lifetime: ClassVar[float]
    """Seconds."""

    tokens: dict[str, float] = field(default_factory=dict)
    logins: int = 0

    def issue(self) -> str:
        """Returns a new token."""
        token = secrets.token_hex(20)
        self.tokens[token] = time.monotonic() + self.lifetime
        return token

    def forget_tokens_at(self, *requests: int) -> None:
        """Forgets all tokens at these requests, as after a restart."""

        def forget(asked: Asked, number: int) -> None:
            if number in requests:
                self.tokens.clear()

        self.faults = forget

    def is_valid(self, token: str) -> bool:
        return self.tokens.get(token, 0) > time.monotonic()

    def may(self, asked: Asked) -> bool:
        """Returns whether a request has a bearer token that is valid."""
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and self.is_valid(token)
