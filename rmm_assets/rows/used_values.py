"""Digests the values of some fields over all rows of a read, to show later that a table holds exactly these values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from rmm_assets.rows.keys import KEY_TYPE
from rmm_assets.rows.page import Page
from rmm_assets.rows.tally import Tally

FieldPath = tuple[str, ...]

_PLAIN = (str, int, float, bool)


class UsedValues:
    """Digests the combinations of some fields' values, whatever their order and however often each occurs.

    Args:
        paths: The fields' paths in a row; without any, there is no digest.
        folder: Where the digests of a large read are kept.
    """

    def __init__(self, paths: Sequence[FieldPath], folder: Path | None = None) -> None:
        self._paths, self._folder = paths, folder
        self.clear()

    def clear(self) -> None:
        """Discards all values before a new read."""
        self._rows, self._is_plain = Tally(self._folder), bool(self._paths)

    def add(self, page: Page) -> None:
        """Adds the values of a page's rows."""
        if self._is_plain:
            self.add_values(zip(*(page.values(path) for path in self._paths), strict=True))

    def add_values(self, rows: Iterable[Sequence[Any]]) -> None:
        """Adds the values of some rows, in the order of the paths."""
        digests = []
        for values in rows:
            if not all(type(value) in _PLAIN for value in values):
                self._is_plain = False
                return
            digests.append(blake2b(json.dumps(values).encode(), digest_size=KEY_TYPE.itemsize).digest())
        self._rows.add(np.frombuffer(b"".join(digests), KEY_TYPE))

    def digest(self) -> str:
        """Returns the digest; empty if a row lacks one of the values or has something else than a text, number or boolean."""
        return self._rows.fingerprint() if self._is_plain else ""
