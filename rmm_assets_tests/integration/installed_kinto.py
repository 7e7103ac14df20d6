"""Tests reads from Kinto, which `make servers` installs into an environment of its own; see `installed_servers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import rmm_assets
from rmm_assets.errors import IncompleteError, PagingError, SuspiciousLossError, TransportError
from rmm_assets.reading.report import Evidence
from rmm_assets_tests.integration.installed_servers import (
    PASSWORD,
    Endpoint,
    Server,
    basic,
    complete_or_red,
    meddling,
    resource,
    running,
)
from rmm_assets_tests.integration.test_foreign_servers import free_port
from rmm_assets_tests.syncing import absent, rows_of

KINTO = Path(rmm_assets.__file__).parents[1] / ".venv-kinto" / "bin" / "kinto"
RECORDS = 1500
# A page has 100 records unless `_limit` asks for fewer.
CONFIGURATION = """
[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = %(http_port)s
[app:main]
use = egg:kinto
kinto.storage_backend = kinto.core.storage.memory
kinto.cache_backend = kinto.core.cache.memory
kinto.permission_backend = kinto.core.permission.memory
kinto.includes = kinto.plugins.accounts
kinto.userid_hmac_secret = made-up
multiauth.policies = account
multiauth.policy.account.use = kinto.plugins.accounts.AccountsPolicy
kinto.account_create_principals = system.Everyone
kinto.bucket_create_principals = system.Authenticated
kinto.paginate_by = 100
"""


@pytest.fixture(scope="module")
def kinto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not KINTO.exists():
        pytest.skip("Kinto is not installed: `make servers` installs it into .venv-kinto")
    folder, port = tmp_path_factory.mktemp("kinto"), free_port()
    (folder / "kinto.ini").write_text(CONFIGURATION)
    auth, headers = basic("rmm")
    server = Server(f"http://127.0.0.1:{port}/v1", auth, headers)
    other = Server(server.url, *basic("other"))
    command = [str(KINTO), "start", "--ini", str(folder / "kinto.ini"), "--port", str(port)]
    with running(command, folder, lambda: server.ask("/__heartbeat__", Authorization="")):
        for user in ("rmm", "other"):
            server.ask(f"/accounts/{user}", "PUT", {"data": {"password": PASSWORD}}, Authorization="")
        fill(server, "many", RECORDS)
        fill(server, "full", 300)
        fill(server, "none", 0)
        other.ask("/buckets/secret", "PUT")
        other.ask("/buckets/secret/collections/records", "PUT")
        yield server


def fill(server: Server, bucket: str, records: int) -> None:
    """Creates a bucket with a collection `c` of that many records."""
    server.ask(f"/buckets/{bucket}", "PUT")
    server.ask(f"/buckets/{bucket}/collections/c", "PUT")
    change(server, bucket, "PUT", [{"id": f"r{number:05}", "n": number, "tags": ["ü"]} for number in range(records)])


def change(server: Server, bucket: str, method: str, records: list[dict[str, Any]]) -> None:
    """Writes records, or deletes them."""
    for start in range(0, len(records), 25):
        requests = [
            {
                "path": f"/buckets/{bucket}/collections/c/records/{record['id']}",
                "method": method,
                "body": {"data": record},
            }
            for record in records[start : start + 25]
        ]
        responses = server.ask("/batch", "POST", {"requests": requests})["responses"]
        assert all(response["status"] < 300 for response in responses)


def held(server: Server, bucket: str) -> list[dict[str, Any]]:
    """Returns a collection's records by id, read one by one."""
    path = f"/buckets/{bucket}/collections/c/records"
    numbers = range(RECORDS + 100)
    found = []
    for start in range(0, len(numbers), 25):
        requests = [{"path": f"{path}/r{number:05}"} for number in numbers[start : start + 25]]
        responses = server.ask("/batch", "POST", {"requests": requests})["responses"]
        found += [response["body"]["data"] for response in responses if response["status"] == 200]
    return found


def records(bucket: str, **changes: Any) -> Endpoint:
    """Returns the endpoint of a collection's records; a key that is None is left out."""
    path = f"/buckets/{bucket}/collections/c/records"
    endpoint = {
        "path": path,
        "data_selector": "data",
        "paginator": {"type": "header_cursor", "cursor_key": "Next-Page"},
        "count": {"path": path, "method": "HEAD", "total_header": "Total-Records"},
        **changes,
    }
    return {name: value for name, value in endpoint.items() if value is not None}


def as_landed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "tags": json.dumps(row["tags"], ensure_ascii=False)} for row in rows]


