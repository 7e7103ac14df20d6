"""Tests that a read is spooled to disk and returned completely, with each row once."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.keys import NO_KEY, row_keys
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.rows.landing import land

BY_ID = RowShape("t", ("id",))


def keys_of(rows: list[Any], shape: RowShape = BY_ID, *, exact: bool = False) -> list[bytes]:
    return list(row_keys(read_page(json.dumps(rows).encode(), None, exact=exact), shape).tolist())


def test_a_row_received_twice_is_loaded_once_as_last_received(tmp_path: Path) -> None:
    pages = [[{"id": 1, "v": "a"}, {"id": 2, "v": "b"}], [{"id": 2, "v": "c"}, {"id": 3, "v": "d"}]]
    result = land(tmp_path, pages, key="id")
    assert result.rows == [{"id": 1, "v": "a"}, {"id": 2, "v": "c"}, {"id": 3, "v": "d"}]
    assert (result.spool.rows, result.spool.distinct, result.spool.keyless) == (4, 3, 0)


def test_a_row_without_its_key_is_rejected_and_the_reason_names_the_key(tmp_path: Path) -> None:
    pages = [[{"id": 1, "n": {"id": 1}}, {"n": {"id": 2}}], [{"id": None, "n": {"id": 3}}, {"id": 4, "n": None}, None]]
    result = land(tmp_path, pages, key=("id", "n.id"))
    assert result.rows == [{"id": 1, "n__id": 1}]
    assert result.rejected == [
        ({"n": {"id": 2}}, "id: missing or null, and it is the primary key"),
        ({"id": None, "n": {"id": 3}}, "id: missing or null, and it is the primary key"),
        ({"id": 4, "n": None}, "n__id: missing or null, and it is the primary key"),
        (None, "not an object"),
    ]
    assert (result.spool.rows, result.spool.distinct, result.spool.keyless) == (5, 1, 4)
    pages_of_rejects = [row["page"] for part in result.spool.rejected() for row in part.to_pylist()]
    assert pages_of_rejects == [1, 2, 2, 2]


def test_text_that_is_not_unicode_is_rejected_and_kept_escaped(tmp_path: Path) -> None:
    result = land(
        tmp_path, [b'[{"id":1,"v":"\\ud800"},{"id":2,"v":["\\udfff"]},{"id":3,"v":"\\ud83d\\ude00"}]'], key="id"
    )
    assert result.rows == [{"id": 3, "v": "😀"}]
    assert result.rejected == [
        ({"id": 1, "v": "\ud800"}, "it holds text that is not Unicode (half of a surrogate pair)"),
        ({"id": 2, "v": ["\udfff"]}, "it holds text that is not Unicode (half of a surrogate pair)"),
    ]


def test_without_a_primary_key_only_rows_repeated_on_another_page_are_repeats(tmp_path: Path) -> None:
    a, b = {"v": 1, "w": None}, {"v": 2, "w": "x"}
    result = land(tmp_path, [[a, a, b], [b, a, {"v": 1}], []])
    assert (result.spool.rows, result.spool.distinct) == (6, 3)
    assert sorted(row["v"] for row in result.rows) == [1, 1, 2]
    result = land(tmp_path / "empty", [[{"v": 1}, {}, {"v": None}]])
    assert result.rejected == [({}, "no value in it"), ({"v": None}, "no value in it")]


def test_a_key_is_the_same_in_every_page() -> None:
    [alone] = keys_of([{"id": 7}])
    for rows in ([{"id": 7, "v": "x"}, {"id": "a"}], [{"id": "7"}, {"id": 8.5}], [{"id": 7.0}, {"id": 0.5}]):
        for exact in (False, True):
            assert keys_of(rows, exact=exact)[0] == alone
    assert keys_of([{"id": None}, {}]) == [NO_KEY, NO_KEY]


def test_a_declared_key_type_defines_equal_keys() -> None:
    shape = RowShape("t", ("id",), {"id": {"data_type": "bigint"}})
    first, second, third = keys_of([{"id": 7}, {"id": "007"}, {"id": "x"}], shape)
    assert first == second
    assert third == NO_KEY


def test_parts_of_a_key_keep_their_places() -> None:
    shape = RowShape("t", ("a", "b"))
    rows = [{"a": "1", "b": "23"}, {"a": "12", "b": "3"}, {"a": "23", "b": "1"}, {"a": "", "b": "123"}]
    assert len(set(keys_of(rows, shape))) == 4


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), unique=True, max_size=40))
def test_different_texts_have_different_keys_in_any_position(texts: list[str]) -> None:
    texts = [text for text in texts if text.isprintable()]
    keys = keys_of([{"id": text} for text in texts])
    assert len(set(keys)) == len(texts)
    assert keys == [keys_of([{"id": text}])[0] for text in texts]


@pytest.mark.slow
def test_a_million_neighbouring_ids_do_not_collide() -> None:
    ids = pa.array(range(1_000_000))
    page = read_page(b"[]", None)
    page = page.__class__(len(ids), None, 0, pa.StructArray.from_arrays([ids], ["id"]), b"", None)
    assert len(np.unique(row_keys(page, BY_ID))) == 1_000_000


def test_two_passes_are_compared_by_the_set_of_their_keys(tmp_path: Path) -> None:
    one = land(tmp_path / "1", [[{"id": 1}, {"id": 2}], [{"id": 3}]], key="id").spool
    two = land(tmp_path / "2", [[{"id": 3}], [{"id": 2}, {"id": 1}, {"id": 1}]], key="id").spool
    three = land(tmp_path / "3", [[{"id": 1}, {"id": 2}]], key="id").spool
    assert one.fingerprint() == two.fingerprint() != three.fingerprint()


def test_a_new_read_discards_the_previous_one(tmp_path: Path) -> None:
    spool = Spool(RowShape("t", ("id",), known={"gone": {"data_type": "bigint"}}), tmp_path, batch_rows=1)
    spool.add(read_page(b'[{"id":1,"gone":"x"},{"gone":1}]', None))
    assert list(spool.rejected())
    assert spool.changed_types()
    spool.clear()
    assert (spool.rows, spool.distinct, spool.keyless, spool.rejected_rows) == (0, 0, 0, 0)
    assert (list(spool.tables()), list(spool.rejected()), spool.columns(), spool.changed_types()) == ([], [], {}, {})
    spool.add(read_page(b'[{"id":2}]', None))
    assert [table.to_pylist() for _, table in spool.tables()] == [[{"id": 2}]]


def test_all_tables_have_the_same_schema_although_types_change_on_the_last_page(tmp_path: Path) -> None:
    spool = Spool(BY_ID, tmp_path, batch_rows=2)
    for rows in (
        [{"id": 1, "a": 1, "b": "2024-01-01T00:00:00Z"}, {"id": 2, "c": True}],
        [{"id": 3, "a": 1.5, "d": None}, {"id": 4, "a": None}],
        [{"id": 5, "a": "x", "b": "never", "d": {"e": 1}}],
    ):
        spool.add(read_page(json.dumps(rows).encode(), None))
    tables = [table for _, table in spool.tables()]
    assert len(tables) == 3
    assert all(table.schema.equals(spool.schema) for table in tables)
    assert pa.concat_tables(tables).select(["id", "a", "b", "c", "d__e"]).to_pydict() == {
        "id": [1, 2, 3, 4, 5],
        "a": ["1", None, "1.5", None, "x"],
        "b": ["2024-01-01T00:00:00Z", None, None, None, "never"],
        "c": [None, True, None, None, None],
        "d__e": [None, None, None, None, 1],
    }
    assert [field.name for field in spool.schema if not field.nullable] == ["id"]


def test_precomputed_keys_are_used(tmp_path: Path) -> None:
    spool = Spool(BY_ID, tmp_path)
    page = read_page(b'[{"id":1},{"id":2},{"id":3}]', None)
    keys = row_keys(page, BY_ID)
    spool.add(page, keys)
    spool.add(page.slice(1), keys[1:])
    assert (spool.rows, spool.distinct) == (5, 3)
    assert sum(len(table) for _, table in spool.tables()) == 3


def pages_of(count: int) -> Iterator[bytes]:
    row = '{"id":%d,"name":"device %d","at":"2024-01-01T00:00:00Z","tags":["a","b"]}'
    for page in range(count):
        ids = range(page * 200, page * 200 + 200)
        yield ('{"data":[' + ",".join([row % (number, number) for number in ids]) + "]}").encode()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(pages: int) -> int:
        spool, hints, most = Spool(BY_ID, tmp_path / str(pages)), TypeMemory(), 0
        tracemalloc.start()
        for body in pages_of(pages):
            spool.add(read_page(body, "data", hints))
            most = max(most, pa.total_allocated_bytes())
        rows = 0
        for _, table in spool.tables():
            rows += len(table)
            most = max(most, pa.total_allocated_bytes())
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == pages * 200
        return most + python

    few, many = peak(100), peak(1000)
    keys = 16 * 200_000
    assert many < few + 3 * keys, f"{few:,} bytes for 20,000 rows, {many:,} for 200,000"
