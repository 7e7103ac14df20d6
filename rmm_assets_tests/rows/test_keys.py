"""Tests that two rows have the same key exactly if their keys are stored as the same value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.keys import NO_KEY, row_keys
from rmm_assets.rows.shape import RowShape
from rmm_assets_tests.examples import examples
from rmm_assets_tests.rows.landing import land


def different(rows: list[Any], key: tuple[str, ...] = ("id",), **shape: Any) -> int:
    for exact in (False, True):
        page = read_page(json.dumps(rows).encode(), None, exact=exact)
        found = len(set(row_keys(page, RowShape("t", key, **shape)).tolist()))
    return found


@pytest.mark.parametrize("values", [[1, "1", 1.0], ["true", True], [1e22, "1e+22"], [0.5, "0.5"], [0.0, -0.0, 0]])
def test_values_stored_as_the_same_value_are_one_key(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"id": value} for value in values]
    assert different(rows) == 1
    for exact in (False, True):
        assert len(land(tmp_path / str(exact), [rows], key="id", exact=exact).rows) == 1


@pytest.mark.parametrize(
    "values", [[1, True], ["a", "a "], ["", " "], [2**53, 2**53 + 1], [2**64, 2**64 + 1], ["1", "01"], ["é", "e\u0301"]]
)
def test_values_that_differ_in_the_table_are_two_keys(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"id": value} for value in values]
    assert different(rows) == len(values)
    assert len(land(tmp_path, [rows], key="id").rows) == len(values)


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": "a", "b": "b"}, {"a": "ab", "b": ""}, {"a": "", "b": "ab"}],
        [{"a": 1, "b": 11}, {"a": 11, "b": 1}, {"a": 111, "b": 111}],
        [{"a": "\0", "b": ""}, {"a": "", "b": "\0"}, {"a": "\0\0", "b": "\0"}],
    ],
)
def test_parts_of_a_composite_key_keep_their_places(rows: list[Any]) -> None:
    assert different(rows, ("a", "b")) == 3


@pytest.mark.parametrize(
    ("values", "landed"),
    [
        (["2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00"], 1),
        (["2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "never"], 3),
        ([2**60, float(2**60)], 1),
        ([2**60, float(2**60), 2**60 + 1], 3),
    ],
)
def test_two_spellings_of_a_key_are_one_row_if_the_column_stores_them_as_one_value(
    tmp_path: Path, values: list[Any], landed: int
) -> None:
    result = land(tmp_path, [[{"id": value} for value in values]], key="id")
    assert len(result.rows) == landed == len({str(row["id"]) for row in result.rows})


def test_a_list_as_a_primary_key_is_rejected_and_differs_from_equal_text(tmp_path: Path) -> None:
    for exact in (False, True):
        result = land(
            tmp_path / str(exact), [[{"id": "[1]"}, {"id": [1]}, {"id": "1"}, {"id": {"a": 1}}]], key="id", exact=exact
        )
        assert result.rows == [{"id": "[1]"}, {"id": "1"}]
        assert [reason for _, reason in result.rejected] == [
            "id: a list or an object is not a primary key",
            "id: missing or null, and it is the primary key",
        ]
        assert result.spool.keyless == 2


def test_a_lone_surrogate_in_a_key_is_not_a_key(tmp_path: Path) -> None:
    body = b'[{"id":"\\ud800"},{"id":"\\udc00"},{"id":"a"}]'
    result = land(tmp_path, [body], key="id")
    assert result.rows == [{"id": "a"}]
    assert result.spool.keyless == 2


@settings(max_examples=examples(50, 200), deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(), st.booleans(), st.text(), st.floats(allow_nan=False, allow_infinity=False)),
        min_size=2, max_size=6,
    )
)  # fmt: skip
def test_rows_are_loaded_once_per_key_value_in_the_table(tmp_path_factory: Any, values: list[Any]) -> None:
    rows = [{"id": value} for value in values]
    result = land(tmp_path_factory.mktemp("keys"), [rows[:2], rows[2:]], key="id")
    landed = [repr(row["id"]) for row in result.rows]
    assert len(set(landed)) == len(landed)
    assert result.spool.distinct >= len(landed)


def test_a_row_without_a_key_is_rejected_with_that_reason() -> None:
    page = read_page(b'[{"id":null},{},{"id":0}]', None)
    assert (row_keys(page, RowShape("t", ("id",))) == NO_KEY).tolist() == [True, True, False]
