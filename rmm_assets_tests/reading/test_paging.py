"""Tests that every paginator of dlt returns every row once, in order, and that prefetching stays within its window."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.http.settings import Retry
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.fetch import Window
from rmm_assets.reading.signals import Signals
from rmm_assets.reading.walk import walk
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.reading.reading import endpoint_of, pager_to, read

Answer = Callable[[Seen], Say]

OFFSET = {"type": "offset", "limit": 10}


def devices(number: int) -> list[dict[str, Any]]:
    return [{"id": i, "name": f"PC-{i:04}"} for i in range(1, number + 1)]


ROWS = devices(57)


def query_of(seen: Seen) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(seen.target).query, keep_blank_values=True))


def paged(place: Callable[[Seen], int], extra: Callable[[int], dict[str, Any]] = lambda following: {}) -> Answer:
    """Returns ten rows from the position that `place` returns; `extra` adds fields for the next position to the body."""

    def answer(seen: Seen) -> Say:
        start = place(seen)
        return Say({"data": ROWS[start : start + 10], **extra(start + 10)})

    return answer


def body_of(seen: Seen) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(seen.body)
    return parsed


def header_cursor(seen: Seen) -> Say:
    start = int(query_of(seen).get("token", 0))
    more = (("Next-Token", str(start + 10)),) if start + 10 < len(ROWS) else ()
    return Say({"data": ROWS[start : start + 10]}, headers=more)


def bare_list(seen: Seen) -> Say:
    after = int(query_of(seen).get("after", 0))
    return Say(ROWS[after : after + 10])


STYLES: dict[str, tuple[dict[str, Any], dict[str, Any], Answer]] = {
    "offset under other names": (
        {"type": "offset", "limit": 10, "offset_param": "_start", "limit_param": "_limit", "total_path": "meta.count"},
        {},
        paged(lambda seen: int(query_of(seen)["_start"]), lambda _: {"meta": {"count": len(ROWS)}}),
    ),
    "offset that begins at 7": (
        {"type": "offset", "limit": 10, "offset": 7, "total_path": None},
        {},
        paged(lambda seen: int(query_of(seen)["offset"]) - 7),
    ),
    "offset in the body": (
        {"type": "offset", "limit": 10, "offset_body_path": "page.from", "limit_body_path": "page.size"},
        {"method": "POST", "json": {"filter": {"status": "online"}}},
        paged(lambda seen: body_of(seen)["page"]["from"], lambda _: {"total": len(ROWS)}),
    ),
    "page number from 0, pages stated": (
        {"type": "page_number", "base_page": 0, "total_path": "pages"},
        {},
        paged(lambda seen: int(query_of(seen)["page"]) * 10, lambda _: {"pages": 6}),
    ),
    "page number from 1, pages stated": (
        {"type": "page_number", "base_page": 1, "total_path": "pages", "page_param": "p"},
        {},
        paged(lambda seen: int(query_of(seen)["p"]) * 10 - 10, lambda _: {"pages": 6}),
    ),
    "page number in the body": (
        {"type": "page_number", "base_page": 1, "total_path": None, "page_body_path": "paging.number"},
        {"method": "POST", "json": {"paging": {"size": 10}}},
        paged(lambda seen: body_of(seen)["paging"]["number"] * 10 - 10),
    ),
    "cursor in the query": (
        {"type": "cursor", "cursor_path": "meta.next", "cursor_param": "from"},
        {"params": {"limit": 10}},
        paged(
            lambda seen: int(query_of(seen).get("from", 0)),
            lambda following: {"meta": {"next": str(following) if following < len(ROWS) else None}},
        ),
    ),
    "cursor in the body": (
        {"type": "cursor", "cursor_path": "next", "cursor_body_path": "variables.after"},
        {"method": "POST", "json": {"query": "devices", "variables": {}}},
        paged(
            lambda seen: int(body_of(seen)["variables"].get("after", 0)),
            lambda following: {"next": following if following < len(ROWS) else ""},
        ),
    ),
    "keyset on the last row's id": (
        {"type": "cursor", "cursor_path": "data[-1].id", "cursor_param": "after"},
        {},
        paged(lambda seen: int(query_of(seen).get("after", 0))),
    ),
    "keyset on a bare list": (
        {"type": "cursor", "cursor_path": "[-1].id", "cursor_param": "after"},
        {"data_selector": "$"},
        bare_list,
    ),
    "cursor in a header": (
        {"type": "header_cursor", "cursor_key": "Next-Token", "cursor_param": "token"},
        {},
        header_cursor,
    ),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("window", [1, 2, 8, 32])
def test_a_style_returns_every_row_once_and_in_order(style: str, window: int, tmp_path: Path) -> None:
    paginator, changes, answer = STYLES[style]
    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(paginator, **changes), window=window)
    assert found.rows == ROWS


@pytest.mark.parametrize(
    ("path", "paginator"),
    [("/v1/linked/devices", {"type": "json_link"}), ("/v1/link-header/devices", {"type": "header_link"})],
)
def test_links_are_followed_to_the_end(path: str, paginator: dict[str, Any], tmp_path: Path) -> None:
    with Simulator(tables={"devices": ROWS}) as server:
        endpoint = endpoint_of(paginator, path=path, params={"limit": 10}, total_path="total")
        assert read(server.base_url, tmp_path, endpoint).rows == ROWS
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "link", ["?from={}", "devices?from={}", "/api/v2/devices?from={}", "{base}/api/v2/devices?from={}"]
)
def test_a_link_is_relative_to_its_page(link: str, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        assert urlsplit(seen.target).path == "/api/v2/devices"
        start = int(query_of(seen).get("from", 0))
        following = link.format(start + 10, base=server.url) if start + 10 < len(ROWS) else None
        return Say({"data": ROWS[start : start + 10], "next": following})

    with Scripted(answer) as server:
        found = read(f"{server.url}/api", tmp_path, endpoint_of({"type": "json_link"}, path="v2/devices"))
    assert found.rows == ROWS


def test_a_link_to_another_origin_is_refused(tmp_path: Path) -> None:
    with Simulator(tables={"devices": ROWS}, faults=Faults(next_origin="http://127.0.0.1:9")) as server:
        endpoint = endpoint_of({"type": "json_link"}, path="/v1/linked/devices", params={"limit": 10})
        with pytest.raises(TransportError, match="another origin"):
            read(server.base_url, tmp_path, endpoint)


def test_single_page_sends_one_request(tmp_path: Path) -> None:
    with Simulator(tables={"devices": ROWS}) as server:
        found = read(server.base_url, tmp_path, endpoint_of({"type": "single_page"}))
        assert found.rows == ROWS
        assert len(server.requests) == 1


def test_a_page_number_maximum_ends_the_read(tmp_path: Path) -> None:
    paginator = {"type": "page_number", "base_page": 1, "maximum_page": 3, "total_path": None}
    with Scripted(paged(lambda seen: int(query_of(seen)["page"]) * 10 - 10)) as server:
        found = read(server.url, tmp_path, endpoint_of(paginator))
    assert found.rows == ROWS[:20]
    assert found.report.partial


@pytest.mark.parametrize("status", [400, 404])
def test_a_page_after_the_stated_end_may_be_refused(status: int, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"data": ROWS[page * 10 - 10 : page * 10][:10], "pages": 5}) if page <= 5 else Say({}, status=status)

    paginator = {"type": "page_number", "base_page": 1, "total_path": "pages"}
    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(paginator))
    assert found.rows == ROWS[:50]


def test_a_page_before_the_stated_end_may_not_be_refused(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"data": ROWS[page * 10 - 10 : page * 10], "pages": 6}) if page != 4 else Say({}, status=404)

    paginator = {"type": "page_number", "base_page": 1, "total_path": "pages"}
    with Scripted(answer) as server, pytest.raises(TransportError, match="HTTP 404"):
        read(server.url, tmp_path, endpoint_of(paginator))


def refusing(rows: list[dict[str, Any]], status: int, *, most: int = 10**9, **beside: Any) -> Any:
    """Returns an API with page numbers that refuses a page after its last one, or after `most` rows."""

    def answer(seen: Seen) -> Say:
        page, size = int(query_of(seen)["page"]), int(query_of(seen).get("per_page", 10))
        found = rows[page * size - size : min(page * size, most)]
        return Say({"data": found, **beside}) if found else Say({"error": "no such page"}, status=status)

    return answer


@pytest.mark.parametrize("status", [400, 404, 410, 416, 422])
@pytest.mark.parametrize("number", [7, 13, 20, 50])
def test_a_page_after_the_last_one_may_be_refused(status: int, number: int, tmp_path: Path) -> None:
    """A full last page is read again in smaller ones."""
    paginator = {"type": "page_number", "base_page": 1, "total_path": None}
    with Scripted(refusing(ROWS[:number], status)) as server:
        found = read(server.url, tmp_path, endpoint_of(paginator, params={"per_page": 10}))
    assert sorted(found.rows, key=lambda row: row["id"]) == ROWS[:number]


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize(
    ("number", "options", "params"),
    [
        (600, {"most": 500}, {"per_page": 10}),  # no more rows, however long a page is
        (600, {"most": 30}, {}),
        (30, {}, {}),  # nothing says how long a page is
        (17, {"more": True}, {"per_page": 10}),
        (17, {"total": 60}, {"per_page": 10}),
    ],
    ids=str,
)
def test_a_refused_page_is_no_end_by_itself(
    number: int, options: dict[str, Any], params: dict[str, Any], status: int, tmp_path: Path
) -> None:
    paginator = {"type": "page_number", "base_page": 1, "total_path": None, "has_more_path": None}
    if "more" in options:
        paginator["has_more_path"] = "more"
    with (
        Scripted(refusing(devices(number), status, **options)) as server,
        pytest.raises((PagingError, IncompleteError, TransportError), match=f"HTTP {status}"),
    ):
        read(server.url, tmp_path, endpoint_of(paginator, params=params))


# Responses that mean "no rows"


@pytest.mark.parametrize("paginator", [OFFSET, {"type": "single_page"}, {"type": "cursor", "cursor_path": "next"}])
def test_an_ignored_response_means_no_rows(paginator: dict[str, Any], tmp_path: Path) -> None:
    ignore = ({"status_code": 404, "content": "no devices", "action": "ignore"},)
    with Scripted(lambda _: Say({"error": "no devices here"}, status=404)) as server:
        found = read(server.url, tmp_path, endpoint_of(paginator, ignore=ignore))
        assert found.rows == []
        assert found.report.complete
        assert len(server.seen) == 1


def test_a_response_similar_to_an_ignored_one_is_not_ignored(tmp_path: Path) -> None:
    ignore = ({"status_code": 404, "content": "no devices", "action": "ignore"},)
    with (
        Scripted(lambda _: Say({"error": "no such path"}, status=404)) as server,
        pytest.raises(TransportError, match="HTTP 404"),
    ):
        read(server.url, tmp_path, endpoint_of(OFFSET, ignore=ignore))


def test_204_is_an_empty_page(tmp_path: Path) -> None:
    with Scripted(lambda _: Say(b"", status=204)) as server:
        assert read(server.url, tmp_path, endpoint_of({"type": "single_page"})).rows == []


# Data selector found from the first page


@pytest.mark.parametrize(
    "around",
    [
        lambda rows: rows,
        lambda rows: {"data": rows, "errors": []},
        lambda rows: {"response": {"items": rows}},
        lambda rows: {"devices": rows, "count": len(rows)},
        lambda rows: {"my rows": rows},
    ],
)
def test_without_a_data_selector_the_list_in_the_first_page_is_used(around: Any, tmp_path: Path) -> None:
    with Scripted(lambda _: Say(around(ROWS))) as server:
        assert read(server.url, tmp_path, endpoint_of({"type": "single_page"}, data_selector=None)).rows == ROWS


def test_without_a_data_selector_two_lists_are_red(tmp_path: Path) -> None:
    with (
        Scripted(lambda _: Say({"sites": [{"id": 1}], "devices": ROWS})) as server,
        pytest.raises(TransportError, match="the rows could be in sites, devices"),
    ):
        read(server.url, tmp_path, endpoint_of({"type": "single_page"}, data_selector=None))


def test_without_a_data_selector_an_error_body_is_not_a_row(tmp_path: Path) -> None:
    with (
        Scripted(lambda _: Say({"error": "licence expired"})) as server,
        pytest.raises(TransportError, match="could be in no list"),
    ):
        read(server.url, tmp_path, endpoint_of(OFFSET, data_selector=None))


# Read-ahead


@pytest.mark.parametrize("window", [1, 2, 8])
def test_concurrent_requests_stay_within_the_window(window: int, tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(600)}, faults=Faults(delay=0.01)) as server:
        found = read(server.base_url, tmp_path, endpoint_of(OFFSET), window=window)
        assert found.rows == devices(600)
        assert window / 2 < server.most_at_once <= window


def test_pages_are_returned_in_order_whatever_the_order_of_responses(tmp_path: Path) -> None:
    rows = devices(400)

    def answer(seen: Seen) -> Say:
        offset = int(query_of(seen)["offset"])
        time.sleep((offset * 7919 % 13) / 1000)
        return Say({"data": rows[offset : offset + 10], "total": len(rows)})

    with Scripted(answer) as server:
        assert read(server.url, tmp_path, endpoint_of(OFFSET)).rows == rows


def test_without_a_total_few_pages_are_requested_in_vain(
    tmp_path: Path,
) -> None:
    for number in (5, 15, 35, 95, 300):
        with Simulator(tables={"devices": devices(number)}, faults=Faults(no_total=True)) as server:
            read(server.base_url, tmp_path, endpoint_of(OFFSET), verify=False)
            needed = -(-(number - 1) // 9) + 1
            assert needed <= len(server.requests) <= needed + min(8, needed)


def test_with_a_total_no_page_is_requested_in_vain(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(305)}) as server:
        read(server.base_url, tmp_path, endpoint_of(OFFSET), window=32)
        assert len(server.requests) == -(-304 // 9)


@pytest.mark.parametrize(("number", "letters", "each"), [(2000, 1, 16), (600, 30_000, 3)], ids=["small", "large"])
def test_pages_waiting_in_memory_are_bounded(number: int, letters: int, each: int, tmp_path: Path) -> None:
    rows = [{"id": i, "text": "x" * letters} for i in range(1, number + 1)]
    with Simulator(tables={"devices": rows}) as server, pager_to(server.base_url, tmp_path, window=4) as pager:
        pages = walk(pager, endpoint_of(OFFSET), PassFacts(), Signals())
        for _ in range(2):
            next(pages)
        time.sleep(0.5)
        # The first page is read alone. Each of four workers prefetches twice 16 pages, or a mebibyte, and waits until the
        # pages of the first worker are consumed.
        assert len(server.requests) <= 1 + 8 * each
        pages.close()


def replies_of(number: int, *, broken: dict[int, list[Say]]) -> Callable[[Seen], Say]:
    """Serves this many rows in pages of ten, but some offsets first get the given responses."""
    rows = devices(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        waiting = broken.get(start)
        return waiting.pop(0) if waiting else Say({"data": rows[start : start + 10], "total": number})

    return answer


@pytest.mark.parametrize("window", [1, 2])
def test_a_damaged_page_among_others_is_retried_like_any_request(window: int, tmp_path: Path) -> None:
    cut = Say(b'{"data":[{"id":1},{"id"')
    with Scripted(replies_of(400, broken={81: [cut] * 3})) as server:
        found = read(server.url, tmp_path, endpoint_of(OFFSET), window=window)
        assert [row["id"] for row in found.rows] == list(range(1, 401))
        assert found.traffic.retries == 3
    with (
        Scripted(replies_of(400, broken={81: [cut] * 4})) as server,
        pytest.raises(TransportError, match=r"offset 81.*after 4 requests"),
    ):
        read(server.url, tmp_path, endpoint_of(OFFSET), window=window)


def test_pages_before_a_failed_one_are_returned(tmp_path: Path) -> None:
    gone = Say(b"no", status=400)
    with Scripted(replies_of(400, broken={81: [gone]})) as server, pager_to(server.url, tmp_path, window=1) as pager:
        came: list[int] = []
        with pytest.raises(TransportError, match="offset 81"):
            came.extend(page.page.rows for page in walk(pager, endpoint_of(OFFSET), PassFacts(), Signals()))
        assert came == [10] + [9] * 8


@pytest.mark.parametrize("window", [1, 2, 8])
def test_a_short_page_among_many_loses_no_rows_and_takes_few_extra_requests(window: int, tmp_path: Path) -> None:
    rows = devices(900)
    short = {81: [Say({"data": rows[81:84], "total": 900})], 300: [Say({"data": rows[300:301], "total": 900})]}
    with Scripted(replies_of(900, broken=short)) as server:
        found = read(server.url, tmp_path, endpoint_of(OFFSET), window=window)
        assert [row["id"] for row in found.rows] == list(range(1, 901))
        # Pages requested with the previous plan are requested again, but only those that were in progress.
        assert found.traffic.requests <= 101 + 2 * (1 + window * 16)


def test_concurrent_endpoints_share_one_window(tmp_path: Path) -> None:
    faults = Faults(delay=0.005)
    with (
        Simulator(tables={"devices": devices(60)}, faults=faults) as server,
        pager_to(server.base_url, tmp_path, window=3) as pager,
    ):
        threads = [
            threading.Thread(target=lambda: list(walk(pager, endpoint_of(OFFSET), PassFacts(), Signals())))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_at_once <= 3


def test_a_throttled_window_is_halved_and_grows_again() -> None:
    window = Window(8)
    window.throttled()
    window.throttled()
    assert window.size == 2
    for _ in range(100):
        window.quiet()
    assert window.size == 8


def test_429_reduces_concurrent_requests(tmp_path: Path) -> None:
    faults = [Faults(delay=0.02), Faults(status=429, skip=5, times=3)]
    with Simulator(tables={"devices": devices(300)}, faults=faults) as server:
        found = read(server.base_url, tmp_path, endpoint_of(OFFSET), retry=Retry(backoff_factor=0.01))
        assert found.rows == devices(300)
        assert found.traffic.throttled == 3


def test_a_failed_page_is_red_although_the_others_were_received(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        offset = int(query_of(seen)["offset"])
        return Say({"data": ROWS[offset : offset + 10], "total": 57}) if offset != 27 else Say({}, status=500)

    with Scripted(answer) as server, pytest.raises(TransportError, match=r"devices page 4 \(offset 27\): HTTP 500"):
        read(server.url, tmp_path, endpoint_of(OFFSET))
