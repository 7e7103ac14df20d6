"""Finds rows that share a primary key but differ, and describes examples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rmm_assets.rows.distinct import Mask, by_distinct
from rmm_assets.rows.json_text import json_text, loads
from rmm_assets.rows.keys import Keys, column_key, landed_texts, may_repeat
from rmm_assets.rows.siphash import Hashes, hash_records, hash_strings

# Examples in a message.
EXAMPLES = 2
_MOST_COLUMNS = 3
_LONGEST_VALUE = 40


class Pair(NamedTuple):
    """Holds the indices of two rows that share a key and differ."""

    first: int
    second: int


def repeated(keys: Keys) -> Mask | None:
    """Marks the rows that share their key with another row; None if there are none."""
    if not may_repeat(keys):
        return None
    ordered = np.sort(keys)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.isin(keys, again) if len(again) else None


def differing(keys: Keys, contents: Keys) -> list[Pair]:
    """Returns one pair of rows for each key whose rows differ, in the order in which the keys were received."""
    # By key, and within a key in the order received.
    order = np.argsort(keys, kind="stable")
    ordered, said = keys[order], contents[order]
    starts = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0))
    other = np.flatnonzero(said != said[first])
    _, one_each = np.unique(first[other], return_index=True)
    pairs = [Pair(int(order[first[index]]), int(order[index])) for index in other[one_each]]
    return sorted(pairs)


def contents(table: pa.Table, as_json: Collection[str] = ()) -> Hashes:
    """Hashes whole rows; a null counts as a missing column.

    Args:
        table: The rows.
        as_json: Columns of JSON text; the order of an object's keys is ignored in them.
    """
    hashes = np.zeros((len(table), 2), np.uint64)
    for name in table.column_names:
        array = table[name].combine_chunks()
        key = column_key(name)
        if name in as_json:
            array, _ = by_distinct(array, _ordered, pa.string())
        values = (
            hash_records([array.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)], key)
            if pa.types.is_int64(array.type)
            else hash_strings(landed_texts(array), key)
        )
        if array.null_count:
            values[array.is_null().to_numpy(zero_copy_only=False)] = 0
        hashes += values
    return hashes


def _ordered(text: str) -> str:
    return json_text(sorted_keys(loads(text)))


def sorted_keys(value: Any) -> Any:
    """Returns a JSON value with each object's keys sorted and null values removed."""
    if isinstance(value, dict):
        return {name: sorted_keys(value[name]) for name in sorted(value) if value[name] is not None}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def add_items(hashes: Hashes, table: str, items: Hashes, parents: pa.Array, positions: pa.Array) -> None:
    """Mixes the items of one list field into the rows' hashes.

    Args:
        hashes: The rows' hashes, changed in place.
        table: Name of the items' table.
        items: The items' hashes.
        parents: For each item, the index of its row.
        positions: For each item, its index in its list.
    """
    placed = hash_records([items, positions.to_numpy().astype(np.uint64)], column_key(table))
    np.add.at(hashes, parents.to_numpy(), placed)


def sentence(key: dict[str, str], pages: tuple[int, int], columns: Sequence[str]) -> str:
    """Describes two rows that differ by their key, pages and differing columns, without any other value."""
    names = ", ".join(f"{name}={value[:_LONGEST_VALUE]}" for name, value in key.items())
    where = f"two rows of page {pages[0]}" if pages[0] == pages[1] else f"page {pages[0]} and page {pages[1]}"
    more = f" and {len(columns) - _MOST_COLUMNS} more" if len(columns) > _MOST_COLUMNS else ""
    return f"{names}: {where} differ in {', '.join(columns[:_MOST_COLUMNS])}{more}"


def and_more(sentences: list[str], pairs: int) -> list[str]:
    """Appends the number of keys that are not described."""
    left = pairs - len(sentences)
    return [*sentences, f"and {left} more keys like this"] if left > 0 else sentences
