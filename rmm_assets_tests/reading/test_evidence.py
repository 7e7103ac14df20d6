"""Tests that only evidence ends a read, and that every signal of more rows is binding."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.http.settings import Retry
from rmm_assets.reading.paginators import paginator_of
from rmm_assets.reading.report import Evidence, Report
from rmm_assets.reading.settings import Count
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.reading.dialects import query_of, rows_of
from rmm_assets_tests.reading.reading import Read, endpoint_of, read

OFFSET = {"type": "offset", "limit": 100}
PAGES = {"type": "page_number", "base_page": 1, "total_path": None}
NEXT = {"type": "json_link", "next_url_path": "next"}
CURSOR = {"type": "cursor", "cursor_path": "next"}
IMPATIENT = Retry(max_retries=1, backoff_factor=0)

Answer = Callable[[Seen], Say | None]


def read_from(answer: Answer, folder: Path, paginator: Any, **changes: Any) -> Read:
    options = {name: changes.pop(name) for name in ("verify", "window") if name in changes}
    with Scripted(answer) as server:
        return read(server.url, folder, endpoint_of(paginator, **changes), retry=IMPATIENT, **options)


def say_once(body: Any, **options: Any) -> Answer:
    return lambda _: Say(body, **options)


def capped(number: int, cap: int, **beside: Any) -> Answer:
    """Serves this many rows by offset, at most `cap` per page."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        return Say({"data": rows[start : start + min(cap, int(query_of(seen)["limit"]))], **beside})

    return answer


def numbered(number: int, size: int, base: int = 1, **beside: Any) -> Answer:
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = (int(query_of(seen)["page"]) - base) * size
        return Say({"data": rows[max(start, 0) : max(start + size, 0)], **beside})

    return answer


# Signals are binding


@pytest.mark.parametrize(
    ("beside", "headers", "status", "named"),
    [
        ({"total": 120}, (), 200, "`total` states 120 rows"),
        ({"meta": {"totalCount": "1,055"}}, (), 200, "`meta.totalCount` states 1055 rows"),
        ({}, (("X-Total-Count", "120"),), 200, "`X-Total-Count` states 120 rows"),
        ({}, (("x-pagination", '{"TotalCount": 120}'),), 200, "TotalCount` states 120 rows"),
        ({}, (("Content-Range", "0-49/120"),), 206, "`Content-Range` ends with row 49 of 120"),
        ({}, (("Link", '</v1/devices?page=2>; rel="next"'),), 200, "`Link rel=next` names a next page"),
        ({}, (("Next-Page", "http://h/v1/devices?_token=5"),), 200, "`Next-Page` names a next page"),
        ({}, (("X-Next-Page", "2"),), 200, "`X-Next-Page` names a next page"),
        ({"next": "/v1/devices?page=2"}, (), 200, "`next` names a next page"),
        ({"links": {"next": {"href": "/v1/devices?page=2"}}}, (), 200, "`links.next` names a next page"),
        ({"paging": {"next": {"after": "50", "link": "?after=50"}}}, (), 200, "`paging.next` names a next page"),
        ({"has_more": True}, (), 200, "`has_more` is true"),
        ({"pageInfo": {"hasNextPage": "true"}}, (), 200, "`pageInfo.hasNextPage` is true"),
        ({"last": False}, (), 200, "`last` is false"),
        ({"done": False}, (), 200, "`done` is false"),
        ({"response": {"remaining": 70}}, (), 200, "`response.remaining` is 70"),
        ({"pagination": {"total_pages": 3}}, (), 200, "`pagination.total_pages` states 3 pages"),
        ({"nextPageToken": "abc"}, (), 200, "`nextPageToken` is set"),
        (
            {"links": [{"rel": "self", "href": "/x"}, {"rel": "next", "href": "/x?page=2"}]},
            (),
            200,
            "`links rel=next` names",
        ),
        ({"link": [{"relation": "next", "url": "http://h/x?page=2"}]}, (), 200, "`link rel=next` names a next page"),
        ({"page_context": {"has_more_page": True}}, (), 200, "`page_context.has_more_page` is true"),
        ({"result_info": {"total_count": 120}}, (), 200, "`result_info.total_count` states 120 rows"),
        ({"complete": False}, (), 200, "`complete` is false"),
        ({"incomplete_results": True}, (), 200, "`incomplete_results` is true"),
    ],
)
def test_a_single_page_that_says_there_is_more_is_red(
    beside: dict[str, Any], headers: Any, status: int, named: str, tmp_path: Path
) -> None:
    answer = say_once({"data": rows_of(50), **beside}, headers=headers, status=status)
    with pytest.raises(IncompleteError) as raised:
        read_from(answer, tmp_path, "single_page")
    assert named in str(raised.value)
    assert "after 50 rows" in str(raised.value)


@pytest.mark.parametrize(
    "beside",
    [
        {"total": 50}, {"total": None}, {"total": -1}, {"total": True}, {"next": None}, {"next": ""}, {"has_more": False},
        {"last": True}, {"lastName": "x"}, {"next_check_at": "2026-01-01"}, {"count": 50, "limit": 100},
        {"pages": {"total": 1}},
        {"links": [{"rel": "prev", "href": "/x?page=2"}, "next", {"rel": "next"}]}, {"rateLimit": {"remaining": 9}},
        {"summary": {"total": 9999}}, {"last_page_url": "/x?page=1"}, {"last": "/x?page=1"}, {"self": "/x"},
        {"parent": {"meta": {"total": 99}}}, {"message": "read more"}, {"total_pages": 1}, {"total": 12.5},
    ],
)  # fmt: skip
def test_fields_that_only_look_like_signals_are_ignored(beside: dict[str, Any], tmp_path: Path) -> None:
    found = read_from(say_once({"data": rows_of(50), **beside}), tmp_path, "single_page")
    assert found.rows == rows_of(50)
    assert found.report.evidence is Evidence.USER


def test_fields_in_rows_are_never_signals(tmp_path: Path) -> None:
    rows = [{"id": 1, "next": "/x?page=2", "has_more": True, "total": 99, "meta": {"total": 99}}]
    found = read_from(say_once({"data": rows}), tmp_path, "single_page")
    assert found.report.signals == []
    assert found.report.rows == 1


@pytest.mark.parametrize("wrong", ["has_more", "meta.has_more", "Has-More"])
def test_wrong_signals_in_the_file_are_ignored(wrong: str, tmp_path: Path) -> None:
    answer = say_once({"data": rows_of(50), "meta": {"has_more": True}})
    found = read_from(answer, tmp_path, "single_page", wrong_signals=(wrong,))
    assert found.report.complete
    assert found.report.signals == ["meta.has_more: not believed, as wrong_signals says"]


@pytest.mark.parametrize("weak", [{"cursor": "abc"}, {"paging": {"cursors": {"after": "abc"}}}, {"count": 900}])
def test_a_weak_signal_causes_a_second_read(weak: dict[str, Any], tmp_path: Path) -> None:
    with Scripted(say_once({"data": rows_of(7), **weak})) as server:
        found = read(server.url, tmp_path, endpoint_of("single_page"))
        assert found.report.evidence is Evidence.TWO_READS
        assert len(server.seen) == 2


def test_206_alone_causes_a_second_read(tmp_path: Path) -> None:
    found = read_from(say_once({"data": rows_of(7)}, status=206), tmp_path, "single_page")
    assert found.report.evidence is Evidence.TWO_READS


def test_one_more_request_clears_a_flag_that_is_wrong_by_one_page(tmp_path: Path) -> None:
    rows = rows_of(200)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        part = rows[start : start + 100]
        return Say({"data": part, "total": 200, "has_more": len(part) == 100})

    found = read_from(answer, tmp_path, OFFSET)
    assert found.rows == rows
    assert found.report.evidence is Evidence.STATED_TOTAL


def test_a_page_hidden_by_permissions_is_not_an_end_if_it_has_a_next_link(tmp_path: Path) -> None:
    rows = rows_of(344)
    hidden = range(194, 244)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        part = [row for place, row in enumerate(rows[start : start + 50], start) if place not in hidden]
        link = f'</v1/devices?offset={start + 50}>; rel="next"'
        return Say({"data": part}, headers=(("Link", link),) if start + 50 < len(rows) else ())

    with pytest.raises((PagingError, IncompleteError), match=r"page|moved"):
        read_from(answer, tmp_path, {"type": "offset", "limit": 50})


@pytest.mark.parametrize(("name", "last"), [("pages", 3), ("seiten", 3), ("seiten", 5)])
def test_stated_pages_that_are_empty_are_not_an_end(name: str, last: int, tmp_path: Path) -> None:
    rows = rows_of(100)

    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"data": [] if 3 <= page <= last else rows[page * 20 - 20 : page * 20], name: 5})

    # A number with an unknown name counts if the file configures it.
    for total_path in (name, None) if name == "pages" else (name,):
        with pytest.raises((PagingError, IncompleteError), match=r"page [34] is empty"):
            read_from(answer, tmp_path, {**PAGES, "total_path": total_path})


@pytest.mark.parametrize("stop", [True, False])
def test_contradictory_empty_pages_do_not_go_on_forever(stop: bool, tmp_path: Path) -> None:
    paginator = {**PAGES, "has_more_path": "more", "total_path": "pages", "stop_after_empty_page": stop}

    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"data": rows_of(40)[page * 20 - 20 : page * 20], "more": False, "pages": 2, "total": 50})

    with Scripted(answer) as server, pytest.raises(IncompleteError, match="`total` states 50 rows"):
        read(server.url, tmp_path, endpoint_of(paginator))
    assert len(server.seen) <= 2 * (2 + 8)


def test_an_empty_first_page_without_an_end_mark_is_requested_again(tmp_path: Path) -> None:
    rows, asked = rows_of(7), [0]

    def answer(_: Seen) -> Say:
        asked[0] += 1
        return Say({"data": [] if asked[0] == 1 else rows})

    assert read_from(answer, tmp_path, CURSOR).rows == rows


def test_a_page_that_says_there_is_more_and_names_no_next_one_is_red(tmp_path: Path) -> None:
    # An end mark that only the file names.
    answer = say_once({"data": rows_of(7), "weiter": True})
    with pytest.raises(PagingError, match="page 1 says there is more but has no next page"):
        read_from(answer, tmp_path, {**CURSOR, "has_more_path": "weiter"})


