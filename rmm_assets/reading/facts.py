"""Records what one pass over an endpoint showed in addition to its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rmm_assets.http.request import Request
from rmm_assets.reading.report import Evidence
from rmm_assets.rows.page import Page


@dataclass(frozen=True)
class PageRead:
    """A page as received.

    Attributes:
        page: Its rows.
        number: Its number, starting at 1.
        total: Number of rows that this page states; None if it states none or is not credible.
    """

    page: Page
    number: int
    total: int | None


@dataclass(frozen=True)
class KeysetPage:
    """A page whose next one is requested by a value of its last row.

    Attributes:
        asked: The request for the page.
        page: Its rows.
        values: The value of each row.
        in_order: Whether the rows are sorted by them, upwards or downwards.
    """

    asked: Request
    page: Page
    values: list[Any]
    in_order: bool


@dataclass
class PassFacts:
    """What one pass over an endpoint showed in addition to its rows.

    Attributes:
        trusted: Whether the connection file says to believe the API's end (`verify: false`).
        pages: Number of pages received.
        turns: Number of pages with rows after the first one.
        totals: All totals that the API stated.
        first_total: The first stated total.
        last_total: The last stated total.
        moved: Whether rows moved during the read: a row that was requested twice was at another position.
        moved_at_once: Whether this happened at the first boundary, which may also mean that the API accepts only round offsets.
        round_offsets: Whether it certainly means that: the API refused the offset or sent the first page again.
        unproven: Number of page boundaries without proof that no row moved across.
        ended: How the read ended, in a few words; empty while it has not.
        could_be_full: Whether the last page may have been cut off, as it is as long as pages usually are.
        followed: Whether the pages name the next one where the connection file says, or are requested by position.
        full_page: Number of rows on the last page with rows if it may be full; else 0.
        suspicion: Why the end is not credible, as the last page is full and unmarked; empty if it is.
        evidence: The evidence for the end that this pass alone gives.
        contradictions: What the API stated that contradicts this end.
        first_page: The first page with rows.
        ignored: Status of the first response if it is an error that means no rows; else None.
        cap: Number of rows per page if the API sends fewer than requested.
        keyset: If cursors are values of rows, the page to try them on: the first one not sorted by them, else the first one.
        at_boundaries: Number of rows that a page begins with because the one before ends with them, as its cursor is inclusive.
        warnings: Oddities, with what to write in the connection file.
    """

    trusted: bool = False
    pages: int = 0
    turns: int = 0
    totals: set[int] = field(default_factory=set)
    first_total: int | None = None
    last_total: int | None = None
    moved: bool = False
    moved_at_once: bool = False
    round_offsets: bool = False
    unproven: int = 0
    ended: str = ""
    at_boundaries: int = 0
    could_be_full: bool = False
    followed: bool = True
    full_page: int = 0
    suspicion: str = ""
    evidence: Evidence | None = None
    contradictions: list[str] = field(default_factory=list)
    first_page: Page | None = None
    ignored: int | None = None
    cap: int | None = None
    keyset: KeysetPage | None = None
    warnings: list[str] = field(default_factory=list)

    def state(self, total: int | None) -> None:
        """Records a stated total."""
        if total is not None:
            self.totals.add(total)
            self.last_total = total
            if self.first_total is None:
                self.first_total = total

    def forget_totals(self) -> None:
        """Discards the stated totals, which cannot be true."""
        self.totals.clear()
        self.first_total = self.last_total = None
