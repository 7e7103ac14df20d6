"""Counts the rows of a read by their keys: distinct rows, repeats, and digests to compare two reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import NO_KEY, Keys, halves, may_repeat
from rmm_assets.rows.stored_keys import StoredKeys


class Tally:
    """Counts the keys of one read.

    Attributes:
        keyless: Number of rows without a primary key.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Creates an empty tally, with a folder for the keys of large reads."""
        self._keys = StoredKeys(folder)
        self.keyless = 0
        self._found: tuple[int, str] | None = None

    def add(self, keys: Keys) -> None:
        """Adds the keys of the next rows."""
        self._found = None
        self._keys.add(keys)
        self.keyless += int(np.count_nonzero(keys == NO_KEY))

    @property
    def distinct(self) -> int:
        """Number of distinct keys."""
        return self._summary()[0]

    def fingerprint(self) -> str:
        """Returns a digest of the set of keys, equal if two passes returned the same rows in any order."""
        count, digest = self._summary()
        return f"{count}-{digest}"

    def sequence(self) -> str:
        """Returns a digest of all keys in the order received."""
        digest = hashlib.sha256()
        for batch in self._keys.batches():
            digest.update(batch.tobytes())
        return digest.hexdigest()

    def _summary(self) -> tuple[int, str]:
        """Returns the number of distinct keys and a digest of their set."""
        if self._found is None:
            # A sum does not depend on the order, and sums of keyed hashes collide no more easily than the hashes.
            count, total = 0, np.zeros(2, np.uint64)
            for _, part in self._keys.parts():
                keys = np.unique(part["key"]) if may_repeat(part["key"]) else part["key"]
                count += len(keys)
                total += halves(keys).sum(axis=0, dtype=np.uint64)
            low, high = total.tolist()
            self._found = count, f"{low:016x}{high:016x}"
        return self._found


def last_of_each(keys: StoredKeys) -> Mask | None:
    """Returns a mask of the last row of each key; None if no key occurs twice."""
    mask = np.ones(len(keys), np.bool_)
    for places, part in keys.parts():
        if may_repeat(part["key"]):
            _, last = np.unique(part["key"][::-1], return_index=True)
            repeats = np.ones(len(part), np.bool_)
            repeats[len(part) - 1 - last] = False
            mask[places[repeats]] = False
    return None if mask.all() else mask
