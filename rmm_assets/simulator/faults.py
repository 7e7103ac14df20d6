"""What can go wrong at the simulator, as values: which requests a fault strikes, and how.

Carrying a fault out is the server's business, save for rows that move, which `Mover` does here.
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
    """Rows that come and go while a client reads: before each page after the first page of a read.

    A read begins with a request for a first page (offset 0, page 1, no cursor, no `after`) once later pages
    of the read before it have been asked for. Same seed and same sequence of requests: same moves.

    With more inserts than deletes a table grows for as long as it is read, and a client that reads up to the
    first empty page never gets there: bound that with `Faults.times`, which counts first pages too.

    Args:
        delete: Rows deleted before each such page.
        insert: Rows inserted before each such page: copies of present rows with an `id` never used before.
        where: Where rows are deleted and inserted. The front shifts every page that is still to come.
        reads: Rows move during this many reads and then hold still; None: they never hold still.
        seed: Chooses the random places and the rows to copy.
    """

    delete: int = 0
    insert: int = 0
    where: Literal["front", "random"] = "front"
    reads: int | None = None
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults that strike together, and which requests they strike. Everything is off by default.

    The first four fields say which requests. Each `Faults` counts for itself, so several strike at different
    times: `[Faults(clamp=50), Faults(status=503, every=3)]`. Where two that strike one request set the same
    field, the earlier one in the list wins.

    Args:
        resource: Only requests for the rows of this resource, or `"token"` for the token endpoint. None: all
            requests for rows, none for tokens.
        skip: The first `skip` requests are left alone.
        every: After those, every n-th request is struck; 1 strikes each.
        times: At most this many are struck; None has no limit.

        status: Answer with this HTTP status and the body `{"error": ...}`; 200 gives an error body with a
            good status.
        text: The words in that body.
        retry_after: Seconds in the header `Retry-After`.
        retry_after_as_date: Write `Retry-After` as an HTTP date (rounded up to a whole second).
        wait_in_body: Seconds under `retry_after` in the error body.
        echo_key: Repeat the client's key in an error body (also that of a 401) and in the target of a
            redirect.
        redirect: Redirect to the same path at this origin (`http://host:port`), with 308 or with `status`.
        html: An HTML page instead of JSON, with 200 or with `status`.

        delay: Seconds before the answer.
        drop: Close the connection without an answer.
        cut: Send half of the body that Content-Length announces, then close.
        truncated: JSON that ends half-way, with a Content-Length that fits it.

        clamp: No page has more rows than this, whatever was asked.
        no_total: Leave `total` out.
        total_off: Added to `total`.
        no_data: Leave `data` out.
        empty: No rows and a total of 0.
        same_page: Ignore the position asked for: always the first page.
        no_next: No next cursor or link, though there are more rows.
        stuck_next: The next cursor or link leads to the page it stands on.
        next_origin: Next links lead to this origin.
        duplicate_every: Of every n rows in order, the first is served again n places later (and counts in
            `total`): with n = the page size, the copy always stands on the next page.
        move: Rows that come and go while a client reads.

    Raises:
        ValueError: `every` or `clamp` is below 1, a count or the delay is negative, or words and waits are
            given without the failure that carries them.
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
                raise ValueError("Faults.text and Faults.wait_in_body stand in an error body: give a status")
            if self.retry_after is not None and not self.html and self.redirect is None:
                raise ValueError("Faults.retry_after is a header of a failure: give a status")


class Strikes:
    """Counts requests and says which faults strike each. Not thread-safe: the caller holds the lock."""

    def __init__(self, faults: Iterable[Faults]) -> None:
        self._faults = list(faults)
        self._seen = [0] * len(self._faults)

    def next(self, resource: str) -> Faults:
        """What strikes the next request for a resource, folded into one value."""
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
    """Carries out `Move` on the rows of one resource. Not thread-safe: the caller holds the lock."""

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self._random: Random | None = None
        self._reads = 0
        self._begun = False
        self._inserted = 0

    def before_page(self, rows: list[Row], move: Move | None, *, first: bool) -> None:
        """Move rows in place, if this page is one before which they move.

        Args:
            rows: The rows held for the resource.
            move: What strikes this request; reads are counted also while nothing does.
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
        # Far above the ids of any fleet or test table, so that no id comes back with another meaning.
        new_id = 1_000_000_000_000 + self._inserted
        row["id"] = f"inserted-{self._inserted}" if isinstance(like.get("id"), str) else new_id
        if "name" in row:
            row["name"] = f"inserted {self._inserted}"
        return row
