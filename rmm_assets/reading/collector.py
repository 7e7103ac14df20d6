"""Gathers the rows of a pass: what every collector can do, and one that holds them in memory."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rmm_assets.rows.decode import Page
from rmm_assets.rows.keys import NO_KEY, Keys, row_keys
from rmm_assets.rows.layout import RowShape


class Collector(Protocol):
    """What gathers a pass's rows; `rows.spool.Spool` is one."""

    rows: int

    @property
    def distinct(self) -> int: ...

    @property
    def keyless(self) -> int: ...

    def add(self, page: Page) -> None: ...

    def clear(self) -> None: ...

    def fingerprint(self) -> Any: ...

    def sequence(self) -> Any: ...


class MemoryCollector:
    """A collector for small reads, such as one parent's children: pages in memory.

    Args:
        shape: What tells the rows apart.
    """

    def __init__(self, shape: RowShape) -> None:
        self._shape = shape
        self.clear()

    def clear(self) -> None:
        self.pages: list[Page] = []
        self.rows = 0

    def add(self, page: Page) -> None:
        self.pages.append(page)
        self.rows += page.rows

    @property
    def distinct(self) -> int:
        return len(self.fingerprint())

    @property
    def keyless(self) -> int:
        return int(np.count_nonzero(self._keys() == NO_KEY))

    def fingerprint(self) -> frozenset[int]:
        return frozenset(self._keys().tolist()) - {int(NO_KEY)}

    def sequence(self) -> bytes:
        return self._keys().tobytes()

    def _keys(self) -> Keys:
        return np.concatenate([*(row_keys(page, self._shape) for page in self.pages), np.zeros(0, np.uint64)])