@pytest.mark.parametrize("size", [None, 37, 100, 500], ids=str)
def test_kinto_is_read_to_the_last_record(kinto: Server, size: int | None, tmp_path: Path) -> None:
    made = kinto.connection(resource("tried", "id", records("many", params={"_limit": size} if size else None)))
    outcome = kinto.load(tmp_path, made, "tried")
    assert (outcome.report.complete, outcome.report.evidence) == (True, Evidence.STATED_TOTAL)
    assert rows_of(tmp_path, "tried") == as_landed(held(kinto, "many"))
    assert outcome.row_count == RECORDS


def test_header_link_is_red_at_kinto_and_names_its_header(kinto: Server, tmp_path: Path) -> None:
    for count in (None, records("many")["count"]):
        made = kinto.connection(resource("tried", "id", records("many", paginator="header_link", count=count)))
        with pytest.raises(
            (PagingError, IncompleteError), match="links_next_key `next` was not found in any response; `Next-Page` was"
        ):
            kinto.load(tmp_path, made, "tried")
        assert rows_of(tmp_path, "tried") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"count": None},
        {"paginator": {"type": "header_cursor", "cursor_key": "Next-Page", "cursor_param": "_token"}},
        {"paginator": {"type": "header_cursor", "cursor_key": "X-Next-Page"}},
        {"paginator": {"type": "header_cursor", "cursor_key": "ETag", "cursor_param": "_token"}},
        {"paginator": {"type": "header_cursor", "cursor_key": "ETag", "cursor_param": "_before"}, "count": None},
        {"paginator": {"type": "cursor", "cursor_path": "next", "cursor_param": "_token"}},
        {"paginator": {"type": "cursor", "cursor_path": "data.[-1].last_modified", "cursor_param": "_to"}},
        {"paginator": {"type": "cursor", "cursor_path": "data.[-1].id", "cursor_param": "gt_id"}, "count": None},
        {"paginator": {"type": "json_link", "next_url_path": "next"}},
        {"paginator": "single_page"},
        {"paginator": "single_page", "count": None},
        {"paginator": "single_page", "count": None, "params": {"_limit": 50}},
        {"paginator": "single_page", "count": None, "params": {"_limit": 7}},
        {"paginator": {"type": "offset", "limit": 100}},
        {"paginator": {"type": "offset", "limit": 100, "limit_param": "_limit"}, "count": None},
        {"paginator": {"type": "offset", "limit": 100, "limit_param": "_limit", "offset_param": "_offset"}},
        {"paginator": {"type": "offset", "limit": 100, "limit_param": "_limit", "offset_param": "min_n"}},
        {
            "paginator": {"type": "offset", "limit": 100, "limit_param": "_limit", "offset_param": "min_n", "total_path": None},
            "count": None,
        },
        {
            "paginator": {"type": "offset", "limit": 100, "limit_param": "_limit", "offset_param": "min_n", "total_path": None},
            "params": {"_sort": "n"},
            "count": None,
        },
        {"paginator": {"type": "page_number", "base_page": 1}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": None}, "count": None},
        {"paginator": {"type": "page_number", "base_page": 0, "page_param": "_page"}},
        {"paginator": {"type": "page_number", "base_page": 0, "page_param": "n", "total_path": None}, "count": None},
        {"data_selector": None},
        {"data_selector": "$"},
        {"data_selector": "records"},
        {"count": {"path": "/buckets/many/collections/c/records", "total_path": "total"}},
        {"count": {"path": "/buckets/full/collections/c/records", "method": "HEAD", "total_header": "Total-Records"}},
        {"params": {"_fields": "n"}},
        {"params": {"_sort": "n"}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_kinto_is_read_completely_or_red_however_it_is_misconfigured(
    kinto: Server, changes: Endpoint, tmp_path: Path
) -> None:
    everything = {f"r{number:05}" for number in range(RECORDS)}
    how = complete_or_red(kinto, tmp_path, records("many", **changes), "id", everything)
    print(f"\n{json.dumps(changes)}: {how}", file=sys.stderr)


def test_a_full_last_page_of_kinto_ends_by_its_count_or_in_smaller_pages(kinto: Server, tmp_path: Path) -> None:
    everything = {f"r{number:05}" for number in range(300)}
    assert complete_or_red(kinto, tmp_path, records("full"), "id", everything) == str(Evidence.STATED_TOTAL)
    endpoint = records("full", count=None)
    assert complete_or_red(kinto, tmp_path / "red", endpoint, "id", everything) == "red"
    endpoint["params"] = {"_limit": 100}
    (tmp_path / "smaller").mkdir()
    assert complete_or_red(kinto, tmp_path / "smaller", endpoint, "id", everything) == str(Evidence.TWO_READS)


@pytest.mark.parametrize("paginator", [None, "header_link", "single_page"], ids=str)
def test_an_empty_collection_of_kinto_is_green_and_says_so(kinto: Server, paginator: Any, tmp_path: Path) -> None:
    for count in ({}, {"count": None}):
        endpoint = records("none", **({} if paginator is None else {"paginator": paginator}), **count)
        outcome = kinto.load(tmp_path, kinto.connection(resource("tried", "id", endpoint)), "tried")
        assert (outcome.report.complete, outcome.report.empty, outcome.row_count) == (True, True, 0)


def test_a_bucket_that_the_key_may_not_read_is_red_unless_ignored(kinto: Server, tmp_path: Path) -> None:
    endpoint = records("secret", count=None)
    with pytest.raises(TransportError, match="HTTP 403: the key may not read this"):
        kinto.load(tmp_path, kinto.connection(resource("tried", "id", endpoint)), "tried")
    ignoring = {**endpoint, "response_actions": [{"status_code": 403, "action": "ignore"}]}
    outcome = kinto.load(tmp_path, kinto.connection(resource("tried", "id", ignoring)), "tried")
    assert (outcome.report.ignored, outcome.row_count) == (403, 0)


def test_a_key_that_loses_its_rights_marks_nothing(kinto: Server, tmp_path: Path) -> None:
    fill(kinto, "lost", 31)
    ignoring = records("lost", count=None, response_actions=[{"status_code": 403, "action": "ignore"}])
    made = kinto.connection(resource("tried", "id", ignoring))
    assert kinto.load(tmp_path, made, "tried").row_count == 31
    other = Server(kinto.url, *basic("other"))
    with pytest.raises(SuspiciousLossError, match="if the key has lost permissions"):
        other.load(tmp_path, other.connection(resource("tried", "id", ignoring)), "tried")
    assert (len(rows_of(tmp_path, "tried")), absent(tmp_path, "tried")) == (31, set())
    with pytest.raises(TransportError, match="HTTP 403"):
        other.load(tmp_path, other.connection(resource("tried", "id", records("lost"))), "tried")


def test_a_conditional_request_that_is_not_modified_is_red(kinto: Server, tmp_path: Path) -> None:
    with urlopen(Request(f"{kinto.url}/buckets/many/collections/c/records", headers=kinto.headers)) as answer:
        etag = answer.headers["ETag"]
    made = kinto.connection(resource("tried", "id", records("many", headers={"If-None-Match": etag}, count=None)))
    with pytest.raises(TransportError, match="HTTP 304: not modified; remove If-None-Match and If-Modified-Since"):
        kinto.load(tmp_path, made, "tried")


def test_deletions_arrive_as_tombstones(kinto: Server, tmp_path: Path) -> None:
    fill(kinto, "fleet", 250)
    incremental = {"cursor_path": "last_modified", "start_param": "_since", "initial_value": 0}
    made = kinto.connection(
        resource(
            "tried",
            "id",
            records("fleet", count=None, incremental=incremental),
            columns={"deleted": {"data_type": "bool", "hard_delete": True}},
        )
    )
    deleted = [{"id": f"r{number:05}"} for number in range(0, 250, 5)]
    changed = [{"id": f"r{number:05}", "n": -number, "tags": []} for number in range(1, 270, 2)]

    def landed() -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "deleted"} for row in rows_of(tmp_path, "tried")]

    assert kinto.load(tmp_path, made, "tried").report.complete
    assert landed() == as_landed(held(kinto, "fleet"))
    change(kinto, "fleet", "DELETE", deleted)
    change(kinto, "fleet", "PUT", [row for row in changed if row not in deleted])
    outcome = kinto.load(tmp_path, made, "tried")
    assert (outcome.report.complete, outcome.rows_rejected) == (True, 0)
    assert landed() == as_landed(held(kinto, "fleet"))


