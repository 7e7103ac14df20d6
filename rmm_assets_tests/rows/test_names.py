"""Tests that every field has a column, whatever its name, and that none is mistaken for one of dlt's or ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.layout import Layout
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID
from rmm_assets_tests.rows.landing import land

RESERVED = [
    LOAD_ID,
    ABSENT_SINCE,
    "_dlt_id",
    "_dlt_parent_id",
    "_dlt_list_idx",
    "_dlt_root_id",
    "_DltLoadId",
    "_dlt_valid_to",
]


@pytest.mark.parametrize("name", RESERVED)
def test_a_field_with_a_reserved_name_gets_a_stable_other_name(tmp_path: Path, name: str) -> None:
    rows = [{"id": 1, name: "theirs", "n": {name: "inner"}}]
    for exact in (False, True):
        result = land(tmp_path / str(exact), [rows], key="id", exact=exact)
        [other] = set(result.types) - {"id", f"n__{Layout(RowShape('t')).column_name(('x', name))[3:]}"}
        assert re.fullmatch(r"_\w+_[0-9a-f]{6}", other)
        assert other == Layout(RowShape("other")).column_name((name,))
        assert result.rows[0][other] == "theirs"
        assert "inner" in result.rows[0].values()


@pytest.mark.parametrize("name", ["__", "_", "", " ", "$", "%%", "日本"])
def test_a_field_with_an_empty_or_symbolic_name_has_a_column(tmp_path: Path, name: str) -> None:
    result = land(tmp_path, [[{"id": 1, name: "v"}]], key="id")
    assert sorted(map(str, result.rows[0].values())) == ["1", "v"]
    assert all(re.fullmatch(r"\w+", column) for column in result.types)


@pytest.mark.parametrize(
    "row",
    [
        {"Name": "a", "name": "b"}, {"name": "b", "Name": "a"}, {"Na-me": "a", "na me": "b", "na_me": "c"},
        {"": 1, "__": 2, " ": 3},
        {"_dlt_id": 1, "_DltId": 2}, {"a": {"b": 1}, "a__b": 2}, {"a": {"B": 1, "b": 2}}, {"tags": [1], "Tags": [2]},
        {"日": 1, "本": 2}, {"x": None, "X": 1, "x_": 2},
    ],
)  # fmt: skip
def test_both_values_are_kept_if_two_fields_have_the_same_name(tmp_path: Path, row: dict[str, Any]) -> None:
    def values(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for inner in value.values() for text in values(inner)]
        return [json.dumps(value)] if value is not None else []

    for exact in (False, True):
        [landed] = land(tmp_path / str(exact), [[{"id": "k", **row}]], key="id", exact=exact).rows
        found = [value if isinstance(row.get(name), list) or str(value)[:1] == "[" else json.dumps(value)
                 for name, value in landed.items()]  # fmt: skip
        assert sorted(found) == sorted(values({"id": "k", **row}))


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"id": 1, "v": {"_dlt_id": 1, "A": 1, "a": 2}}, ["id", "v"]),
        ({"id": 1, "Name": "a", "name": "b"}, ["id", "name_[0-9a-f]{6}", "name"]),
        ({"id": 1, "name": "a", "Name": None}, ["id", "name", "name_[0-9a-f]{6}"]),
        (
            {"id": 1, "_dlt_load_id": 5, "_absent_since": 6},
            ["id", "_dlt_load_id_[0-9a-f]{6}", "_absent_since_[0-9a-f]{6}"],
        ),
    ],
)
def test_rows_for_dlts_own_normalizer_lose_no_field_to_another(
    tmp_path: Path, row: dict[str, Any], names: list[str]
) -> None:
    spool = RecordSpool(RowShape("t", ("id",)), tmp_path)
    spool.add(read_page(json.dumps([row, {"id": 2}]).encode(), None))
    [[found, other]] = spool.records()
    assert list(found.values()) == list(row.values())
    assert all(re.fullmatch(name, column) for name, column in zip(names, found, strict=True))
    assert other == {"id": 2}


def test_a_lone_surrogate_is_also_rejected_before_dlts_normalizer(tmp_path: Path) -> None:
    spool = RecordSpool(RowShape("t", ("id",)), tmp_path)
    spool.add(read_page(b'[{"id":"a","v":"\\ud800"},{"id":"\\udc00"},{"id":"b","v":"\\ud83d\\ude00"}]', None))
    assert [row["id"] for batch in spool.records() for row in batch] == ["b"]
    assert spool.rejected_rows == 2
    assert spool.rejected_keys().to_pylist() == [{"id": "a"}]
    assert "\\ud800" in next(iter(spool.rejected()))["row_json"][0].as_py()
