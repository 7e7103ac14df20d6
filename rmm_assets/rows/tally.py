"""Counts the rows of a read by their keys: distinct rows, repeats, and digests to compare two reads."""

from __future__ import annotations

import hashlib

import numpy as np

from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import NO_KEY, Keys, halves, joined, may_repeat


class Tally:
    """Counts the keys of one read."""

    def __init__(self) -> None:
        self._keys: list[Keys] = []

    def add(self, keys: Keys) -> None:
        """Adds the keys of the next rows."""
        self._keys.append(keys)

    @property
    def keys(self) -> Keys:
        """All keys in the order received."""
        return joined(self._keys)

    @property
    def keyless(self) -> int:
        """Number of rows without a primary key."""
        return sum(int(np.count_nonzero(keys == NO_KEY)) for keys in self._keys)

    @property
    def distinct(self) -> int:
        """Number of distinct keys."""
        return len(self._distinct())

    def fingerprint(self) -> str:
        """Returns a digest of the set of keys, equal if two passes returned the same rows in any order."""
        # A sum does not depend on the order, and sums of keyed hashes collide no more easily than the hashes.
        keys = self._distinct()
        low, high = halves(keys).sum(axis=0, dtype=np.uint64).tolist()
        return f"{len(keys)}-{low:016x}{high:016x}"

    def sequence(self) -> str:
        """Returns a digest of all keys in the order received."""
        return hashlib.sha256(self.keys.tobytes()).hexdigest()

    def _distinct(self) -> Keys:
        keys = self.keys
        keys = keys[halves(keys).any(axis=1)] if self.keyless else keys
        return np.unique(keys) if may_repeat(keys) else keys


def last_of_each(keys: Keys) -> Mask | None:
    """Returns a mask of the last row of each key; None if no key occurs twice."""
    if not may_repeat(keys):
        return None
    _, last = np.unique(keys[::-1], return_index=True)
    mask = np.zeros(len(keys), np.bool_)
    mask[len(keys) - 1 - last] = True
    return mask
