"""Turns rows into 64-bit keys that tell them apart: the same row has the same key in every page, pass and process.

A key is made of the primary key's values as text, so 1, 1.0 and "1" are one key: they would be one value in a column of
text. Where there is no primary key, it is made of the whole row, and of how often the page has shown such a row before:
rows that a page repeats are rows, a row that another page repeats is the same one. Nothing is done with keys here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.chunk import NOT_AN_OBJECT, Chunk, Column
from rmm_assets.rows.flatten import flatten
from rmm_assets.rows.json_text import EXACT_DOUBLE, plain_text
from rmm_assets.rows.layout import Layout, layout_of
from rmm_assets.rows.page import Page
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.targets import fit
from rmm_assets.rows.types import to_python

Keys = np.ndarray[Any, np.dtype[np.uint64]]

# The key of a row that has none: a part of its primary key is null or not there.
NO_KEY = np.uint64(0)

_SEED = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY = np.uint64(0xFF51AFD7ED558CCD)
_AGAIN = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(32)
_PADDING = np.zeros(8, np.uint8)


def joined(batches: Sequence[Keys]) -> Keys:
    """Joins keys into one array of its own."""
    return np.concatenate([*batches, np.zeros(0, np.uint64)])


def row_keys(page: Page, shape: RowShape) -> Keys:
    """One key a row of the page; `NO_KEY` where the row has none. Safe in any thread."""
    layout = layout_of(shape)
    chunk = flatten(layout, [page], frozenset(layout.key) or None, nest=bool(layout.key))
    return chunk_keys(chunk, layout, [page.rows])


def row_identity(page: Page, shape: RowShape, index: int) -> Hashable:
    """What tells the page's row at `index` (negative: from the end) from others; made for looking at one or two rows."""
    start = index % page.rows
    values = [page.value(name, start) for name in shape.primary_key]
    if values and None not in values:
        return tuple(plain_text(value) for value in values)
    return int(row_keys(page.slice(start).head(1), shape)[0])


def same_rows(page: Page, other: Page, shape: RowShape) -> bool:
    """Whether two pages hold the same rows in the same order. Looks at all of them only if the outermost agree."""
    if page.rows != other.rows or not page.rows:
        return page.rows == other.rows
    outermost = all(row_identity(page, shape, end) == row_identity(other, shape, end) for end in (0, -1))
    return outermost and np.array_equal(row_keys(page, shape), row_keys(other, shape))


def chunk_keys(chunk: Chunk, layout: Layout, page_rows: Sequence[int]) -> Keys:
    """One key a row of the chunk, whose rows come from pages of so many rows each."""
    keys = _primary_keys(chunk, layout) if layout.key else _repeated(_whole_rows(chunk), page_rows)
    if chunk.faults:
        keys[[index for index, reasons in chunk.faults.items() if NOT_AN_OBJECT in reasons]] = NO_KEY
    return keys


def _primary_keys(chunk: Chunk, layout: Layout) -> Keys:
    keys = np.zeros(chunk.rows, np.uint64)
    present = np.ones(chunk.rows, np.bool_)
    for name in layout.key:
        column = chunk.columns.get(name)
        if column is None:
            return np.zeros(chunk.rows, np.uint64)
        values, there = _value_hashes(column, layout, name)
        keys = _mix(keys * _MULTIPLY + values)
        if there is not None:
            present &= there
    keys[keys == NO_KEY] = _SEED
    if not present.all():
        keys[~present] = NO_KEY
    return keys


def _whole_rows(chunk: Chunk) -> Keys:
    # A sum, because the order of columns says nothing, and a column that is not there must count like one that is null.
    keys = np.full(chunk.rows, _SEED)
    for name, column in chunk.columns.items():
        values, there = _value_hashes(column, None, name)
        values = _mix(values ^ _hash_text(name))
        keys += values if there is None else np.where(there, values, np.uint64(0))
    keys = _mix(keys)
    keys[keys == NO_KEY] = _SEED
    return keys


