"""Tracks a pass over offsets or page numbers: what was received, where the next page starts, whether this is the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rmm_assets.errors import PagingError
from rmm_assets.http.request import Request
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PageRead, PassFacts
from rmm_assets.reading.paginators import ByPosition
from rmm_assets.reading.report import Evidence
from rmm_assets.reading.signals import CAPS, PAGE_SIZES, ROUND_TOTALS, Signals
from rmm_assets.reading.stated import more_mark, refuse_never_found, repeats, stated_total, total_of
from rmm_assets.rows.keys import NO_KEY, row_identity
from rmm_assets.rows.page import Page

# Pages that one worker fetches before decoding them together; more save no time (measured).
MOST_AT_ONCE = 16
_MOST_BYTES_AT_ONCE = 1 << 20
# Statuses by which servers say that there is no such page.
_GONE = (404, 410, 416)


class Positions:
    """The state of a pass.

    The next offset follows from the rows received. If a server sends fewer than requested (a cap, a short page in the middle),
    the planned offsets shift, and the caller drops the requests it has sent for other offsets.
    """

    def __init__(
        self, endpoint: Endpoint, paginator: ByPosition, facts: PassFacts, signals: Signals, *, overlapping: bool,
        past_total: bool,
    ) -> None:  # fmt: skip
        self.position = paginator.start
        self._base = paginator.base
        self._signals = signals
        self._endpoint = endpoint
        self._request = endpoint.request()
        self._paginator = paginator
        self._by_rows = paginator.counts_rows
        self._limit = paginator.asked_rows(self._request) or 0
        self._facts = facts
        self._past_total = past_total
        # Not with a maximum, which says where to stop, nor if pages may be empty and so have no row to repeat.
        self._overlapping = overlapping and self._by_rows and paginator.maximum is None and paginator.stops_at_empty
        self._covered = paginator.start
        self._total: int | None = None
        self._stated: list[tuple[int, int]] = []
        self._rows = 0
        self._mark: Any = ABSENT
        self._probed = False
        self._doubted: list[str] = []
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
        """Returns how many workers' loads may be in flight.

        One until the page size is known. Without a total, as many as pages received so far, or one if the latest page looks
        like the last. With a total, twice the window, so that no worker waits for its pages to be consumed.
        """
        if not self._number or (self._total is None and self._short):
            return 1
        if self._total is None:
            return min(window, self._number)
        # Only the second page shows whether the server pages as requested.
        return 2 * window if self._number > 1 else window

    def ahead(self, last: int | None, window: int, most: int) -> list[int]:
        """Returns the positions that one worker fetches next.

        Args:
            last: The last position already requested; None if there is none.
            window: Number of workers.
            most: Maximum number of positions.
        """
        first = self.position if last is None else self._after(last)
        if first is None:
            return []
        if self._total is not None and self._before is not None:
            # With a stated end, one worker fetches several pages: no more than received so far, as only these show how the
            # server pages, and fewer towards the end, so that all workers stay busy.
            step = max(self._largest, 1) if self._by_rows else 1
            left = (self._total + self._base - first) // step // (2 * window)
            most = min(most, left, self._number, _MOST_BYTES_AT_ONCE // max(self._before.size, 1))
        else:
            most = 1
        positions = [first]
        while len(positions) < most and (following := self._after(positions[-1])) is not None:
            positions.append(following)
        return positions

    def _after(self, position: int) -> int | None:
        """Returns the next position if there may be a page."""
        following = position + (max(self._largest - self._overlap, 1) if self._by_rows else 1)
        maximum = self._paginator.maximum
        if maximum is not None and following >= maximum:
            return None
        return None if self._is_behind(following) else following

    def _is_behind(self, position: int) -> bool:
        """Returns whether a position is past the stated end."""
        return self._total is not None and position >= self._total + self._base

    def expects_refusal(self, status: int | None) -> bool:
        """Returns whether a page that the server refuses is information rather than an error, and records it."""
        facts, capped = self._facts, status in (400, 422) and self._rows in ROUND_TOTALS
        if self._overlap and self._number == 1:
            facts.moved = facts.moved_at_once = facts.round_offsets = True
        elif self._number and not capped and self._past_the_end():
            facts.unproven += 0 if self._overlap else 1
            facts.ended = "stated end"
        elif self._number and status in _GONE and not (self._could_be_full or self._says_more()):
            facts.unproven += 0 if self._overlap else 1
            facts.ended, facts.evidence = "no page there", Evidence.EMPTY_LIST
        elif self._number and not (capped or self._overlap or self._says_more()):
            facts.unproven += 1
            facts.ended = "no page there"
            if self._could_be_full:
                facts.suspicion = (
                    f"{self._endpoint.name}: page {self._number} is full ({facts.full_page} rows), and the API answers HTTP "
                    f"{status} to the request for the next one. If that is its end, name it with total_path or has_more_path"
                )
        else:
            return False
        self._dismiss_doubts("the page after it does not exist")
        return True

    def _past_the_end(self) -> bool:
        """Returns whether a number that the API states confirms that everything before this position is everything."""
        return self._is_behind(self.position) or self._signals.confirms(self._rows, self._pages)

    def _says_more(self) -> bool:
        """Returns whether anything that the API has said contradicts an end at this position."""
        signals, here = self._signals, self._total is not None and not self._is_behind(self.position)
        return here or bool(signals.more_here() or signals.more_in_all(self._rows))

    @property
    def _before_rows(self) -> int:
        return self._before.rows if self._before is not None else 0

    @property
    def _pages(self) -> int | None:
        """Number of pages received if positions are page numbers."""
        return None if self._by_rows else self.position - self._base

    @property
    def _could_be_full(self) -> bool:
        """Whether the last page may have been cut off."""
        rows = self._before_rows
        full = rows >= (self._largest if self._number > 1 else self._limit or 1)
        return bool(rows) and (full if self._number > 1 or self._limit else rows in PAGE_SIZES)

    def _is_full(self, page: Page) -> bool:
        """Returns whether a new page is as long as pages are: as requested, as learned, or a round number."""
        if self._largest:
            return page.rows >= self._largest
        return page.rows in PAGE_SIZES or page.rows == self._limit

    def arrive(self, answer: Answer) -> PageRead | None:
        """Takes in the page that starts at `position`; None if it adds no rows but only shows how the server pages.

        Raises:
            PagingError: The server sent the previous page again, or rows follow an empty page.
        """
        endpoint, facts, paginator, page = self._endpoint, self._facts, self._paginator, answer.page
        shape = endpoint.shape
        self._number += 1
        overlap, before = self._overlap, self._before
        if answer.ignored:
            return self._ignored(answer)
        if before is not None and repeats(page, before, shape):
            self._repeated()
            return None
        if before is not None and overlap:
            first = row_identity(page, shape, 0) if page.rows else None
            if first != row_identity(before, shape, -1):
                facts.moved, facts.moved_at_once = True, self._number == 2
                return None
            if first == NO_KEY:
                facts.unproven += 1
        elif before is not None and before.rows and not self._probed:
            facts.unproven += 1
        new = page.rows - overlap
        if new > 0 and self._probed:
            raise PagingError(
                f"{self._endpoint.name}: page {self._number - 1} is empty but page {self._number} has rows. If pages "
                "may be empty, set stop_after_empty_page: false"
            )
        if new > 0 and before is not None and before.rows:
            facts.turns += 1
            endpoint.learned.offsets_count_rows |= overlap > 0
            if 0 < before.rows < self._limit:
                facts.cap = max(facts.cap or 0, before.rows)
        if new > 0 and not self._rows and self._base != paginator.base:
            self._counts_from_one()
        if new > 0:
            self._covered += new
            self._rows += new
            facts.full_page = page.rows if self._is_full(page) else 0
        elif not paginator.stops_at_empty:
            self._covered += self._limit
        row_total = self._take_totals(answer)
        # If nothing says how long a full page is, the first page may be a short one.
        self._short = page.rows < (self._largest if self._largest else self._limit or page.rows + 1)
        self._largest = max(self._largest, page.rows)
        self._before = page
        if facts.first_page is None and page.rows:
            facts.first_page = page
        claim = self._end(answer, new)
        facts.ended = claim if self._is_believed(claim, max(new, 0)) else ""
        if facts.ended:
            refuse_never_found(endpoint, facts, self._signals)
        self._overlap = 1 if self._overlapping and page.rows > 1 else 0
        if self._by_rows:
            self.position = self._covered - self._overlap + (self._limit if self._probed and not facts.ended else 0)
        else:
            self.position += 1
        if not facts.ended and paginator.maximum is not None and self.position >= paginator.maximum:
            facts.ended, facts.evidence = "maximum", Evidence.USER
        return PageRead(page.slice(overlap) if overlap else page, self._number, row_total)

    def _ignored(self, answer: Answer) -> PageRead:
        """Ends the read at a first response that means no rows."""
        if self._number > 1:
            raise PagingError(
                f"{self._endpoint.name}: page {self._number} is a response that response_actions ignores; after the "
                "first page this would cut the read short"
            )
        facts = self._facts
        facts.ended, facts.evidence, facts.ignored = "ignored response", Evidence.USER, answer.reply.status
        return PageRead(answer.page, self._number, None)

    def _repeated(self) -> None:
        """Handles a repeated page: the server takes only round offsets, numbers pages from 1, or is past its end."""
        facts, name = self._facts, self._endpoint.name
        if self._overlap:
            facts.moved = True
            facts.moved_at_once = facts.round_offsets = self._number == 2
        elif self._probed:
            facts.ended, facts.evidence = "empty page", Evidence.EMPTY_LIST
        elif self._number == 2 and not self._by_rows and self._base == 0 == self._paginator.start:
            # For page 0 it sent page 1.
            self._counts_from_one()
            self.position += 1
        elif self._past_the_end() and not (self._rows == self._before_rows and self._signals.more_here()):
            facts.ended = "repeated last page past the stated end"
            self._dismiss_doubts("the page after it is the same page again")
        else:
            raise PagingError(
                f"{name}: page {self._number} is the same as page {self._number - 1}: the server ignores "
                f"{self._paginator.parameter!r}, or repeats its last page past the end. Check the paginator's "
                "parameter names against the API's documentation, and name the end with has_more_path or total_path"
            )

    def _counts_from_one(self) -> None:
        self._base = 1
        self._facts.warnings.append("the API numbers pages from 1; set base_page: 1")

    def _take_totals(self, answer: Answer) -> int | None:
        """Records what the response states and returns its total number of rows if that is credible.

        Raises:
            PagingError: A total is not a number.
        """
        endpoint, facts, paginator = self._endpoint, self._facts, self._paginator
        pages = None if self._by_rows else self.position - self._base + 1
        if pages is not None and self._rows and not answer.page.rows and paginator.stops_at_empty:
            # An empty page is not one of the stated pages.
            pages = facts.turns + 1
        current = None if self._by_rows else self.position
        self._signals.take(answer, endpoint.selector, received=self._rows, pages=pages, current=current)
        row_total = total_of(endpoint, answer)
        total = stated_total(answer, paginator.total_path)
        if total is not ABSENT:
            endpoint.learned.found.add("paginator.total_path")
        if self._by_rows and row_total is ABSENT:
            row_total, name = total, paginator.total_path
        else:
            name = endpoint.total_header or endpoint.total_path
        if row_total in (ABSENT, None):
            row_total = None
        elif self._signals.is_wrong(str(name)) or not self._signals.state(str(name), row_total):
            # It counts the rows of a page, or nothing meaningful.
            facts.forget_totals()
            row_total = self._total = None
        if self._by_rows:
            self._total = row_total if row_total is not None else self._total
        elif total not in (ABSENT, None) and not (total == 0 and self._rows):
            self._total = total
            self._stated.append((total, answer.page.rows))
        return None if row_total is None else int(row_total)

    def _is_believed(self, claim: str, new: int) -> bool:
        """Returns whether an end is credible; if not, one more page is requested, which does no harm."""
        facts = self._facts
        if not claim:
            return False
        # The read continues past an empty page only once, whatever else the page says, as empty pages may never end.
        if claim == "empty page" or not new:
            more = self._signals.more_here(could_be_full=False)
            if self._mark is True:
                more = {**more, str(self._paginator.more_path): self._paginator.more_key}
            counts_pages = self._counts_pages() if claim == "empty page" else ""
            if (more or counts_pages) and not self._probed and self._paginator.stops_at_empty:
                self._probed = True
                return False
            if counts_pages:
                facts.contradictions.append(counts_pages)
            if not more:
                self._dismiss_doubts("the page after it is empty")
            facts.evidence = Evidence.END_MARK if self._mark is False else Evidence.EMPTY_LIST
            self._endpoint.learned.total_counts_all |= self._total == self._rows > 0
            return True
        more = self._signals.more_here() | self._signals.more_in_all(self._rows)
        if more:
            self._doubted += more
            return False
        facts.evidence = Evidence.END_MARK if claim == "no more" else None
        return True

    def _dismiss_doubts(self, why: str) -> None:
        """Dismisses the signals that said there was more when there was not."""
        for name in {*self._doubted, *self._signals.more_here(could_be_full=False)}:
            if name not in self._signals.more_in_all(self._rows):
                self._signals.dismiss(name, f"said that more follows, and {why}")

    def _counts_pages(self) -> str:
        """Returns what contradicts an empty page before the stated number of pages; empty if nothing does.

        Many APIs mean rows by `total`; then it must equal the number of rows received.
        """
        if self._by_rows or self._total is None or self._is_behind(self.position) or self._facts.last_total is not None:
            return ""
        if all(total == rows for total, rows in self._stated if rows):
            return ""  # it counts the rows of a page
        if self._total >= self._rows:
            for total, _ in self._stated:
                self._facts.state(total)
            return ""
        page = self.position - self._base + 1
        return f"`{self._paginator.total_path}` states {self._total} pages, and page {page} is empty"

    def _end(self, answer: Answer, new: int) -> str:
        """Returns how this page shows the end; empty if it does not. A full page at the stated end does not show it yet."""
        paginator = self._paginator
        mark = self._mark = more_mark(answer, self._paginator)
        if mark is not ABSENT:
            self._endpoint.learned.found.add("paginator.has_more_path")
        if mark is False:
            return "no more"
        endless = self._total is None and paginator.maximum is None and mark is ABSENT
        if new <= 0 and (paginator.stops_at_empty or endless):
            if self._number == 1 and not self._by_rows and self._base == 0 == paginator.start and not self._probed:
                # Page 0 is empty if pages are numbered from 1.
                self._base = 1
                return ""
            if mark is True and self._probed:
                raise PagingError(
                    f"{self._endpoint.name}: page {self._number} is empty but says there is more. If pages may be empty, "
                    "set stop_after_empty_page: false"
                )
            return "empty page"
        stated_end = self._is_behind(self._covered if self._by_rows else self.position + 1)
        if stated_end and not self._past_total and (self._short or not paginator.stops_at_empty) and not self._hollow():
            return "stated end"
        return "no more" if mark is None and self._short else ""

    def _hollow(self) -> bool:
        """Returns whether a total that was reached proves little: it may be a cap or count the rows of the only page."""
        if not self._by_rows or self._total in ROUND_TOTALS:
            return self._by_rows
        learned, rows = self._endpoint.learned, self._largest
        return self._number == 1 and rows == self._total and rows in CAPS and not learned.total_counts_all
