"""Tests maps of rows: each row lands with its key in the map, and nothing is lost or taken for a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.errors import TransportError
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.syncing import connection, read, resource, rows_of, run

USERS: dict[str, dict[str, Any]] = {
    "alice": {"size": 2**63 + 1, "at": 1.5},
    "bob": {"size": 7, "at": None},
    "": {"size": 0},
}
# Integers that 64 bits do not hold become text.
ROWS = [{"name": name, **row, **({"size": str(row["size"])} if name == "alice" else {})} for name, row in USERS.items()]


def made(selector: str | None = "data.users", **endpoint: Any) -> Any:
    endpoint = {"data_selector": selector, "paginator": "single_page", "map_key": "name", **endpoint}
    return connection(resource(endpoint=endpoint, primary_key="name"))


@pytest.mark.parametrize(("selector", "body"), [("data.users", {"data": {"users": USERS}, "n": 3}), ("$", USERS)])
def test_each_row_of_a_map_has_its_key(selector: str, body: Any, tmp_path: Path) -> None:
    with Scripted(lambda _: Say(body)) as server:
        report, rows = read(tmp_path, server.url, made(selector))
    assert rows == ROWS
    assert report.complete


@pytest.mark.slow
def test_a_map_is_loaded_and_audited(tmp_path: Path) -> None:
    with Scripted(lambda _: Say({"data": {"users": USERS}})) as server:
        run(tmp_path, server.url, made())
        result = audited(tmp_path, server.url, made())
    assert sorted((row["name"], row["at"]) for row in rows_of(tmp_path)) == [("", None), ("alice", 1.5), ("bob", None)]
    assert [number for number in result.found.values() if number] == []
    assert result.rows_api == 3


def test_an_empty_map_has_no_rows_and_a_list_is_read_as_one(tmp_path: Path) -> None:
    bodies: list[Any] = [{"data": {"users": {}}}, {"data": {"users": []}}, {"data": {"users": [{"name": "carol"}]}}]
    found = []
    for number, body in enumerate(bodies):
        with Scripted(lambda _, body=body: Say(body)) as server:  # type: ignore[misc]
            found.append(read(tmp_path / str(number), server.url, made())[1])
    assert found == [[], [], [{"name": "carol"}]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"data": {"users": {"alice": {"size": 1}, "alice": {"size": 2}}}}', "contains a key twice"),
        ('{"data": {"users": {"alice": {"size": 1}, "total": 1}}}', "not a map of rows"),
        ('{"data": {"users": {"alice": {"name": "Alice A."}}}}', "already have a field `name`"),
        ('{"data": {"users": null}}', "is null, not a list"),
        ('{"Status": 403, "Message": "no"}', "has no 'data.users'"),
    ],
)
def test_what_is_not_a_map_of_rows_is_red(body: str, message: str, tmp_path: Path) -> None:
    with (
        Scripted(lambda _: Say(body.encode(), headers=(("Content-Type", "application/json"),))) as server,
        pytest.raises(TransportError, match=message),
    ):
        read(tmp_path, server.url, made())


def test_many_pages_of_maps_are_read(tmp_path: Path) -> None:
    rows = {f"user-{number:03}": {"n": number} for number in range(230)}

    def answer(seen: Any) -> Say:
        at = int(seen.target.partition("offset=")[2].partition("&")[0])
        return Say({"data": {"users": dict(list(rows.items())[at : at + 50])}, "total": 230})

    with Scripted(answer) as server:
        _, found = read(tmp_path, server.url, made(paginator={"type": "offset", "limit": 50}))
    assert found == [{"name": name, **row} for name, row in rows.items()]


@pytest.mark.parametrize(
    "endpoint", [{"data_selector": None}, {"data_selector": "data[*].users"}, {"single_object": True}]
)
def test_a_map_that_the_file_does_not_locate_is_refused(endpoint: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"path of the map|map of rows because of `map_key`"):
        made(**endpoint)
    assert json.dumps(made().resource("devices").as_dlt())