# The API is asked in another way


FILTERED = [
    (OFFSET, {}),
    ({**OFFSET, "total_path": None}, {}),
    ({**OFFSET, "offset_param": "skip", "limit_param": "$top"}, {}),
    (PAGES, {"params": {"per_page": 100}}),
    ({"type": "page_number", "base_page": 0}, {}),
    (NEXT, {"params": {"pageSize": 100}}),
    (CURSOR, {"params": {"limit": "100", "offset": 0}}),
    ("header_link", {"params": {"per_page": 5}}),
    ("single_page", {"params": {"limit": 5}}),
]


def filtering(rows: list[dict[str, Any]], **beside: Any) -> Answer:
    """Serves rows unless a parameter other than `status` is sent, which it reads as a filter that no row passes."""
    return lambda seen: Say({"data": [] if query_of(seen).keys() - {"api_key", "status"} else rows, **beside})


@pytest.mark.parametrize("beside", [{}, {"total": 0}, {"next": None}])
@pytest.mark.parametrize(("paginator", "changes"), FILTERED)
def test_an_api_that_reads_paging_as_a_filter_is_red(
    paginator: Any, changes: dict[str, Any], beside: dict[str, Any], tmp_path: Path
) -> None:
    changes = {**changes, "params": {**changes.get("params", {}), "status": "on"}}
    with pytest.raises(IncompleteError, match="without parameters of paging the API sends rows"):
        read_from(filtering(rows_of(7), **beside), tmp_path, paginator, **changes)
    # The file's word is enough.
    assert read_from(filtering(rows_of(7), **beside), tmp_path, paginator, verify=False, **changes).report.complete


@pytest.mark.parametrize(
    "other",
    [
        Say({"data": []}), Say({"data": None}), Say({}), Say({"data": {"error": "limit is missing"}}), Say(b"<html>"),
        Say({"error": "limit"}, status=400), Say({"error": "limit"}, status=500), Say({"error": "limit"}, status=503),
        Say(None, status=204),
    ],
    ids=["empty", "null", "missing", "object", "html", "400", "500", "503", "204"],
)  # fmt: skip
@pytest.mark.parametrize(("paginator", "changes"), FILTERED)
def test_an_empty_table_is_green_whatever_the_api_answers_without_paging(
    paginator: Any, changes: dict[str, Any], other: Say, tmp_path: Path
) -> None:
    asked: list[Seen] = []

    def answer(seen: Seen) -> Say:
        if query_of(seen).keys() - {"api_key"}:
            return Say({"data": []})
        asked.append(seen)
        return other

    assert read_from(answer, tmp_path, paginator, **changes).report.empty
    # 503 may mean that the API throttles.
    assert len(asked) <= (2 if other.status == 503 else 1)


def test_a_row_that_is_added_to_an_empty_table_during_the_read_is_received(tmp_path: Path) -> None:
    asked = [0]

    def answer(_: Seen) -> Say:
        asked[0] += 1
        return Say({"data": rows_of(1) if asked[0] > 1 else [], "total": int(asked[0] > 1)})

    assert read_from(answer, tmp_path, OFFSET).rows == rows_of(1)


def test_only_a_few_empty_reads_of_a_run_are_asked_in_another_way(tmp_path: Path) -> None:
    with Scripted(say_once({"data": [], "total": 0})) as server:
        endpoint = endpoint_of(OFFSET)
        for _ in range(20):
            read(server.url, tmp_path, endpoint)
        assert len(server.seen) == 20 + 5
    held: list[list[dict[str, Any]]] = [[], rows_of(3), [], []]
    with Scripted(lambda _: Say({"data": held[0], "total": len(held[0])})) as server:
        endpoint = endpoint_of(OFFSET)
        while held:
            read(server.url, tmp_path, endpoint)
            del held[0]
        # Once rows were received, paging works.
        assert len(server.seen) == 4 + 1


