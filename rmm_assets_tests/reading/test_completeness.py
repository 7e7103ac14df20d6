"""Tests the promise of completeness with a real server: all rows are received, or the read is red and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.reading.report import Evidence
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults, Move
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.reading.reading import Read, endpoint_of, read

OFFSET = {"type": "offset", "limit": 100}
PAGES = {"type": "page_number", "base_page": 1, "total_path": None}
CURSOR = {"type": "cursor", "cursor_path": "next_cursor", "cursor_param": "cursor"}


def devices(number: int, first: int = 1) -> list[dict[str, Any]]:
    return [{"id": i, "name": f"PC-{i:04}", "status": "online"} for i in range(first, first + number)]


def read_from(
    faults: Faults | list[Faults], folder: Path, paginator: dict[str, Any] = OFFSET, rows: int = 205, **options: Any
) -> tuple[Read, list[dict[str, str]]]:
    """Reads 205 devices from a simulator with these faults; returns the rows and the queries.

    Asserts that every row that existed both before and after the read was received.
    """
    changes = {name: options.pop(name) for name in ("total_path", "key", "params", "path") if name in options}
    with Simulator(tables={"devices": devices(rows)}, faults=faults) as server:
        try:
            found = read(server.base_url, folder, endpoint_of(paginator, **changes), **options)
        finally:
            queries[:] = [request.query for request in server.requests]
        stayed = {row["id"] for row in devices(rows)} & {row["id"] for row in server.rows("devices")}
        assert stayed <= {row["id"] for row in found.rows}
        return found, queries


queries: list[dict[str, str]] = []


# Page sizes


def test_a_capped_page_size_loses_no_rows_and_is_reported_once(tmp_path: Path) -> None:
    found, _ = read_from(Faults(clamp=50), tmp_path)
    assert found.report.complete
    assert found.report.rows == found.report.last_total == 205
    assert found.report.warnings == [
        "the API sends at most 50 rows per page although more are requested; all rows were received. "
        "Set paginator.limit to 50"
    ]


def test_pages_of_changing_size_lose_no_rows(tmp_path: Path) -> None:
    rows = devices(400)

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        return Say({"data": rows[offset : offset + 7 + offset % 40], "total": len(rows)})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(OFFSET))
    assert found.rows == rows
    assert found.report.passes == 1


# Bodies that are not pages


def test_an_error_body_with_200_is_red_with_status_type_and_excerpt(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="data_selector") as raised:
        read_from(Faults(status=200, text="licence expired", skip=1), tmp_path)
    assert "HTTP 200, application/json" in str(raised.value)
    assert """'{"error":"licence expired"}'""" in str(raised.value)


def test_a_body_without_the_selected_key_is_red(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="the body has no 'data'"):
        read_from(Faults(no_data=True), tmp_path)


def test_an_excerpt_has_at_most_200_characters(tmp_path: Path) -> None:
    with pytest.raises(TransportError) as raised:
        read_from(Faults(status=200, text="x" * 10_000), tmp_path)
    assert str(raised.value).count("x") < 200


@pytest.mark.parametrize("fault", [{"html": True}, {"truncated": True}, {"cut": True}, {"drop": True}])
def test_html_and_broken_json_are_retried(fault: dict[str, Any], tmp_path: Path) -> None:
    found, _ = read_from(Faults(**fault, skip=1, times=2), tmp_path)
    assert found.report.complete
    assert found.traffic.retries == 2


@pytest.mark.parametrize("fault", [{"html": True}, {"truncated": True}])
def test_html_and_broken_json_that_stay_are_red_after_four_requests(fault: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"HTTP 200.*not JSON.*after 4 requests"):
        read_from(Faults(**fault), tmp_path)
    assert len(queries) == 4


# Totals


def test_without_a_total_a_short_page_is_not_the_end(tmp_path: Path) -> None:
    found, _ = read_from([Faults(no_total=True), Faults(clamp=30, skip=1, times=1)], tmp_path)
    assert found.report.complete
    assert found.report.reason == "two reads agree"


def test_a_total_too_high_is_red_after_one_more_pass_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        IncompleteError, match=r"reports 215 rows; 205 distinct rows were received in 4 pages \(after 2 passes\)"
    ):
        read_from(Faults(total_off=10), tmp_path)


def test_a_total_too_low_loses_no_rows_and_causes_a_warning(tmp_path: Path) -> None:
    found, _ = read_from(Faults(total_off=-105), tmp_path)
    assert found.report.rows == 205
    assert found.report.passes == 2
    assert found.report.evidence is Evidence.TWO_READS
    assert found.report.signals == ["total: refuted: states 100 rows when 199 had been received"]


def test_a_page_count_that_counts_rows_is_recognized(tmp_path: Path) -> None:
    # dlt's default: `total` is the number of pages. For many APIs, including the simulator, it is the number of rows.
    found, _ = read_from([], tmp_path, {"type": "page_number", "base_page": 1})
    assert found.report.complete
    assert found.report.last_total == 205


def test_a_page_number_total_above_the_received_rows_is_red(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="reports 208 rows; 205 distinct rows"):
        read_from(Faults(total_off=3), tmp_path, {"type": "page_number", "base_page": 1})


# Rows that move


MOVES = {"deletes": (1, 0), "inserts": (0, 1), "both": (1, 1), "many": (7, 3)}


@pytest.mark.parametrize("where", ["front", "random"])
@pytest.mark.parametrize(
    ("paginator", "total", "delete", "insert"),
    [
        pytest.param(paginator, total, *move, id=f"{paginator['type']}-{'total' if total else 'no_total'}-{name}")
        for paginator in (OFFSET, PAGES)
        for total in (True, False)
        for name, move in MOVES.items()
        # The known case of docs/reliability.md: page numbers, and a total that stays the same.
        if not (paginator is PAGES and total and name == "both")
    ],
)
def test_rows_that_move_during_one_read_are_read_again_until_they_stop_moving(
    paginator: dict[str, Any], total: bool, where: Any, delete: int, insert: int, tmp_path: Path
) -> None:
    faults = Faults(move=Move(delete=delete, insert=insert, where=where, reads=1), no_total=not total)
    path = "total" if total and paginator is PAGES else None
    found, _ = read_from(faults, tmp_path, paginator, total_path=path)
    assert found.report.complete
    assert found.report.passes <= 3


@pytest.mark.parametrize("total", [True, False], ids=["total", "no_total"])
def test_rows_that_never_stop_moving_are_red_after_three_passes(total: bool, tmp_path: Path) -> None:
    faults = Faults(move=Move(delete=1), no_total=not total)
    with pytest.raises(IncompleteError, match=r"\(after 3 passes\)"):
        read_from(faults, tmp_path, rows=450)
    assert len(queries) <= 5 * (5 + 8)


def test_a_changing_total_is_red_with_both_numbers(tmp_path: Path) -> None:
    rows = devices(250)

    def answer(seen: Seen) -> Say:
        page = int(dict(parse_qsl(urlsplit(seen.target).query))["page"])
        return Say({"data": rows[page * 100 - 100 : page * 100], "total": 249 + page})

    with Scripted(answer) as server, pytest.raises(IncompleteError, match="the stated total changed from 250 to 253"):
        read(server.url, tmp_path, endpoint_of(PAGES, total_path="total"))


def test_a_second_pass_with_the_same_repeated_row_does_not_confirm_the_first(tmp_path: Path) -> None:
    # Both passes return rows 1 to 19 and 19 again at another position: row 20 exists and is never received.
    passes = [[*range(1, 20), 19], [1, 19, *range(2, 20)], [*range(1, 21)], [*range(1, 21)]]
    started = [0]

    def answer(seen: Seen) -> Say:
        page = int(dict(parse_qsl(urlsplit(seen.target).query))["page"])
        started[0] += page == 1
        ids = passes[started[0] - 1]
        return Say({"data": [{"id": i} for i in ids[page * 10 - 10 : page * 10]]})

    with Scripted(answer) as server, pytest.raises(IncompleteError, match="two reads returned different rows"):
        read(server.url, tmp_path, endpoint_of(PAGES))


@pytest.mark.parametrize(
    "totals",
    [
        # The totals of the first page and later pages, by pass; there are 25 rows.
        [(25, 24), (25, 24), (25, 25)],
        [(24, 24), (25, 24), (25, 25)],
        [(25, 24), (24, 24), (24, 24)],
    ],
    ids=["both", "the second", "the first"],
)
def test_passes_whose_total_changed_confirm_nothing(totals: list[tuple[int, int]], tmp_path: Path) -> None:
    rows, passes = devices(25), [0]

    def answer(seen: Seen) -> Say:
        page = int(dict(parse_qsl(urlsplit(seen.target).query))["page"])
        passes[0] += page == 1
        total = totals[passes[0] - 1][page > 1]
        return Say({"data": rows[page * 10 - 10 : page * 10], "total": total})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(PAGES, total_path="total"), window=1)
    assert found.rows == rows
    assert found.report.complete
    assert found.report.passes == 3


# Servers that do not follow their own paging


@pytest.mark.parametrize("paginator", [OFFSET, PAGES, CURSOR], ids=["offset", "page_number", "cursor"])
@pytest.mark.parametrize("rows", [1, 2, 205])
def test_a_repeated_page_is_red_the_second_time(paginator: dict[str, Any], rows: int, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        # Next to other styles, a cursor would say that there is more.
        cursor = {"next_cursor": f"{len(server.seen)}"} if paginator is CURSOR else {}
        return Say({"data": devices(rows), **cursor})

    with Scripted(answer) as server:
        with pytest.raises(PagingError, match="page 2 is the same as page 1"):
            read(server.url, tmp_path, endpoint_of(paginator))
        assert len(server.seen) <= 4


def test_a_repeated_page_with_a_total_is_red_within_a_window_of_requests(tmp_path: Path) -> None:
    with pytest.raises(PagingError, match="the server ignores 'offset'"):
        read_from(Faults(same_page=True), tmp_path, rows=5000)
    assert len(queries) <= 2 * (1 + 8)


def test_a_server_that_starts_over_at_the_end_is_red(tmp_path: Path) -> None:
    rows = devices(997)

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        return Say({"data": [rows[place % len(rows)] for place in range(offset, offset + 500)]})

    with Scripted(answer) as server, pytest.raises(PagingError, match="starts over instead of ending"):
        read(server.url, tmp_path, endpoint_of({"type": "offset", "limit": 500}))
    assert len(server.seen) <= 2 * 10_000 // 500


def test_a_full_page_with_no_next_cursor_is_red(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        return Say({"data": devices(100)})

    with Scripted(answer) as server, pytest.raises(PagingError, match=r"full \(100 rows\) and has no next page"):
        read(server.url, tmp_path, endpoint_of(CURSOR, params={"limit": 100}))


@pytest.mark.parametrize("path", ["/v1/linked/devices", "/v1/link-header/devices"])
def test_a_missing_link_is_red_if_the_total_is_higher(path: str, tmp_path: Path) -> None:
    kind = "json_link" if path == "/v1/linked/devices" else "header_link"
    with pytest.raises(IncompleteError, match="reports 205 rows; 100 distinct rows"):
        read_from(Faults(no_next=True), tmp_path, {"type": kind}, path=path, params={"limit": 100}, total_path="total")


@pytest.mark.parametrize(
    ("paginator", "path"),
    [
        (CURSOR, "/v1/devices"),
        ({"type": "json_link"}, "/v1/linked/devices"),
        ({"type": "header_link"}, "/v1/link-header/devices"),
    ],
)
def test_a_page_that_links_to_itself_is_red(paginator: dict[str, Any], path: str, tmp_path: Path) -> None:
    with pytest.raises(PagingError, match="page 2 is the same as page 1"):
        read_from(Faults(stuck_next=True), tmp_path, paginator, path=path)
    assert len(queries) <= 3


@pytest.mark.parametrize(
    "paginator",
    [CURSOR, {"type": "json_link"}, {"type": "header_link"}, {"type": "header_cursor", "cursor_key": "Next-Page"}],
    ids=["cursor", "json_link", "header_link", "header_cursor"],
)
def test_a_cursor_that_does_not_move_is_red(paginator: dict[str, Any], tmp_path: Path) -> None:
    # Each page has other rows than the one before, so only the cursor shows the cycle: b, c, b, c, ...
    def answer(seen: Seen) -> Say:
        cursor = dict(parse_qsl(urlsplit(seen.target).query)).get("cursor", "a")
        following = {"a": "b", "b": "c", "c": "b"}[cursor]
        link = f"/v1/devices?cursor={following}"
        return Say(
            {"data": [{"id": f"{cursor}{number}"} for number in range(10)], "next_cursor": following, "next": link},
            status=200 if len(server.seen) < 20 else 400,
            headers=(("Link", f'<{server.url}{link}>; rel="next"'), ("Next-Page", following)),
        )

    with Scripted(answer) as server:
        with pytest.raises(
            PagingError, match="page 3 names a next page that was already read: the cursor does not move"
        ):
            read(server.url, tmp_path, endpoint_of(paginator))
        assert len(server.seen) == 3


@pytest.mark.parametrize("end", ["", None])
def test_an_empty_or_null_next_is_the_end_also_of_a_full_page(end: str | None, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        second = "cursor" in seen.target
        rows = devices(20)
        return Say({"data": rows[10:] if second else rows[:10], "next_cursor": end if second else "second"})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(CURSOR, params={"limit": 10}))
    assert found.rows == devices(20)


@pytest.mark.parametrize("mark", [None, False])
@pytest.mark.parametrize("style", ["cursor", "offset", "page_number"])
def test_a_null_or_false_end_mark_is_the_end(style: str, mark: bool | None, tmp_path: Path) -> None:
    rows = devices(25)
    paginators: dict[str, dict[str, Any]] = {
        "cursor": {**CURSOR, "has_more_path": "more"},
        "offset": {"type": "offset", "limit": 10, "has_more_path": "more"},
        "page_number": {**PAGES, "base_page": 0, "has_more_path": "more"},
    }

    def answer(seen: Seen) -> Say:
        query = dict(parse_qsl(urlsplit(seen.target).query))
        start = int(query.get("offset") or query.get("cursor") or int(query.get("page", 0)) * 10)
        more = start + 10 < len(rows)
        return Say(
            {"data": rows[start : start + 10], "more": more or mark, "next_cursor": str(start + 10) if more else None}
        )

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(paginators[style]))
        assert found.rows == rows
        # At most as many pages are requested past the end as there were.
        assert len(server.seen) <= 2 * 2 * 3


def test_an_end_mark_that_is_never_sent_does_not_end_the_read(tmp_path: Path) -> None:
    # A misspelt has_more_path: dlt would fail, and a careless reader would stop after the first page.
    found, _ = read_from([], tmp_path, {**OFFSET, "has_more_path": "has_moar"})
    assert found.report.rows == 205


def test_an_empty_page_that_says_there_is_more_is_red(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        return Say({"data": [] if "offset=0" not in seen.target else devices(10), "more": True})

    with Scripted(answer) as server, pytest.raises(PagingError, match="is empty but says there is more"):
        read(server.url, tmp_path, endpoint_of({**PAGES, "has_more_path": "more"}))


def test_empty_pages_between_full_ones_are_not_an_end_if_configured(tmp_path: Path) -> None:
    rows = devices(30)

    def answer(seen: Seen) -> Say:
        page = int(dict(parse_qsl(urlsplit(seen.target).query))["page"])
        return Say({"data": [] if page % 2 else rows[page * 5 : page * 5 + 10], "pages": 6})

    paginator = {"type": "page_number", "base_page": 0, "total_path": "pages", "stop_after_empty_page": False}
    with Scripted(answer) as server:
        assert read(server.url, tmp_path, endpoint_of(paginator)).rows == rows


# Repeated rows


def test_rows_repeated_across_pages_are_loaded_once_and_counted(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(250)}, faults=Faults(duplicate_every=50)) as server:
        found = read(server.base_url, tmp_path, endpoint_of(OFFSET))
    assert sorted(row["id"] for row in found.rows) == list(range(1, 251))
    assert found.report.complete
    assert found.report.duplicates == 5
    assert "5 rows were received more than once and loaded once" in found.report.warnings


def test_repeated_rows_that_fill_up_a_total_do_not_hide_the_last_ones(tmp_path: Path) -> None:
    # 13 rows, 6 of them served twice, 13 stated: the first page is as long as the total and has 9 distinct rows.
    served = [row for row in devices(13) for _ in range(1 + (row["id"] % 2 == 0))]

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        return Say({"data": served[offset : offset + 13], "total": 13})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(OFFSET))
    assert found.rows == devices(13)
    assert found.report.complete


def test_repeated_rows_that_fill_up_a_total_are_red_if_no_request_may_check_for_more(tmp_path: Path) -> None:
    # 25 rows, 5 of them served twice, 20 stated: two pages have 20 rows, 15 of them distinct, and there is no page 3.
    served = [row for row in devices(25) for _ in range(1 + (row["id"] <= 5))]

    def answer(seen: Seen) -> Say:
        page = int(dict(parse_qsl(urlsplit(seen.target).query))["page"])
        if page > 2:
            return Say({"error": "there are 2 pages"}, status=404)
        return Say({"data": served[page * 10 - 10 : page * 10], "total": 20, "pages": 2})

    endpoint = endpoint_of({**PAGES, "total_path": "pages"}, total_path="total")
    with Scripted(answer) as server, pytest.raises(IncompleteError, match="reports 20 rows; 15 distinct rows"):
        read(server.url, tmp_path, endpoint)


def test_rows_without_a_key_are_counted_and_not_treated_as_equal(tmp_path: Path) -> None:
    rows = [{"name": f"nameless {number}"} for number in range(250)]
    with Simulator(tables={"devices": rows}) as server:
        found = read(server.base_url, tmp_path, endpoint_of(OFFSET))
    assert found.report.complete
    assert found.spool.keyless == found.spool.rejected_rows == 250


def test_without_a_primary_key_whole_rows_are_compared(tmp_path: Path) -> None:
    rows = [{"event": number % 7, "at": number} for number in range(250)]
    with Simulator(tables={"devices": rows}) as server:
        found = read(server.base_url, tmp_path, endpoint_of(OFFSET, key=()))
    assert found.rows == rows
    assert found.report.passes == 1


# Round offsets


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "rounded"])
def test_a_server_that_only_accepts_round_offsets_is_detected_and_read_twice(refused: bool, tmp_path: Path) -> None:
    rows = devices(250)

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        if refused and offset % 100:
            return Say({"error": "offset must be a multiple of limit"}, status=400)
        offset -= offset % 100
        return Say({"data": rows[offset : offset + 100], "total": len(rows)})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(OFFSET), window=1)
        assert found.rows == rows
        assert found.report.passes == 2
        assert len(server.seen) == 2 + 2 * 3


def test_the_second_pass_finds_a_row_that_moved_past_a_round_offset(tmp_path: Path) -> None:
    # During the first full pass, one row is deleted before the position and another inserted after it: no total shows it.
    rows = devices(250)
    whole = [0]

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        whole[0] += offset == 100
        if offset == 100 and whole[0] == 1:
            del rows[5]
            rows.insert(180, {"id": 999, "name": "new", "status": "online"})
        offset -= offset % 100
        return Say({"data": rows[offset : offset + 100], "total": 250})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(OFFSET), window=1)
    assert found.rows == rows
    assert found.report.passes == 3


def test_a_page_that_starts_with_a_row_without_a_key_does_not_prove_that_no_row_moved(tmp_path: Path) -> None:
    # Rows 10 and 12 have no key. Before the second page, two rows are deleted before the position and two appended:
    # the page starts with row 12, which looks like row 10, and row 11 would be lost with the total unchanged.
    rows: list[dict[str, Any]] = [{**row, "id": None} if row["id"] in (10, 12) else row for row in devices(20)]
    moved: list[int] = []

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        if offset and not moved:
            moved.append(offset)
            del rows[3:5]
            rows.extend(devices(2, first=21))
        return Say({"data": rows[offset : offset + 10], "total": 20})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of({"type": "offset", "limit": 10}), window=1)
    assert moved == [9]
    assert sorted(row["id"] for row in found.rows) == [1, 2, 3, 6, 7, 8, 9, 11, *range(13, 23)]
    assert found.report.passes == 3


def test_rows_that_move_at_the_first_boundary_do_not_look_like_round_offsets(tmp_path: Path) -> None:
    found, queries = read_from(Faults(move=Move(delete=1, reads=1), times=2), tmp_path, rows=450)
    assert found.report.passes == 1
    assert queries[-1]["offset"] != "400"


# Settings of the connection


def test_verify_reads_everything_twice(tmp_path: Path) -> None:
    found, queries = read_from([], tmp_path, verify=True)
    assert found.report.passes == 2
    assert [query["offset"] for query in queries].count("0") == 2


def test_verify_false_reads_once_whatever_is_not_proven(tmp_path: Path) -> None:
    found, queries = read_from(Faults(no_total=True), tmp_path, verify=False)
    assert found.report.passes == 1
    assert [query["offset"] for query in queries].count("0") == 1


def test_verify_false_does_not_accept_a_pass_in_which_rows_moved(tmp_path: Path) -> None:
    rows = devices(500)

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        if offset > 150:
            del rows[0]
        return Say({"data": rows[offset : offset + 100]})

    with Scripted(answer) as server, pytest.raises(IncompleteError, match="rows moved between pages"):
        read(server.url, tmp_path, endpoint_of(OFFSET), window=1, verify=False)


def test_a_read_up_to_a_maximum_is_partial(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(450)}) as server:
        found = read(server.base_url, tmp_path, endpoint_of({**OFFSET, "maximum_offset": 200}))
    assert found.rows == devices(200)
    assert found.report.partial


def test_to_the_end_keeps_all_received_rows_although_rows_kept_moving(tmp_path: Path) -> None:
    faults = Faults(move=Move(delete=1))
    with Simulator(tables={"devices": devices(450)}, faults=faults) as server:
        kept = Kept(tmp_path, server.base_url)
        with pytest.raises(IncompleteError, match="after 3 passes"):
            kept.read(to_the_end=True)
        assert kept.rows > 400


class Kept:
    """A read whose collector can be inspected after it failed."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self._folder, self._base_url = folder, base_url
        self.rows = 0

    def read(self, **options: Any) -> None:
        from rmm_assets.reading.collector import MemoryCollector
        from rmm_assets.reading.completeness import read_complete
        from rmm_assets.reading.report import Report
        from rmm_assets_tests.reading.reading import pager_to

        endpoint = endpoint_of(OFFSET)
        collector = MemoryCollector(endpoint.shape)
        with pager_to(self._base_url, self._folder) as pager:
            try:
                read_complete(pager, endpoint, collector, Report("devices"), **options)
            finally:
                self.rows = collector.rows


