"""Tests that row ids equal dlt's for the same keys and positions."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest
from dlt.common.normalizers.json.helpers import get_nested_row_hash, get_row_hash

from rmm_assets.rows.ids import item_ids, key_ids, random_ids


@pytest.mark.parametrize(
    "values",
    [
        [0, -1, 2**63 - 1, -(2**63)],
        ["", "a", "ü", "😀", "it's", 'say "hi"', "back\\slash", "line\nbreak", "\x7f", "\0"],
        [0.5, 1.0, 1e300],
        [True, False],
        [datetime.datetime(2024, 5, 1, 10, 11, 12, 5, datetime.UTC)],
    ],
)
def test_an_id_is_dlt_s_hash_of_the_key(values: list[Any]) -> None:
    table = pa.table({"b": values, "a": pa.array(range(len(values))), "other": ["x"] * len(values)})
    assert key_ids(table, ("b",)).to_pylist() == [get_row_hash({"b": value}, ["b"]) for value in values]
    both = [get_row_hash(row, ["b", "a"]) for row in table.to_pylist()]
    assert key_ids(table, ("b", "a")).to_pylist() == key_ids(table, ("a", "b")).to_pylist() == both


def test_an_item_s_id_is_dlt_s_hash_of_its_position() -> None:
    parents, positions = random_ids(4), pa.array([0, 1, 10, 12345])
    assert item_ids(parents, "devices__disks", positions).to_pylist() == [
        get_nested_row_hash(parent, "devices__disks", position)
        for parent, position in zip(parents.to_pylist(), positions.to_pylist())
    ]


def test_no_rows_have_no_ids() -> None:
    nothing = pa.table({"id": pa.array([], pa.int64())})
    assert len(key_ids(nothing, ("id",))) == len(item_ids(random_ids(0), "t", nothing["id"].combine_chunks())) == 0