def _repeated(keys: Keys, page_rows: Sequence[int]) -> Keys:
    """Tell apart the rows that one page repeats, by their number."""
    if len(np.unique(keys)) == len(keys):
        return keys
    start = 0
    for rows in page_rows:
        page = keys[start : start + rows]
        order = np.argsort(page, kind="stable")
        ordered = page[order]
        first = np.concatenate(([True], ordered[1:] != ordered[:-1])) if rows else np.ones(0, np.bool_)
        position = np.arange(rows)
        nth = position - np.maximum.accumulate(np.where(first, position, 0))
        page[order] = np.where(nth > 0, _mix(ordered + nth.astype(np.uint64) * _SEED), ordered)
        start += rows
    return keys


def _value_hashes(
    column: Column, layout: Layout | None, name: str
) -> tuple[Keys, np.ndarray[Any, np.dtype[np.bool_]] | None]:
    """A hash a value, and where there is one; None for everywhere."""
    array, kind = column.values, column.kind
    target = layout.targets.get(name) if layout is not None else None
    if target is not None and target.data_type not in ("text", "json") and kind != target.data_type:
        # A declared type makes "012" and 12 one key. What does not fit has none: its row is rejected.
        array, _ = fit(array, kind, target)
        texts = array if pa.types.is_floating(array.type) else pc.cast(array, pa.string())
        if pa.types.is_floating(array.type):
            texts = pa.array([None if v is None else plain_text(v) for v in array.to_pylist()], pa.string())
    elif kind in ("bigint", "bool"):
        texts = pc.cast(array, pa.string())
    elif kind == "double":
        return _hash_doubles(array)
    elif kind == "mixed":
        texts = pa.array([None if v is None else _text(v) for v in to_python(array, kind)], pa.binary())
    else:
        texts = array
    return _hash_texts(texts), _there(texts)


def _there(array: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    return array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None


def _text(value: Any) -> bytes:
    if isinstance(value, float) and not (value.is_integer() and abs(value) < EXACT_DOUBLE):
        return b"\0" + np.float64(value).tobytes()
    return plain_text(value).encode()


def _hash_doubles(array: pa.Array) -> tuple[Keys, np.ndarray[Any, np.dtype[np.bool_]] | None]:
    """Whole numbers have the hash of their digits, others that of their eight bytes."""
    values = array.fill_null(0.0).to_numpy(zero_copy_only=False)
    count = len(values)
    raw = np.zeros((count, 9), np.uint8)
    raw[:, 1:] = np.ascontiguousarray(values).view(np.uint8).reshape(count, 8)
    hashes = _hash(raw.reshape(-1), np.arange(count, dtype=np.int64) * 9, np.full(count, 9, np.int64))
    whole = (values == np.floor(values)) & (np.abs(values) < EXACT_DOUBLE)
    if whole.any():
        digits = pc.cast(pa.array(values[whole].astype(np.int64)), pa.string())
        hashes[whole] = _hash_texts(digits)
    return hashes, _there(array)


def _hash_text(text: str) -> np.uint64:
    return np.uint64(_hash_texts(pa.array([text]))[0])


def _hash_texts(array: pa.Array) -> Keys:
    """A hash a string, from its bytes; that of a null says nothing."""
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return _hash(bytes_[ends[0] : ends[-1]], ends[:-1] - ends[0], np.diff(ends))


def _hash(data: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> Keys:
    """Hash byte strings that lie in one array, eight bytes of all of them at a time."""
    hashes = _mix(lengths.astype(np.uint64) * _SEED + _SEED)
    if not len(lengths):
        return hashes
    padded = np.concatenate([data, _PADDING])
    # every eight bytes of the data, at each offset
    words = np.ndarray((len(data) + 1,), np.dtype("<u8"), padded.data, strides=(1,))
    position, shortest, longest = 0, int(lengths.min()), int(lengths.max())
    active: Any = slice(None)
    while position < longest:
        if position >= shortest:
            active = np.flatnonzero(lengths > position)
        word = words[starts[active] + position]
        if position + 8 > shortest:
            left = np.minimum(lengths[active] - position, 8).astype(np.uint64)
            word &= np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(64) - np.uint64(8) * left)
        hashes[active] = _mix(hashes[active] * _MULTIPLY + word)
        position += 8
    return hashes


def _mix(values: Keys) -> Keys:
    """Spread every bit over all of them."""
    values = (values ^ (values >> _SHIFT)) * _MULTIPLY
    values = (values ^ (values >> _SHIFT)) * _AGAIN
    return values ^ (values >> _SHIFT)
