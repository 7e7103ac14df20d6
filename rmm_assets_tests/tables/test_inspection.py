"""Tests rules about rows in SQL: how many rows were checked, how many are faulty, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rmm_assets.simulator import Simulator
from rmm_assets.tables.inspection import Finding, duplicates, nulls, unaccepted
from rmm_assets.tables.table import Table
from rmm_assets_tests.syncing import connection, resource, run, store_in

ROWS: list[dict[str, Any]] = [
    {"id": 1, "serial": "a", "site": 1, "status": "online", "order": "x"},
    {"id": 2, "serial": "a", "site": 1, "status": "it's on fire", "order": "y"},
    {"id": 3, "serial": "b", "site": 1, "status": None, "order": None},
    {"id": 4, "serial": "b", "site": 2, "status": "offline", "order": "x"},
    *({"id": i, "serial": None, "site": 3, "status": None, "order": str(i)} for i in range(5, 15)),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    folder = tmp_path_factory.mktemp("inspection")
    with Simulator(tables={"devices": ROWS}) as server:
        run(folder, server.base_url, connection(resource(write_disposition="append", primary_key=[])))
    with store_in(folder).pipeline("asked", read_only=True).sql_client() as client:
        yield Table(client, "devices")


def test_duplicates_are_counted_with_examples_and_nulls_do_not_count(table: Table) -> None:
    assert duplicates(table, ["id"]) == Finding(14, 0)
    assert duplicates(table, ["serial"]) == Finding(14, 4, ("a", "b"))
    assert duplicates(table, ["serial", "site"]) == Finding(14, 2, ("a, 1",))


def test_nulls_are_counted_with_at_most_five_keys(table: Table) -> None:
    assert nulls(table, "id", ["id"]) == Finding(14, 0)
    assert nulls(table, "status", ["id"]) == Finding(14, 11, ("3", "5", "6", "7", "8"))


def test_reserved_words_can_be_column_names(table: Table) -> None:
    assert nulls(table, "order", ["order", "id"]) == Finding(14, 1, ("null, 3",))


def test_values_that_are_not_accepted_are_shown_with_their_keys(table: Table) -> None:
    assert unaccepted(table, "status", ["online", "offline"], ["id"]) == Finding(14, 1, ("2, it's on fire",))
    assert unaccepted(table, "status", ["online", "offline", "it's on fire"], ["id"]).passed
    assert unaccepted(table, "site", [1, 2, 3], ["id"]).passed
    assert unaccepted(table, "status", [], ["id"]).at_fault == 3


def test_a_check_of_a_missing_column_fails(table: Table) -> None:
    finding = nulls(table, "owner", ["id"])
    assert not finding.passed
    assert finding == Finding(14, 14, note="the table has no column owner")


def test_a_missing_table_has_no_faulty_rows(table: Table) -> None:
    missing = Table(table.client, "missing")
    for finding in (duplicates(missing, ["id"]), nulls(missing, "id", ["id"]), unaccepted(missing, "id", [1], ["id"])):
        assert finding == Finding(0, 0)
        assert finding.passed
