"""Records what one pass over an endpoint showed, beside its rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from rmm_assets.reading.report import Evidence
from rmm_assets.rows.page import Page


@dataclass(frozen=True)
class PageRead:
    """A page as it came.

    Attributes:
        page: Its rows.
        number: From 1.
        total: Rows that the API states on this page, if it does and may be believed.
    """

    page: Page
    number: int
    total: int | None


@dataclass
class PassFacts:
    """What one pass over an endpoint showed, beside its rows.

    Attributes:
        trusted: The connection file says to believe the API's end (`verify: false`).
        totals: Every number of rows that the API stated.
        turns: Pages behind the first one that brought rows.
        moved: A row that was asked for twice was not where it stood before: rows moved while they were read.
        moved_at_once: So it was at the first try, which may also mean that the API takes round offsets only.
        round_offsets: It surely means that: the API refused the address, or sent the first page again.
        unproven: Boundaries between pages of which nothing shows that no row moved across.
        ended: How the end was seen, in a few words; empty while it was not.
        could_be_full: The last page may have been cut off: it holds as many rows as pages do.
        full_page: Rows of the last page that brought any, where pages hold no more than that; else 0.
        evidence: What this pass alone shows of the end.
        contradictions: What the API stated that cannot be true if this was the end.
        first_page: The page that the pass began with.
        ignored: Status of the first answer where it is one that `response_actions` ignores; else None.
        cap: Rows a page holds where the API sends fewer than asked for.
        warnings: What is odd, and what to write about it.
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
    could_be_full: bool = False
    full_page: int = 0
    evidence: Evidence | None = None
    contradictions: list[str] = field(default_factory=list)
    first_page: Page | None = None
    ignored: int | None = None
    cap: int | None = None
    warnings: list[str] = field(default_factory=list)

    def state(self, total: int | None) -> None:
        """Takes in the number of rows that a page states."""
        if total is not None:
            self.totals.add(total)
            self.last_total = total
            if self.first_total is None:
                self.first_total = total

    def forget_totals(self) -> None:
        """Takes back what was stated, because it cannot be true."""
        self.totals.clear()
        self.first_total = self.last_total = None