def test_records_of_every_collection_are_read_through_their_parents(kinto: Server, tmp_path: Path) -> None:
    page = {"data_selector": "data", "paginator": {"type": "header_cursor", "cursor_key": "Next-Page"}}
    buckets: Endpoint = {"path": "/buckets", **page}
    collections: Endpoint = {"path": "/buckets/{resources.buckets.id}/collections", **page}
    rows: Endpoint = {
        "path": "/buckets/{resources.buckets.id}/collections/c/records",
        **page,
        "params": {"_limit": 90},
    }
    made = kinto.connection(
        resource("buckets", "id", buckets),
        resource("collections", ["_buckets_id", "id"], collections, include_from_parent=["id"]),
        resource("records", ["_buckets_id", "id"], rows, include_from_parent=["id"]),
    )
    names = {row["id"] for row in kinto.ask("/buckets")["data"]}
    assert "secret" not in names
    for name in ("buckets", "collections", "records"):
        assert kinto.load(tmp_path, made, name).report.complete
    assert {row["id"] for row in rows_of(tmp_path, "buckets")} == names
    assert {(row["_buckets_id"], row["id"]) for row in rows_of(tmp_path, "collections")} == {(n, "c") for n in names}
    found = {(row["_buckets_id"], row["id"]) for row in rows_of(tmp_path, "records")}
    assert found == {(name, row["id"]) for name in names for row in held(kinto, name)}


