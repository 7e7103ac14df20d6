"""Tests well-known APIs: read as documented, each is green with all rows; read wrongly, none is green without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.http.settings import Retry
from rmm_assets.reading.settings import Count
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.reading.dialects import DIALECTS, Dialect, Settings, rows_of
from rmm_assets_tests.reading.reading import Read, endpoint_of, read

RED = (IncompleteError, PagingError, TransportError)
IMPATIENT = Retry(max_retries=1, backoff_factor=0)


def read_dialect(answer: Callable[[Seen], Say | None], settings: Settings, folder: Path, **options: Any) -> Read:
    settings = dict(settings)
    if "count" in settings:
        settings["count"] = Count.model_validate(settings["count"])
    with Scripted(answer) as server:
        endpoint = endpoint_of(settings.pop("paginator"), path="rows", **settings)
        return read(server.url, folder, endpoint, retry=IMPATIENT, **options)


RIGHT = [
    pytest.param(dialect, settings, size, id=f"{dialect.name}-{index}-{size}")
    for dialect in DIALECTS
    for index, settings in enumerate(dialect.right)
    for size in dialect.sizes
]
WRONG = [
    pytest.param(dialect, settings, size, id=f"{dialect.name}-{what}-{size}")
    for dialect in DIALECTS
    for what, settings in dialect.wrong.items()
    for size in (20, 23, 60)
]


@pytest.mark.parametrize(("dialect", "settings", "size"), RIGHT)
def test_a_dialect_read_as_documented_returns_every_row(
    dialect: Dialect, settings: Settings, size: int, tmp_path: Path
) -> None:
    rows = rows_of(size)
    found = read_dialect(dialect.serve(rows), settings, tmp_path)
    assert sorted(row["id"] for row in found.rows) == [row["id"] for row in rows]
    assert found.report.complete
    assert found.report.evidence is not None


@pytest.mark.parametrize(("dialect", "settings", "size"), WRONG)
def test_a_dialect_read_wrongly_is_red_or_returns_every_row(
    dialect: Dialect, settings: Settings, size: int, tmp_path: Path
) -> None:
    rows = rows_of(size)
    try:
        found = read_dialect(dialect.serve(rows), settings, tmp_path)
    except (*RED, ValidationError):
        return
    assert sorted(row["id"] for row in found.rows) == [row["id"] for row in rows]


# Responses to one page instead of its rows.
FAULTS: dict[str, Say] = {
    "null": Say(b"null"),
    "object": Say(b"{}"),
    "list": Say(b"[]"),
    "error": Say({"error": "internal", "message": "try later"}),
    "nothing": Say(b""),
    "204": Say(b"", status=204),
    "html": Say(b"<html></html>", headers=(("Content-Type", "text/html"),)),
    "404": Say({"error": "no such page"}, status=404),
    "403": Say({"error": "no"}, status=403),
}


def _null_rows(say: Say) -> Say:
    """Returns the same response with null or an empty object instead of its rows."""
    if not isinstance(say.body, dict):
        return Say(b"null", say.status, say.headers)
    return Say(
        {key: None if isinstance(value, list) else value for key, value in say.body.items()}, say.status, say.headers
    )


def _no_more(say: Say) -> Say:
    """Returns the same response without any reference to a next page."""
    body = say.body
    if isinstance(body, dict):
        gone = ("next", "nextRecordsUrl", "@odata.nextLink", "next_page_url", "nextPageToken", "next_url", "_links")
        body = {key: value for key, value in body.items() if key not in gone}
    return Say(body, say.status, tuple((name, value) for name, value in say.headers if name != "Link"))


def _instead(fault: Say, say: Say) -> Say:
    return fault


CHANGES: dict[str, Callable[[Say], Say]] = {"null rows": _null_rows, "next lost": _no_more}
CONSTANT: dict[str, Callable[[Say], Say]] = {
    name: partial(_instead, fault) for name, fault in FAULTS.items() if name != "list"
}
FAULTY = [
    pytest.param(dialect, what, id=f"{dialect.name}-{what}")
    for dialect in DIALECTS
    for what in (*CHANGES, *CONSTANT)
    if dialect.right and dialect.name != "whole"
]


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "what"), FAULTY)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_a_failed_page_in_the_middle_never_ends_a_read(
    dialect: Dialect, what: str, lasting: bool, tmp_path: Path
) -> None:
    rows = rows_of(95)
    change: Callable[[Say], Say] = {**CHANGES, **CONSTANT}[what]
    answer = dialect.serve(rows)
    failed: list[int] = []
    faulty: set[str] = set()

    def failing(seen: Seen) -> Say:
        say = answer(seen)
        held = (
            say.body if isinstance(say.body, list) else next((v for v in _values(say.body) if isinstance(v, list)), [])
        )
        middle = bool(held) and isinstance(held[0], dict) and held[0].get("id", 0) in range(40, 70)
        key = seen.target + seen.body.decode()
        if middle and ((lasting and (not faulty or key in faulty)) or not failed):
            faulty.add(key)
            failed.append(1)
            return change(say)
        return say

    try:
        found = read_dialect(failing, dialect.right[0], tmp_path)
    except RED:
        # It is retried or requested again, and only the first response was wrong.
        assert lasting or what in ("404", "403")
        return
    assert failed
    assert sorted(row["id"] for row in found.rows) == [row["id"] for row in rows]


def _values(body: Any) -> Any:
    if isinstance(body, dict):
        for value in body.values():
            yield value
            yield from _values(value)
