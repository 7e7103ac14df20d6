"""Tests that the changes of a load are counted at the destination, by comparison with the previous table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import pytest

from rmm_assets.tables.changes import Changes, compare, forget, remember
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table

pytestmark = pytest.mark.slow


class Loader:
    """Merges rows into a table with dlt."""

    def __init__(self, folder: Path) -> None:
        store = Store("duckdb", str(folder / "here.duckdb"), "acme", folder / "work")
        self.pipeline = store.pipeline("acme__devices")

    def load(self, rows: list[dict[str, Any]]) -> str:
        resource = dlt.resource(rows, name="devices", primary_key="id", write_disposition="merge")
        return self.pipeline.run(resource).loads_ids[0]

    def table(self) -> Iterator[Table]:
        with self.pipeline.sql_client() as client:
            yield Table(client, "devices")

    def remember(self) -> bool:
        return next(remember(table) for table in self.table())

    def compare(self, load_id: str) -> Changes:
        return next(compare(table, ["id"], load_id) for table in self.table())

    def tables(self) -> set[str]:
        with self.pipeline.sql_client() as client:
            return {row[0] for row in client.execute_sql("SELECT table_name FROM information_schema.tables") or ()}


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


def test_nothing_is_copied_before_the_first_load(loader: Loader) -> None:
    assert loader.remember() is False


def test_new_changed_and_equal_rows_are_distinguished(loader: Loader) -> None:
    loader.load([{"id": 1, "name": "a", "load": 1.5}, {"id": 2, "name": "b", "load": None}, {"id": 3, "name": "c"}])
    assert loader.remember() is True
    load_id = loader.load(
        [
            {"id": 1, "name": "a", "load": 1.5},
            {"id": 2, "name": "b", "load": 0.0},
            {"id": 3, "name": None},
            {"id": 4, "name": "d"},
        ]
    )
    assert loader.compare(load_id) == Changes(new=1, changed=2)


def test_a_value_in_a_new_column_is_a_change_but_a_null_is_not(loader: Loader) -> None:
    loader.load([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    loader.remember()
    load_id = loader.load([{"id": 1, "name": "a", "site": "HQ"}, {"id": 2, "name": "b", "site": None}])
    assert loader.compare(load_id) == Changes(new=0, changed=1)


def test_no_copy_is_left_behind(loader: Loader) -> None:
    loader.load([{"id": 1}])
    loader.remember()
    assert "devices__before" in loader.tables()
    loader.compare(loader.load([{"id": 1}]))
    assert "devices__before" not in loader.tables()


def test_a_copy_that_a_killed_run_left_is_replaced(loader: Loader) -> None:
    loader.load([{"id": 1, "name": "old"}])
    loader.remember()
    loader.load([{"id": 1, "name": "new"}])
    loader.remember()
    assert loader.compare(loader.load([{"id": 1, "name": "new"}])) == Changes(new=0, changed=0)
    for table in loader.table():
        forget(table)
