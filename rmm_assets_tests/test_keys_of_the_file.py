"""Tests keys of a connection file that no other test covers: each is set in a file, and its effect observed from outside,
in the requests that a server receives, in the table, or in the output of a run.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import dagster as dg
import duckdb
import pytest

from rmm_assets.config.store import store_of
from rmm_assets.errors import RmmError, TransportError
from rmm_assets.loading.plan import plan_load
from rmm_assets.loading.source import described
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.simulator import Fleet, Simulator
from rmm_assets.tables.duckdb_file import OpenFile
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.orchestration.bench import DATABASE, checks, failures, query
from rmm_assets_tests.orchestration.bench import connection as dagster_connection
from rmm_assets_tests.orchestration.bench import sync as dagster_sync
from rmm_assets_tests.syncing import KEY, Row, absent, connection, devices, ids, read, resource, rows_of, run

pytestmark = pytest.mark.slow

ROWS = devices(25)


def query_of(seen: Seen) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(seen.target).query))


def columns_of(folder: Path, table: str = "devices") -> dict[str, tuple[str, str]]:
    """Returns, by column, its type and whether it allows nulls, according to DuckDB."""
    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        found = client.execute(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
            "WHERE table_schema = 'acme' AND table_name = ?",
            [table],
        ).fetchall()
    return {name: (kind, nullable) for name, kind, nullable in found}


def dlt_table(folder: Path) -> dict[str, Any]:
    """Returns dlt's stored schema of `devices`, from which it creates and alters the table."""
    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        [(text,)] = client.execute(
            "SELECT schema FROM acme._dlt_version WHERE schema_name = 'acme__devices' ORDER BY inserted_at DESC LIMIT 1"
        ).fetchall()
    table: dict[str, Any] = json.loads(text)["tables"]["devices"]
    return table


def loads(folder: Path, made: dict[str, Any], *rows: list[Row]) -> list[Row]:
    """Returns the table, including dlt's columns, after one run for each of these lists of rows."""
    with Simulator(tables={"devices": []}) as server:
        for held in rows:
            server.set_rows("devices", held)
            run(folder, server.base_url, connection(made))
    return rows_of(folder, own=True)


# Requests

