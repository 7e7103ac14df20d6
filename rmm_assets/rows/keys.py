"""Computes 128-bit keys that identify rows: a row has the same key in every page and pass of a process.

A key is a keyed hash (see `siphash`) of the primary key's values as they would land in a text column, so 1, 1.0 and "1" are
one key, and `true` and 1 are two. Without a primary key, it covers the whole row and how often the page has contained it
before: rows repeated within a page are separate rows; a row repeated on another page is the same row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.chunk import NOT_AN_OBJECT, Chunk, Column
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.flatten import flatten
from rmm_assets.rows.json_text import EXACT_DOUBLE, plain_text
from rmm_assets.rows.layout import Layout, layout_of
from rmm_assets.rows.page import Page
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.siphash import PROCESS_KEY, Hashes, Key, hash_records, hash_strings
from rmm_assets.rows.targets import Target, fit
from rmm_assets.rows.types import as_text, to_python, widen, widened

# One key per row: sixteen bytes, which numpy sorts and compares as a unit.
Keys = np.ndarray[Any, np.dtype[np.bytes_]]
KEY_TYPE = np.dtype("S16")

# The key of a row whose primary key is null or missing in part. The chance that a hash is all zeros is 2**-128.
NO_KEY = np.bytes_(b"")


def as_keys(hashes: Hashes) -> Keys:
    """Returns hashes as keys."""
    return np.ascontiguousarray(hashes).view(KEY_TYPE).reshape(-1)


def halves(keys: Keys) -> Hashes:
    """Returns keys as hashes of two halves each."""
    return np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)


def may_repeat(keys: Keys) -> bool:
    """Returns whether a key may occur twice; quick, as halves of keys are sorted in a tenth of the time."""
    ordered = np.sort(halves(keys)[:, 0])
    return bool((ordered[1:] == ordered[:-1]).any())


def row_keys(page: Page, shape: RowShape) -> Keys:
    """Computes one key per row of the page, `NO_KEY` for a row without a primary key. Thread-safe."""
    layout = layout_of(shape)
    chunk = flatten(layout, [page], frozenset(layout.key) or None, nest=bool(layout.key))
    return chunk_keys(chunk, layout, [page.rows])


def row_identity(page: Page, shape: RowShape, index: int) -> Hashable:
    """Returns a value that identifies the row at `index` (negative: from the end); cheap for one or two rows."""
    start = index % page.rows
    values = [page.value(name, start) for name in shape.primary_key]
    if values and None not in values:
        return tuple(plain_text(value) for value in values)
    return bytes(row_keys(page.slice(start).head(1), shape)[0])


def same_rows(page: Page, other: Page, shape: RowShape) -> bool:
    """Returns whether two pages hold the same rows in the same order; compares the first and last rows first."""
    if page.rows != other.rows or not page.rows:
        return page.rows == other.rows
    outermost = all(row_identity(page, shape, end) == row_identity(other, shape, end) for end in (0, -1))
    return outermost and np.array_equal(row_keys(page, shape), row_keys(other, shape))


def chunk_keys(chunk: Chunk, layout: Layout, page_rows: Sequence[int]) -> Keys:
    """Computes one key per row of the chunk, whose rows come from pages of `page_rows` rows each."""
    if layout.key:
        columns = [chunk.columns.get(name) for name in layout.key]
        texts = [
            pa.nulls(chunk.rows, pa.string()) if column is None else key_texts(column, layout.targets.get(name))
            for name, column in zip(layout.key, columns)
        ]
        keys = keys_of_texts(texts)
    else:
        keys = as_keys(_repeated(_whole_rows(chunk), page_rows))
    if chunk.faults:
        keys[[index for index, reasons in chunk.faults.items() if NOT_AN_OBJECT in reasons]] = NO_KEY
    return keys


def row_key_texts(chunk: Chunk, layout: Layout, rows: Sequence[int]) -> list[tuple[str, ...]]:
    """Returns the primary keys of some rows as text, as they would land; empty for a row without one."""
    texts = []
    for name in layout.key:
        column = chunk.columns.get(name)
        if column is None:
            return [()] * len(rows)
        picked = replace(column, values=column.values.take(pa.array(rows, pa.int64())))
        texts.append(key_texts(picked, layout.targets.get(name)).to_pylist())
    return [() if None in key else key for key in zip(*texts)] if texts else [()] * len(rows)


def keys_of_texts(texts: Sequence[pa.Array]) -> Keys:
    """Computes one key per row from text columns of the primary key's values; `NO_KEY` if one of them is null."""
    hashes = [hash_strings(array) for array in texts]
    keys = as_keys(hashes[0] if len(hashes) == 1 else hash_records(hashes))
    for array in texts:
        if array.null_count:
            keys[array.is_null().to_numpy(zero_copy_only=False)] = NO_KEY
    return keys