def paging(number: int, size: int, how: str, **beside: Any) -> Answer:
    """Serves one page of a table, by `offset`, by `page` or the first one whatever is asked."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        asked = query_of(seen)
        start = (
            int(asked.get("offset", 0))
            if how == "offset"
            else (int(asked.get("page", 1)) - 1) * size
            if how == "page"
            else 0
        )
        return Say({"data": rows[start : start + size], **beside})

    return answer


def strict(seen: Seen) -> Say:
    """Serves 200 rows at once and refuses parameters that it does not know."""
    return Say({"data": rows_of(200)}) if query_of(seen).keys() == {"api_key"} else Say({"e": 1}, status=400)


@pytest.mark.parametrize("how", ["offset", "page"])
def test_a_single_page_of_as_many_rows_as_pages_have_is_red_if_the_api_has_another_one(
    how: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompleteError, match=f"only page has 200 rows, and the API sends other rows for {how}="):
        read_from(paging(650, 200, how), tmp_path, "single_page")
    with pytest.raises(IncompleteError, match="sends other rows"):
        read_from(paging(650, 200, how), tmp_path, "single_page", key=())


def test_rows_without_a_key_that_change_are_not_other_rows(tmp_path: Path) -> None:
    asked = [0]

    def answer(seen: Seen) -> Say:
        asked[0] += 1
        return Say({"data": [{"n": number, "asked": asked[0]} for number in range(200)]})

    assert read_from(answer, tmp_path, "single_page", key=()).report.complete


@pytest.mark.parametrize("how", [{"params": {"$limit": 40}}, {"params": {"per_page": "40"}}, {"json": {"limit": 40}}])
@pytest.mark.parametrize("number", [40, 95])
def test_a_single_page_of_as_many_rows_as_requested_is_red(how: dict[str, Any], number: int, tmp_path: Path) -> None:
    method = "POST" if "json" in how else "GET"
    with pytest.raises(IncompleteError, match="only page has 40 rows, as many as were requested"):
        read_from(say_once({"data": rows_of(number)[:40]}), tmp_path, "single_page", method=method, **how)
    found = read_from(say_once({"data": rows_of(39)}), tmp_path, "single_page", method=method, **how)
    assert len(found.rows) == 39
    said = say_once({"data": rows_of(40), "total": 40})
    assert len(read_from(said, tmp_path, "single_page", method=method, **how).rows) == 40


@pytest.mark.parametrize(
    "body",
    [
        {"query": "{ devices(first: 40) { id } }"},
        {"query": "query($size: Int) { devices(first: $size) { id } }", "variables": {"input": {"pageSize": "40"}}},
        {"sql": "SELECT * FROM devices LIMIT 40"},
        {"search": "from=0;size=40"},
    ],
    ids=["GraphQL", "variables", "SQL", "text"],
)
def test_a_page_size_is_seen_wherever_it_is_in_the_body(body: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="only page has 40 rows, as many as were requested"):
        read_from(say_once({"data": rows_of(40)}), tmp_path, "single_page", method="POST", json=body)
    assert read_from(say_once({"data": rows_of(39)}), tmp_path, "single_page", method="POST", json=body).report.complete


def test_other_numbers_in_the_text_of_a_query_are_no_page_sizes(tmp_path: Path) -> None:
    body = {"query": "alerts of the last 40 days, 40 per site", "days": 40}
    assert read_from(say_once({"data": rows_of(40)}), tmp_path, "single_page", method="POST", json=body).report.complete


@pytest.mark.parametrize(
    ("selector", "body"),
    [
        (
            "data.devices.edges[*].node",
            {"data": {"devices": {"edges": [{"node": {"id": 1}}], "pageInfo": {"hasNextPage": True}}}},
        ),
        (
            "data.devices.edges[*].node",
            {"data": {"devices": {"edges": [], "pageInfo": {"hasNextPage": True}}}},
        ),
        ("results[0].devices", {"results": [{"devices": [{"id": 1}], "hasMore": True}]}),
        ("results[-1].devices", {"results": [{}, {"devices": [{"id": 1}], "hasMore": True}]}),
        ("$..devices", {"fleet": {"devices": [{"id": 1}], "hasMore": True}}),
        ("*.devices[*]", {"fleet": {"devices": [{"id": 1}], "hasMore": True}}),
    ],
)
def test_a_signal_next_to_rows_is_seen_however_the_selector_leads_to_them(
    selector: str, body: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(IncompleteError, match=r"(hasNextPage|hasMore)` is true"):
        read_from(say_once(body), tmp_path, "single_page", data_selector=selector)


def test_a_total_that_is_the_size_of_the_only_page_hides_no_other_page(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="sends other rows for page="):
        read_from(paging(150, 50, "page", step=50), tmp_path, "single_page", total_path="step")


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (paging(200, 200, "offset"), 3),
        (paging(200, 200, "page"), 3),
        (paging(200, 200, "ignores it"), 3),
        (paging(200, 200, "offset", total=200), 3),
        (paging(199, 200, "offset"), 1),
        (strict, 3),
    ],
    ids=["offset", "page", "ignored", "with a total", "not as many", "refused"],
)  # fmt: skip
def test_a_single_page_of_as_many_rows_as_pages_have_is_green_if_it_is_everything(
    answer: Answer, requests: int, tmp_path: Path
) -> None:
    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of("single_page"))
        assert len(server.seen) == requests
    assert found.report.complete
    assert found.rows == rows_of(found.report.rows)


LINKS = '</v1/devices?{0}={1}>; rel="next", </v1/devices?{0}=0>; rel="first", </v1/devices?{0}={2}>; rel="last"'


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("last link", "`Link rel=last` names a next page"),
        ("last page's link", "`Link rel=last` states 3 pages, and 2 were received"),
        ("page of pages", "`total_pages` states 3 pages, and 2 were received"),
        ("page of pages, from 0", "`total_pages` states 3 pages, and 2 were received"),
    ],
)
@pytest.mark.parametrize("honest", [True, False])
def test_an_end_before_the_stated_last_page_is_not_an_end(kind: str, said: str, honest: bool, tmp_path: Path) -> None:
    """After two links or cursors there is none, but the API states the number of pages or the last page."""
    rows, param = rows_of(50), "page" if kind == "last page's link" else "from"

    def answer(seen: Seen) -> Say:
        place = int(query_of(seen).get(param) or query_of(seen).get("cursor") or 0)
        place = place - 1 if param == "page" and place else place
        more = place < 2 and (honest or place != 1)
        last = 3 if param == "page" else 2
        link = LINKS.format(param, place + last - 1, last)
        beside: dict[str, Any] = {"next": place + 1 if more else None}
        if "of pages" in kind:
            beside |= {"page": place + (kind == "page of pages"), "total_pages": 3}
        headers = () if "of pages" in kind else (("Link", link if more else link.partition(", ")[2]),)
        return Say({"data": rows[place * 20 : place * 20 + 20], **beside}, headers=headers)

    paginator = CURSOR if "of pages" in kind else "header_link"
    if honest:
        assert read_from(answer, tmp_path, paginator).rows == rows
        return
    with pytest.raises(IncompleteError, match=said):
        read_from(answer, tmp_path, paginator)


@pytest.mark.parametrize("where", ["pages", "Link"])
def test_an_empty_stated_last_page_is_not_an_end(where: str, tmp_path: Path) -> None:
    beside: dict[str, Any] = {"pages": 3} if where == "pages" else {}
    headers = () if where == "pages" else (("Link", '</v1/devices?page=3>; rel="last"'),)
    rows = rows_of(60)

    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"data": rows[max(page * 20 - 20, 0) : page * 20], **beside}, headers=headers)

    assert read_from(answer, tmp_path, PAGES).rows == rows
    del rows[40:]
    with pytest.raises(IncompleteError, match="states 3 pages, and 2 were received"):
        read_from(answer, tmp_path, PAGES)


_FAILURES: list[dict[str, Any]] = [
    {"error": "timeout"}, {"errors": [{"message": "shard 2 timed out"}]}, {"error": {"code": 17}}, {"Error": True},
    {"errorMessage": "timed out"}, {"error_code": "E17"}, {"errorCount": 2}, {"hasErrors": True}, {"isError": "true"},
    {"success": False}, {"success": 0}, {"Success": "false"}, {"status": "error"}, {"status": 500}, {"statusCode": "503"},
    {"code": 429}, {"_shards": {"total": 5, "failed": 2}},
]  # fmt: skip


@pytest.mark.parametrize("beside", _FAILURES, ids=str)
@pytest.mark.parametrize("rows", [0, 15], ids=str)
def test_rows_next_to_an_error_are_not_all_rows(beside: dict[str, Any], rows: int, tmp_path: Path) -> None:
    name = next(iter(beside))
    single = {"type": "single_page"}
    with pytest.raises(TransportError, match=f"`{name}` next to the rows says .* list it in wrong_signals"):
        read_from(say_once({"data": rows_of(rows), **beside}), tmp_path, single, verify=False)
    found = read_from(
        say_once({"data": rows_of(rows), **beside}), tmp_path, single, verify=False, wrong_signals=(name,)
    )
    assert found.rows == rows_of(rows), "the connection file says so"


def test_an_error_next_to_one_of_many_pages_is_red(tmp_path: Path) -> None:
    rows = rows_of(2000)

    def answer(failed: int) -> Answer:
        def say(seen: Seen) -> Say:
            start = int(query_of(seen)["offset"])
            beside = {"errors": [{"message": "shard 2 timed out"}]} if start <= failed < start + 100 else {"errors": []}
            return Say({"data": {"devices": rows[start : start + 100]}, **beside})

        return say

    selector = "data.devices"
    assert read_from(answer(-1), tmp_path, OFFSET, data_selector=selector).rows == rows
    for failed in (0, 1000, 1900):
        with pytest.raises(TransportError, match="`errors` next to the rows"):
            read_from(answer(failed), tmp_path, OFFSET, data_selector=selector, window=1)


def test_fields_that_say_that_there_is_no_error_are_no_error(tmp_path: Path) -> None:
    fields: tuple[dict[str, Any], ...] = (
        {
            "error": None,
            "errors": [],
            "success": True,
            "status": "ok",
            "error_count": 0,
            "hasErrors": False,
            "code": 200,
        },
        {"error": False, "errors": None, "success": "true", "status": 200, "errorCode": "0", "statusCode": "200"},
        {"error": "", "errors": {}, "success": 1, "status": "active", "errorCode": 0, "code": 20000, "isError": 0},
        {"error": "none", "errors": [None], "status": 1, "code": "0000", "errorMessage": "Success", "exception": " "},
        {
            "error": {"code": 0},
            "errors": {"message": None, "details": []},
            "code": None,
            "success": None,
            "errorCode": 200,
        },
    )
    rows = rows_of(45)
    for beside in fields:

        def answer(seen: Seen, beside: dict[str, Any] = beside) -> Say:
            page = int(query_of(seen)["page"])
            return Say({"data": rows[max(page * 20 - 20, 0) : page * 20], **beside})

        assert read_from(answer, tmp_path, PAGES).rows == rows
    # The rows themselves may be errors.
    for selector, body in (
        ("errors", {"errors": rows}),
        ("$['errors']", {"errors": rows}),
        ("errors.list", {"errors": {"list": rows, "n": 45}}),
    ):
        assert (
            read_from(say_once(body), tmp_path, {"type": "single_page"}, data_selector=selector, verify=False).rows
            == rows
        )


# Configured paths must be found


def test_the_error_about_a_misspelt_key_names_the_similar_field(tmp_path: Path) -> None:
    rows = rows_of(3333)

    def datasette(seen: Seen) -> Say:
        start = int(query_of(seen).get("cursor", 0))
        return Say({"data": rows[start : start + 100], "next": str(start + 100)})

    with pytest.raises(PagingError, match="`next_token` was not found in any response; `next` was"):
        read_from(datasette, tmp_path, {"type": "cursor", "cursor_path": "next_token"})
    total = say_once({"data": rows_of(50), "meta": {"total": 50}})
    with pytest.raises(PagingError, match=r"total_path `meta.totl` was not found in any response; `meta.total` was"):
        read_from(total, tmp_path, "single_page", total_path="meta.totl")


MISSPELT: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {**OFFSET, "total_path": "meta.totl"},
        {},
        "total_path `meta.totl` was not found in any response; `meta.total` was",
    ),
    (OFFSET, {"total_header": "X-Totl"}, "total_header `X-Totl` was not found in any response; `meta.total` was"),
    (
        {**OFFSET, "has_more_path": "meta.mor"},
        {},
        "has_more_path `meta.mor` was not found in any response; `meta.more` was",
    ),
    (
        {**PAGES, "total_path": "meta.pags"},
        {},
        "total_path `meta.pags` was not found in any response; `meta.total` was",
    ),
    (PAGES, {"total_path": "meta.totl"}, "total_path `meta.totl` was not found in any response; `meta.total` was"),
]


@pytest.mark.parametrize(("paginator", "changes", "said"), MISSPELT, ids=[said.split()[0] for *_, said in MISSPELT])
@pytest.mark.parametrize(
    ("number", "cap", "full"),
    [(100, 100, True), (50, 50, True), (205, 100, False), (37, 100, False), (0, 100, False)],
)
def test_a_misspelt_key_is_red_if_the_last_page_may_be_full(
    paginator: dict[str, Any], changes: dict[str, Any], said: str, number: int, cap: int, full: bool, tmp_path: Path
) -> None:
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        asked = query_of(seen)
        start = int(asked["offset"]) if "offset" in asked else (int(asked["page"]) - 1) * cap
        page = rows[max(start, 0) : max(start + cap, 0)]
        return Say({"data": page, "meta": {"total": number, "more": start + cap < number}})

    if full:
        with pytest.raises(PagingError, match=f"the last page may be full .*{said}"):
            read_from(answer, tmp_path, paginator, **changes)
        return
    found = read_from(answer, tmp_path, paginator, **changes)
    assert found.rows == rows
    assert found.report.warnings[-1:] == [said] or not rows
    assert read_from(answer, tmp_path, OFFSET).report.warnings == [], "the file does not configure the default"


@pytest.mark.parametrize("paginator", [NEXT, CURSOR, "header_link"], ids=str)
def test_verify_false_accepts_an_end_without_a_mark(paginator: Any, tmp_path: Path) -> None:
    with Scripted(say_once({"data": rows_of(50)})) as server:
        with pytest.raises(PagingError, match="has no next page"):
            read(server.url, tmp_path, endpoint_of(paginator), retry=IMPATIENT)
        asked = len(server.seen)
        found = read(server.url, tmp_path, endpoint_of(paginator), retry=IMPATIENT, verify=False)
        assert found.report.evidence is Evidence.USER
        assert len(server.seen) == asked + 1


def test_kinto_s_next_page_header_is_seen_by_header_link(tmp_path: Path) -> None:
    rows = rows_of(1500)
    answer = say_once({"data": rows[:100]}, headers=(("Next-Page", "http://h/v1/devices?_token=x"),))
    with pytest.raises(PagingError, match="links_next_key `next` was not found in any response; `Next-Page` was"):
        read_from(answer, tmp_path, "header_link")


@pytest.mark.parametrize(
    "paginator", ["header_link", "single_page", NEXT, {"type": "cursor", "cursor_path": "cursor"}], ids=str
)
@pytest.mark.parametrize("rows", [7, 100])
def test_a_token_of_the_next_page_that_nothing_follows_is_red(paginator: Any, rows: int, tmp_path: Path) -> None:
    answer = say_once({"data": rows_of(rows), "nextPageToken": "abc"})
    with pytest.raises((IncompleteError, PagingError), match=r"`nextPageToken` (is set|was)"):
        read_from(answer, tmp_path, paginator)
    found = read_from(say_once({"data": rows_of(7), "nextPageToken": ""}), tmp_path, paginator)
    assert len(found.rows) == 7


@pytest.mark.parametrize("once", [True, False])
def test_a_missing_link_on_a_full_page_is_requested_again_then_red(once: bool, tmp_path: Path) -> None:
    rows, lost = rows_of(950), [0]

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("from", 0))
        losing = start == 400 and (not once or not lost[0])
        lost[0] += losing
        link = f'</v1/devices?from={start + 100}>; rel="next"'
        more = start + 100 < len(rows) and not losing
        return Say({"data": rows[start : start + 100]}, headers=(("Link", link),) if more else ())

    if not once:
        with pytest.raises(PagingError, match=r"page 5 is full \(100 rows\) and has no next page"):
            read_from(answer, tmp_path, "header_link", params={"per_page": 500})
        return
    found = read_from(answer, tmp_path, "header_link", params={"per_page": 500})
    assert found.rows == rows
    assert "page 5 had no next page in its first response" in found.report.warnings


SIZES = {"header_link": {"per_page": 100}, "header_cursor": {"limit": "100"}, "cursor": {"pageSize": 100}}


def unmarked(rows: list[dict[str, Any]], *, cap: int = 1000, most: int = 10**9, honest: bool = True) -> Any:
    """Returns an API that names the next page in a `Link` header, in `Next` and in the body, and nothing at the end.

    Args:
        cap: The size that its pages have at most.
        most: Number of rows that it sends in all.
        honest: Whether it sends pages of the size requested, or of `cap` rows.
    """

    def answer(seen: Seen) -> Say:
        asked = {**query_of(seen), **(json.loads(seen.body) if seen.body else {})}
        wanted = int(next((asked[name] for name in ("per_page", "limit", "pageSize") if name in asked), 50))
        size = min(wanted, cap) if honest else cap
        start = int(asked.get("cursor", 0))
        following, page = start + size, rows[start : min(start + size, most)]
        if following >= min(len(rows), most):
            return Say({"data": page})
        link = f'<http://{seen.headers["host"]}/v1/devices?cursor={following}&per_page={wanted}>; rel="next"'
        return Say({"data": page, "after_this": following}, headers=(("Link", link), ("Next", str(following))))

    return answer


def by_reference(style: str) -> Any:
    return {"type": "cursor", "cursor_path": "after_this"} if style == "cursor" else style


@pytest.mark.parametrize("style", SIZES)
@pytest.mark.parametrize("number", [10, 30, 100, 200, 9900])
def test_a_full_last_page_without_a_mark_is_read_again_in_smaller_pages(
    style: str, number: int, tmp_path: Path
) -> None:
    """As at GitHub, whose response has no `Link` header if it holds everything."""
    rows = rows_of(number)
    found = read_from(unmarked(rows), tmp_path, by_reference(style), params=SIZES[style])
    assert sorted(found.rows, key=lambda row: row["id"]) == rows
    assert (found.report.evidence, found.report.passes) == (Evidence.TWO_READS, 2)


def test_the_page_size_can_be_in_the_body(tmp_path: Path) -> None:
    paginator = {"type": "cursor", "cursor_path": "after_this", "cursor_body_path": "cursor"}
    found = read_from(unmarked(rows_of(200)), tmp_path, paginator, json={"limit": 100}, method="POST", params={})
    assert len(found.rows) == 200


@pytest.mark.parametrize(
    ("number", "server", "params"),
    [
        (1500, {"most": 1000}, SIZES["header_link"]),  # no more than 1,000 rows, however long a page is
        (950, {"cap": 100, "most": 100, "honest": False}, SIZES["header_link"]),
        (950, {"cap": 100, "most": 100, "honest": False}, {"per_page": 500}),
        (300, {}, {}),  # nothing says how long a page is
        (300, {}, {"page_length": 50}),
    ],
    ids=str,
)
def test_a_full_last_page_that_smaller_pages_do_not_explain_is_red(
    number: int, server: dict[str, Any], params: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(PagingError, match=r"is full \(\d+ rows\) and has no next page"):
        read_from(unmarked(rows_of(number), **server), tmp_path, "header_link", params=params)


def test_a_page_size_that_the_api_refuses_is_red_with_both_reasons(tmp_path: Path) -> None:
    answer = unmarked(rows_of(200))

    def picky(seen: Seen) -> Say:
        return answer(seen) if query_of(seen).get("per_page") == "100" else Say({"error": "page size"}, status=400)

    with pytest.raises(PagingError, match=r"page 2 is full .*In smaller pages: .*HTTP 400"):
        read_from(picky, tmp_path, "header_link", params={"per_page": 100})


def test_rows_that_come_between_two_page_sizes_are_read(tmp_path: Path) -> None:
    rows = rows_of(100)

    def growing(seen: Seen) -> Say:
        if query_of(seen).get("per_page") == "99" and len(rows) == 100:
            rows.extend(rows_of(130)[100:])
        say: Say = unmarked(rows)(seen)
        return say

    found = read_from(growing, tmp_path, "header_link", params={"per_page": 100})
    assert (len(found.rows), found.report.passes) == (130, 3)


# Offsets that the API reads as something else


def mistaken(number: int, how: str, cap: int = 10**9, **beside: Any) -> Answer:
    """Serves this many rows to an offset that it does not read as a number of rows to skip.

    Args:
        number: Number of rows.
        how: `pages` from 0 or from 1, or `ends` if it reads the limit as the last row.
        cap: A limit above it is refused.
    """
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start, limit = (int(query_of(seen)[name]) for name in ("offset", "limit"))
        if limit > cap:
            return Say({"error": "limit"}, status=400)
        if how == "ends":
            return Say({"data": rows[start:limit], **beside})
        start = max(start - (how == "pages from 1"), 0) * limit
        return Say({"data": rows[start : start + limit], **beside})

    return answer


@pytest.mark.parametrize("limit", [7, 20, 100])
@pytest.mark.parametrize("key", [("id",), ()])
@pytest.mark.parametrize(
    ("how", "pages"),
    [("pages from 0", 2), ("pages from 0", 9), ("pages from 1", 2), ("pages from 1", 9), ("ends", 2), ("ends", 9)],
)
def test_an_offset_that_the_api_reads_as_something_else_is_red(
    how: str, pages: int, key: tuple[str, ...], limit: int, tmp_path: Path
) -> None:
    said = "does not count rows but pages" if "pages" in how else "may read the limit as the last row"
    for paginator, beside in (({}, {}), ({"has_more_path": "more"}, {"more": False})):
        asked = {"type": "offset", "limit": limit, "total_path": None, **paginator}
        with pytest.raises((IncompleteError, PagingError), match=said):
            read_from(mistaken(pages * limit, how, **beside), tmp_path, asked, key=key)


@pytest.mark.parametrize("pages", [2, 3, 20])
@pytest.mark.parametrize("how", ["pages from 0", "pages from 1"])
def test_pages_are_told_from_offsets_if_the_api_refuses_larger_ones(how: str, pages: int, tmp_path: Path) -> None:
    with pytest.raises((IncompleteError, PagingError), match="does not count rows but pages"):
        read_from(mistaken(pages * 20, how, cap=20), tmp_path, {"type": "offset", "limit": 20, "total_path": None})


@pytest.mark.parametrize("number", [20, 40])
@pytest.mark.parametrize("how", ["rows", "round offsets", "pages from 0", "pages from 1", "ends"])
def test_offsets_need_no_proof_if_there_is_only_one_page(how: str, number: int, tmp_path: Path) -> None:
    """Nor if the API only takes round ones."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say | None:
        if how not in ("rows", "round offsets"):
            return mistaken(number, how)(seen)
        start, limit = (int(query_of(seen)[name]) for name in ("offset", "limit"))
        start -= start % 20 if how == "round offsets" else 0
        return Say({"data": rows[start : start + limit]})

    limit = 20 if "round" in how or how == "rows" else number
    assert read_from(answer, tmp_path, {"type": "offset", "limit": limit, "total_path": None}).rows == rows


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ('rel="Next"', "next"), ("rel='next'", "next"), ("REL=NEXT", "next"), ("rel='prefetch next'", "next"),
        ('rel="Weiter"', "weiter"), ('rel="weiter"', "Weiter"), ('title="a, <b>" ; rel="next"', "next"),
    ],
)  # fmt: skip
def test_link_relations_are_compared_without_case_and_quotes(parameters: str, key: str, tmp_path: Path) -> None:
    rows = rows_of(20)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("at", 0))
        following = f"</v1/devices?at={start + 7}>; {parameters}, " if start < 14 else ""
        return Say({"data": rows[start : start + 7]}, headers=(("Link", f'{following}</v1/devices>; rel="first"'),))

    paginator = {"type": "header_link", "links_next_key": key}
    assert read_from(answer, tmp_path, paginator).rows == rows
    if key == "next":
        with pytest.raises(IncompleteError, match="`Link rel=next` names a next page"):
            read_from(answer, tmp_path, "single_page")


