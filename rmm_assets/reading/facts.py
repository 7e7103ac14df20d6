"""Records what one pass over an endpoint showed, beside its rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from rmm_assets.rows.decode import Page


@dataclass(frozen=True)
class PageRead:
    """A page as it came.

    Attributes:
        page: Its rows.
        number: From 1.
        total: Rows that the API states on this page, if it does.
    """

    page: Page
    number: int
    total: int | None


@dataclass
class PassFacts:
    """What one pass over an endpoint showed, beside its rows.

    Attributes:
        totals: Every number of rows that the API stated.
        turns: Pages behind the first one that brought rows.
        moved: A row that was asked for twice was not where it stood before: rows moved while they were read.
        moved_at_once: So it was at the first try, which may also mean that the API takes round offsets only.
        round_offsets: It surely means that: the API refused the address, or sent the first page again.
        unproven: Boundaries between pages of which nothing shows that no row moved across.
        ended: How the end was seen: `empty page`, `total`, `no next page`, `no more`, `maximum`, `single page`.
        cap: Rows a page holds where the API sends fewer than asked for.
    """

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
    cap: int | None = None

    def state(self, total: int | None) -> None:
        """Takes in the number of rows that a page states."""
        if total is not None:
            self.totals.add(total)
            self.last_total = total
            if self.first_total is None:
                self.first_total = total
