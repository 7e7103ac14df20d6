"""Defines what collects the rows of a pass, and a collector that keeps them in memory."""

from __future__ import annotations

from typing import Any, Protocol

from rmm_assets.rows.keys import row_keys
from rmm_assets.rows.page import Page
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.tally import Tally


class Collector(Protocol):
    """Collects the rows of a pass; `rows.spool.Spool` is one."""

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
    """Collects the pages of small reads, such as one parent's children, in memory.

    Args:
        shape: Describes the rows and their keys.
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
        return self._tally().distinct

    @property
    def keyless(self) -> int:
        return self._tally().keyless

    def fingerprint(self) -> str:
        return self._tally().fingerprint()

    def sequence(self) -> str:
        return self._tally().sequence()

    def _tally(self) -> Tally:
        tally = Tally()
        for page in self.pages:
            tally.add(row_keys(page, self._shape))
        return tally
