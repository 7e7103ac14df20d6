"""Tests that different rows with the same key make a read red and are named, unless the row changed during the read."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.errors import ConflictingRowsError
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, ids, resource, rows_of, run

pytestmark = pytest.mark.slow

SINGLE = {"paginator": "single_page"}


def serving(rows: list[Row]) -> Scripted:
    return Scripted(lambda _: Say({"data": rows}))


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
@pytest.mark.parametrize("disposition", ["merge", "append", "replace"])
def test_different_rows_with_the_same_key_are_red_and_named(disposition: str, normalizer: str, tmp_path: Path) -> None:
    made = connection(resource(endpoint=SINGLE, write_disposition=disposition, normalizer=normalizer))
    rows = [{"id": 0, "agent": number // 10, "day": number} for number in range(108)]
    with serving([{"id": 7, "agent": 1}, *rows]) as server, pytest.raises(ConflictingRowsError) as caught:
        run(tmp_path, server.url, made)
    assert "devices: rows share the primary key (id) but differ" in str(caught.value)
    assert "id=0" in str(caught.value)
    assert rows_of(tmp_path) == []


def test_identical_repeated_rows_are_loaded_once(tmp_path: Path) -> None:
    rows = [{"id": number, "name": "x", "tags": [{"a": 1, "b": 2}]} for number in range(5)]
    again = [{"tags": [{"b": 2, "a": 1}], "name": "x", "id": 3}]
    with serving([*rows, *again]) as server:
        outcome = run(tmp_path, server.url, connection(resource(endpoint=SINGLE)))
    assert ids(rows_of(tmp_path)) == list(range(5))
    assert outcome.report.duplicates == 1


def test_a_key_that_is_only_unique_per_parent_is_red_with_a_remedy(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        parts = urlsplit(seen.target).path.split("/")
        if parts[-1] == "tickets":
            return Say({"data": [{"id": number} for number in range(1, 21)]})
        return Say({"data": [{"id": number, "note": f"{parts[-2]}/{number}"} for number in range(1, 6)]})

    def made(**changes: Any) -> Any:
        endpoint = {**SINGLE, "path": "/tickets/{resources.tickets.id}/actions"}
        return connection(
            resource("tickets", endpoint={**SINGLE, "path": "/tickets"}), resource(endpoint=endpoint, **changes)
        )

    with Scripted(answer) as server:
        with pytest.raises(
            ConflictingRowsError, match=r"the parent's field \(include_from_parent\) may be a part of it"
        ):
            run(tmp_path, server.url, made())
        assert rows_of(tmp_path) == []
        run(tmp_path, server.url, made(primary_key=["_tickets_id", "id"], include_from_parent=["id"]))
    assert len(rows_of(tmp_path)) == 100


def test_different_parents_with_the_same_key_make_the_child_red(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        if urlsplit(seen.target).path == "/tickets":
            return Say({"data": [{"id": 0, "code": "a"}, {"id": 0, "code": "b"}]})
        return Say({"data": [{"id": seen.target}]})

    endpoint = {**SINGLE, "path": "/tickets/{resources.tickets.code}/actions"}
    made = connection(resource("tickets", endpoint={**SINGLE, "path": "/tickets"}), resource(endpoint=endpoint))
    with Scripted(answer) as server, pytest.raises(ConflictingRowsError, match="tickets: rows share the primary key"):
        run(tmp_path, server.url, made)


def test_a_row_that_changes_during_the_read_is_not_a_conflict(tmp_path: Path) -> None:
    # A new row moves another across the boundary, which changes once before it is sent again.
    asked: list[str] = []
    first, second = (
        [{"id": 2, "name": "old"}, {"id": 1, "name": "x"}],
        [{"id": 1, "name": "new"}, {"id": 3, "name": "x"}],
    )

    def answer(seen: Seen) -> Say:
        page = dict(parse_qsl(urlsplit(seen.target).query)).get("cursor", "")
        asked.append(page)
        steady = len(asked) > 2
        pages = {
            "": {"data": [*first[:1], {"id": 1, "name": "new"}] if steady else first, "next": "b"},
            "b": {"data": second[1:] if steady else second, "next": None},
        }
        return Say(pages[page])

    paginator = {"type": "cursor", "cursor_path": "next", "cursor_param": "cursor"}
    with Scripted(answer) as server:
        run(tmp_path, server.url, connection(resource(endpoint={"paginator": paginator})))
    assert [(row["id"], row["name"]) for row in rows_of(tmp_path)] == [(1, "new"), (2, "old"), (3, "x")]


def test_with_on_incomplete_warn_one_row_per_key_is_loaded_and_the_read_incomplete(tmp_path: Path) -> None:
    rows = [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]
    with serving(rows) as server:
        outcome = run(tmp_path, server.url, connection(resource(endpoint=SINGLE, on_incomplete="warn")))
    assert len(rows_of(tmp_path)) == 1
    assert not outcome.report.complete
    assert "rows share the primary key (id) but differ" in outcome.report.reason