ASKS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Seen], Any], Any]] = {
    "method and json": (
        {"method": "POST", "json": {"filter": {"site": 7}}}, {},
        lambda seen: (seen.method, json.loads(seen.body)), ("POST", {"filter": {"site": 7}}),
    ),
    "data": (
        {"method": "POST", "data": {"site": "7"}}, {},
        lambda seen: parse_qs(seen.body.decode()), {"site": ["7"]},
    ),
    "params": (
        {"params": {"site": 7, "all": True}}, {},
        lambda seen: (query_of(seen)["site"], query_of(seen)["all"]), ("7", "true"),
    ),
    "an endpoint's headers": ({"headers": {"X-Tenant": "7"}}, {}, lambda seen: seen.headers["x-tenant"], "7"),
    "a client's headers": (
        {}, {"headers": {"X-Tenant": "8"}}, lambda seen: seen.headers["x-tenant"], "8",
    ),
    "an endpoint's auth": (
        {"auth": {"type": "bearer"}}, {},
        lambda seen: (seen.headers["authorization"], "api_key" in seen.target), (f"Bearer {KEY}", False),
    ),
    "http_basic": (
        {"auth": {"type": "http_basic", "username": "me"}}, {},
        lambda seen: seen.headers["authorization"], "Basic bWU6ZGVtby1rZXk=",
    ),
    "api_key's name and location": (
        {"auth": {"type": "api_key", "name": "X-Key", "location": "header"}}, {}, lambda seen: seen.headers["x-key"], KEY,
    ),
    "a method in lower case": (
        {"method": "patch", "json": {"timeFilter": 30}}, {},
        lambda seen: (seen.method, json.loads(seen.body)), ("PATCH", {"timeFilter": 30}),
    ),
    "a form": (
        {"method": "POST", "data": {"User name": "ä&b", "all": True, "site": None, "id": [1, False]}}, {},
        lambda seen: (seen.headers["content-type"], seen.body.decode()),
        ("application/x-www-form-urlencoded", "User+name=%C3%A4%26b&all=true&id=1&id=false"),
    ),
    "text with its own content type": (
        {"method": "POST", "data": "<a>{b}</a>", "headers": {"content-type": "text/xml"}}, {},
        lambda seen: (seen.headers["content-type"], seen.body.decode()), ("text/xml", "<a>{b}</a>"),
    ),
    "path": ({"path": "v2/machines"}, {}, lambda seen: urlsplit(seen.target).path, "/v2/machines"),
    "the client's paginator": (
        {"paginator": None}, {"paginator": {"type": "page_number", "page": 3, "base_page": 1, "total_path": None}},
        lambda seen: query_of(seen)["page"], "3",
    ),
    "offset": (
        {"paginator": {"type": "offset", "limit": 7, "offset": 40}}, {},
        lambda seen: (query_of(seen)["offset"], query_of(seen)["limit"]), ("40", "7"),
    ),
    "offset_param and limit_param": (
        {"paginator": {"type": "offset", "limit": 7, "offset_param": "skip", "limit_param": "top"}}, {},
        lambda seen: (query_of(seen)["skip"], query_of(seen)["top"]), ("0", "7"),
    ),
    "offset_body_path and limit_body_path": (
        {
            "method": "POST", "json": {},
            "paginator": {"type": "offset", "limit": 7, "offset_body_path": "page.from", "limit_body_path": "page.size"},
        }, {},
        lambda seen: json.loads(seen.body), {"page": {"from": 0, "size": 7}},
    ),
    "range_param": (
        {"paginator": {"type": "offset", "limit": 7, "offset": 40, "range_param": "range"}}, {},
        lambda seen: (query_of(seen)["range"], "offset" in query_of(seen)), ("40-46", False),
    ),
    "page_param": (
        {"paginator": {"type": "page_number", "base_page": 1, "page_param": "p", "total_path": None}}, {},
        lambda seen: query_of(seen)["p"], "1",
    ),
    "page_body_path": (
        {
            "method": "POST", "json": {},
            "paginator": {"type": "page_number", "base_page": 1, "page_body_path": "at.page", "total_path": None},
        }, {},
        lambda seen: json.loads(seen.body), {"at": {"page": 1}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKS)
def test_a_request_is_built_as_configured(case: str, tmp_path: Path) -> None:
    endpoint, client, shown, expected = ASKS[case]
    with Scripted(lambda seen: Say({"data": [], "total": 0})) as server:
        auth = {"type": "api_key", "name": "api_key", "location": "query"}
        made = connection(
            resource(endpoint=endpoint), client={"base_url": "http://127.0.0.1:9", "auth": auth, **client}
        )
        read(tmp_path, server.url, made)
    assert shown(server.seen[0]) == expected


def test_a_resource_with_only_a_path_uses_the_client_s_base_url(tmp_path: Path) -> None:
    with Scripted(lambda seen: Say({"data": []})) as server:
        client = {"base_url": f"{server.url}/api", "paginator": "single_page", "auth": "bearer"}
        made = connection(resource(endpoint={"path": "devices", "paginator": None}), client=client)
        read(tmp_path, None, made)
    assert server.seen[0].target == "/api/devices"


@pytest.mark.slow
def test_the_configured_token_lifetime_applies_if_the_server_states_none(tmp_path: Path) -> None:
    issued: dict[int, int] = {}

    def answer(seen: Seen) -> Say:
        if seen.target.startswith("/token"):
            issued[lifetime] = issued.get(lifetime, 0) + 1
            return Say({"access_token": f"token-{issued[lifetime]}"})
        if query_of(seen)["page"] == "2":
            time.sleep(1.2)
        return Say({"data": [{"id": int(query_of(seen)["page"])}] if int(query_of(seen)["page"]) < 5 else []})

    with Scripted(answer) as server:
        for lifetime in (1, 3600):
            auth = {
                "type": "oauth2_client_credentials", "access_token_url": f"{server.url}/token", "client_id": "me",
                "default_token_expiration": lifetime, "access_token_request_data": {"scope": "read"},
            }  # fmt: skip
            paginator = {"type": "page_number", "base_page": 1, "total_path": None}
            made = connection(
                resource(endpoint={"auth": auth, "paginator": paginator}, verify=False), limits={"max_concurrency": 1}
            )
            read(tmp_path / str(lifetime), server.url, made)
    assert issued[1] > 1
    assert issued[3600] == 1
    form = next(parse_qs(seen.body.decode()) for seen in server.seen if seen.target == "/token")
    assert (form["client_id"], form["scope"]) == (["me"], ["read"])


@pytest.mark.parametrize("action", [{"status_code": 404}, {"content": "no devices"}], ids=["status_code", "content"])
def test_an_ignored_response_has_no_rows(action: dict[str, Any], tmp_path: Path) -> None:
    made = connection(resource(endpoint={"response_actions": [{**action, "action": "ignore"}]}))
    with Scripted(lambda seen: Say({"error": "no devices here"}, 404)) as server:
        assert read(tmp_path, server.url, made)[0].complete
        with pytest.raises(TransportError, match="HTTP 404"):
            read(tmp_path, server.url, connection())


def test_rows_are_at_the_configured_selector(tmp_path: Path) -> None:
    body = {"data": [{"id": 99}], "result": {"rows": ROWS}}
    with Scripted(lambda seen: Say(body)) as server:
        endpoint = {"data_selector": "result.rows", "paginator": {"type": "single_page"}}
        run(tmp_path, server.url, connection(resource(endpoint=endpoint)))
    assert rows_of(tmp_path) == ROWS


# Paging

PAGED: dict[str, tuple[dict[str, Any], Callable[[str, int | None], dict[str, Any]]]] = {
    "cursor_path and cursor_param": (
        {"type": "cursor", "cursor_path": "meta.after", "cursor_param": "at"},
        lambda base, following: {"body": {"meta": {"after": following}}},
    ),
    "cursor_key": (
        {"type": "header_cursor", "cursor_key": "X-After", "cursor_param": "at"},
        lambda base, following: {"headers": () if following is None else (("X-After", str(following)),)},
    ),
    "links_next_key": (
        {"type": "header_link", "links_next_key": "weiter"},
        lambda base, following: {
            "headers": (("Link", f'<{base}/v1/devices?at={following}>; rel="{"weiter" if following else "ende"}"'),)
        },
    ),
    "next_url_path": (
        {"type": "json_link", "next_url_path": "links.more"},
        lambda base, following: {"body": {"links": {"more": following and f"/v1/devices?at={following}"}}},
    ),
}


@pytest.mark.parametrize("case", PAGED)
def test_the_next_page_is_at_the_configured_path(case: str, tmp_path: Path) -> None:
    paginator, said = PAGED[case]

    def answer(seen: Seen) -> Say:
        start = int(query_of(seen).get("at", 0))
        more = said(server.url, start + 10 if start + 10 < len(ROWS) else None)
        return Say({"data": ROWS[start : start + 10], **more.get("body", {})}, headers=more.get("headers", ()))

    with Scripted(answer) as server:
        _, rows = read(tmp_path, server.url, connection(resource(endpoint={"paginator": paginator})))
    assert rows == ROWS


def test_parameters_that_a_link_lacks_are_kept(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        query = query_of(seen)
        start, size = int(query.get("at", 0)), int(query.get("size", 3))
        rows = [row for row in ROWS if row["id"] >= int(query.get("from", 20))]
        # The second link has one of the parameters.
        more = {0: f"/v1/devices?at={size}", size: f"/v1/devices?at={2 * size}&size={size}"}.get(start)
        return Say({"data": rows[start : start + size], "next": more})

    paginator = {"type": "json_link", "next_url_path": "next", "keep_params": ["from", "size", "other"]}
    endpoint = {"params": {"from": 3, "size": 10}, "paginator": paginator}
    with Scripted(answer) as server:
        _, rows = read(tmp_path, server.url, connection(resource(endpoint=endpoint)))
    assert rows == [row for row in ROWS if row["id"] >= 3]
    asked = [{name: query_of(seen).get(name) for name in ("at", "from", "size")} for seen in server.seen[1:]]
    assert asked == [{"at": "10", "from": "3", "size": "10"}, {"at": "20", "from": "3", "size": "10"}]


@pytest.mark.parametrize("kind", ["offset", "page_number", "cursor"])
@pytest.mark.parametrize("stops", [True, False])
def test_stop_after_empty_page_is_configurable(kind: str, stops: bool, tmp_path: Path) -> None:
    # Pages 0 and 2 have ten rows each; page 1 is empty.
    paginators: dict[str, dict[str, Any]] = {
        "offset": {"type": "offset", "limit": 10, "maximum_offset": 30, "total_path": None},
        "page_number": {"type": "page_number", "base_page": 0, "maximum_page": 3, "total_path": None},
        "cursor": {"type": "cursor", "cursor_path": "next", "cursor_param": "page"},
    }

    def answer(seen: Seen) -> Say:
        query = query_of(seen)
        page = int(query.get("page") or int(query.get("offset", 0)) // 10)
        following = str(page + 1) if page < 2 else None
        return Say({"data": [] if page == 1 else ROWS[page * 5 : page * 5 + 10], "next": following})

    paginator = {**paginators[kind], "stop_after_empty_page": stops}
    made = connection(resource(endpoint={"paginator": paginator}, verify=False))
    with Scripted(answer) as server:
        if stops:  # and later rows of the API make the read red
            with pytest.raises(RmmError, match=r"page 2 is empty but page 3 has rows|ended \(empty page\)"):
                read(tmp_path, server.url, made)
            return
        _, rows = read(tmp_path, server.url, made)
    assert sorted({*ids(rows)}) == list(range(1, 21))


@pytest.mark.parametrize("key", ["has_more_path", "last_path"])
@pytest.mark.parametrize("kind", ["offset", "page_number", "cursor"])
def test_the_configured_end_mark_ends_the_read(kind: str, key: str, tmp_path: Path) -> None:
    paginators: dict[str, dict[str, Any]] = {
        "offset": {"type": "offset", "limit": 10, "total_path": None},
        "page_number": {"type": "page_number", "base_page": 0, "total_path": None},
        "cursor": {"type": "cursor", "cursor_path": "next", "cursor_param": "page"},
    }
    # Many APIs still send a cursor on the last page.
    filled = {"next": "1"} if kind == "cursor" else {}
    with Scripted(lambda seen: Say({"data": ROWS[:10], **filled, "meta": {"mark": key == "last_path"}})) as server:
        paginator = {**paginators[kind], key: "meta.mark"}
        _, rows = read(tmp_path, server.url, connection(resource(endpoint={"paginator": paginator}, verify=False)))
        assert ids(rows) == list(range(1, 11))


@pytest.mark.parametrize("place", ["resource", "offset", "page_number"])
def test_the_total_is_at_the_configured_path(place: str, tmp_path: Path) -> None:
    paginators: dict[str, dict[str, Any]] = {
        "resource": {"type": "cursor", "cursor_path": "next"},
        "offset": {"type": "offset", "limit": 100, "total_path": "meta.count"},
        "page_number": {"type": "page_number", "base_page": 0, "total_path": "meta.count"},
    }
    changes = {"total_path": "meta.count"} if place == "resource" else {}

    def answer(seen: Seen) -> Say:
        behind = any(query_of(seen).get(name, "0") != "0" for name in ("offset", "page"))
        return Say({"data": [] if behind else ROWS, "next": None, "meta": {"count": 26}})

    with Scripted(answer) as server, pytest.raises(Exception, match="reports 26 rows; 25 distinct rows"):
        read(tmp_path, server.url, connection(resource(endpoint={"paginator": paginators[place]}, **changes)))


# Incremental ranges

STAMPED = [{**row, "updated_at": f"2024-01-{row['id']:02}T00:00:00Z"} for row in ROWS]


def test_the_end_of_a_range_is_sent_and_enforced(tmp_path: Path) -> None:
    landed = {}
    for end in ("open", "closed"):
        incremental = {
            "cursor_path": "updated_at", "initial_value": "2024-01-03T00:00:00Z", "end_value": "2024-01-05T00:00:00Z",
            "start_param": "since", "end_param": "until", "range_end": end, "range_start": "closed",
        }  # fmt: skip
        # A merge loads whatever the API sends.
        made = resource(endpoint={"incremental": incremental}, write_disposition="append")
        with Simulator(tables={"devices": STAMPED}) as server:
            run(tmp_path / end, server.base_url, connection(made))
            assert server.requests[0].query["since"] == "2024-01-03T00:00:00Z"
            assert server.requests[0].query["until"] == "2024-01-05T00:00:00Z"
        landed[end] = ids(rows_of(tmp_path / end))
    assert landed == {"open": [3, 4], "closed": [3, 4, 5]}


def test_a_range_starts_earlier_by_the_lag(tmp_path: Path) -> None:
    incremental = {"cursor_path": "id", "initial_value": 1, "start_param": "since", "lag": 5}
    with Simulator(tables={"devices": STAMPED}) as server:
        made = connection(resource(endpoint={"incremental": incremental}))
        run(tmp_path, server.base_url, made)
        asked = len(server.requests)
        run(tmp_path, server.base_url, made)
        assert server.requests[asked].query["since"] == "20"


@pytest.mark.parametrize(("start", "first"), [("closed", 3), ("open", 4)])
def test_range_start_decides_whether_the_start_is_included(start: str, first: int, tmp_path: Path) -> None:
    incremental = {"cursor_path": "updated_at", "initial_value": "2024-01-03T00:00:00Z", "range_start": start}
    made = resource(endpoint={"incremental": incremental}, write_disposition="append")
    assert ids(loads(tmp_path, made, STAMPED))[0] == first


@pytest.mark.parametrize(("said", "landed"), [("include", [1, 2, 26]), ("exclude", [1, 2])])
def test_a_row_without_a_cursor_is_treated_as_configured(said: str, landed: list[int], tmp_path: Path) -> None:
    incremental = {"cursor_path": "updated_at", "on_cursor_value_missing": said}
    made = resource(endpoint={"incremental": incremental})
    assert ids(loads(tmp_path, made, [*STAMPED[:2], *devices(1, first=26)])) == landed


def test_last_value_func_min_makes_the_smallest_value_the_newest(tmp_path: Path) -> None:
    incremental = {"cursor_path": "id", "initial_value": 100, "start_param": "before", "last_value_func": "min"}
    with Simulator(tables={"devices": ROWS[9:]}) as server:
        made = connection(resource(endpoint={"incremental": incremental}))
        run(tmp_path, server.base_url, made)
        asked = len(server.requests)
        run(tmp_path, server.base_url, made)
        assert server.requests[asked].query["before"] == "10"


@pytest.mark.parametrize(("key", "landed"), [("id", [1, 2]), ("name", [1])])
def test_the_configured_key_distinguishes_rows_at_the_boundary(key: str, landed: list[int], tmp_path: Path) -> None:
    # The second read returns another row with the same name, and with the cursor at which the first one ended.
    incremental = {"cursor_path": "updated_at", "primary_key": key}
    made = resource(endpoint={"incremental": incremental}, write_disposition="append")
    assert ids(loads(tmp_path, made, [STAMPED[0]], [{**STAMPED[0], "id": 2}])) == landed


# The table


@pytest.mark.parametrize(("normalizer", "own_ids"), [("arrow", False), ("dlt", True)])
def test_rows_use_the_configured_normalizer(normalizer: str, own_ids: bool, tmp_path: Path) -> None:
    [row] = loads(tmp_path, resource(normalizer=normalizer), ROWS[:1])
    # Only dlt's own normalizer gives each row an id.
    assert ("_dlt_id" in row) is own_ids


def test_columns_have_the_configured_types(tmp_path: Path) -> None:
    columns = {
        "name": {"data_type": "text", "nullable": False},
        "price": {"data_type": "decimal", "precision": 10, "scale": 3},
        "local": {"data_type": "timestamp", "timezone": False},
        "at": {"data_type": "timestamp", "timezone": True},
    }
    row = {"id": 1, "name": "x", "price": "12.345", "local": "2024-01-01T00:00:00Z", "at": "2024-01-01T00:00:00Z"}
    loads(tmp_path, resource(columns=columns), [row])
    found = columns_of(tmp_path)
    assert found["name"] == ("VARCHAR", "NO")
    assert found["price"] == ("DECIMAL(10,3)", "YES")
    assert found["local"] == ("TIMESTAMP", "YES")
    assert found["at"] == ("TIMESTAMP WITH TIME ZONE", "YES")


def test_hints_references_and_the_file_format_reach_dlt_s_schema_of_the_table(tmp_path: Path) -> None:
    # DuckDB has none of these hints; other destinations read them from this schema.
    hints = {f"is_{hint}": {"data_type": "text", hint: True} for hint in ("partition", "cluster", "sort", "unique")}
    reference = {
        "columns": ["name"], "referenced_table": "sites", "referenced_columns": ["id"], "label": "stands at",
        "cardinality": "many_to_one",
    }  # fmt: skip
    rows = [{**row, **dict.fromkeys(hints, row["name"])} for row in ROWS]
    loads(tmp_path, resource(columns=hints, references=[reference], file_format="jsonl"), rows)
    table = dlt_table(tmp_path)
    for column in hints:
        assert table["columns"][column][column.removeprefix("is_")] is True
    assert table["references"] == [reference]
    assert table["file_format"] == "jsonl"
    assert ids(rows_of(tmp_path)) == ids(ROWS)


def test_a_table_has_the_configured_name(tmp_path: Path) -> None:
    loads(tmp_path, resource(table_name="Machines"), ROWS)
    assert rows_of(tmp_path, "machines") == ROWS
    assert rows_of(tmp_path) == []


def test_a_column_can_be_marked_as_the_primary_key(tmp_path: Path) -> None:
    made = resource(primary_key=None, columns=[{"name": "id", "data_type": "bigint", "primary_key": True}])
    assert len(loads(tmp_path, made, ROWS, ROWS)) == 25


def test_a_frozen_set_of_tables_allows_no_new_table(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="`tables` are frozen"):
        loads(tmp_path, resource(schema_contract={"tables": "freeze"}), ROWS)
    assert rows_of(tmp_path) == []


# Write dispositions


def test_rows_of_one_merge_key_are_replaced_as_a_whole(tmp_path: Path) -> None:
    rows = [{**row, "site": "a" if row["id"] < 4 else "b"} for row in devices(5)]
    found = loads(tmp_path, resource(merge_key="site", absent="keep"), rows, [*rows[:2], rows[3]])
    assert ids(found) == [1, 2, 4]


def test_a_merge_only_deletes_within_the_configured_scope(tmp_path: Path) -> None:
    disposition = {"disposition": "merge", "strategy": "delete-insert", "destination_scope": "id <> 2"}
    made = resource(write_disposition=disposition, absent="keep")
    found = loads(tmp_path, made, devices(3), devices(3, site="new"))
    assert sorted((row["id"], row["site"] or "") for row in found) == [(1, "new"), (2, ""), (2, "new"), (3, "new")]


def versions(folder: Path, options: dict[str, Any]) -> list[Row]:
    """Returns the versions of two rows, of which the first one changed."""
    first = [{**row, "version": 1} for row in devices(2)]
    second = [{**first[0], "name": "new", "version": 1 if "row_version_column_name" in options else 2}, first[1]]
    disposition = {"disposition": "merge", "strategy": "scd2", **options}
    return loads(folder, resource(write_disposition=disposition), first, second)


def test_history_s_columns_have_the_configured_names(tmp_path: Path) -> None:
    found = versions(tmp_path, {"validity_column_names": ["since", "until"]})
    assert [(row["id"], row["since"] is None, row["until"] is None) for row in found if row["id"] == 2] == [
        (2, False, True)
    ]
    assert len([row for row in found if row["id"] == 1 and row["until"] is None]) == 1
    assert "_dlt_valid_to" not in found[0]


def test_a_valid_version_has_the_configured_end(tmp_path: Path) -> None:
    found = versions(tmp_path, {"active_record_timestamp": "9999-12-31"})
    ends = [row["_dlt_valid_to"] for row in found]
    assert ends.count(datetime(9999, 12, 31, tzinfo=UTC)) == 2
    assert len(ends) == 3


def test_versions_change_at_the_configured_time(tmp_path: Path) -> None:
    found = versions(tmp_path, {"boundary_timestamp": "2024-05-01"})
    assert {row["_dlt_valid_from"] for row in found} == {datetime(2024, 5, 1, tzinfo=UTC)}


def test_only_the_configured_column_makes_a_new_version(tmp_path: Path) -> None:
    # The name changed but not the version.
    assert len(versions(tmp_path / "told", {"row_version_column_name": "version"})) == 2
    assert len(versions(tmp_path / "found", {})) == 3


# Failures of the API

TROUBLE: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[], Say], int]] = {
    "status_codes": ({}, {"retry": {"status_codes": [418], "max_retries": 2, "backoff_factor": 0.001}}, lambda: Say({}, 418), 3),
    "max_retries": ({}, {"retry": {"max_retries": 1, "backoff_factor": 0.001}}, lambda: Say({}, 500), 2),
    "max_response_bytes": ({}, {"limits": {"max_response_bytes": 100}}, lambda: Say({"data": ROWS}), 1),
    "throttle": (
        {}, {"limits": {"throttle": [{"status": 403, "text": "too often"}]}, "retry": {"max_retries": 1, "backoff_factor": 0.001}},
        lambda: Say({"error": "You ask too often"}, 403), 2,
    ),
    "max_wait": (
        {}, {"retry": {"max_wait": 0.01, "max_retries": 1}}, lambda: Say({}, 429, (("Retry-After", "86400"),)), 2,
    ),
    "wait_path": (
        {}, {"limits": {"wait_path": "wait.seconds", "deadline": 30}, "retry": {"max_retries": 1}},
        lambda: Say({"wait": {"seconds": 40}}, 429), 1,
    ),
    "a deadline of the connection": (
        {}, {"limits": {"deadline": 30}, "retry": {"max_retries": 1}}, lambda: Say({}, 429, (("Retry-After", "40"),)), 1,
    ),
    "a deadline of the resource": (
        {"deadline": 30}, {"retry": {"max_retries": 1}}, lambda: Say({}, 429, (("Retry-After", "40"),)), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLE)
def test_failures_are_retried_as_configured(case: str, tmp_path: Path) -> None:
    changes, more, answer, requests = TROUBLE[case]
    with Scripted(lambda seen: answer()) as server:
        with pytest.raises(TransportError):
            read(tmp_path, server.url, connection(resource(**changes), **more))
        assert len(server.seen) == requests


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does a connection wait if the queue is full")
def test_connecting_times_out_as_configured(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Enough to fill the queue: the next one waits forever.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        made = connection(limits={"connect_timeout": 0.3}, retry={"max_retries": 0})
        with pytest.raises(TransportError, match=r"no connection within 0\.3 s"):
            read(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}", made)


@pytest.mark.parametrize(("verify", "requests"), [(True, 2), (False, 1), (None, 1)])
def test_a_read_is_verified_as_configured(verify: bool | None, requests: int, tmp_path: Path) -> None:
    with Simulator(tables={"devices": ROWS[:24]}) as server:
        assert read(tmp_path, server.base_url, connection(resource(verify=verify)))[0].passes == requests
        assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("said", "severity"), [("warn", dg.AssetCheckSeverity.WARN), ("fail", dg.AssetCheckSeverity.ERROR)]
)
def test_rejected_rows_have_the_configured_severity(
    said: str, severity: dg.AssetCheckSeverity, workplace: Path, instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("ACME_API_KEY", KEY)
    made = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "on_rejected": said}
    with Simulator(tables={"devices": [*devices(3), {"name": "no id"}]}) as server:
        found = checks(dagster_sync(dagster_connection(server.base_url, [made]), instance))["no_rejected_rows"]
    assert not found.passed
    assert found.severity is severity


def test_the_embedded_rmm_has_the_configured_size(workplace: Path, instance: dg.DagsterInstance) -> None:
    sizes = {"organizations": 3, "devices": 5, "alerts": 7, "patches": 11}
    names = []
    for seed, loaded in ((1, list(sizes)), (2, ["devices"])):
        simulator: dict[str, Any] = {"seed": seed, **sizes}
        made = dagster_connection(None, loaded, api_key=None, simulator=simulator)
        fleet = Fleet(**simulator)
        began = fleet.tick_at(datetime.now(UTC))
        result = dagster_sync(made, instance)
        assert result.success, failures(result)
        found = {name: query(f"SELECT count(*) FROM acme.{name}")[0][0] for name in loaded}
        # The fleet follows the clock, and a device may be gone for a while.
        ticks = range(began, fleet.tick_at(datetime.now(UTC)) + 1)
        assert found in [{name: len(fleet.rows(name, tick)) for name in loaded} for tick in ticks]
        names.append(query("SELECT name FROM acme.devices ORDER BY id"))
        DATABASE.unlink()
    assert names[0] != names[1]


def test_the_asset_key_consists_of_connection_and_resource() -> None:
    made = {"name": "machines", "endpoint": {"path": "/v1/devices"}}
    (spec,) = build_connection_defs(
        dagster_connection("https://rmm.example.com", [made], name="beta")
    ).resolve_all_asset_specs()
    assert spec.key == dg.AssetKey(["beta", "machines"])


def test_values_that_are_not_accepted_are_reported(
    workplace: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    rules = {"accepted_values": {"status": ["online"]}, "unique": ["name"], "not_null": ["status"]}
    made = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "checks": rules}
    rows = [*devices(2), {"id": 3, "name": "PC-0001", "status": "on fire"}, {"id": 4, "name": "x", "status": None}]
    with Simulator(tables={"devices": rows}) as server:
        found = checks(dagster_sync(dagster_connection(server.base_url, [made]), instance))
    failed = {name for name, check in found.items() if not check.passed}
    assert failed == {"accepted_values_status", "unique_name", "not_null_status"}


def test_destination_options_reach_dlt(
    workplace: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    columns = {"serial": {"data_type": "text", "unique": True}}
    made = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "columns": columns}
    destination = {"type": "duckdb", "options": {"create_indexes": True}}
    with Simulator(tables={"devices": [{**row, "serial": f"S{row['id']}"} for row in ROWS]}) as server:
        result = dagster_sync(dagster_connection(server.base_url, [made], destination=destination), instance)
    assert result.success, failures(result)
    found = query("SELECT constraint_column_names FROM duckdb_constraints() WHERE constraint_type = 'UNIQUE' "
                  "AND table_name = 'devices' AND schema_name = 'acme'")  # fmt: skip
    assert (["serial"],) in found


def test_a_load_is_limited_to_the_memory_of_the_file(workplace: Path) -> None:
    store = store_of(connection(resource(), destination={"type": "duckdb", "memory_limit": "123MiB"}))
    store.prepare()
    # A file has the same settings for all that have it open in this process.
    with store.held(), closing(OpenFile(str(store.credentials))) as file, closing(file.cursor()) as client:
        assert client.execute("SELECT current_setting('memory_limit')").fetchone() == ("123.0 MiB",)
    with pytest.raises(ValueError, match="only DuckDB has a limit for loads"):
        connection(resource(), destination={"type": "postgres", "memory_limit": "1GB"})


def test_a_table_format_reaches_dlt_if_the_destination_supports_it() -> None:
    destination = {"type": "filesystem", "options": {"bucket_url": "lake"}}
    made = connection(resource(table_format="delta"), destination=destination)
    source = described(made, [plan_load(made, made.resource("devices"))])
    assert source.resources["devices"].compute_table_schema()["table_format"] == "delta"


@pytest.mark.parametrize(("dedup_sort", "kept"), [("asc", "b"), ("desc", "a")])
def test_dedup_sort_picks_one_of_the_rows_that_share_a_key(dedup_sort: str, kept: str, tmp_path: Path) -> None:
    # Several versions of a row in one read; the one to keep is neither first nor last.
    rows = [{"id": 1, "n": 2, "name": "x"}, {"id": 1, "n": 3, "name": "a"}, {"id": 1, "n": 1, "name": "b"}]
    rows += [{"id": 1, "n": 2, "name": "y"}, {"id": 2, "n": 1, "name": "other"}]
    found = loads(tmp_path, resource(columns={"n": {"dedup_sort": dedup_sort}}), rows, rows)
    assert [row["name"] for row in found] == [kept, "other"]
    assert absent(tmp_path) == set()