def test_a_record_that_moves_to_the_front_during_the_read_is_not_missed(kinto: Server, tmp_path: Path) -> None:
    """Kinto sorts by the time of the last change, so a record that changes is on a page that was already read."""
    fill(kinto, "moving", 300)

    def before(page: int) -> None:
        if page == 2:
            change(kinto, "moving", "PUT", [{"id": f"r{number:05}", "n": -1, "tags": []} for number in range(5)])

    with meddling(kinto, before) as server:
        made = server.connection(resource("tried", "id", records("moving")))
        outcome = server.load(tmp_path, made, "tried")
    assert (outcome.report.complete, outcome.report.passes) == (True, 2)
    assert rows_of(tmp_path, "tried") == as_landed(held(kinto, "moving"))


def test_a_record_that_is_written_and_deleted_during_the_read_changes_nothing(kinto: Server, tmp_path: Path) -> None:
    fill(kinto, "busy", 250)

    def before(page: int) -> None:
        if page == 2:
            change(kinto, "busy", "DELETE", [{"id": f"r{number:05}"} for number in (0, 100, 249)])
            change(kinto, "busy", "PUT", [{"id": f"r{number:05}", "n": number, "tags": []} for number in (300, 301)])

    with meddling(kinto, before) as server:
        outcome = server.load(tmp_path, server.connection(resource("tried", "id", records("busy"))), "tried")
    assert outcome.report.complete
    assert rows_of(tmp_path, "tried") == as_landed(held(kinto, "busy"))


def test_kinto_refuses_a_wrong_password(kinto: Server, tmp_path: Path) -> None:
    with pytest.raises(HTTPError):
        kinto.ask("/buckets", Authorization=basic("nobody")[1]["Authorization"])
    nobody = Server(kinto.url, *basic("nobody"))
    with pytest.raises(TransportError, match="HTTP 401: the API refused the key"):
        nobody.load(tmp_path, nobody.connection(resource("tried", "id", records("many"))), "tried")
