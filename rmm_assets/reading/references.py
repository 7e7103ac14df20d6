"""Tracks a pass over links, cursors or a single page: what was received and whether its end is credible."""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from operator import eq
from typing import Any

from rmm_assets.errors import PagingError
from rmm_assets.http.request import Request
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import KeysetPage, PassFacts
from rmm_assets.reading.paginators import ByReference, CursorPaginator, HeaderLinkPaginator, SinglePagePaginator
from rmm_assets.reading.report import Evidence
from rmm_assets.reading.signals import PAGE_SIZES, Signals, number_of, same_address
from rmm_assets.reading.stated import more_mark, reference_not_found, refuse_never_found, repeats, total_of
from rmm_assets.rows.keys import NO_KEY, row_identity, row_keys
from rmm_assets.rows.page import Page


class References:
    """The state of a pass.

    Attributes:
        number: Number of the last page received, starting at 1.
        needs_another_look: Whether the last page must be requested again, as naming no next page is not proof of the end.
        zero: The request for the page at cursor 0, which the last page names and which may be an end mark; None if it names none.
    """

    def __init__(self, endpoint: Endpoint, paginator: ByReference, facts: PassFacts, signals: Signals) -> None:
        self.number = 0
        self.needs_another_look = False
        self.zero: Request | None = None
        self._endpoint = endpoint
        self._paginator = paginator
        self._facts = facts
        self._signals = signals
        self._single = isinstance(paginator, SinglePagePaginator)
        self._asked = paginator.asked_rows(endpoint.request())
        self._sizes = paginator.may_ask_rows(endpoint.request())
        self._rows = self._largest = 0
        self._total: Any = ABSENT
        self._before: Page | None = None
        self._values_before: list[Any] = []
        self._cursors: list[int | None] = []
        self._suspicion = ""

    def arrive(self, answer: Answer) -> int | None:
        """Records a page and returns its stated total number of rows if that is credible.

        Raises:
            PagingError: The total is not a number.
        """
        endpoint, page = self._endpoint, answer.page
        self.number += 1
        self._rows += page.rows
        # The last page in a `Link` header is one of the pages that its links lead to.
        counted = self._single or (isinstance(self._paginator, HeaderLinkPaginator) and "last" in answer.links)
        self._signals.take(
            answer, endpoint.selector, received=self._rows, pages=self.number if counted else None, numbered=True
        )
        total = total_of(endpoint, answer)
        if total not in (ABSENT, None):
            name = str(endpoint.total_header or endpoint.total_path)
            if self._signals.is_wrong(name) or not self._signals.state(name, total):
                self._facts.forget_totals()
                total = ABSENT
        self._total = total if total not in (ABSENT, None) else self._total
        if self._facts.first_page is None:
            self._facts.first_page = page
        return None if total in (ABSENT, None) else int(total)

    def ends_in_itself(self, asked: Request, answer: Answer) -> bool:
        """Returns whether a page repeats the one before and names itself, as the last page does at some APIs.

        Raises:
            PagingError: The page repeats the one before and may not be the last one.
        """
        before, number = self._before, self.number
        if before is None or not repeats(answer.page, before, self._endpoint.shape):
            return False
        itself = not self._names_another(asked, answer, self._paginator.reference(answer))
        if not itself or (self._could_be_full(before) and not self._signals.confirms(self._rows, None)):
            raise PagingError(
                f"{self._endpoint.name}: page {number + 1} is the same as page {number}; the server does not follow its own "
                "paging. Check the paginator's parameter names against the API's documentation"
            )
        self._signals.take(answer, self._endpoint.selector, received=self._rows)
        self._facts.ended, self._facts.evidence = "no next page", Evidence.TWO_READS
        return True

    def following(self, asked: Request, answer: Answer) -> Request | None:
        """Returns the request for the next page; None at an end, which may still need another look.

        Raises:
            PagingError: The end is not credible.
        """
        self.needs_another_look, self._suspicion, self.zero = False, "", None
        following = self._following(asked, answer)
        self._largest = max(self._largest, answer.page.rows)
        self._before = answer.page
        return following

    def look_again(self, asked: Request, again: Answer) -> Request | None:
        """Compares the last page with a second response for it; returns the next request if that one names a next page."""
        reference = self._paginator.reference(again)
        if self._names_another(asked, again, reference):
            self._facts.warnings.append(f"page {self.number} had no next page in its first response")
            return self._follow(asked, again, reference)
        assert self._before is not None
        if self._suspicion:
            self._facts.suspicion = self._suspicion
        elif repeats(again.page, self._before, self._endpoint.shape) or again.page.rows == self._before.rows == 0:
            self._facts.evidence = Evidence.TWO_READS
        else:
            self._facts.moved = True
        return None

    def goes_on_at_zero(self, found: Answer | None) -> bool:
        """Returns whether the page at cursor 0 has rows after the last page, rather than starting over or having none."""
        shape, first, before = self._endpoint.shape, self._facts.first_page, self._before
        assert first is not None
        assert before is not None
        keys = set(row_keys(found.page, shape).tolist()) if found and found.page.selected_type == "list" else set()
        if keys - {*row_keys(before, shape).tolist(), NO_KEY} and not keys & set(row_keys(first, shape).tolist()):
            return True
        if self.number == 1 and self._could_be_full(before) and not self._facts.trusted:
            # An API may repeat the position that it was asked for.
            full = f"page 1 is full ({before.rows} rows) and names 0 as the next page"
            self._facts.suspicion = f"{self._endpoint.name}: {full}{self._advice()}"
        return False

    def _following(self, asked: Request, answer: Answer) -> Request | None:
        paginator, page, learned = self._paginator, answer.page, self._endpoint.learned
        if answer.ignored:
            self._ignore(answer.reply.status)
            return None
        mark = more_mark(answer, paginator)
        if mark is not ABSENT:
            learned.found.add("paginator.has_more_path")
        reference = paginator.reference(answer)
        if answer.reply.status == 204 and self._names_another(asked, answer, reference):
            raise PagingError(f"{self._endpoint.name}: page {self.number} has no content but names a next page")
        if reference is not ABSENT:
            learned.found.add("paginator")
        values = paginator.row_values(answer)
        self._facts.at_boundaries += self._from_the_page_before(page, values)
        self._values_before = values
        if values and (self._facts.keyset is None or self._facts.keyset.in_order):
            in_order = values in (sorted(values), sorted(values, reverse=True))
            if self._facts.keyset is None or not in_order:
                self._facts.keyset = KeysetPage(asked, page, values, in_order)
        if self._single:
            self._end("single page", Evidence.USER, page)
        elif paginator.stops_at_empty and not page.rows:
            self._end("empty page", Evidence.EMPTY_LIST, page)
        elif mark is False:
            if reference is not ABSENT and reference:  # a cursor is often set on the last page, too
                self._signals.dismiss(paginator.place, "the end mark says that no more follows")
            self._end("no more", Evidence.END_MARK, page)
        elif self._names_another(asked, answer, reference):
            self._cursors.append(number_of(reference))
            return self._follow(asked, answer, reference)
        elif mark is True:
            self._end("no next page", None, page)
            self.needs_another_look = True
            self._suspicion = f"{self._endpoint.name}: page {self.number} says there is more but has no next page"
        # A null mark is the end: some APIs write null instead of false on the last page.
        elif mark is None or not (reference is ABSENT or reference or paginator.is_in_row(answer)):
            self._end("no next page", Evidence.END_MARK, page)
            if self._may_be_zero(reference, page):
                self.zero = self._follow(asked, answer, reference)
        elif not page.rows:
            self._end("empty page", Evidence.EMPTY_LIST, page)
            # This response is the only evidence that the table is empty.
            self.needs_another_look = self.number == 1 and not self._facts.trusted
        else:
            wrong = "has no next page"
            if reference is None:
                wrong = f"cannot continue after a null in `{paginator.place}`"
            elif reference is not ABSENT:
                wrong = "names itself as the next page: the cursor does not move"
            self._end_unmarked(page, wrong)
        return None

    def _may_be_zero(self, reference: Any, page: Page) -> bool:
        """Returns whether a 0 may be the cursor of a page: not if cursors count up, nor if a stated total was reached."""
        if not isinstance(self._paginator, CursorPaginator) or self._paginator.stays or reference is False:
            return False
        last, before = (self._cursors[-1:] or [None])[0], (self._cursors[-2:-1] or [None])[0]
        counts_up = last is not None and before is not None and last > before
        return reference == 0 and bool(page.rows) and not counts_up and not self._signals.confirms(self._rows, None)

    def _from_the_page_before(self, page: Page, values: list[Any]) -> int:
        """Returns how many rows a page begins with because the one before ends with them: the cursor is inclusive."""
        before, earlier, shape = self._before, self._values_before, self._endpoint.shape
        if before is None or not values or not earlier:
            return 0
        alike = partial(eq, earlier[-1])
        first = {row_identity(page, shape, at) for at in range(len(list(takewhile(alike, values))))}
        last = {row_identity(before, shape, -1 - at) for at in range(len(list(takewhile(alike, reversed(earlier)))))}
        return len(first & last)

    def _names_another(self, asked: Request, answer: Answer, reference: Any) -> bool:
        """Returns whether the page names a next page other than itself."""
        if reference is ABSENT or reference is None or not (reference or self._paginator.is_in_row(answer)):
            return False
        following = self._follow(asked, answer, reference)
        if following.path != asked.path and "://" in following.path:
            return not same_address(answer.reply.url, following.path)
        return following != asked or self._paginator.stays

    def _follow(self, asked: Request, answer: Answer, reference: Any) -> Request:
        try:
            return self._paginator.following(asked, answer, reference)
        except PagingError as error:
            raise PagingError(f"{self._endpoint.name}: page {self.number}: {error}") from None

    def _ignore(self, status: int) -> None:
        """Ends the read at a first response that means no rows."""
        if self.number > 1:
            raise PagingError(
                f"{self._endpoint.name}: page {self.number} is a response that response_actions ignores; after the first "
                "page this would cut the read short"
            )
        self._facts.ended, self._facts.evidence, self._facts.ignored = "ignored response", Evidence.USER, status

    def _end(self, how: str, evidence: Evidence | None, page: Page) -> None:
        self._facts.ended, self._facts.evidence = how, evidence
        self._facts.could_be_full = self._could_be_full(page)
        self._facts.followed = not self._single and "paginator" in self._endpoint.learned.found
        self._facts.full_page = page.rows if self._facts.could_be_full else 0
        refuse_never_found(self._endpoint, self._facts, self._signals)

    def _end_unmarked(self, page: Page, wrong: str) -> None:
        """Handles an end without a mark: credible if a stated number confirms it or a second response for the page does."""
        stated = self._rows in (self._total, self._signals.counted)
        self._end("no next page", None, page)
        if self._facts.trusted:
            return
        if stated or self._signals.more_in_all(self._rows):
            return
        self.needs_another_look = True
        if self._could_be_full(page) and not (self.number > 1 and self._signals.confirms(self._rows, None)):
            self._suspicion = (
                f"{self._endpoint.name}: page {self.number} is full ({page.rows} rows) and {wrong}. Rows may be missing"
                f"{self._advice()}"
            )

    def _could_be_full(self, page: Page) -> bool:
        """Returns whether the page is as long as pages are: as requested, as learned, or a round number."""
        if self.number > 1 and page.rows >= self._largest:
            return True
        alone = self.number == 1 and page.rows in PAGE_SIZES
        # Any number may be a page size, unless the pages are known to name the next one.
        known = self._asked is None and "paginator" in self._endpoint.learned.found
        return bool(page.rows) and (alone or (page.rows in self._sizes and not known))

    def _advice(self) -> str:
        if lost := reference_not_found(self._endpoint, self._signals):
            return lost
        size = "" if self._asked else ", or request a page size, so that the rows can be read in smaller pages, too"
        return (
            ": if the API has an end mark, name it with has_more_path or last_path; if it states a total, with total_path, "
            f"total_header or count{size}"
        )
