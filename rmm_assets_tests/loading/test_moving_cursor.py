"""Tests a cursor that keeps its name while the server moves on, as NinjaOne's queries have it, and the audits of new pagings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.errors import RmmError, TransportError
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, devices, ids, read, resource, rows_of, run

NINJA = {"type": "cursor", "cursor_path": "cursor.name", "cursor_param": "cursor", "cursor_stays": True}


def query_of(seen: Seen) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(seen.target).query))


def queries(rows: list[Row], fault: Callable[[int], Say | None] = lambda number: None) -> Callable[[Seen], Say]:
    """Serves pages of ten: each request for a cursor returns the rows behind the last ones. `fault` replaces a response."""
    places: dict[str, int] = {}
    asked = [0]

    def answer(seen: Seen) -> Say:
        asked[0] += 1
        name = query_of(seen).get("cursor") or f"c{len(places)}"
        say = fault(asked[0])
        if say is not None and say.status == 429:
            return say
        start = places.setdefault(name, 0)
        places[name] = start + 10
        part = rows[start : start + 10]
        cursor = {"name": name, "offset": start, "count": len(part), "expires": 1_700_000_000.5}
        return say or Say({"cursor": cursor, "results": part})

    return answer


def made(paginator: Any, selector: str = "results", **endpoint: Any) -> Any:
    return connection(resource(endpoint={"data_selector": selector, "paginator": paginator, **endpoint}))


@pytest.mark.parametrize("size", [0, 7, 10, 40, 57])
def test_a_cursor_that_stays_is_followed_to_an_empty_page(size: int, tmp_path: Path) -> None:
    with Scripted(queries(devices(size))) as server:
        report, rows = read(tmp_path, server.url, made(NINJA))
    assert ids(rows) == list(range(1, size + 1))
    assert report.complete


def test_a_request_that_failed_is_not_repeated_as_its_page_would_be_skipped(tmp_path: Path) -> None:
    def lost(number: int) -> Say | None:
        return Say({"message": "oops"}, 502) if number == 3 else None

    with Scripted(queries(devices(57), lost)) as server, pytest.raises(TransportError, match="the cursor has moved on"):
        read(tmp_path, server.url, made(NINJA))


def test_a_throttled_request_is_repeated(tmp_path: Path) -> None:
    def throttled(number: int) -> Say | None:
        return Say({}, 429, (("Retry-After", "0"),)) if number == 3 else None

    with Scripted(queries(devices(57), throttled)) as server:
        assert ids(read(tmp_path, server.url, made(NINJA))[1]) == list(range(1, 58))


def test_a_cursor_that_does_not_move_is_red(tmp_path: Path) -> None:
    page = {"cursor": {"name": "c"}, "results": devices(10)}
    with Scripted(lambda _: Say(page)) as server, pytest.raises(RmmError, match="is the same as page"):
        read(tmp_path, server.url, made(NINJA))


def glpi(seen: Seen) -> Say:
    rows = devices(57)
    first, _, last = query_of(seen)["range"].partition("-")
    part = rows[int(first) : int(last) + 1]
    if not part:
        return Say(["ERROR_RANGE_EXCEED_TOTAL"], 400)
    return Say(part, 206, (("Content-Range", f"{first}-{int(first) + len(part) - 1}/57"),))


def jira(seen: Seen) -> Say:
    start = int(query_of(seen).get("next", 0))
    return Say({"results": devices(57)[start : start + 20], "next": str(start + 20), "isLast": start + 20 >= 57})


PAGINGS: dict[str, tuple[Callable[[], Callable[[Seen], Say]], Any, str]] = {
    "ninja": (lambda: queries(devices(57)), NINJA, "results"),
    "glpi": (lambda: glpi, {"type": "offset", "limit": 20, "range_param": "range"}, "$"),
    "jira": (
        lambda: jira,
        {"type": "cursor", "cursor_path": "next", "cursor_param": "next", "last_path": "isLast"},
        "results",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGINGS)
def test_a_paging_is_loaded_and_audited_also_from_the_client(name: str, tmp_path: Path) -> None:
    serve, paginator, selector = PAGINGS[name]
    client = {"base_url": "http://127.0.0.1:9", "auth": "bearer", "paginator": paginator}
    file = connection(resource(endpoint={"data_selector": selector, "paginator": None}), client=client)
    with Scripted(serve()) as server:
        run(tmp_path, server.url, file)
        result = audited(tmp_path, server.url, file)
    assert ids(rows_of(tmp_path)) == list(range(1, 58))
    assert (result.verdict, result.sentences()) == ("equal", [])
