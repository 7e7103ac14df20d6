"""Keeps the keys of a read on disk, with a few numbers per row, and returns them in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import SEEK_END
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO, Any

import numpy as np

from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import KEY_TYPE, Keys, halves

# About how many rows are in memory at a time: a part, and what has not been written to disk yet.
PART_ROWS = 1 << 17

# A structured array with the field `key` and those that a `StoredKeys` was created with.
Records = np.ndarray[Any, np.dtype[np.void]]
Places = np.ndarray[Any, np.dtype[np.int64]]


class StoredKeys:
    """Keeps one record per row in the order added.

    A part holds the keys of a range. Keys are hashes, so parts are of about the same size, and equal keys are in one part.
    To find the parts, the records of each batch are sorted by part and written once more.
    """

    def __init__(self, folder: Path | None = None, fields: Sequence[tuple[str, str]] = ()) -> None:
        """Creates an empty store.

        Args:
            folder: Where the file is created if it is needed; None for the system's temporary folder.
            fields: Names and numpy types of the numbers kept with each key.
        """
        self._type = np.dtype([("key", KEY_TYPE), *fields])
        self._folder = None if folder is None else str(folder)
        self._file = SpooledTemporaryFile(PART_ROWS * self._type.itemsize, dir=self._folder)  # noqa: SIM115
        self._whole = np.dtype(f"V{self._type.itemsize}")  # numpy copies it faster than fields
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
        if count == 1:
            records = self.read(0, self._rows)
            places = np.flatnonzero(_have_key(records))
            yield places, records if len(places) == len(records) else records[places]
            return
        ends = []
        with TemporaryFile(dir=self._folder) as by_part, TemporaryFile(dir=self._folder) as indices:
            for batch_number, batch in enumerate(self.batches()):
                part = _part(halves(batch["key"])[:, 0], count).astype(np.uint16)  # sorted by radix
                order = np.argsort(part, kind="stable")
                has_key = _have_key(batch)
                order = order if has_key.all() else order[has_key[order]]
                ends.append(indices.tell() // 8 + np.searchsorted(part[order], np.arange(count + 1)))
                indices.write((order + batch_number * PART_ROWS).tobytes())
                by_part.write(batch.view(self._whole).take(order).tobytes())
            for index in range(count):
                bounds = [(int(each[index]), int(each[index + 1])) for each in ends]
                yield _pieces(indices, bounds, np.dtype(np.int64)), _pieces(by_part, bounds, self._type)


def parts_of(*stores: StoredKeys) -> int:
    """Returns into how many parts to divide stores that are compared with one another."""
    return max(1, *(-(-len(store) // PART_ROWS) for store in stores))


def _have_key(records: Records) -> Mask:
    low, high = halves(records["key"]).T
    return np.asarray(low | high, np.bool_)


def _part(low: np.ndarray[Any, np.dtype[np.uint64]], count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Maps keys to parts by 32 bits of their lower halves."""
    return ((low >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)


def _pieces(file: IO[bytes], bounds: Sequence[tuple[int, int]], kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Reads and joins pieces of a file, given their first and last elements."""
    found = bytearray()
    for start, end in bounds:
        file.seek(start * kind.itemsize)
        found += file.read((end - start) * kind.itemsize)
    return np.frombuffer(found, kind)