def test_a_link_in_single_quotes_that_says_no_results_is_an_end(tmp_path: Path) -> None:
    link = "</v1/devices?cursor=9>; rel='Next'; results='false'"
    assert read_from(
        say_once({"data": rows_of(7)}, headers=(("Link", link),)), tmp_path, "header_link"
    ).rows == rows_of(7)


@pytest.mark.parametrize(
    "odd",
    ['</v1/devices?at=9>; rel="nextpage"', '/v1/devices?at=9; rel="next"', "</v1/devices?at=9>; title=next", "<x"],
)
def test_a_link_header_that_is_not_understood_is_no_proof_of_an_end(odd: str, tmp_path: Path) -> None:
    headers = (("Link", f'</v1/devices?at=0>; rel="first", {odd}'),)
    with pytest.raises(PagingError, match=r"full \(20 rows\) and has no next page"):
        read_from(say_once({"data": rows_of(20)}, headers=headers), tmp_path, "header_link", params={"tag": "x"})
    found = read_from(say_once({"data": rows_of(7)}, headers=headers), tmp_path, "header_link")
    assert found.report.evidence is Evidence.TWO_READS


@pytest.mark.parametrize(
    "request_", [{"params": {"take": 60}}, {"params": {"take": "60"}}, {"json": {"page": {"n": 60}}}]
)
def test_a_page_of_as_many_rows_as_a_number_in_the_request_is_full(request_: Any, tmp_path: Path) -> None:
    method = "POST" if "json" in request_ else "GET"
    with pytest.raises(PagingError, match=r"full \(60 rows\) and has no next page.*`foo` was not found"):
        read_from(
            say_once({"data": rows_of(60)}), tmp_path, {**CURSOR, "cursor_path": "foo"}, method=method, **request_
        )
    # Small numbers are rather flags or ids, and with a page size, only that one counts.
    for number, params in ((6, {"site": 6}), (60, {"site": 60, "limit": 100})):
        assert len(read_from(say_once({"data": rows_of(number)}), tmp_path, CURSOR, params=params).rows) == number


