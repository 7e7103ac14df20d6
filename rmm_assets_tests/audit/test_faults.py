"""Tests that the audit reports each loading fault as missing rows or as unverified, never as equal.

The tables are loaded correctly and then cut to what the faulty load left, so the tests do not depend on the current loader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from rmm_assets.config import Connection
from rmm_assets.simulator import Simulator
from rmm_assets_tests.audit.auditing import audited, copied, found, listing, parameters, tamper
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import connection, devices, resource, run

pytestmark = pytest.mark.slow

Answer = Callable[[Seen], Say]


@pytest.fixture(scope="module")
def thousands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a correct table of 3,333 devices, to be copied and cut."""
    folder = tmp_path_factory.mktemp("thousands")
    with Simulator(tables={"devices": devices(3333)}) as rmm:
        run(folder, rmm.base_url)
    return folder


@pytest.fixture
def table(thousands: Path, tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that creates the table that a faulty load left."""

    def make(rows: int, *statements: str) -> Path:
        copied(thousands, tmp_path)
        tamper(tmp_path, f"DELETE FROM acme.devices WHERE id > {rows}", *statements)
        return tmp_path

    return make


def paged_by(paginator: Any, selector: str = "data", **endpoint: Any) -> Connection:
    return connection(resource(endpoint={"paginator": paginator, "data_selector": selector, **endpoint}))


def page_of(rows: list[dict[str, Any]], seen: Seen, size: int) -> tuple[int, list[dict[str, Any]]]:
    start = int(parameters(seen).get("after", 0))
    return start, rows[start : start + size]


# Signals of more rows


def kinto(seen: Seen) -> Say:
    start, page = page_of(devices(1500), seen, 100)
    following = f"http://{seen.headers['host']}/v1/devices?after={start + 100}"
    return Say({"data": page}, headers=(("Next-Page", following),) if start + 100 < 1500 else ())


def test_a_next_link_with_another_name_than_configured_is_followed(table: Callable[..., Path]) -> None:
    with Scripted(kinto) as server:
        assert found(audited(table(100), server.url, paged_by("header_link"))) == {"missing": 1400}


def datasette(seen: Seen) -> Say:
    start, page = page_of(devices(3333), seen, 100)
    return Say({"rows": page, "next": str(start + 100) if start + 100 < 3333 else None, "truncated": False})


def test_a_cursor_with_another_name_than_configured_is_followed(table: Callable[..., Path]) -> None:
    made = paged_by({"type": "cursor", "cursor_path": "next_token", "cursor_param": "after"}, "rows")
    with Scripted(datasette) as server:
        assert found(audited(table(100), server.url, made)) == {"missing": 3233}


@pytest.mark.parametrize("total", [None, "total", "X-Total-Count", "Total-Records", "unknown"])
def test_a_missing_link_on_a_full_page_is_not_an_end(total: str | None, table: Callable[..., Path]) -> None:
    def answer(seen: Seen) -> Say:
        start, page = page_of(devices(950), seen, 100)
        following = f'<http://{seen.headers["host"]}/v1/devices?after={start + 100}>; rel="next"'
        headers = [] if start == 400 else [("Link", following)]
        headers += [(total, "950")] if total and "-" in total else []
        return Say({"data": page, **({total: 950} if total and "-" not in total else {})}, headers=tuple(headers))

    with Scripted(answer) as server:
        result = audited(table(500), server.url, paged_by("header_link", params={"per_page": 500}))
    assert result.verdict == "unverified"
    assert ("950" in " ".join(result.sentences())) == (total in ("total", "X-Total-Count", "Total-Records"))


@pytest.mark.parametrize("total", [0, -1, 1, "0"])
def test_a_useless_total_with_a_capped_page_hides_nothing(total: Any, table: Callable[..., Path]) -> None:
    with Scripted(listing(devices(500), cap=50, around=lambda offset, number: {"total": total})) as server:
        made = paged_by({"type": "offset", "limit": 500})
        assert found(audited(table(50), server.url, made)) == {"missing": 450}


@pytest.mark.parametrize(
    "beside", [{"total": 55}, {"pages": 3}, {"has_more": True}, {"links": {"next": {"href": "/x?p=2"}}}]
)
def test_stated_rows_that_are_never_sent_are_not_equal(beside: dict[str, Any], table: Callable[..., Path]) -> None:
    with Scripted(listing(devices(54), around=lambda offset, number: beside)) as server:
        assert audited(table(54), server.url, paged_by({"type": "offset", "limit": 50})).verdict == "unverified"
        assert audited(table(50), server.url, paged_by("single_page")).verdict == "unverified"


@pytest.mark.parametrize(
    ("word", "end"),
    [("null", Say({"data": None})), ("missing", Say({})), ("object", Say({"data": {}})), ("no_content", Say(b"", 204))],
)
def test_empty_as_applies_to_an_audit(word: str, end: Say, table: Callable[..., Path]) -> None:
    made = paged_by({"type": "offset", "limit": 50}, empty_as=[word])
    rows = listing(devices(54))
    with Scripted(lambda seen: end if int(parameters(seen)["offset"]) >= 54 else rows(seen)) as server:
        assert audited(table(54), server.url, made).sentences() == []


def test_wrong_signals_are_ignored_in_an_audit(table: Callable[..., Path]) -> None:
    made = paged_by({"type": "offset", "limit": 50}, wrong_signals=["meta.total"])
    with Scripted(listing(devices(54), around=lambda offset, number: {"meta": {"total": 60}})) as server:
        assert audited(table(54), server.url, made).sentences() == []


@pytest.mark.parametrize(
    "headers",
    [(("Content-Range", "0-49/120"),), (("Content-Range", "items 0-49/120"),), ()],
    ids=["glpi", "items", "none"],
)
def test_partial_content_is_not_complete(headers: tuple[tuple[str, str], ...], table: Callable[..., Path]) -> None:
    with Scripted(lambda seen: Say(devices(49), 206, headers)) as server:
        assert audited(table(49), server.url, paged_by("single_page", "$")).verdict == "unverified"


def test_a_hidden_page_in_the_middle_is_not_an_end(table: Callable[..., Path]) -> None:
    hidden = range(194, 244)

    def answer(seen: Seen) -> Say:
        asked = parameters(seen)
        offset, limit = int(asked["offset"]), int(asked["limit"])
        page = [row for row in devices(344)[offset : offset + limit] if row["id"] - 1 not in hidden]
        more = offset + limit < 344
        link = f'<http://{seen.headers["host"]}/v1/devices?offset={offset + limit}>; rel="next"'
        return Say({"data": page}, headers=(("Link", link),) if more else ())

    with Scripted(answer) as server:
        assert found(audited(table(194), server.url, paged_by({"type": "offset", "limit": 50}))) == {"missing": 100}


def test_the_page_before_the_configured_first_one_is_checked(table: Callable[..., Path]) -> None:
    def from_zero(seen: Seen) -> Say:
        number = int(parameters(seen)["page"])
        return Say({"data": devices(130)[number * 50 : number * 50 + 50]})

    folder = table(130, "DELETE FROM acme.devices WHERE id <= 50")
    with Scripted(from_zero) as server:
        made = paged_by({"type": "page_number", "base_page": 1, "total_path": None})
        assert found(audited(folder, server.url, made)) == {"missing": 50}


def test_pages_numbered_from_one_are_also_read_from_zero(table: Callable[..., Path]) -> None:
    def from_one(seen: Seen) -> Say:
        number = int(parameters(seen)["page"])
        return Say({"data": devices(130)[(number - 1) * 50 : number * 50] if number else []})

    with Scripted(from_one) as server:
        made = paged_by({"type": "page_number", "total_path": None})
        assert found(audited(table(0), server.url, made)) == {"missing": 130}


def test_a_server_that_ignores_the_page_is_not_believed(table: Callable[..., Path]) -> None:
    with Scripted(lambda seen: Say({"data": devices(50)})) as server:
        result = audited(table(50), server.url, paged_by({"type": "page_number", "total_path": None}))
    assert result.verdict == "unverified"
    assert "repeats rows that it sent before" in result.unverified[0]


# Responses that are not pages


NO_PAGES: dict[str, Say] = {
    "null": Say({"rows": None}),
    "no key": Say({"ok": True}),
    "object": Say({"rows": {"a": 1}}),
    "empty object": Say({}),
    "empty body": Say(b""),
    "204": Say(b"", 204),
    "error": Say({"error": "timeout"}),
}


@pytest.mark.parametrize("kind", NO_PAGES)
@pytest.mark.parametrize("heals", [True, False], ids=["heals", "stays"])
def test_rows_after_a_response_that_is_not_a_page_are_not_missing(
    kind: str, heals: bool, table: Callable[..., Path]
) -> None:
    def answer(seen: Seen) -> Say:
        start, page = page_of(devices(600), seen, 100)
        if start == 200 and not heals:
            return NO_PAGES[kind]
        return Say({"rows": page, "next": start + 100 if start + 100 < 600 else None})

    made = paged_by({"type": "cursor", "cursor_path": "next", "cursor_param": "after"}, "rows")
    folder = table(600, "UPDATE acme.devices SET _absent_since = now() WHERE id > 200")
    with Scripted(answer) as server:
        result = audited(folder, server.url, made)
    assert (result.verdict, found(result)) == (("differences", {"marked_absent": 400}) if heals else ("unverified", {}))


def test_rows_of_the_table_after_a_response_that_is_not_a_page_are_not_extra(table: Callable[..., Path]) -> None:
    def answer(seen: Seen) -> Say:
        start, page = page_of(devices(600), seen, 100)
        return Say({"rows": page, "next": start + 100}) if start < 200 else Say({"rows": None})

    made = paged_by({"type": "cursor", "cursor_path": "next", "cursor_param": "after"}, "rows")
    with Scripted(answer) as server:
        result = audited(table(600), server.url, made)
    assert (result.verdict, found(result)) == ("unverified", {})
    assert any("400 rows are in the table only" in doubt for doubt in result.unverified)


def test_an_error_that_was_loaded_as_a_row_is_extra(table: Callable[..., Path]) -> None:
    folder = table(
        600,
        "UPDATE acme.devices SET _absent_since = now() WHERE id > 153",
        "INSERT INTO acme.devices (id, name, _dlt_load_id) VALUES (0, 'an error', '1')",
    )
    with Scripted(lambda seen: Say(devices(600)[int(parameters(seen)["offset"]) :][:50])) as server:
        made = paged_by({"type": "offset", "limit": 50, "total_path": None}, "$")
        assert found(audited(folder, server.url, made)) == {"marked_absent": 447, "extra": 1}


def test_an_error_object_is_not_a_row_even_with_single_object(table: Callable[..., Path]) -> None:
    with Scripted(lambda seen: Say({"error": "no rights"})) as server:
        assert audited(table(0), server.url, paged_by("single_page", "$")).verdict == "unverified"


@pytest.mark.parametrize(
    "beside",
    [
        {"errors": [{"message": "shard 2 timed out"}]}, {"error": "timeout"}, {"success": False}, {"hasErrors": True},
        {"status": "failed"}, {"code": 503}, {"errorCount": 2}, {"_shards": {"failed": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_rows_next_to_an_error_are_unverified(beside: dict[str, Any], table: Callable[..., Path]) -> None:
    with Scripted(lambda seen: Say({"data": devices(21), **beside})) as server:
        folder = table(21)
        result = audited(folder, server.url, paged_by("single_page"))
        assert result.verdict == "unverified"
        assert "says that the request failed" in result.unverified[0]
        says = paged_by("single_page", wrong_signals=list(beside))
        assert audited(folder, server.url, says).verdict == "equal"


def test_fields_that_say_that_there_is_no_error_are_no_error(table: Callable[..., Path]) -> None:
    beside = {
        "error": {"code": 0},
        "errors": [],
        "success": True,
        "status": "active",
        "code": 200,
        "errorMessage": "Success",
    }
    with Scripted(lambda seen: Say({"data": devices(21), **beside})) as server:
        assert audited(table(21), server.url, paged_by("single_page")).verdict == "equal"


@pytest.mark.parametrize(
    "beside",
    [
        {"links": [{"rel": "self", "href": "/x"}, {"rel": "next", "href": "/v1/devices?after=21"}]}, {"complete": False},
        {"page_context": {"has_more_page": True}}, {"result_info": {"total_count": 40}}, {"incomplete_results": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_says_that_there_is_more_is_seen(beside: dict[str, Any], table: Callable[..., Path]) -> None:
    with Scripted(lambda seen: Say({"data": devices(21), **beside})) as server:
        assert audited(table(21), server.url, paged_by("single_page")).verdict == "unverified"


@pytest.mark.parametrize("total", [None, 0])
def test_no_rows_at_all_are_never_equal(total: int | None, table: Callable[..., Path]) -> None:
    with Scripted(lambda seen: Say({"data": [], "total": total})) as server:
        result = audited(table(0), server.url)
        assert result.verdict == "unverified"
        assert "if the key lacks permissions" in result.unverified[0]
        assert audited(table(10), server.url).verdict == "unverified"


def test_a_response_without_the_selected_list_is_not_guessed(table: Callable[..., Path]) -> None:
    two = {"devices": devices(20), "owners": devices(3)}
    made = connection({"name": "devices", "primary_key": "id", "write_disposition": "merge",
                       "endpoint": {"path": "/v1/devices", "paginator": "single_page"}})  # fmt: skip
    with Scripted(lambda seen: Say(two)) as server:
        assert audited(table(20), server.url, made).verdict == "unverified"


@pytest.mark.parametrize("other", [{"items": None}, {}, {"items": {"id": 30}}], ids=str)
def test_rows_in_several_lists_need_all_of_them(other: dict[str, Any], table: Callable[..., Path]) -> None:
    groups = [{"items": devices(15)}, {"items": devices(21)[15:]}]
    made = paged_by("single_page", "groups[*].items[*]")
    with Scripted(lambda seen: Say({"groups": groups})) as server:
        assert audited(table(21), server.url, made).verdict == "equal"
        assert audited(table(21), server.url, paged_by("single_page", "groups[*].items")).verdict == "equal"
    with Scripted(lambda seen: Say({"groups": [*groups, other]})) as server:
        assert audited(table(21), server.url, made).verdict == "unverified"
        assert audited(table(21), server.url, paged_by("single_page", "groups[*].items")).verdict == "unverified"
    with Scripted(lambda seen: Say({"groups": [*groups, {"items": None}]})) as server:
        says = paged_by("single_page", "groups[*].items[*]", empty_as=["null"])
        assert audited(table(21), server.url, says).verdict == "equal"


@pytest.mark.parametrize("how", ["pages from 0", "pages from 1", "ends"])
def test_an_offset_that_the_api_reads_as_something_else_hides_nothing(how: str, table: Callable[..., Path]) -> None:
    def answer(seen: Seen) -> Say:
        start, limit = (int(parameters(seen)[name]) for name in ("offset", "limit"))
        if how == "ends":
            return Say({"data": devices(500)[start:limit]})
        start = max(start - (how == "pages from 1"), 0) * limit
        return Say({"data": devices(500)[start : start + limit]})

    with Scripted(answer) as server:
        result = audited(table(100), server.url, paged_by({"type": "offset", "limit": 100, "total_path": None}))
    assert result.verdict != "equal"


# Parents and keys


PARENTS = ["kunde a#2", "a/b", "a?b", "../x", "plain", "100%"]


def family(ignored: int = 0, status: int = 403, text: str = "rate limit") -> Answer:
    """Serves customers with special characters in their names, each with ten devices, the last one with twelve."""

    def answer(seen: Seen) -> Say:
        parts = urlsplit(seen.target).path.split("/")
        if parts[-1] == "customers":
            return Say({"data": [{"name": name} for name in PARENTS]})
        name = unquote(parts[-2])
        if len(parts) != 5 or name not in PARENTS:
            return Say({"data": []})
        at = PARENTS.index(name)
        if at < ignored:
            return Say({"error": text}, status)
        return Say({"data": devices(12 if at == 5 else 10, first=at * 10 + 1)})

    return answer


def of_customers(**endpoint: Any) -> Connection:
    customers = resource("customers", primary_key="name", endpoint={"paginator": "single_page"})
    path = "/v1/customers/{resources.customers.name}/devices"
    return connection(customers, resource(endpoint={"path": path, "paginator": "single_page", **endpoint}))


def test_keys_of_parents_with_special_characters_are_encoded_in_requests(table: Callable[..., Path]) -> None:
    folder = table(62, "DELETE FROM acme.devices WHERE id <= 40")
    with Scripted(family()) as server:
        assert found(audited(folder, server.url, of_customers())) == {"missing": 40}


@pytest.mark.parametrize(
    ("status", "text", "verdict"),
    [
        (403, "rate limit", "unverified"),
        (404, "Too many requests", "unverified"),
        (403, "no", "unverified"),
        (404, "no", "equal"),
    ],
)
def test_an_ignored_response_is_only_believed_if_its_status_means_no_rows(
    status: int, text: str, verdict: str, table: Callable[..., Path]
) -> None:
    folder = table(62, "DELETE FROM acme.devices WHERE id <= 20")
    for actions in ([{"status_code": status, "action": "ignore"}], None):
        with Scripted(family(2, status, text)) as server:
            result = audited(folder, server.url, of_customers(response_actions=actions))
        assert result.verdict == verdict
        assert (str(status) in " ".join(result.unverified)) == (verdict == "unverified")


@pytest.mark.parametrize("actions", [[{"status_code": 404, "action": "ignore"}], None], ids=["ignored", "by default"])
def test_errors_for_all_parents_are_unverified(actions: Any, table: Callable[..., Path]) -> None:
    with Scripted(family(len(PARENTS), 404, "no")) as server:
        result = audited(table(0), server.url, of_customers(response_actions=actions))
    assert "all responses are errors" in " ".join(result.unverified)


@pytest.mark.parametrize("value", [None, "", ".."])
def test_a_parent_whose_children_cannot_be_requested_is_named(value: Any, table: Callable[..., Path]) -> None:
    def answer(seen: Seen) -> Say:
        parents = [{"name": "plain"}, {"name": value}]
        return Say({"data": parents if seen.target.split("?")[0].endswith("customers") else devices(10)})

    with Scripted(answer) as server:
        result = audited(table(10), server.url, of_customers())
    assert result.verdict == "unverified"
    assert "customers" in " ".join(result.unverified)


def test_different_rows_of_the_api_with_the_same_key_are_reported(table: Callable[..., Path]) -> None:
    patches = [{**row, "id": row["id"] % 40 + 1, "kb": row["id"]} for row in devices(263)]
    with Scripted(lambda seen: Say({"data": patches, "total": 263})) as server:
        result = audited(table(40), server.url, paged_by("single_page"))
    assert result.found["same_key"] == 40
    zeros = [{**row, "id": 0} for row in devices(108)]
    with Scripted(listing(zeros, around=lambda offset, number: {"total": 108})) as server:
        assert audited(table(0), server.url).found["same_key"] == 1


def test_fields_of_the_parent_are_compared_and_can_be_part_of_the_key(tmp_path: Path) -> None:
    path = "/v1/customers/{resources.customers.id}/devices"
    made = connection(
        resource("customers", endpoint={"paginator": "single_page"}),
        resource(
            primary_key=["_customers_id", "id"], include_from_parent=["id", "name"],
            endpoint={"path": path, "paginator": "single_page"},
        ),
    )  # fmt: skip

    def answer(seen: Seen) -> Say:
        parents = [{"id": number, "name": f"customer {number}"} for number in (1, 2, 3)]
        return Say({"data": parents if urlsplit(seen.target).path.endswith("customers") else devices(5)})

    with Scripted(answer) as server:
        run(tmp_path, server.url, made)
        right = audited(tmp_path, server.url, made)
        assert (right.sentences(), right.rows_api) == ([], 15)
        tamper(
            tmp_path,
            "DELETE FROM acme.devices WHERE _customers_id = 2",
            "UPDATE acme.devices SET _customers_name = 'x' WHERE _customers_id = 3 AND id = 1",
        )
        assert found(audited(tmp_path, server.url, made)) == {"missing": 5, "different": 1}


# Ranges, rejects, types


def test_rows_that_an_append_dropped_are_missing(table: Callable[..., Path]) -> None:
    rows = [{**row, "updated_at": "2024-01-01T00:00:00Z"} for row in devices(30)]
    ranged = {
        "incremental": {"cursor_path": "updated_at", "start_param": "since", "initial_value": "2024-01-01T00:00:00Z"}
    }
    stamped = "ALTER TABLE acme.devices ADD COLUMN updated_at TIMESTAMPTZ DEFAULT '2024-01-01T00:00:00Z'"
    folder = table(40, stamped, "DELETE FROM acme.devices WHERE id <= 10")
    for disposition in ("append", "merge"):
        made = connection(resource(write_disposition=disposition, endpoint={"paginator": "single_page", **ranged}))
        with Scripted(lambda seen: Say({"data": rows})) as server:
            result = audited(folder, server.url, made)
            assert parameters(server.seen[0])["since"] == "2024-01-01T00:00:00Z"
        assert found(result) == {"missing": 10}
        assert "10 rows are in the table only" in " ".join(result.unverified)


def test_objects_that_moved_to_another_column_are_different(tmp_path: Path) -> None:
    located = [{**row, "location": {"city": "Graz"}} for row in devices(20)]
    with Simulator(tables={"devices": located}) as rmm:
        run(tmp_path, rmm.base_url)
        assert audited(tmp_path, rmm.base_url).verdict == "equal"
        tamper(
            tmp_path,
            "ALTER TABLE acme.devices ADD COLUMN location JSON",
            """UPDATE acme.devices SET location = '{"city":"Graz"}', location__city = NULL""",
        )
        result = audited(tmp_path, rmm.base_url)
    assert result.columns == {"location": 20, "location__city": 20}


def test_fields_with_equal_names_have_separate_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "a b": n, "a_b": f"x{n}", "o": {"K": 1, "k": 2}} for n in range(1, 9)]
    rows.append({"id": 9, "a b": 3})
    with Simulator(tables={"devices": rows}) as rmm:
        run(tmp_path, rmm.base_url)
        assert audited(tmp_path, rmm.base_url).verdict == "equal"
        tamper(
            tmp_path, "UPDATE acme.devices SET a_b = 'y' WHERE id = 2", "UPDATE acme.devices SET o__k = 7 WHERE id = 3"
        )
        result = audited(tmp_path, rmm.base_url)
    assert (found(result), result.columns) == ({"different": 2}, {"a_b": 1, "o__k": 1})


def test_rejected_rows_are_accounted_for(tmp_path: Path) -> None:
    made = connection(resource(columns={"n": {"data_type": "bigint"}}))
    rows = [{**row, "n": row["id"]} for row in devices(12)]
    rows[3]["n"] = "four"
    with Simulator(tables={"devices": [*rows, {"name": "no id"}]}) as rmm:
        run(tmp_path, rmm.base_url, made)
        result = audited(tmp_path, rmm.base_url, made)
        assert (result.verdict, result.rejected, result.rows_table) == ("equal", 2, 11)
        tamper(tmp_path, "DELETE FROM acme.devices_rejected WHERE row_json LIKE '%four%'")
        assert found(audited(tmp_path, rmm.base_url, made)) == {"missing": 1}


def test_only_valid_versions_are_compared(tmp_path: Path) -> None:
    made = connection(resource(history=True, endpoint={"paginator": "single_page"}))
    rows = [{**row, "o": {"a": 1}, "l": [1]} for row in devices(5)]
    with Simulator(tables={"devices": rows}) as rmm:
        run(tmp_path, rmm.base_url, made)
        assert audited(tmp_path, rmm.base_url, made).verdict == "equal"
        tamper(tmp_path, "UPDATE acme.devices SET _dlt_valid_to = now() WHERE id = 2")
        assert found(audited(tmp_path, rmm.base_url, made)) == {"missing": 1}


def test_rows_without_a_key_are_compared_by_content_and_count(tmp_path: Path) -> None:
    made = connection(resource(primary_key=None, write_disposition="replace"))
    rows: list[dict[str, Any]] = [
        {"event": "login", "n": 1.5},
        {"event": "login", "n": 1.5},
        {"event": "logout", "tags": ["x"]},
    ]
    with Simulator(tables={"devices": rows}) as rmm:
        run(tmp_path, rmm.base_url, made)
        assert audited(tmp_path, rmm.base_url, made).sentences() == []
        tamper(
            tmp_path,
            "DELETE FROM acme.devices WHERE rowid = 0",
            "INSERT INTO acme.devices (event, _dlt_load_id) VALUES ('new', '1')",
        )
        assert found(audited(tmp_path, rmm.base_url, made)) == {"missing": 1, "extra": 1}


def test_child_tables_are_never_reported_as_equal(tmp_path: Path) -> None:
    made = connection(resource(child_tables=True))
    with Simulator(tables={"devices": [{**row, "disks": [{"name": "C"}]} for row in devices(5)]}) as rmm:
        run(tmp_path, rmm.base_url, made)
        result = audited(tmp_path, rmm.base_url, made)
    assert (result.verdict, result.unverified) == ("unverified", ("its child tables are not compared",))


# Correct tables are equal


@pytest.mark.parametrize("rows", [3, 50, 101, 1111])
def test_a_correct_table_is_equal_with_any_paging_style(rows: int, table: Callable[..., Path]) -> None:
    everything = devices(rows)

    def linked(seen: Seen) -> Say:
        start, page = page_of(everything, seen, int(parameters(seen).get("per_page", 50)))
        size = int(parameters(seen).get("per_page", 50))
        following = f"/v1/devices?per_page={size}&after={start + size}" if start + size < rows else None
        return Say(
            {"data": page, "next": following}, headers=(("Link", f'<{following}>; rel="next"'),) if following else ()
        )

    def forgetful(seen: Seen) -> Say:  # its links lose the parameter without which there are no rows
        if "per_page" not in parameters(seen):
            return Say({"data": [], "next": None})
        start, page = page_of(everything, seen, int(parameters(seen)["per_page"]))
        return Say(
            {"data": page, "next": f"/v1/devices?after={start + len(page)}" if start + len(page) < rows else None}
        )

    def numbered(seen: Seen) -> Say:
        number, size = int(parameters(seen)["page"]), int(parameters(seen)["per_page"])
        page = everything[(number - 1) * size :][:size] if number else everything[:size]
        return Say({"data": page, "total_pages": -(-rows // size)})

    def clamped(seen: Seen) -> Say:  # like json-server: after the last page, it repeats the last page
        number, size = int(parameters(seen)["page"]), int(parameters(seen)["per_page"])
        last = -(-rows // size)
        number = min(max(number, 1), last)
        following = number + 1 if number < last else None
        return Say({"first": 1, "next": following, "last": last, "pages": last, "items": rows,
                    "account": 99_999, "data": everything[(number - 1) * size :][:size]})  # fmt: skip

    folder = table(rows)
    with Scripted(linked) as server:
        for paginator in ("header_link", {"type": "json_link", "next_url_path": "next"}):
            assert audited(folder, server.url, paged_by(paginator, params={"per_page": 50})).sentences() == []
    with Scripted(forgetful) as server:
        keeping = {"type": "json_link", "next_url_path": "next", "keep_params": ["per_page"]}
        assert audited(folder, server.url, paged_by(keeping, params={"per_page": 50})).sentences() == []
    for paged in (numbered, clamped):
        made = paged_by({"type": "page_number", "base_page": 1, "total_path": None}, params={"per_page": 50})
        with Scripted(paged) as server:
            assert audited(folder, server.url, made).sentences() == []
    with Scripted(listing(everything)) as server:
        assert audited(folder, server.url, paged_by({"type": "offset", "limit": 50})).sentences() == []
