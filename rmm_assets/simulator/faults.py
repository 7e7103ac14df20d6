"""Defines the simulator's faults as values: what goes wrong, and for which requests.

`server` applies the faults, except for moving rows, which `Mover` handles here.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, fields
from random import Random
from typing import Any, Literal

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Move:
    """Rows that are inserted and deleted during a read, before each page except the first.

    A read begins with a request for a first page (offset 0, page 1, no cursor, no `after`), if later pages of the
    previous read have been requested. The same seed and sequence of requests give the same moves.

    With more inserts than deletes, a table grows while it is read, and a client that reads until the first empty page
    never reaches it; to limit that, set `Faults.times`, which also counts first pages.

    Args:
        delete: Rows deleted before each such page.
        insert: Rows inserted before each such page: copies of existing rows with a new `id`.
        where: Where rows are deleted and inserted. Changes at the front shift all remaining pages.
        reads: The number of reads during which rows move; None for all reads.
        seed: Determines the random positions and the rows to copy.
    """

    delete: int = 0
    insert: int = 0
    where: Literal["front", "random"] = "front"
    reads: int | None = None
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults that occur together, and the requests that they affect. Everything is off by default.

    The first four fields select requests. Each `Faults` counts separately, so that several can affect different
    requests: `[Faults(clamp=50), Faults(status=503, every=3)]`. If two of them affect the same request and set the same
    field, the first one in the list wins.

    Args:
        resource: Affect only requests for rows of this resource, or for `"token"` the token endpoint. None affects all
            requests for rows, but not for tokens.
        skip: Do not affect the first `skip` requests.
        every: After those, affect every n-th request; 1 affects all.
        times: Affect at most this many requests; None for no limit.

        status: Respond with this HTTP status and the body `{"error": ...}`; 200 gives an error body with a
            success status.
        text: The error text in that body.
        retry_after: Seconds in the header `Retry-After`.
        retry_after_as_date: Send `Retry-After` as an HTTP date (rounded up to a whole second).
        wait_in_body: Seconds under `retry_after` in the error body.
        echo_key: Repeat the client's key in error bodies (also of a 401) and in redirect targets.
        redirect: Redirect to the same path at this origin (`http://host:port`), with 308 or with `status`.
        html: Respond with an HTML page instead of JSON, with 200 or with `status`.

        delay: Seconds to wait before the response.
        drop: Close the connection without a response.
        cut: Send half of the body that Content-Length announces, then close the connection.
        truncated: Send only half of the JSON, with a Content-Length that matches.

        clamp: Maximum number of rows per page, even if the request asks for more.
        no_total: Omit `total`.
        total_off: Number to add to `total`.
        no_data: Omit `data`.
        empty: Respond with no rows and a total of 0.
        same_page: Ignore the requested position and always respond with the first page.
        no_next: Send no next cursor or link, although there are more rows.
        stuck_next: Send a next cursor or link to the same page.
        next_origin: Send next links to this origin.
        duplicate_every: Of every n rows, serve the first again n places later (and count it in `total`); if n is the
            page size, the copy is always on the next page.
        move: Rows that are inserted and deleted during a read.

    Raises:
        ValueError: `every` or `clamp` is below 1, a count or the delay is negative, or a text or wait is set without
            the failure that it belongs to.
    """

    resource: str | None = None
    skip: int = 0
    every: int = 1
    times: int | None = None

    status: int | None = None
    text: str | None = None
    retry_after: float | None = None
    retry_after_as_date: bool = False
    wait_in_body: float | None = None
    echo_key: bool = False
    redirect: str | None = None
    html: bool = False

    delay: float = 0.0
    drop: bool = False
    cut: bool = False
    truncated: bool = False

    clamp: int | None = None
    no_total: bool = False
    total_off: int = 0
    no_data: bool = False
    empty: bool = False
    same_page: bool = False
    no_next: bool = False
    stuck_next: bool = False
    next_origin: str | None = None
    duplicate_every: int = 0
    move: Move | None = None

    def __post_init__(self) -> None:
        least_of = {"every": 1, "clamp": 1, "skip": 0, "times": 0, "delay": 0, "duplicate_every": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Faults.{name} must be at least {least}, got {value}")
        if self.status is None:
            if self.text is not None or self.wait_in_body is not None:
                raise ValueError("Faults.text and Faults.wait_in_body are part of an error body; set a status")
            if self.retry_after is not None and not self.html and self.redirect is None:
                raise ValueError("Faults.retry_after is a header of a failure; set a status")


class Strikes:
    """Counts requests and decides which faults affect each. Not thread-safe: the caller must hold the lock."""

    def __init__(self, faults: Iterable[Faults]) -> None:
        self._faults = list(faults)
        self._seen = [0] * len(self._faults)

    def next(self, resource: str) -> Faults:
        """Returns the faults that affect the next request for a resource, merged into one value."""
        values: dict[str, Any] = {}
        for place, fault in enumerate(self._faults):
            if fault.resource != resource and not (fault.resource is None and resource != "token"):
                continue
            self._seen[place] += 1
            strike, rest = divmod(self._seen[place] - fault.skip, fault.every)
            if rest or strike < 1 or (fault.times is not None and strike > fault.times):
                continue
            for field in fields(fault):
                value = getattr(fault, field.name)
                if value != field.default:
                    values.setdefault(field.name, value)
        return Faults(**values)


class Mover:
    """Applies `Move` to the rows of one resource. Not thread-safe: the caller must hold the lock."""

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self._random: Random | None = None
        self._reads = 0
        self._begun = False
        self._inserted = 0

    def before_page(self, rows: list[Row], move: Move | None, *, first: bool) -> None:
        """Inserts and deletes rows in place, if they move before this page.

        Args:
            rows: The rows of the resource.
            move: The fault that affects this request; reads are counted even if it is None.
            first: Whether the request asks for a first page.
        """
        if first:
            if self._begun or not self._reads:
                self._reads += 1
            self._begun = False
            return
        self._begun = True
        if move is None or (move.reads is not None and self._reads > move.reads):
            return
        if self._random is None:
            self._random = Random(f"{move.seed}/{self._resource}")
        rng = self._random
        for _ in range(min(move.delete, len(rows))):
            del rows[0 if move.where == "front" else rng.randrange(len(rows))]
        for _ in range(move.insert if rows else 0):
            new = self._new_row(rng.choice(rows))
            rows.insert(0 if move.where == "front" else rng.randrange(len(rows) + 1), new)

    def _new_row(self, like: Row) -> Row:
        row = deepcopy(like)
        self._inserted += 1
        # Far above the ids of any fleet or test table, so that no id is ever reused.
        new_id = 1_000_000_000_000 + self._inserted
        row["id"] = f"inserted-{self._inserted}" if isinstance(like.get("id"), str) else new_id
        if "name" in row:
            row["name"] = f"inserted {self._inserted}"
        return row