KEYSET = {"type": "cursor", "cursor_path": "data[-1].id", "cursor_param": "after"}


def keyset(rows: list[dict[str, Any]], *, key: Any = None, size: int = 20, inclusive: bool = False) -> Any:
    """Returns an API that sends the rows whose id is greater than `after`, or less than `before`, sorted by `key`."""

    def answer(seen: Seen) -> Say:
        asked = query_of(seen)
        after, before = int(asked.get("after", 0)), int(asked.get("before", 10**9))
        left = [row for row in rows if after - inclusive < row["id"] < before]
        return Say({"data": sorted(left, key=key or (lambda row: row["id"]))[:size]})

    return answer


ORDERS = {
    "newest first": lambda row: -row["id"],
    "mixed": lambda row: row["id"] * 7919 % 331,
    "by name": lambda row: str(row["id"]),
    "mixed towards the end": lambda row: row["id"] if row["id"] < 200 else 200 + row["id"] * 7919 % 331,
}


@pytest.mark.parametrize("param", ["after", "before"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_cursor_by_which_the_api_does_not_sort_is_red(order: str, param: str, tmp_path: Path) -> None:
    """As at Kinto, which sorts by the time of the last change."""
    paginator = {**KEYSET, "cursor_param": param}
    if (order, param) == ("newest first", "before"):
        assert len(read_from(keyset(rows_of(330), key=ORDERS[order]), tmp_path, paginator).rows) == 330
        return
    with pytest.raises(PagingError, match=r"`data\[-1\].id`, but the rows after \d+ .*the API does not sort by it"):
        read_from(keyset(rows_of(330), key=ORDERS[order]), tmp_path, paginator)


@pytest.mark.parametrize("order", ORDERS)
def test_a_cursor_that_names_a_row_needs_no_order(order: str, tmp_path: Path) -> None:
    """As at Stripe, whose `starting_after` is a row, whatever the rows are sorted by."""
    rows = sorted(rows_of(330), key=ORDERS[order])

    def answer(seen: Seen) -> Say:
        asked = query_of(seen).get("after")
        start = 0 if asked is None else [row["id"] for row in rows].index(int(asked)) + 1
        return Say({"data": rows[start : start + 20]})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(KEYSET), retry=IMPATIENT)
        assert len(server.seen) <= 18 + 2
    assert sorted(found.rows, key=lambda row: row["id"]) == rows_of(330)
    assert found.report.passes == 1


def test_rows_deleted_before_a_cursor_is_tried_are_no_fault(tmp_path: Path) -> None:
    rows = rows_of(50)

    def answer(seen: Seen) -> Say:
        say: Say = keyset(rows)(seen)
        if not say.body["data"]:
            del rows[1:20]
        return say

    assert len(read_from(answer, tmp_path, KEYSET).rows) == 50


@pytest.mark.parametrize("zero", [0, "", 0.0])
def test_a_value_of_a_row_is_never_an_end_mark(zero: Any, tmp_path: Path) -> None:
    values: list[Any] = [f"n{at:02}" for at in range(25)] if zero == "" else [type(zero)(at - 9) for at in range(25)]
    values[9] = zero
    rows = [{"id": at + 1, "at": value} for at, value in enumerate(values)]

    def answer(seen: Seen) -> Say:
        after = query_of(seen).get("after")
        texts = [str(value) for value in values]
        start = 0 if after is None else texts.index(after) + 1
        return Say({"data": rows[start : start + 10]})

    found = read_from(answer, tmp_path, {**KEYSET, "cursor_path": "data[-1].at"})
    assert [row["id"] for row in found.rows] == list(range(1, 26))


@pytest.mark.parametrize(("nulls", "size"), [(12, 10), (23, 40)])
def test_a_null_in_the_last_row_is_an_end_only_if_the_page_is_not_full(nulls: int, size: int, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": at + 1, "at": None if at < nulls else f"{at:02}"} for at in range(23)]

    def answer(seen: Seen) -> Say:
        after = query_of(seen).get("after")
        left = rows if after is None else [row for row in rows if (row["at"] or "") > after]
        return Say({"data": left[: int(query_of(seen).get("limit", size))]})

    for params in ({}, {"limit": size}):
        if size < nulls:
            with pytest.raises(PagingError, match=r"full \(.*cannot continue after a null in `data\[-1\].at`"):
                read_from(answer, tmp_path, {**KEYSET, "cursor_path": "data[-1].at"}, params=params)
        else:
            found = read_from(answer, tmp_path, {**KEYSET, "cursor_path": "data[-1].at"}, params=params)
            assert (len(found.rows), found.report.evidence) == (23, Evidence.TWO_READS)


@pytest.mark.parametrize(
    ("cursors", "last", "asked"),
    [
        ((60, 30, 0), None, 4),  # downwards: 0 is a page
        ((0,), None, 2),
        ((60, 30, 0), 0, 4),
        ((20, 40), 0, 3),  # upwards: 0 is the end
        ((40,), 0, 3),  # either: 0 is tried
        ((), 0, 2),
    ],
)
@pytest.mark.parametrize("unknown", ["first page", "nothing", "error"])
def test_a_cursor_0_is_a_page_if_it_has_rows(
    cursors: tuple[int, ...], last: int | None, asked: int, unknown: str, tmp_path: Path
) -> None:
    rows = rows_of(7 * (len(cursors) + 1))

    def answer(seen: Seen) -> Say:
        text = query_of(seen).get("cursor")
        if text == "0" and 0 not in cursors and unknown != "first page":
            return Say({"data": []}, status=200 if unknown == "nothing" else 500)
        at = cursors.index(int(text)) + 1 if text and int(text) in cursors else 0
        return Say({"data": rows[7 * at : 7 * at + 7], "next": cursors[at] if at < len(cursors) else last})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(CURSOR), retry=IMPATIENT)
        # A page at cursor 0 is requested twice: once to see whether there is one.
        assert len(server.seen) == asked + (0 in cursors)
    assert (found.rows, found.report.passes) == (rows, 1)


@pytest.mark.parametrize("size", [2, 20, 330])
def test_a_cursor_that_includes_its_own_row_is_green(size: int, tmp_path: Path) -> None:
    rows = rows_of(330)

    def answer(seen: Seen) -> Say:
        # Its last page holds the last row alone, and then nothing.
        say = keyset(rows, size=size, inclusive=True)(seen)
        return say if len(say.body["data"]) > 1 else Say({"data": []})

    found = read_from(answer, tmp_path, KEYSET)
    assert len({row["id"] for row in found.rows}) == 330
    assert found.report.passes == 1
    assert (found.report.duplicates > 0) is (size < 330)
    assert found.report.warnings == []


def test_a_row_that_is_repeated_besides_those_of_an_inclusive_cursor_is_warned_of(tmp_path: Path) -> None:
    rows = rows_of(90)

    def answer(seen: Seen) -> Say:
        say = keyset(rows, inclusive=True)(seen)
        if query_of(seen).get("after") == str(rows[19]["id"]):
            say.body["data"].insert(3, say.body["data"][3])
        return say if len(say.body["data"]) > 1 else Say({"data": []})

    found = read_from(answer, tmp_path, KEYSET)
    assert "1 rows were received more than once and loaded once" in found.report.warnings


def test_a_key_that_is_named_in_no_response_is_named_beside_a_missed_total(tmp_path: Path) -> None:
    answer = say_once({"data": rows_of(20), "meta": {"total": 1500}}, headers=(("Next-Page", "http://h/v1?_token=x"),))
    with pytest.raises(IncompleteError, match=r"1500 rows; 20 distinct .* `next` was not found .*`Next-Page` was"):
        read_from(answer, tmp_path, "header_link", total_path="meta.total")


@pytest.mark.parametrize("total", ["many", {"n": 3}, [5], "1.5", True])
def test_a_total_that_is_not_a_number_is_red(total: Any, tmp_path: Path) -> None:
    with pytest.raises(PagingError, match="`total` should be a total"):
        read_from(say_once({"data": rows_of(3), "total": total}), tmp_path, OFFSET)


@pytest.mark.parametrize("more", ["on", {"n": 1}, ["x"]])
def test_an_end_mark_that_is_not_a_boolean_is_red(more: Any, tmp_path: Path) -> None:
    with pytest.raises(
        PagingError, match="`more` should say whether more pages follow, but its value is not a boolean"
    ):
        read_from(say_once({"data": rows_of(3), "more": more}), tmp_path, {**PAGES, "has_more_path": "more"})


@pytest.mark.parametrize("total", ["205", "0205", 205.0, " 205 "])
def test_a_total_in_text_is_read(total: Any, tmp_path: Path) -> None:
    found = read_from(capped(205, 100, total=total), tmp_path, OFFSET)
    assert found.report.evidence is Evidence.STATED_TOTAL
    assert found.report.last_total == 205


def test_elasticsearch_s_total_is_read(tmp_path: Path) -> None:
    hits = {"data": rows_of(120)[:50], "hits": {"total": {"value": 120, "relation": "eq"}}}
    with pytest.raises(IncompleteError, match="120 rows"):
        read_from(say_once(hits), tmp_path, "single_page", total_path="hits.total")
    with pytest.raises(IncompleteError, match="120 rows"):
        read_from(say_once(hits), tmp_path, "single_page")


def test_a_total_in_a_header_is_evidence(tmp_path: Path) -> None:
    rows = rows_of(205)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        return Say(rows[start : start + 100], headers=(("X-Total-Count", "205"),))

    found = read_from(answer, tmp_path, OFFSET, data_selector="$", total_header="X-Total-Count")
    assert found.report.evidence is Evidence.STATED_TOTAL
    assert found.report.passes == 1


@pytest.mark.parametrize("plain", [True, False])
def test_a_total_can_come_from_a_separate_request(plain: bool, tmp_path: Path) -> None:
    held, counted = rows_of(60), [60]

    def answer(seen: Seen) -> Say:
        assert query_of(seen)["$filter"] == "os eq 'x'", "both request the same rows"
        if "$count" in seen.target.partition("?")[0]:
            return Say(str(counted[0]).encode()) if plain else Say({"result": {"n": counted[0]}})
        start = int(query_of(seen).get("$skip", 0))
        more = {"next": f"?$filter=os eq 'x'&$skip={start + 20}"} if start + 20 < len(held) else {}
        return Say({"data": held[start : start + 20], **more})

    count = Count(path="devices/$count", total_path=None if plain else "result.n")
    settings: dict[str, Any] = {"params": {"$filter": "os eq 'x'"}, "count": count}
    found = read_from(answer, tmp_path, NEXT, **settings)
    assert found.report.evidence is Evidence.STATED_TOTAL
    assert found.rows == held
    counted[0] = 61
    with pytest.raises(IncompleteError, match="reports 61 rows; 60 distinct rows"):
        read_from(answer, tmp_path, NEXT, **settings)


def test_a_count_that_changes_during_the_read_is_not_evidence(tmp_path: Path) -> None:
    counts = iter([5, 6, 6, 6])

    def answer(seen: Seen) -> Say:
        return Say(str(next(counts)).encode()) if "count" in seen.target else Say({"data": rows_of(6), "next": None})

    found = read_from(answer, tmp_path, NEXT, count=Count(path="count"))
    assert found.report.passes == 2


# Meaningless totals


@pytest.mark.parametrize("path", ["limit", "meta.per_page", "page", "meta.currentPage", "$count"])
def test_a_total_path_that_names_something_else_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"not a total|not a JSONPath"):
        paginator_of({**OFFSET, "total_path": path})