# Number of requests


@pytest.mark.parametrize(
    ("rows", "total", "requests"),
    [
        (0, True, 2), (20, True, 2), (21, True, 1), (99, True, 1), (100, True, 2), (101, True, 2), (198, True, 2), (199, True, 3),
        (250, True, 3), (0, False, 3), (20, False, 3), (100, False, 3), (250, False, 2 * 5),
    ],
)  # fmt: skip
def test_small_tables_take_few_requests(rows: int, total: bool, requests: int, tmp_path: Path) -> None:
    _, queries = read_from(Faults(no_total=not total), tmp_path, rows=rows)
    assert len(queries) == requests


@pytest.mark.parametrize(
    ("rows", "total", "requests"),
    [(20, True, 2), (250, True, 4), (0, False, 2 + 2), (20, False, 2 * 2 + 1), (250, False, 2 * 4 + 1)],
)
def test_small_tables_by_page_number_take_few_requests(rows: int, total: bool, requests: int, tmp_path: Path) -> None:
    path = "total" if total else None
    _, queries = read_from(Faults(no_total=not total), tmp_path, PAGES, rows=rows, total_path=path)
    assert len(queries) == requests


def test_the_report_is_plain_values(tmp_path: Path) -> None:
    found, _ = read_from([], tmp_path)
    assert json.loads(json.dumps(found.report.asdict())) == {
        "resource": "devices", "pages": 3, "rows": 205, "distinct": 205, "duplicates": 0, "passes": 1,
        "first_total": 205, "last_total": 205, "complete": True, "partial": False,
        "reason": "as many distinct rows as the stated total of 205", "warnings": [],
        "evidence": "the stated total was reached by distinct rows", "signals": ["total: states 205 rows"],
        "ignored": None, "empty": False, "parents": 0, "parents_missing": 0, "parents_refused": 0, "parents_from": "",
    }  # fmt: skip
