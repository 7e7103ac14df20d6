"""Compares a finished read with its table before anything lands: which rows to write, and which are gone at the source.

Each row of the table has a hash of its content, so only keys and hashes are fetched. They are kept on disk and compared with
those received a part at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.arrow_files import append, read_each
from rmm_assets.rows.contents import CONTENT_HASH, Received
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import NO_KEY, Keys, keys_of_table, keys_of_texts
from rmm_assets.rows.stored_keys import StoredKeys, parts_of
from rmm_assets.tables.table import ABSENT_SINCE, Table

Key = tuple[Any, ...]
States = np.ndarray[Any, np.dtype[np.uint8]]

# How a row received differs from the table's. Rows flagged as deleted that are not in the table count as the same.
SAME, NEW, CHANGED, UNHASHED, DELETED = range(5)

# What is kept of a row of the table: it is marked absent, it has no hash, its parent could not be read.
_ABSENT, _UNHASHED, _SPARED = 1, 2, 4


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
        states: For each row received, how it differs: one of this module's constants.
        alive: Number of rows of the table that are not marked absent.
        gone: The keys of those that were not received.
        still_gone: The keys of rows that were not received and are marked absent already.
    """

    states: States
    alive: int = 0
    gone: Sequence[Key] = ()
    still_gone: Sequence[Key] = ()

    @property
    def wanted(self) -> Mask:
        """Mask of the rows that must be written."""
        return np.not_equal(self.states, SAME)

    def are(self, state: int) -> Mask:
        """Marks the rows in a state."""
        return np.equal(self.states, state)


def differences(
    table: Table, key: Sequence[str], types: Mapping[str, pa.DataType], received: Received, spared: Spared, folder: Path,
    where: str = "1 = 1", parameters: Sequence[Any] = (),
) -> Differences:  # fmt: skip
    """Compares what was received with the table.

    Args:
        table: The table.
        key: The primary key's columns.
        types: The types in which `received` has keys, by column.
        received: The rows received.
        spared: Rows that are not gone although they were not received.
        folder: A folder for temporary files.
        where: An SQL condition for the rows of the table that the read is about.
        parameters: Its parameters.
    """
    batches = _batches(table, (*key, *spared.columns), where, parameters)
    there, values = _fetched(batches, key, types, spared, folder)
    states, missing = np.full(len(received.rows), NEW, np.uint8), np.zeros(len(there), np.bool_)
    rejected, parts = np.sort(received.rejected), parts_of(received.rows, there)
    for (rows, came), (places, held) in zip(received.rows.parts(parts), there.parts(parts), strict=True):
        order = np.argsort(came["key"], kind="stable")
        found, place = _looked_up(held["key"], came["key"][order])
        known, index = held[found], order[place[found]]
        changed = (known["marks"] & _ABSENT).astype(np.bool_) | (known["content"] != came["content"][index])
        unhashed = known["marks"] & (_ABSENT | _UNHASHED) == _UNHASHED
        # What is flagged as deleted and not in the table need not be written.
        state = np.where(came["deleted"], SAME, NEW)
        state[index] = np.where(unhashed, UNHASHED, np.where(changed, CHANGED, SAME))
        state[index[came["deleted"][index]]] = DELETED
        states[rows] = state
        missing[places] = ~found & ~(held["marks"] & _SPARED).astype(np.bool_) & ~_looked_up(held["key"], rejected)[0]
    alive, gone, still_gone, start = 0, list[Key](), list[Key](), 0
    for batch in read_each(values):
        marked = (there.read(start, len(batch))["marks"] & _ABSENT).astype(np.bool_)
        lost = missing[start : start + len(batch)]
        start += len(batch)
        alive += int(np.count_nonzero(~marked))
        gone += _values(batch, lost & ~marked)
        still_gone += _values(batch, lost & marked)
    return Differences(states, alive, gone, still_gone)


def _fetched(
    batches: Iterator[pa.Table], key: Sequence[str], types: Mapping[str, pa.DataType], spared: Spared, folder: Path
) -> tuple[StoredKeys, Path]:
    """Keeps keys, content hashes and marks of the table, and writes the keys' values to a file, in the same order."""
    there, values = StoredKeys(folder, [("content", "i8"), ("marks", "u1")]), folder / "table_keys.arrows"
    values.write_bytes(b"")
    spared_parents = _keys_of(spared)
    for batch in batches:
        stored = batch[CONTENT_HASH].combine_chunks().cast(pa.int64())
        marks = np.where(_mask(pc.equal(batch[ABSENT_SINCE], 1)), _ABSENT, 0) | np.where(
            _mask(stored.is_null()), _UNHASHED, 0
        )
        if len(spared_parents):
            parents = _keys(batch, spared.columns, types)
            # A row without its parent's key may belong to any of them.
            marks |= np.where((parents == NO_KEY) | np.isin(parents, spared_parents), _SPARED, 0)
        there.add(_keys(batch, key, types), content=stored.fill_null(0).to_numpy(), marks=marks)
        append(values, batch.select(list(key)))
    return there, values


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
    for batch in table.batches(f"SELECT {listed} FROM {{table}} WHERE {where}", *parameters):
        found = _keys(batch, spared.columns, types)
        rows += int(np.count_nonzero((found == NO_KEY) | np.isin(found, parents)))
    return rows


def _batches(table: Table, columns: Sequence[str], where: str, parameters: Sequence[Any]) -> Iterator[pa.Table]:
    """Yields the table's columns, its content hashes (null if it has none) and whether rows are marked absent."""
    there, quote = table.columns(), table.quote
    hashed = quote(CONTENT_HASH) if CONTENT_HASH in there else "NULL"
    absent = f"CASE WHEN {quote(ABSENT_SINCE)} IS NULL THEN 0 ELSE 1 END" if ABSENT_SINCE in there else "0"
    listed = [
        *map(quote, dict.fromkeys(columns)),
        f"{hashed} AS {quote(CONTENT_HASH)}",
        f"{absent} AS {quote(ABSENT_SINCE)}",
    ]
    return table.batches(f"SELECT {', '.join(listed)} FROM {{table}} WHERE {where}", *parameters)


def _mask(array: pa.Array | pa.ChunkedArray) -> Mask:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


def _keys(batch: pa.Table, columns: Sequence[str], types: Mapping[str, pa.DataType]) -> Keys:
    return keys_of_table(pa.table({name: batch[name].cast(types[name]) for name in columns}))


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


def _values(batch: pa.Table, mask: Mask) -> list[Key]:
    if not mask.any():
        return []
    picked = batch.filter(pa.array(mask))
    return list(zip(*(column.to_pylist() for column in picked.columns), strict=True))
