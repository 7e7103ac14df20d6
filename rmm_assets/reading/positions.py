"""Keeps a pass over offsets or page numbers in place: what came, where the next page starts, whether this was the end."""

from __future__ import annotations

from dataclasses import replace

from rmm_assets.errors import PagingError
from rmm_assets.http.transport import Request
from rmm_assets.reading.answers import ABSENT, Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PageRead, PassFacts
from rmm_assets.reading.paginators import ByPosition
from rmm_assets.reading.stated import more_mark, repeats, whole_number
from rmm_assets.rows.decode import Page
from rmm_assets.rows.keys import NO_KEY, row_identity

# Pages that one worker fetches before they are decoded at once: from here on more of them save nothing (measured).
MOST_AT_ONCE = 16
_MOST_BYTES_AT_ONCE = 1 << 20


class Positions:
    """Where a pass stands.

    The next offset follows from the rows that came. A server that sends fewer than asked for (a cap, a short page in the
    middle) moves the plan; requests that were sent for other addresses are dropped by the caller.
    """

    def __init__(
        self, endpoint: Endpoint, paginator: ByPosition, facts: PassFacts, *, overlapping: bool, past_total: bool
    ) -> None:
        self.position = paginator.start
        self._endpoint = endpoint
        self._request = endpoint.request()
        self._paginator = paginator
        self._by_rows = paginator.counts_rows
        self._limit = paginator.asked_rows(self._request) or 0
        self._facts = facts
        self._past_total = past_total
        # A maximum says where to stop, and a page that may be empty has no row to begin with.
        self._overlapping = overlapping and self._by_rows and paginator.maximum is None and paginator.stops_at_empty
        self._covered = paginator.start
        self._total: int | None = None
        self._stated: list[int] = []
        self._overlap = 0
        self._largest = 0
        self._short = False
        self._before: Page | None = None
        self._number = 0

    def request(self, position: int, number: int) -> Request:
        """Returns the request for the page at a position."""
        label = f"{self._endpoint.name} page {number} ({self._paginator.parameter} {position})"
        return replace(self._paginator.at(self._request, position), label=label)

    def width(self, window: int) -> int:
        """Workers' loads that may be asked for: one until the page size is known. With no total to say where the end is,
        as many as there were pages, and one where this page looks like the last. With one, two windows, so that no worker
        waits until somebody has taken what it brought.
        """
        if not self._number or (self._total is None and self._short):
            return 1
        if self._total is None:
            return min(window, self._number)
        # Only the second page shows whether the server pages as it is asked to.
        return 2 * window if self._number > 1 else window

    def ahead(self, last: int | None, window: int, most: int) -> list[int]:
        """Returns the addresses that one worker fetches next.

        Args:
            last: The last one that is asked for already; None where there is none.
            window: Workers.
            most: Addresses at most.
        """
        first = self.position if last is None else self._after(last)
        if first is None:
            return []
        if self._total is not None and self._before is not None:
            # A stated end lets several pages be one worker's: no more than came so far, because only what came shows how
            # this server pages, and fewer towards the end, so that no worker is alone there.
            step = max(self._largest, 1) if self._by_rows else 1
            left = (self._total + self._paginator.base - first) // step // (2 * window)
            most = min(most, left, self._number, _MOST_BYTES_AT_ONCE // max(self._before.size, 1))
        else:
            most = 1
        positions = [first]
        while len(positions) < most and (following := self._after(positions[-1])) is not None:
            positions.append(following)
        return positions

    def _after(self, position: int) -> int | None:
        """The address behind this one, if a page may lie there."""
        following = position + (max(self._largest - self._overlap, 1) if self._by_rows else 1)
        maximum = self._paginator.maximum
        if maximum is not None and following >= maximum:
            return None
        return None if self._is_behind(following) else following

    def _is_behind(self, position: int) -> bool:
        """Whether the address lies behind the stated end."""
        return self._total is not None and position >= self._total + self._paginator.base

    def expects_refusal(self) -> bool:
        """Whether a page that the server refuses to have says something, and is no fault."""
        if self._overlap and self._number == 1:
            self._facts.moved = self._facts.moved_at_once = self._facts.round_offsets = True
        elif self._number and self._is_behind(self.position):
            self._facts.unproven += 0 if self._overlap else 1
            self._facts.ended = "total"
        else:
            return False
        return True

    def arrive(self, answer: Answer) -> PageRead | None:
        """Takes the page that starts at `position`; None where it only shows that rows moved.

        Raises:
            PagingError: the server sent the page before once more, or says that more follows an empty page.
        """
        facts, paginator, page, shape = self._facts, self._paginator, answer.page, self._endpoint.shape
        self._number += 1
        overlap, before = self._overlap, self._before
        if before is not None and repeats(page, before, shape):
            if overlap:
                facts.moved = True
                facts.moved_at_once = facts.round_offsets = self._number == 2
                return None
            raise PagingError(
                f"{self._endpoint.name}: page {self._number} is the same as page {self._number - 1}: the server ignores "
                f"{paginator.parameter!r}, or sends its last page for every page behind it. Check the paginator's "
                "parameter names against the API's documentation, and name the end with has_more_path or total_path"
            )
        if before is not None and overlap:
            first = row_identity(page, shape, 0) if page.rows else None
            if first != row_identity(before, shape, -1):
                facts.moved, facts.moved_at_once = True, self._number == 2
                return None
            if first == NO_KEY:
                facts.unproven += 1
        elif before is not None:
            facts.unproven += 1
        total = whole_number(answer, paginator.total_path)
        row_total = whole_number(answer, self._endpoint.total_path)
        if self._by_rows and row_total is None:
            row_total = total
        stated = row_total if self._by_rows else total
        if stated is not None:
            self._total = stated
            self._stated.append(stated)
        new = page.rows - overlap
        if new > 0 and before is not None:
            facts.turns += 1
            if before.rows < self._limit:
                facts.cap = max(facts.cap or 0, before.rows)
        if new > 0:
            self._covered += new
        elif not paginator.stops_at_empty:
            self._covered += self._limit
        # Where nothing says what a full page is, the first page may be a short one.
        self._short = page.rows < (self._largest if self._largest else self._limit or page.rows + 1)
        self._largest = max(self._largest, page.rows)
        self._before = page
        facts.ended = self._end(answer, new)
        if (
            facts.ended == "empty page"
            and not self._by_rows
            and row_total is None
            and not self._is_behind(self.position)
        ):
            # Fewer pages than `total` says there are: it counts rows, as in many APIs, or some are missing.
            for total in self._stated:
                facts.state(total)
        self._overlap = 1 if self._overlapping and page.rows > 1 else 0
        self.position = self._covered - self._overlap if self._by_rows else self.position + 1
        if not facts.ended and paginator.maximum is not None and self.position >= paginator.maximum:
            facts.ended = "maximum"
        return PageRead(page.slice(overlap) if overlap else page, self._number, row_total)

    def _end(self, answer: Answer, new: int) -> str:
        """How this page shows the end; empty where it does not. A full page at the stated end shows nothing yet."""
        paginator, mark = self._paginator, more_mark(answer, self._paginator.more_path)
        if answer.ignored:
            return "no next page"
        if mark is False:
            return "no more"
        stated_end = self._is_behind(self._covered if self._by_rows else self.position + 1)
        endless = self._total is None and paginator.maximum is None and mark is ABSENT
        if new <= 0 and (paginator.stops_at_empty or endless):
            if mark is True:
                raise PagingError(
                    f"{self._endpoint.name}: page {self._number} is empty but says there is more. If pages may be empty, "
                    "set stop_after_empty_page: false"
                )
            return "empty page"
        if stated_end and not self._past_total and (self._short or not paginator.stops_at_empty):
            return "total"
        return "no more" if mark is None and self._short else ""