def test_a_total_that_repeated_rows_exceed_is_still_a_total(tmp_path: Path) -> None:
    """Each page repeats most rows of the one before, so that more rows than the total are received, but not all."""
    rows = rows_of(40)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("at", 1))
        return Say({"data": rows[start : start + 10], "at": start + 1 if start < 30 else None, "total": 40})

    with pytest.raises(IncompleteError, match="`total` states 40 rows"):
        read_from(answer, tmp_path, {"type": "cursor", "cursor_path": "at", "cursor_param": "at"})


def test_a_repeated_page_is_no_end_if_a_next_page_is_named(tmp_path: Path) -> None:
    """The stated total is the size of a page, and the offset has another name."""
    rows = rows_of(301)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("page[offset]", 0))
        following = f"/v1/devices?page%5Boffset%5D={start + 50}" if start + 50 < 301 else None
        return Say({"data": rows[start : start + 50], "links": {"next": following}, "meta": {"size": 50}})

    with pytest.raises(PagingError, match="page 2 is the same as page 1"):
        read_from(answer, tmp_path, {"type": "offset", "limit": 50, "total_path": "meta.size"})


@pytest.mark.parametrize("total", [None, "total"])
@pytest.mark.parametrize(
    ("number", "says"), [(3, "write the paginator offset"), (7, "offset"), (60, "offset"), (301, "offset")]
)
def test_page_numbers_that_the_api_reads_as_offsets_lose_no_row(
    number: int, says: str, total: str | None, tmp_path: Path
) -> None:
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["page"])
        return Say({"data": rows[start : start + 100], **({"total": number} if total else {})})

    for verify in (None, True):
        with pytest.raises(
            (IncompleteError, PagingError), match=f"{says}|states {number} rows|reports {number} rows|starts over"
        ):
            read_from(answer, tmp_path, PAGES, verify=verify, total_path=total)


@pytest.mark.parametrize(("size", "number"), [(20, 300), (14, 300), (50, 70)])
@pytest.mark.parametrize("how", ["page", "offset"])
def test_a_value_of_a_row_that_the_api_reads_as_a_page_number_is_red(
    how: str, size: int, number: int, tmp_path: Path
) -> None:
    rows = [{"id": row["id"] * 3} for row in rows_of(number)]

    def answer(seen: Seen) -> Say:
        asked = int(query_of(seen).get("after", 1 if how == "page" else 0))
        start = (asked - 1) * size if how == "page" else asked
        return Say({"data": rows[start : start + size]})

    with pytest.raises(PagingError, match="or means something else by the parameter"):
        read_from(answer, tmp_path, KEYSET)


def test_a_cursor_that_repeats_the_position_asked_for_is_no_end(tmp_path: Path) -> None:
    rows = rows_of(150)

    def answer(seen: Seen) -> Say:
        start, size = int(query_of(seen).get("offset", 0)), int(query_of(seen).get("limit", 50))
        return Say({"data": rows[start : start + size], "offset": start})

    paginator = {"type": "cursor", "cursor_path": "offset", "cursor_param": "offset"}
    for params in ({}, {"limit": 50}, {"offset": 0}):
        with pytest.raises(PagingError, match=r"page 1 is full \(\d+ rows\) and names 0 as the next page"):
            read_from(answer, tmp_path, paginator, params=params)
    del rows[31:]
    assert len(read_from(answer, tmp_path, paginator).rows) == 31


@pytest.mark.parametrize("number", [31, 50, 130])
def test_a_cursor_may_begin_and_end_with_0(number: int, tmp_path: Path) -> None:
    """As of Redis' SCAN."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start, size = int(query_of(seen)["after"]), int(query_of(seen)["limit"])
        return Say({"data": rows[start : start + size], "next": start + size if start + size < number else 0})

    params = {"after": 0, "limit": 50}
    assert read_from(answer, tmp_path, {**CURSOR, "cursor_param": "after"}, params=params).rows == rows


def test_a_cursor_that_is_an_address_is_red(tmp_path: Path) -> None:
    answer = say_once({"data": rows_of(20), "next": "https://rmm.example.com/v1/devices?page=2"})
    with pytest.raises(PagingError, match="`next` is an address, not a cursor; write the paginator json_link"):
        read_from(answer, tmp_path, CURSOR)


@pytest.mark.parametrize("number", [1, 2, 51])
def test_a_last_page_that_is_an_earlier_one_does_not_contradict_an_end(number: int, tmp_path: Path) -> None:
    """As of fastapi-pagination, whose empty page behind the end has a link to the last page with rows."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        last = (number - 1) // 50 * 50
        links = f'</v1/devices?offset=0&limit=50>; rel="first", </v1/devices?offset={last}&limit=50>; rel="last"'
        return Say(rows[start : start + 50], headers=(("Link", links),))

    paginator = {"type": "offset", "limit": 50, "total_path": None}
    assert read_from(answer, tmp_path, paginator, data_selector="$").rows == rows


@pytest.mark.parametrize("total", [0, -1, 1, None, 49])
def test_a_useless_total_does_not_end_a_capped_read(total: Any, tmp_path: Path) -> None:
    found = read_from(capped(500, 50, total=total), tmp_path, OFFSET)
    assert found.rows == rows_of(500)
    assert found.report.evidence is Evidence.TWO_READS


def test_a_total_that_counts_the_page_s_rows_does_not_end_a_read(tmp_path: Path) -> None:
    rows = rows_of(55)

    def answer(seen: Seen) -> Say:
        part = rows[int(query_of(seen)["offset"]) :][:20]
        return Say({"data": part, "total": len(part)})

    for limit in (20, 500):
        assert read_from(answer, tmp_path, {"type": "offset", "limit": limit}).rows == rows


