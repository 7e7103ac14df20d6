"""Selects the page of rows that one request asks for, in the paging style of its query."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]

DEFAULT_SIZE = 100
LARGEST_SIZE = 1000


class BadQuery(ValueError):
    """Raised for a query parameter that the server cannot parse; the message is sent to the client."""


@dataclass(frozen=True)
class Position:
    """Where a page starts, and how many rows it may have."""

    start: int
    """Index of its first row."""
    size: int
    """Maximum number of rows."""
    gives_cursor: bool
    """Whether a client that pages like this expects `next_cursor` in the body."""


def is_first(query: Mapping[str, str]) -> bool:
    """Returns whether a query asks for a first page; an invalid position is not one."""
    if query.get("after") or query.get("cursor"):
        return False
    return query.get("page", "1") == "1" and query.get("offset", "0") == "0"


def position(query: Mapping[str, str], rows: Sequence[Row], *, clamp: int | None = None) -> Position:
    """Parses the paging parameters: `page`/`per_page`, `after`, `cursor` or `offset`, and `limit`.

    A size above the maximum is silently reduced to it, as real servers do. `after` compares ids and requires rows
    sorted by `id`.

    Args:
        query: The request's parameters.
        rows: All rows of the resource, needed for `after`.
        clamp: A maximum size below the default one.

    Raises:
        BadQuery: A parameter is not a number, out of range, or not a cursor of this server.
    """
    largest = min(LARGEST_SIZE, clamp or LARGEST_SIZE)
    if "page" in query or "per_page" in query:
        size = min(_number(query, "per_page", DEFAULT_SIZE, least=1), largest)
        return Position((_number(query, "page", 1, least=1) - 1) * size, size, gives_cursor=False)
    size = min(_number(query, "limit", DEFAULT_SIZE, least=1), largest)
    if query.get("after"):
        return Position(_index_after(query["after"], rows), size, gives_cursor=False)
    if query.get("cursor"):
        return Position(_read_cursor(query["cursor"]), size, gives_cursor=True)
    # A request without a position may be the first page of cursor paging, so the body includes a cursor.
    gives_cursor = "offset" not in query and "after" not in query
    return Position(_number(query, "offset", 0, least=0), size, gives_cursor=gives_cursor)


def cursor_at(start: int) -> str:
    """Returns the opaque cursor of the page that starts at an index."""
    return base64.urlsafe_b64encode(f"from:{start}".encode()).decode().rstrip("=")


def updated_since(rows: Sequence[Row], since: str) -> list[Row]:
    """Returns the rows whose `updated_at` is at or after a time. Times without an offset are UTC.

    Raises:
        BadQuery: `since` is not an ISO 8601 timestamp.
    """
    try:
        moment = _moment(since)
    except ValueError:
        raise BadQuery(f"updated_since must be an ISO 8601 timestamp, got {since!r}") from None
    return [row for row in rows if row.get("updated_at") and _moment(row["updated_at"]) >= moment]


def belonging_to(rows: Sequence[Row], parent: str, parent_id: str) -> list[Row]:
    """Returns the rows that refer to a parent: for `organizations`, by `organization.id` or `organization_id`."""
    name = parent.removesuffix("s")

    def refers_to(row: Row) -> object:
        nested = row.get(name)
        return nested.get("id") if isinstance(nested, dict) else row.get(f"{name}_id")

    return [row for row in rows if str(refers_to(row)) == parent_id]


def with_duplicates(rows: Sequence[Row], every: int) -> list[Row]:
    """Returns the rows with duplicates: the first row of each full block of `every` rows also follows that block."""
    served: list[Row] = []
    for start in range(0, len(rows), every):
        block = rows[start : start + every]
        served += block
        served += block[:1] if len(block) == every else []
    return served


def _number(query: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = query.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise BadQuery(f"{name} must be a whole number of at least {least}, got {text!r}")
    return int(text)


def _read_cursor(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not re.fullmatch(r"from:[0-9]{1,18}", text):
        raise BadQuery(f"cursor {cursor!r} was not issued by this server")
    return int(text.removeprefix("from:"))


def _index_after(after: str, rows: Sequence[Row]) -> int:
    ids = [row["id"] for row in rows]
    if ids and isinstance(ids[0], str):
        return next((place for place, row_id in enumerate(ids) if row_id > after), len(ids))
    try:
        last = int(after)
    except ValueError:
        raise BadQuery(f"after must be an id, got {after!r}") from None
    return next((place for place, row_id in enumerate(ids) if row_id > last), len(ids))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
