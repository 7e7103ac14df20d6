"""Keeps the keys of a read on disk, with a few numbers per row, and returns them in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import SEEK_END
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np

from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import KEY_TYPE, Keys, halves

# About how many rows are in memory at a time: a part, and what has not been written to disk yet.
PART_ROWS = 1 << 20

# A structured array with the field `key` and those that a `StoredKeys` was created with.
Records = np.ndarray[Any, np.dtype[np.void]]
Places = np.ndarray[Any, np.dtype[np.int64]]


class StoredKeys:
    """Keeps one record per row in the order added.

    A part holds the keys of a range. Keys are hashes, so parts are of about the same size, and equal keys are in one part.
    """

    def __init__(self, folder: Path | None = None, fields: Sequence[tuple[str, str]] = ()) -> None:
        """Creates an empty store.

        Args:
            folder: Where the file is created if it is needed; None for the system's temporary folder.
            fields: Names and numpy types of the numbers kept with each key.
        """
        self._type = np.dtype([("key", KEY_TYPE), *fields])
        most = PART_ROWS * self._type.itemsize
        self._file = SpooledTemporaryFile(most, dir=None if folder is None else str(folder))  # noqa: SIM115
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, keys: Keys, **fields: Any) -> None:
        """Adds the keys of the next rows and their numbers."""
        records = np.empty(len(keys), self._type)
        records["key"] = keys
        for name, values in fields.items():
            records[name] = values
        self._file.seek(0, SEEK_END)
        self._file.write(records.tobytes())
        self._rows += len(keys)

    def read(self, start: int, rows: int) -> Records:
        """Returns the records of some rows, in the order added."""
        self._file.seek(start * self._type.itemsize)
        return np.frombuffer(self._file.read(rows * self._type.itemsize), self._type)

    def batches(self) -> Iterator[Records]:
        """Yields all records in the order added."""
        for start in range(0, self._rows, PART_ROWS):
            yield self.read(start, PART_ROWS)

    def taken(self, mask: Mask) -> Keys:
        """Returns the keys of the rows that a mask selects, in the order added."""
        keys = [np.zeros(0, KEY_TYPE)]
        for number, batch in enumerate(self.batches()):
            keys.append(batch["key"][mask[number * PART_ROWS :][: len(batch)]])
        return np.concatenate(keys)

    def parts(self, number: int | None = None) -> Iterator[tuple[Places, Records]]:
        """Yields the records that have a key, a part at a time, and their indices in the order added.

        Args:
            number: Number of parts; None for as many as `parts_of` returns.
        """
        count = number or parts_of(self)
        for part in range(count):
            places, records = [np.zeros(0, np.int64)], [np.zeros(0, self._type)]
            for batch_number, batch in enumerate(self.batches()):
                keys = halves(batch["key"])
                picked = np.flatnonzero(keys.any(axis=1) if count == 1 else _part(keys[:, 0], count) == part)
                picked = picked[keys[picked].any(axis=1)]
                places.append(picked + batch_number * PART_ROWS)
                records.append(batch[picked])
            yield np.concatenate(places), np.concatenate(records)


def parts_of(*stores: StoredKeys) -> int:
    """Returns into how many parts to divide stores that are compared with one another."""
    return max(1, *(-(-len(store) // PART_ROWS) for store in stores))


def _part(low: np.ndarray[Any, np.dtype[np.uint64]], count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Maps keys to parts by 32 bits of their lower halves."""
    return ((low >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