def counting(count: Callable[[list[Any]], int], number: int = 390) -> Answer:
    """Serves rows by cursor in pages of 100, with links to the next and the last page and a `count`."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("cursor") or 0)
        following = start + 100 if start + 100 < number else None
        part = rows[start : start + 100]
        return Say(
            {"data": part, "links": {"after": following, "end": 300 if following else None}, "count": count(part)}
        )

    return answer


def test_a_count_that_is_the_same_on_several_pages_is_a_total(tmp_path: Path) -> None:
    # The file names the last page instead of the next one.
    with pytest.raises(IncompleteError, match="`count` states 390 rows"):
        read_from(counting(lambda _: 390), tmp_path, {**CURSOR, "cursor_path": "links.end"})
    with pytest.raises(IncompleteError, match="`count` states 390 rows"):
        read_from(capped(390, 100, count=390), tmp_path, {**OFFSET, "offset": 1})
    found = read_from(capped(389, 100, count=390), tmp_path, OFFSET, wrong_signals=("count",))
    assert found.rows == rows_of(389)


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(len, id="rows of the page"),
        pytest.param(lambda part: 700 if len(part) == 100 else 600, id="not steady"),
        pytest.param(lambda _: 100, id="size of a page"),
        pytest.param(lambda _: 12, id="something smaller"),
    ],
)
def test_a_count_of_something_else_is_no_total(count: Callable[[list[Any]], int], tmp_path: Path) -> None:
    found = read_from(counting(count), tmp_path, {**CURSOR, "cursor_path": "links.after"})
    assert found.rows == rows_of(390)


@pytest.mark.parametrize("said", ["in the request", "in the response"])
def test_a_count_that_sends_the_size_of_a_page_back_is_no_total(said: str, tmp_path: Path) -> None:
    # The API sends at most 50 of the 500 rows that each request asks for.
    beside = {"count": 500} if said == "in the request" else {"count": 400, "limit": 400}
    found = read_from(capped(120, 50, **beside), tmp_path, {**OFFSET, "limit": 500})
    assert found.rows == rows_of(120)


def sized(number: int, size: int) -> Answer:
    """Serves rows by page number, with the same `size` on every page."""
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = (int(query_of(seen).get("page", 1)) - 1) * 50
        return Say({"data": rows[start : start + 50], "size": size})

    return answer


@pytest.mark.parametrize("number", [50, 200, 301])
@pytest.mark.parametrize(
    "paginator",
    [
        {**PAGES, "page_param": "p"},
        {"type": "offset", "limit": 250, "total_path": "size"},
        {"type": "offset", "limit": 7, "total_path": "size"},
        {"type": "offset", "limit": 50, "total_path": "size"},
    ],
)
def test_a_size_that_only_one_page_reaches_is_no_total(paginator: Any, number: int, tmp_path: Path) -> None:
    # The API ignores the parameters, and always sends the first page.
    with pytest.raises(PagingError, match="the server ignores"):
        read_from(sized(number, 50), tmp_path, paginator, total_path="size")


@pytest.mark.parametrize("number", [0, 7, 50, 301])
def test_a_size_may_be_a_total(number: int, tmp_path: Path) -> None:
    """As Bitbucket states it."""
    assert read_from(sized(number, number), tmp_path, PAGES, total_path="size").rows == rows_of(number)


def test_a_total_stated_once_applies_to_later_passes(tmp_path: Path) -> None:
    started = [0]

    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        started[0] += page == 1
        if started[0] == 1:
            return Say({"data": rows_of(1203)[page * 100 - 100 : page * 100 - (page == 3)], "total": 1203})
        return Say({"data": [], "total": None})

    with pytest.raises(IncompleteError, match="1203 rows"):
        read_from(answer, tmp_path, PAGES, total_path="total")


def test_a_refuted_total_is_ignored_for_the_rest_of_the_run(tmp_path: Path) -> None:
    rows = rows_of(150)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        return Say({"data": rows[start:][:50], "total": 900 if start >= 90 else 3})

    found = read_from(answer, tmp_path, {"type": "offset", "limit": 50})
    assert found.rows == rows
    assert found.report.signals == ["total: refuted: states 3 rows when 50 had been received"]


@pytest.mark.parametrize("number", [1000, 1005])
@pytest.mark.parametrize("window", [1000, 5000])
def test_a_request_checks_for_rows_after_a_round_total(window: int, number: int, tmp_path: Path) -> None:
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        # The page at the end of the window is short, like a last page.
        return Say({"data": rows[start : min(start + 300, window) if start < 999 else None][:300], "total": 1000})

    assert read_from(answer, tmp_path, {"type": "offset", "limit": 300}).rows == rows


@pytest.mark.parametrize(("number", "warned"), [(999, False), (1000, True), (10_000, True)])
@pytest.mark.parametrize("total", [True, False])
def test_a_read_that_ends_at_a_usual_limit_is_warned_of(number: int, warned: bool, total: bool, tmp_path: Path) -> None:
    found = read_from(capped(number, 1000, **({"total": number} if total else {})), tmp_path, {**OFFSET, "limit": 1000})
    said = [text for text in found.report.warnings if f"exactly {number:,} rows were received" in text]
    assert len(found.rows) == number
    assert len(said) == (warned and not total)


def test_a_round_total_with_links_causes_a_second_read(tmp_path: Path) -> None:
    rows = rows_of(1000)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("cursor") or 0)
        following = str(start + 100) if start < 900 else None
        return Say({"data": rows[start : start + 100], "next": following, "total": 1000})

    assert read_from(answer, tmp_path, CURSOR, total_path="total").report.passes == 2


@pytest.mark.parametrize("window", [1000, 5000])
def test_a_refusal_at_a_cap_is_not_an_end(window: int, tmp_path: Path) -> None:
    rows = rows_of(5000)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        if start >= 999:
            return Say({"error": "window too large"}, 400)
        return Say({"data": rows[start : min(start + 100, window)], "total": 1000})

    with pytest.raises(TransportError, match="HTTP 400"):
        read_from(answer, tmp_path, OFFSET)


# Page numbers that start elsewhere


@pytest.mark.parametrize("page_0", ["first page", "nothing"])
@pytest.mark.parametrize("number", [0, 7, 20, 45])
def test_an_api_that_counts_from_1_loses_no_page_if_the_file_says_0(page_0: str, number: int, tmp_path: Path) -> None:
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"]) or (1 if page_0 == "first page" else 10**6)
        return Say({"data": rows[page * 20 - 20 : page * 20]})

    found = read_from(answer, tmp_path, {**PAGES, "base_page": 0})
    assert found.rows == rows
    assert ("the API numbers pages from 1; set base_page: 1" in found.report.warnings) == bool(number)


@pytest.mark.parametrize("number", [7, 20, 45])
def test_an_api_that_counts_from_0_is_red_if_the_file_says_1(number: int, tmp_path: Path) -> None:
    with pytest.raises(PagingError, match="set base_page: 0"):
        read_from(numbered(number, 20, base=0), tmp_path, PAGES)


@pytest.mark.parametrize("number", [1, 7, 100, 101, 390])
@pytest.mark.parametrize("limit", [2, 100, 500])
def test_an_api_whose_offsets_begin_at_0_is_red_if_the_file_says_1(number: int, limit: int, tmp_path: Path) -> None:
    with pytest.raises(PagingError, match="set offset: 0"):
        read_from(capped(number, 100), tmp_path, {"type": "offset", "limit": limit, "offset": 1})


@pytest.mark.parametrize("number", [0, 7, 100, 390])
@pytest.mark.parametrize("at_0", ["first page", "last row", "error"])
def test_an_api_whose_offsets_begin_at_1_is_read(at_0: str, number: int, tmp_path: Path) -> None:
    rows = rows_of(number)

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen)["offset"])
        if not start and at_0 == "error":
            return Say({"error": "from 1"}, 400)
        if not start and at_0 == "last row":
            return Say({"data": rows[-1:]})
        start = max(start - 1, 0)
        return Say({"data": rows[start : start + 100]})

    assert read_from(answer, tmp_path, {**OFFSET, "offset": 1}).rows == rows


def test_a_page_0_next_to_an_error_says_nothing(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say | None:
        if query_of(seen)["page"] == "0":
            return Say({"data": [{"id": -1}], "error": "pages are counted from 1"})
        return numbered(45, 20)(seen)

    assert read_from(answer, tmp_path, PAGES).rows == rows_of(45)


@pytest.mark.parametrize("more", [None, "more"])
def test_a_missed_first_page_is_detected_by_a_stated_total(more: str | None, tmp_path: Path) -> None:
    answer = numbered(14, 20, base=0, more=False, total=14)
    with pytest.raises(IncompleteError, match="`total` states 14 rows"):
        read_from(answer, tmp_path, {**PAGES, "has_more_path": more})


# No rows


NOT_A_LIST: dict[str, tuple[Any, str]] = {
    "null": ({"data": None}, "null"),
    "missing": ({"datum": []}, "missing"),
    "object": ({"data": {}}, "object"),
    "empty body": (b"", "empty_body"),
    "bare null": (b"null", "null"),
    "error": ({"error": "licence expired"}, "missing"),
    "large": ({"about": "x" * 5000}, "missing"),
}


@pytest.mark.parametrize("what", NOT_A_LIST)
def test_only_an_empty_list_is_no_rows(what: str, tmp_path: Path) -> None:
    body, word = NOT_A_LIST[what]
    with Scripted(say_once(body)) as server, pytest.raises(TransportError, match="after 2 requests"):
        read(server.url, tmp_path, endpoint_of("single_page"), retry=IMPATIENT)
    if what == "error":
        with pytest.raises(TransportError, match="`error` next to the rows"):
            read_from(say_once(body), tmp_path, "single_page", empty_as=(word,))
    found = read_from(say_once(body), tmp_path, "single_page", empty_as=(word,), wrong_signals=("error",))
    assert found.rows == []
    assert found.report.empty


# A selector that is more than keys, a body with rows, and one in which something else stands where some of them should be.
DEEP: list[tuple[str, Any, Any, str]] = [
    ("$['data']", {"data": [{"id": 1}]}, {"data": None}, "null"),
    ("'my data'", {"my data": [{"id": 1}]}, {"my data": {}}, "object"),
    ("data['my items']", {"data": {"my items": [{"id": 1}]}}, {"data": {}}, "missing"),
    ("results[0].devices", {"results": [{"devices": [{"id": 1}]}]}, {"results": [{"devices": None}]}, "null"),
    ("results[0].devices", {"results": [{"devices": [{"id": 1}]}]}, {"results": [{}]}, "missing"),
    ("results[0].devices", {"results": [{"devices": [{"id": 1}]}]}, {"results": []}, "missing"),
    ("groups[*].items[*]", {"groups": [{"items": [{"id": 1}]}]}, {"groups": [{"items": []}, {"items": None}]}, "null"),
    ("groups[*].items[*]", {"groups": [{"items": [{"id": 1}]}]}, {"groups": [{"items": []}, {}]}, "missing"),
    ("groups[*].items[*]", {"groups": [{"items": [{"id": 1}]}]}, {"groups": [{"items": {}}]}, "object"),
    ("groups[*].items[*]", {"groups": [{"items": [{"id": 1}]}]}, {"groups": None}, "null"),
    ("groups[*].items[*]", {"groups": [{"items": [{"id": 1}]}]}, {}, "missing"),
    ("data[?(@.on)].items[*]", {"data": [{"on": 1, "items": [{"id": 1}]}]}, {"data": None}, "null"),
    ("$..items[*]", {"data": {"items": [{"id": 1}]}}, {"data": {"items": None}}, "null"),
    ("$..items[*]", {"data": {"items": [{"id": 1}]}}, {"data": {}}, "missing"),
]


@pytest.mark.parametrize(("selector", "body", "without", "word"), DEEP, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("large", [False, True])
def test_any_selector_needs_a_list(
    selector: str, body: Any, without: Any, word: str, large: bool, tmp_path: Path
) -> None:
    beside = {"about": "x" * 5000} if large else {}
    assert read_from(say_once({**body, **beside}), tmp_path, "single_page", data_selector=selector).rows == [{"id": 1}]
    answer = say_once({**without, **beside})
    with pytest.raises(TransportError, match=word if word != "missing" else "missing|has no"):
        read_from(answer, tmp_path, "single_page", data_selector=selector)
    found = read_from(answer, tmp_path, "single_page", data_selector=selector, empty_as=(word,))
    assert found.rows == []


def test_rows_of_several_lists_are_red_if_one_of_them_is_missing(tmp_path: Path) -> None:
    groups: list[dict[str, Any]] = [{"items": rows_of(3)}, {"items": []}, {"items": [{"id": 9}]}]
    options = {"data_selector": "groups[*].items[*]"}
    assert len(read_from(say_once({"groups": groups}), tmp_path, "single_page", **options).rows) == 4
    for body in ({"groups": [*groups, {"items": None}]}, {"groups": [*groups, {}]}):
        with pytest.raises(TransportError, match=r"leads to lists, and one of them is (null|missing)"):
            read_from(say_once(body), tmp_path, "single_page", **options)
    with pytest.raises(TransportError, match=r"an object where \[\*\] in the data_selector needs a list"):
        read_from(say_once({"groups": [*groups, {"items": {"id": 4}}]}), tmp_path, "single_page", **options)
    assert read_from(say_once({"groups": []}), tmp_path, "single_page", **options).rows == []


def test_a_path_to_several_lists_needs_no_last_wildcard(tmp_path: Path) -> None:
    groups: list[dict[str, Any]] = [{"items": rows_of(3)}, {"items": []}, {"items": [{"id": 9}]}]
    options = {"data_selector": "groups[*].items"}
    for number, ids in ((1, [1, 2, 3]), (2, [1, 2, 3]), (3, [1, 2, 3, 9]), (0, [])):
        found = read_from(say_once({"groups": groups[:number]}), tmp_path, "single_page", **options)
        assert [row["id"] for row in found.rows] == ids
    for other, says in (
        (None, "one of them is null"),
        ({}, "one of them is an empty object"),
        ({"id": 4}, "other values"),
    ):
        with pytest.raises(TransportError, match=says):
            read_from(say_once({"groups": [*groups, {"items": other}]}), tmp_path, "single_page", **options)


def test_a_row_that_a_path_leads_to_alone_is_a_row(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [
        {"edges": [{"node": {"id": 1}}]},
        {"edges": [{"node": {"id": 1}}, {"node": {"id": 2}}]},
        {"edges": []},
    ]
    for body in bodies:
        found = read_from(say_once(body), tmp_path, "single_page", data_selector="edges[*].node")
        assert found.rows == [edge["node"] for edge in body["edges"]]
    with pytest.raises(TransportError, match="single_object: true"):
        read_from(say_once({"edges": [{"node": {"id": 1}}]}), tmp_path, "single_page", data_selector="edges[0].node")


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ({"devices": [], "included": [{"id": 9}]}, None),
        ({"devices": [{"id": 1}], "tags": []}, None),
        ({"devices": [{"id": 1}], "facets": [{"n": 1}]}, None),
        ({"devices": [{"id": 1}], "warnings": [{"n": 1}], "links": [{"rel": "self"}], "names": ["x"]}, 1),
        ({"devices": [{"id": 1}], "meta": {"links": [{"label": "1"}]}, "errors": []}, 1),
        ({"devices": [], "errors": [{"message": "timeout"}]}, None),
        ({"errors": [{"message": "timeout"}]}, None),
        ({"devices": []}, 0),
    ],
    ids=str,
)
def test_without_a_selector_the_only_list_is_the_rows(body: Any, rows: int | None, tmp_path: Path) -> None:
    if rows is None:
        with pytest.raises(TransportError, match=r"write data_selector|next to the rows"):
            read_from(say_once(body), tmp_path, "single_page", data_selector=None)
    else:
        found = read_from(say_once(body), tmp_path, "single_page", data_selector=None)
        assert len(found.rows) == rows


@pytest.mark.parametrize("what", NOT_A_LIST)
@pytest.mark.parametrize("paginator", [CURSOR, PAGES, OFFSET], ids=["cursor", "page_number", "offset"])
def test_a_page_without_a_list_is_retried_then_red(what: str, paginator: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(400)

    def serve(broken: Iterator[bool]) -> Answer:
        def answer(seen: Seen) -> Say:
            query = query_of(seen)
            start = int(query.get("offset") or query.get("cursor") or (int(query.get("page", 1)) - 1) * 20)
            if start >= 200 and next(broken, False):
                return Say(NOT_A_LIST[what][0])
            following = str(start + 20) if start + 20 < len(rows) else None
            return Say({"data": rows[start : start + 20], "next": following})

        return answer

    found = read_from(serve(iter([True])), tmp_path, {**paginator, **({"limit": 20} if "limit" in paginator else {})})
    assert found.rows == rows
    with pytest.raises(TransportError):
        read_from(serve(iter([True] * 10**6)), tmp_path, paginator)


def test_204_that_names_a_next_page_is_red(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        link = ("Link", f'<http://{seen.headers["host"]}/v1/devices?page=2>; rel="next"')
        return Say({"data": rows_of(3)}) if "page" in query_of(seen) else Say(b"", status=204, headers=(link,))

    with pytest.raises(PagingError, match="page 1 has no content but names a next page"):
        read_from(answer, tmp_path, "header_link")


@pytest.mark.parametrize("paginator", [OFFSET, NEXT, CURSOR, KEYSET, "single_page", "header_link"], ids=str)
@pytest.mark.parametrize("selector", ["data", None])
def test_a_byte_order_mark_is_no_part_of_a_body(paginator: Any, selector: str | None, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("offset", query_of(seen).get("after", 0)))
        return Say(b"\xef\xbb\xbf" + json.dumps({"data": rows_of(7)[start:]}).encode())

    assert read_from(answer, tmp_path, paginator, data_selector=selector).rows == rows_of(7)


def test_204_means_no_rows_only_as_the_first_response(tmp_path: Path) -> None:
    rows = rows_of(40)

    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"data": rows[page * 20 - 20 : page * 20]}) if page < 3 else Say(b"", status=204)

    assert read_from(say_once(b"", status=204), tmp_path, "single_page").rows == []
    with pytest.raises(TransportError, match="a page after the first has no content"):
        read_from(answer, tmp_path, PAGES)
    assert read_from(answer, tmp_path, PAGES, empty_as=("no_content",)).rows == rows


@pytest.mark.parametrize("selector", ["$", "data"])
def test_an_object_is_a_row_only_with_single_object(selector: str, tmp_path: Path) -> None:
    body = {"id": 1, "name": "x"} if selector == "$" else {"data": {"id": 1, "name": "x"}}
    with pytest.raises(TransportError, match="single_object: true"):
        read_from(say_once(body), tmp_path, "single_page", data_selector=selector)
    found = read_from(say_once(body), tmp_path, "single_page", data_selector=selector, single_object=True)
    assert found.rows == [{"id": 1, "name": "x"}]


def test_an_error_instead_of_a_bare_list_is_not_a_row(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"error": "internal"}) if page == 5 else Say(rows_of(500)[page * 50 - 50 : page * 50])

    with pytest.raises(TransportError, match="is an object, not a list"):
        read_from(answer, tmp_path, PAGES, data_selector="$")


def test_a_selector_that_was_found_must_be_in_every_page(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"items" if page == 1 else "rows": rows_of(60)[page * 20 - 20 : page * 20]})

    with pytest.raises(TransportError, match="the body has no 'items'"):
        read_from(answer, tmp_path, PAGES, data_selector=None)


# Ignored responses


def test_an_ignored_response_after_the_first_page_is_red(tmp_path: Path) -> None:
    ignore = ({"status_code": 403, "action": "ignore"},)
    rows = rows_of(60)

    def by_page(seen: Seen) -> Say:
        page = int(query_of(seen)["page"])
        return Say({"error": "no"}, 403) if page == 3 else Say({"data": rows[page * 20 - 20 : page * 20]})

    def by_link(seen: Seen) -> Say:
        return Say({"error": "no"}, 403) if "p=2" in seen.target else Say({"data": rows[:20], "next": "?p=2"})

    for answer, paginator in ((by_page, PAGES), (by_link, NEXT)):
        with pytest.raises(PagingError, match="response_actions ignores"):
            read_from(answer, tmp_path, paginator, ignore=ignore)


def test_an_ignored_response_that_is_rate_limited_is_retried(tmp_path: Path) -> None:
    answers = iter([Say({"error": "API rate limit exceeded"}, 403), Say({"data": rows_of(3)})])
    ignore = ({"status_code": 403, "action": "ignore"},)
    assert read_from(lambda _: next(answers), tmp_path, "single_page", ignore=ignore).rows == rows_of(3)


# The report


def test_the_report_says_that_a_read_returned_nothing(tmp_path: Path) -> None:
    found = read_from(say_once({"data": [], "total": 0}), tmp_path, OFFSET)
    assert found.report.empty
    assert found.report.evidence is Evidence.STATED_TOTAL


def test_the_evidence_of_many_reads_is_that_of_the_weakest() -> None:
    report = Report("children")
    for evidence in (Evidence.STATED_TOTAL, Evidence.TWO_READS, Evidence.END_MARK):
        report.add(Report("children", evidence=evidence, signals=["total: states 5 rows"]))
    assert report.evidence is Evidence.TWO_READS
    assert report.signals == ["total: states 5 rows"]


# Correct servers must be green


@pytest.mark.parametrize("number", [100, 200, 300])
def test_exactly_full_pages_are_green(number: int, tmp_path: Path) -> None:
    for answer, paginator in (
        (capped(number, 100), OFFSET), (capped(number, 100, total=number), OFFSET), (numbered(number, 100), PAGES),
        (numbered(number, 100, pages=number // 100), {**PAGES, "total_path": "pages"}),
    ):  # fmt: skip
        assert read_from(answer, tmp_path, paginator).rows == rows_of(number)


@pytest.mark.parametrize("paginator", [NEXT, CURSOR, "header_link", "single_page", PAGES, OFFSET], ids=str)
@pytest.mark.parametrize("number", [1, 3, 7, 12])
def test_a_small_page_without_an_end_mark_is_green(paginator: Any, number: int, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        query = query_of(seen)
        start = int(query.get("offset") or (int(query.get("page", 1)) - 1) * 100)
        return Say({"data": rows_of(number)[start : start + 100] if start >= 0 else []})

    assert read_from(answer, tmp_path, paginator).rows == rows_of(number)


def test_a_row_deleted_during_a_read_of_json_server_causes_a_second_read_and_is_green(tmp_path: Path) -> None:
    rows, asked = rows_of(100), [0]

    def answer(seen: Seen) -> Say:
        asked[0] += 1
        if asked[0] == 4:
            del rows[5]
        page = int(query_of(seen)["_page"])
        return Say(rows[page * 10 - 10 : page * 10] if page else [], headers=(("X-Total-Count", str(len(rows))),))

    paginator = {**PAGES, "page_param": "_page"}
    found = read_from(answer, tmp_path, paginator, data_selector="$", window=1)
    assert sorted(row["id"] for row in found.rows) == [row["id"] for row in rows]
