"""Compares a finished read with its table before anything lands: which rows to write, and which are gone at the source.

Each row of the table has a hash of its content, so only keys and hashes are fetched, in batches that are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.contents import CONTENT_HASH, Received
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import NO_KEY, Keys, keys_of_texts, landed_texts
from rmm_assets.tables.table import ABSENT_SINCE, Table

_BATCH = 50_000

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Spared:
    """Rows that are missing from a read but not known to be gone, as their parents could not be read.

    Attributes:
        columns: The columns of a parent's key in the table.
        keys: The values of these columns.
    """

    columns: tuple[str, ...] = ()
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Differences:
    """How a read differs from the table.

    Attributes:
        new: Mask of the rows received whose key is not in the table, without those flagged as deleted.
        changed: Mask of those whose content differs from the table's or that are marked absent there.
        unhashed: Mask of the others whose row in the table has no hash, as an older version wrote it.
        deleted: Mask of those that are flagged as deleted and are in the table.
        alive: Number of rows of the table that are not marked absent.
        gone: The keys of those that were not received.
        still_gone: The keys of rows that were not received and are marked absent already.
    """

    new: Mask
    changed: Mask
    unhashed: Mask
    deleted: Mask
    alive: int = 0
    gone: Sequence[Key] = ()
    still_gone: Sequence[Key] = ()

    @property
    def wanted(self) -> Mask:
        """Mask of the rows that must be written."""
        return self.new | self.changed | self.unhashed | self.deleted


def differences(
    table: Table, key: Sequence[str], types: Mapping[str, pa.DataType], received: Received, spared: Spared
) -> Differences:
    """Compares what was received with the table.

    Args:
        table: The table.
        key: The primary key's columns.
        types: The types in which `received` has keys, by column.
        received: The rows received.
        spared: Rows that are not gone although they were not received.
    """
    order = np.argsort(received.keys, kind="stable")
    known = received.keys[order]
    found, differs, unhashed = (np.zeros(len(known), np.bool_) for _ in range(3))
    rejected, spared_parents = np.sort(received.rejected), _keys_of(spared)
    alive, gone, still_gone = 0, list[Key](), list[Key]()
    for batch in _batches(table, (*key, *spared.columns)):
        keys = _keys(batch, key, types)
        marked = _mask(pc.equal(batch[ABSENT_SINCE], 1))
        stored = batch[CONTENT_HASH].combine_chunks().cast(pa.int64())
        there, place = _looked_up(keys, known)
        rows = order[place[there]]
        found[rows] = True
        unknown = _mask(stored.is_null())[there] & ~marked[there]
        unhashed[rows] = unknown
        differs[rows] = ~unknown & (marked[there] | (stored.fill_null(0).to_numpy()[there] != received.contents[rows]))
        alive += int(np.count_nonzero(~marked))
        missing = ~there & (keys != NO_KEY) & ~_looked_up(keys, rejected)[0]
        if missing.any() and len(spared_parents):
            parents = _keys(batch, spared.columns, types)
            # A row without its parent's key may belong to any of them.
            missing &= (parents != NO_KEY) & ~np.isin(parents, spared_parents)
        gone += _values(batch, key, missing & ~marked)
        still_gone += _values(batch, key, missing & marked)
    return Differences(
        # What is flagged as deleted and not in the table need not be written.
        new=~found & ~received.deleted,
        changed=differs & ~received.deleted,
        unhashed=unhashed & ~received.deleted,
        deleted=found & received.deleted,
        alive=alive, gone=gone, still_gone=still_gone,
    )  # fmt: skip


def rows_of_parents(
    table: Table, spared: Spared, types: Mapping[str, pa.DataType], where: str, parameters: Sequence[Any] = ()
) -> int:
    """Returns the number of rows of a table that may belong to parents that could not be read.

    Args:
        table: The table.
        spared: These parents; without columns, rows of any parent.
        types: The types of the columns of their keys.
        where: An SQL condition that the rows meet.
        parameters: Its parameters.
    """
    if not spared.columns:
        return int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {where}", *parameters)[0][0])
    parents, rows = _keys_of(spared), 0
    listed = ", ".join(map(table.quote, spared.columns))
    with table.cursor(f"SELECT {listed} FROM {{table}} WHERE {where}", *parameters) as cursor:
        for batch in cursor.iter_arrow(_BATCH):
            found = _keys(batch, spared.columns, types)
            rows += int(np.count_nonzero((found == NO_KEY) | np.isin(found, parents)))
    return rows


def _batches(table: Table, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the table's columns, its content hashes (null if it has none) and whether rows are marked absent."""
    there, quote = table.columns(), table.quote
    hashed = quote(CONTENT_HASH) if CONTENT_HASH in there else "NULL"
    absent = f"CASE WHEN {quote(ABSENT_SINCE)} IS NULL THEN 0 ELSE 1 END" if ABSENT_SINCE in there else "0"
    listed = [
        *map(quote, dict.fromkeys(columns)),
        f"{hashed} AS {quote(CONTENT_HASH)}",
        f"{absent} AS {quote(ABSENT_SINCE)}",
    ]
    with table.cursor(f"SELECT {', '.join(listed)} FROM {{table}}") as cursor:
        yield from cursor.iter_arrow(_BATCH)


def _mask(array: pa.Array | pa.ChunkedArray) -> Mask:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


def _keys(batch: pa.Table, columns: Sequence[str], types: Mapping[str, pa.DataType]) -> Keys:
    return keys_of_texts([landed_texts(batch[name].combine_chunks().cast(types[name])) for name in columns])


def _keys_of(spared: Spared) -> Keys:
    if not spared.keys:
        return np.zeros(0, np.dtype("S16"))
    return keys_of_texts([pa.array(map(str, values), pa.string()) for values in zip(*spared.keys, strict=True)])


def _looked_up(keys: Keys, known: Keys) -> tuple[Mask, np.ndarray[Any, Any]]:
    """Returns a mask of the keys that are in a sorted array, and the place of each."""
    if not len(known):
        return np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.int64)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[place] == keys, place


def _values(batch: pa.Table, columns: Sequence[str], mask: Mask) -> list[Key]:
    if not mask.any():
        return []
    picked = batch.select(list(columns)).filter(pa.array(mask))
    return list(zip(*(picked[name].to_pylist() for name in columns), strict=True))
