"""Tests that rows collected for dlt's own normalizer keep the same promises as the Arrow spool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape


def spooled(folder: Path, *pages: list[Any] | bytes, key: tuple[str, ...] = ("id",)) -> RecordSpool:
    spool = RecordSpool(RowShape("devices", key), folder)
    for page in pages:
        spool.add(read_page(page if isinstance(page, bytes) else json.dumps(page).encode(), None))
    return spool


def rows_in(spool: RecordSpool) -> list[Any]:
    return [row for batch in spool.records() for row in batch]


def test_a_repeated_key_is_loaded_once_as_last_received(tmp_path: Path) -> None:
    spool = spooled(tmp_path, [{"id": 1, "v": "old"}, {"id": 2}], [{"id": 1, "v": "new"}])
    assert rows_in(spool) == [{"id": 2}, {"id": 1, "v": "new"}]
    assert (spool.rows, spool.distinct, spool.keyless) == (3, 2, 0)


def test_rows_without_a_key_and_non_rows_are_rejected_with_reason_and_page(tmp_path: Path) -> None:
    spool = spooled(tmp_path, [{"id": 1}, {"v": 1}], [{"id": None}, "text", {"id": 2}])
    assert rows_in(spool) == [{"id": 1}, {"id": 2}]
    assert spool.rejected_rows == 3
    rejected = [row for part in spool.rejected() for row in part.drop_columns("rejection_id").to_pylist()]
    assert rejected == [
        {"row_json": '{"v":1}', "reason": "the primary key id is missing or null", "page": 1},
        {"row_json": '{"id":null}', "reason": "the primary key id is missing or null", "page": 2},
        {"row_json": '"text"', "reason": "not an object", "page": 2},
    ]


def test_values_are_returned_exactly_or_as_text_if_no_type_fits(tmp_path: Path) -> None:
    body = (
        b'[{"id": 1, "wide": 9007199254740993, "huge": 123456789012345678901234567890, "text": "\\u00fc\\n\\u2028",'
        b' "nested": {"list": [1, null, {"a": ""}]}, "beyond": 1e400}]'
    )
    [row] = rows_in(spooled(tmp_path, body))
    assert row == {
        "id": 1, "wide": 9007199254740993, "huge": "123456789012345678901234567890", "text": "ü\n\u2028",
        "nested": {"list": [1, None, {"a": ""}]}, "beyond": "1E+400",
    }  # fmt: skip


def test_clearing_forgets_everything(tmp_path: Path) -> None:
    spool = spooled(tmp_path, [{"id": 1}, {"v": 1}])
    spool.clear()
    assert (spool.rows, spool.distinct, spool.rejected_rows, rows_in(spool)) == (0, 0, 0, [])


def test_fingerprint_distinguishes_sets_and_sequence_distinguishes_orders(tmp_path: Path) -> None:
    one = spooled(tmp_path / "1", [{"id": 1}, {"id": 2}])
    other = spooled(tmp_path / "2", [{"id": 2}], [{"id": 1}])
    third = spooled(tmp_path / "3", [{"id": 2}, {"id": 3}])
    assert one.fingerprint() == other.fingerprint() != third.fingerprint()
    assert one.sequence() != other.sequence()


def test_without_a_primary_key_rows_that_a_page_repeats_are_kept(tmp_path: Path) -> None:
    spool = spooled(tmp_path, [{"v": 1}, {"v": 1}, {"v": 2}], key=())
    assert rows_in(spool) == [{"v": 1}, {"v": 1}, {"v": 2}]