def keys_of_table(table: pa.Table) -> Keys:
    """Computes one key per row from a table of the primary key's columns; `NO_KEY` if one of them is null."""
    return keys_of_texts([landed_texts(column.combine_chunks()) for column in table.columns])


def key_texts(column: Column, target: Target | None) -> pa.Array:
    """Writes a key's values as text, as they would land; null for a value that cannot land."""
    if target is not None:
        return landed_texts(fit(column.values, column.kind, target)[0])
    if "json" not in column.kinds:
        return as_text(column.values, column.kind)
    values = to_python(column.values, column.kind)
    return pa.array([None if v is None or is_nested(v) else plain_text(v) for v in values], pa.string())


def is_nested(value: Any) -> bool:
    """Returns whether a value is an object or a list, which a key may not be."""
    return isinstance(value, (dict, list))


def landed(column: Column, target: Target | None) -> pa.Array:
    """Casts values to the type that their column would have if it held no others."""
    if target is not None:
        return fit(column.values, column.kind, target)[0]
    return widen(column.values, column.kind, widened(column.kinds))


def landed_texts(array: pa.Array) -> pa.Array:
    """Writes values of a column type as text; two texts are equal only if the column's values are."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return array
    if pa.types.is_floating(kind):
        return pa.array([None if v is None else plain_text(v) for v in array.to_pylist()], pa.string())
    return pc.cast(array.cast(pa.int64()) if pa.types.is_timestamp(kind) else array, pa.string())


def _whole_rows(chunk: Chunk) -> Hashes:
    # A sum, because the order of columns does not matter and a missing column must count as a null one.
    hashes = np.zeros((chunk.rows, 2), np.uint64)
    for name, column in chunk.columns.items():
        values, there = _value_hashes(column, column_key(name))
        hashes += values if there is None else np.where(there[:, None], values, np.uint64(0))
    return hashes


@lru_cache(maxsize=4096)
def column_key(name: str, key: Key = PROCESS_KEY) -> Key:
    """Returns a column's own hash key, so that equal values in two columns have different hashes."""
    low, high = hash_strings(pa.array([name]), key)[0].tolist()
    return Key(low, high)


def _repeated(hashes: Hashes, page_rows: Sequence[int]) -> Hashes:
    """Distinguishes rows that are repeated within a page by mixing a counter into their hashes."""
    keys = as_keys(hashes)
    if len(np.unique(keys)) == len(keys):
        return hashes
    start = 0
    for rows in page_rows:
        order = np.argsort(keys[start : start + rows], kind="stable")
        ordered = keys[start : start + rows][order]
        first = np.concatenate(([True], ordered[1:] != ordered[:-1])) if rows else np.ones(0, np.bool_)
        position = np.arange(rows)
        nth = position - np.maximum.accumulate(np.where(first, position, 0))
        again = start + order[nth > 0]
        hashes[again] = hash_records([hashes[again], nth[nth > 0].astype(np.uint64)])
        start += rows
    return hashes


def _value_hashes(column: Column, key: Key) -> tuple[Hashes, Mask | None]:
    """Hashes a column's values.

    Returns:
        One hash per value, and a mask of the non-null values; None if all are non-null.
    """
    array, kind = column.values, column.kind
    if kind == "double":
        return _hash_doubles(array, key), _there(array)
    if kind in ("bigint", "bool"):
        array = pc.cast(array, pa.string())
    elif kind == "mixed":
        array = pa.array([None if v is None else _text(v) for v in to_python(array, kind)], pa.binary())
    return hash_strings(array, key), _there(array)


def _there(array: pa.Array) -> Mask | None:
    return array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None


def _text(value: Any) -> bytes:
    if isinstance(value, float) and not (value.is_integer() and abs(value) < EXACT_DOUBLE):
        return b"\0" + np.float64(value).tobytes()
    return plain_text(value).encode()


def _hash_doubles(array: pa.Array, key: Key) -> Hashes:
    """Hashes whole numbers by their digits and others by their eight bytes."""
    values = array.fill_null(0.0).to_numpy(zero_copy_only=False)
    raw = np.zeros((len(values), 9), np.uint8)
    raw[:, 1:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    offsets = pa.py_buffer(np.arange(len(values) + 1, dtype=np.int32) * 9)
    hashes = hash_strings(pa.Array.from_buffers(pa.binary(), len(values), [None, offsets, pa.py_buffer(raw)]), key)
    whole = (values == np.floor(values)) & (np.abs(values) < EXACT_DOUBLE)
    if whole.any():
        hashes[whole] = hash_strings(pc.cast(pa.array(values[whole].astype(np.int64)), pa.string()), key)
    return hashes
