"""Hashes what rows contain, a column at a time, to tell whether two rows with one key are the same."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from rmm_assets.rows.distinct import Mask, by_distinct
from rmm_assets.rows.json_text import json_text, loads
from rmm_assets.rows.keys import Keys, column_key, landed_texts
from rmm_assets.rows.siphash import PROCESS_KEY, Hashes, Key, hash_records, hash_strings
from rmm_assets.rows.stored_keys import StoredKeys

# For hashes that are stored and compared in later runs. It is no secret: a hash only tells one row's old content from its new
# content, so whoever made them collide would only hide a change of their own row. Another value rewrites every table once.
LASTING_KEY = Key(1, 0)

# Stored with each row.
CONTENT_HASH = "_content_hash"
Contents = np.ndarray[Any, np.dtype[np.int64]]

_SAMPLE = 1000


class Received(NamedTuple):
    """Holds what a table is compared with after a read.

    Attributes:
        rows: The keys of the rows that can land, each once, in landing order, with `content`, a hash of what the row and its
            lists contain, and whether it is `deleted`, as the API flags it.
        rejected: The keys of the rows that cannot land.
    """

    rows: StoredKeys
    rejected: Keys


def received_rows(folder: Path) -> StoredKeys:
    """Returns an empty store for the rows of `Received`."""
    return StoredKeys(folder, [("content", "i8"), ("deleted", "?")])


def lasting(hashes: Hashes) -> Contents:
    """Returns the half of each hash that is stored."""
    return np.ascontiguousarray(hashes[:, 0]).view(np.int64)


def flagged(table: pa.Table, column: str | None) -> Mask:
    """Marks the rows that a column flags as deleted; see `says_deleted`."""
    if column is None or column not in table.column_names:
        return np.zeros(len(table), np.bool_)
    return says_deleted(table[column].combine_chunks())


def says_deleted(flags: pa.Array) -> Mask:
    """Marks the values that flag a row as deleted as dlt reads them: `true`, or any value that is not a boolean."""
    says = flags.fill_null(False) if pt.is_boolean(flags.type) else flags.is_valid()
    return np.asarray(says.to_numpy(zero_copy_only=False), np.bool_)


def contents(table: pa.Table, rows: int, as_json: Collection[str] = (), key: Key = PROCESS_KEY) -> Hashes:
    """Hashes whole rows; a null counts as a missing column, and the order of the columns does not matter.

    Args:
        table: The rows.
        rows: Their number, which a table without columns does not know.
        as_json: Columns of JSON text; the order of an object's keys is ignored in them.
        key: The hash key.
    """
    hashes = np.zeros((rows, 2), np.uint64)
    for name in table.column_names:
        array = table[name].combine_chunks()
        if array.null_count == len(array):
            continue
        if name in as_json:
            array, _ = by_distinct(array, _ordered, pa.string())
        hashes += _hashes(array, column_key(name, key))
    return hashes


def _hashes(array: pa.Array, key: Key) -> Hashes:
    if pt.is_timestamp(array.type):
        array = array.cast(pa.int64())
    encoded = array.dictionary_encode() if _repeats(array) else None
    if encoded is None or len(encoded.dictionary) > len(array) // 2:
        hashes = _each(array.fill_null(0) if pt.is_int64(array.type) or pt.is_float64(array.type) else array, key)
    else:
        hashes = _each(encoded.dictionary, key)[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    if array.null_count:
        hashes[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def _repeats(array: pa.Array) -> bool:
    """Guesses from the first values whether most values are repeated, as encoding a column of distinct ones is slow."""
    first = array.slice(0, _SAMPLE)
    return len(array) <= _SAMPLE or pc.count_distinct(first, "all").as_py() <= len(first) // 2


def _each(array: pa.Array, key: Key) -> Hashes:
    if pt.is_int64(array.type) or pt.is_float64(array.type):
        numbers = array.to_numpy(zero_copy_only=False) + 0  # makes 0.0 of -0.0, which is equal
        return hash_records([numbers.view(np.uint64)], key)
    return hash_strings(landed_texts(array), key)


def add_items(
    hashes: Hashes, name: str, items: Hashes, parents: pa.Array, positions: pa.Array, key: Key = PROCESS_KEY
) -> None:
    """Mixes the items of one list field into the rows' hashes.

    Args:
        hashes: The rows' hashes, changed in place.
        name: Name of the list field, which stays if the table is renamed.
        items: The items' hashes.
        parents: For each item, the index of its row.
        positions: For each item, its index in its list.
        key: The hash key.
    """
    placed = hash_records([items, positions.to_numpy().astype(np.uint64)], column_key(name, key))
    np.add.at(hashes, parents.to_numpy(), placed)


def _ordered(text: str) -> str:
    return json_text(sorted_keys(loads(text)))


def sorted_keys(value: Any) -> Any:
    """Returns a JSON value with each object's keys sorted and null values removed."""
    if isinstance(value, dict):
        return {name: sorted_keys(value[name]) for name in sorted(value) if value[name] is not None}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value
