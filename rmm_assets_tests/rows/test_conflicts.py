"""Tests that different rows with the same key are named, and identical repeated rows are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import Nesting, RowShape
from rmm_assets.rows.spool import Spool


def conflicts(folder: Path, pages: list[Any], key: tuple[str, ...] = ("id",), **shape: Any) -> list[str]:
    """Returns the conflicts that both spools report, which must be equal."""
    found = []
    spools: list[Spool | RecordSpool] = [
        Spool(RowShape("t", key, **shape), folder / "all"),
        Spool(RowShape("t", key, **shape), folder / "one by one", batch_rows=1),
        RecordSpool(RowShape("t", key, **shape), folder / "records"),
    ]
    for number, spool in enumerate(spools):
        for page in pages:
            spool.add(read_page(json.dumps(page).encode(), None, exact=number == 1))
        found.append(list(spool.conflicts()))
    assert found[0] == found[1] == found[2]
    return found[0]


def test_a_key_that_is_only_unique_per_parent_is_named_with_two_examples(tmp_path: Path) -> None:
    pages = [[{"id": action, "ticket": t, "note": f"secret {t}"} for action in range(1, 6)] for t in range(20)]
    assert conflicts(tmp_path, pages) == [
        "id=1: page 1 and page 2 differ in ticket, note",
        "id=2: page 1 and page 2 differ in ticket, note",
        "and 3 more keys like this",
    ]
    assert conflicts(tmp_path / "right", pages, ("ticket", "id")) == []


def test_rows_that_all_have_the_same_id_are_named(tmp_path: Path) -> None:
    rows = [{"id": 0, "agent": i // 10, "date": f"2024-01-{i % 10 + 1:02d}"} for i in range(108)]
    assert conflicts(tmp_path, [rows]) == ["id=0: two rows of page 1 differ in date"]


def test_identical_repeated_rows_are_not_a_conflict(tmp_path: Path) -> None:
    row = {"id": 1, "v": "x", "n": None, "o": {"a": 1, "b": [1, {"c": 2, "d": None}]}}
    again = {"o": {"b": [1, {"d": None, "c": 2}], "a": 1}, "v": "x", "id": 1}
    assert conflicts(tmp_path, [[row, {"id": 2}], [again], [again, {"id": 3, "extra": 1}]]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"v": 1}, {"v": 2}),
        ({"v": 1}, {}),
        ({"v": [1, 2]}, {"v": [2, 1]}),
        ({"o": {"a": 1}}, {"o": {"a": 1, "b": 2}}),
        ({"v": 0.1}, {"v": 0.2}),
        ({"v": True}, {"v": False}),
        ({"v": "2024-01-01T00:00:00Z"}, {"v": "2024-01-02T00:00:00Z"}),
        ({"v": 2**63 - 1}, {"v": 2**63 - 2}),
    ],
)
def test_any_difference_counts(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    [found] = (Spool(RowShape("t", ("id",)), tmp_path, batch_rows=1),)
    for row in (one, {"w": 1}, other):
        found.add(read_page(json.dumps([{"id": 7 if "w" not in row else 8, **row}]).encode(), None))
    [sentence] = found.conflicts()
    assert sentence.startswith("id=7: page 1 and page 3 differ in ")


def test_values_swapped_between_two_columns_are_a_difference(tmp_path: Path) -> None:
    assert conflicts(tmp_path, [[{"id": 1, "a": "x", "b": "y"}, {"id": 1, "a": "y", "b": "x"}]])


def test_rows_that_differ_only_in_their_child_rows_are_named(tmp_path: Path) -> None:
    shape = RowShape("t", ("id",), row_ids="key", nesting=Nesting())

    def found(*lists: Any) -> list[str]:
        spool = Spool(shape, tmp_path / str(len(list(tmp_path.iterdir()))), batch_rows=1)
        for disks in lists:
            spool.add(read_page(json.dumps([{"id": 1, "disks": disks}, {"id": 2, "disks": [1]}]).encode(), None))
        return list(spool.conflicts())

    assert found([{"a": 1, "parts": [1, 2]}, {"a": 2}], [{"a": 1, "parts": [1, 2]}, {"a": 2}]) == []
    named = ["id=1: page 1 and page 2 differ in their lists"]
    assert found([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}]) == named
    assert found([{"a": 1, "parts": [1, 2]}], [{"a": 1, "parts": [1, 3]}]) == named
    assert found([{"a": 1, "parts": [1, 2]}], []) == named


def test_a_conflict_names_the_key_as_stored_and_no_other_value(tmp_path: Path) -> None:
    rows = [{"id": {"no": "x" * 99, "At": n}, "secret": "corp"} for n in (1, 1.0)] + [{"id": {"no": "y"}}]
    rows[1]["secret"] = "inc"
    for key in (("id.no", "id.At"), ("id__no", "id__at")):
        [sentence] = conflicts(tmp_path / key[0], [rows], key)
        assert sentence == f"id__no={'x' * 40}, id__at=1: two rows of page 1 differ in secret"


def test_without_a_primary_key_there_are_no_conflicts(tmp_path: Path) -> None:
    assert conflicts(tmp_path, [[{"v": 1}, {"v": 1}], [{"v": 1}]], ()) == []
