"""Passes over an endpoint to a verdict: is every row that the API holds here?

What proves a pass complete, strongest first:

* offsets with a stated total: each page begins with the row that the page before ended on, every page states the same
  total, and as many distinct rows came;
* page numbers, links and cursors with a stated total: every page states the same one, and as many distinct rows came;
* links and cursors without a total: the server keeps the place and says that there is no next page;
* offsets and page numbers without a total: in one pass little shows that rows did not move between pages, so the endpoint
  is read twice, and both passes must hold the same rows. One page alone is proven by offsets: nothing but its last row
  comes when the server is asked to go on from there.

A pass that is not proven is followed by another one, three at most. Two passes in a row that show the same rows settle
what the server holds, and a total that still says more makes the read incomplete.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rmm_assets.errors import IncompleteError, PagingError
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import ByPosition
from rmm_assets.reading.progress import Progress
from rmm_assets.reading.walk import walk
from rmm_assets.rows.decode import Page
from rmm_assets.rows.keys import row_keys
from rmm_assets.rows.layout import RowShape
from rmm_assets.rows.tally import Tally

MAX_PASSES = 3

# From so many rows on, a read looks now and then whether the server has begun again at the beginning.
_LOOK_FOR_ROUNDS_AT = 10_000


class Collector(Protocol):
    """What gathers a pass's rows; `warehouse.spool.Spool` is one."""

    rows: int

    @property
    def distinct(self) -> int: ...

    @property
    def keyless(self) -> int: ...

    def add(self, page: Page) -> None: ...

    def clear(self) -> None: ...

    def fingerprint(self) -> Any: ...

    def sequence(self) -> Any: ...


@dataclass
class Report:
    """What a read showed: the `complete` check, the asset's metadata and one log line are made from it.

    Attributes:
        pages: Pages taken, over all passes.
        rows: Rows received in the pass that counts.
        distinct: Different primary keys among them.
        duplicates: Rows that came more than once; each lands once.
        passes: How often the endpoint was read; a pass that ends at its first boundary does not count.
        complete: The verdict.
        partial: The connection sets a maximum, and the read ended there.
        reason: Why it is not complete, or how it was proven.
    """

    resource: str
    pages: int = 0
    rows: int = 0
    distinct: int = 0
    duplicates: int = 0
    passes: int = 0
    first_total: int | None = None
    last_total: int | None = None
    complete: bool = False
    partial: bool = False
    reason: str = ""
    warnings: list[str] = field(default_factory=list)

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Shown:
    """What one pass showed, as far as the next one is compared with it.

    Attributes:
        fingerprint: Of the set of keys.
        sequence: Of all keys in the order in which they came, where some came more than once.
        repeated: Rows that came more than once.
        steady: Nothing moved, and every page stated the same total.
    """

    fingerprint: Any
    sequence: Any
    rows: int
    repeated: int
    total: int | None
    steady: bool

    def confirms(self, before: _Shown) -> bool:
        """Whether two passes show that this is what the server holds.

        A row that one pass lost came back in the other one, unless another row went in its place: that one was seen twice in
        its pass, or is gone in the other one. So the same rows twice are enough, and with repeated rows the same order.
        """
        if not before.steady or not self.steady or before.rows != self.rows:
            return False
        return before.fingerprint == self.fingerprint and (not self.repeated or before.sequence == self.sequence)


def read_complete(
    pager: Pager,
    endpoint: Endpoint,
    collector: Collector,
    report: Report,
    *,
    unique: bool = True,
    verify: bool | None = None,
    to_the_end: bool = False,
    log: logging.Logger | None = None,
) -> None:
    """Read an endpoint until it is shown complete; the collector holds the rows then.

    Args:
        unique: Rows have a primary key, so that equal keys are one row.
        verify: True: always read twice; False: never; None: where nothing else proves it.
        to_the_end: Where it stays unproven, have the collector hold a pass that went on to the end, moving rows or not.

    Raises:
        IncompleteError: three passes did not settle it. The collector holds the rows of the last one.
        TransportError, PagingError: a page could not be had.
    """
    log = log or logging.getLogger("rmm_assets")
    before: _Shown | None = None
    overlapping, past_total, stumbles = True, False, 0
    while True:
        report.passes += 1
        facts = _one_pass(
            pager, endpoint, collector, report, log, overlapping=overlapping, past_total=past_total, unique=unique
        )
        if facts.moved_at_once:
            # Round offsets only, or rows that move: tried twice. Such a pass cost two requests, and it is not counted.
            stumbles += 1
            overlapping = not facts.round_offsets and stumbles < 2
            report.passes -= 1
            continue
        shown = _shown(facts, collector, report) if before is not None else None
        confirmed = before is not None and shown is not None and shown.confirms(before)
        problem = _problem(endpoint, facts, report, before, confirmed, unique, verify)
        if problem is None:
            report.complete = True
            report.partial = facts.ended == "maximum"
            report.reason = _proof(facts, report, confirmed)
            _note(endpoint, facts, report, log, unique)
            return
        if report.passes >= MAX_PASSES or (confirmed and before is not None and before.total == facts.last_total):
            report.reason = problem
            if facts.moved and to_the_end:
                _one_pass(pager, endpoint, collector, report, log, overlapping=False, past_total=False, unique=unique)
            raise IncompleteError(f"{endpoint.name}: {problem} (after {report.passes} passes)")
        log.info(
            "%s: %s; reading it again (pass %d of %d at most)", endpoint.name, problem, report.passes + 1, MAX_PASSES
        )
        before = shown or _shown(facts, collector, report)
        # Rows that are repeated may fill up a total that does not count them, before the last rows have come.
        past_total |= facts.ended == "total" and report.duplicates > 0


def _one_pass(
    pager: Pager, endpoint: Endpoint, collector: Collector, report: Report, log: logging.Logger, *,
    overlapping: bool, past_total: bool, unique: bool,
) -> PassFacts:  # fmt: skip
    """Read once; what it showed.

    Raises:
        PagingError: besides the pager's reasons, most rows came before: the server goes round and round.
    """
    collector.clear()
    facts = PassFacts()
    look_at = _LOOK_FOR_ROUNDS_AT
    progress = Progress(endpoint.name, log, lambda: pager.transport.traffic.retries)
    for read in walk(pager, endpoint, facts, overlapping=overlapping, past_total=past_total):
        collector.add(read.page)
        report.pages += 1
        progress.page(read.page.rows, read.total)
        if unique and collector.rows >= look_at:
            look_at = 2 * collector.rows
            if 2 * (collector.distinct + collector.keyless) < collector.rows:
                raise PagingError(
                    f"{endpoint.name}: {collector.rows} rows came, and only {collector.distinct} different ones: the "
                    "server begins again where it should end. Name the end with has_more_path or total_path"
                )
    # Each of these goes through all keys, so they are asked for once.
    report.rows, report.distinct = collector.rows, collector.distinct
    report.duplicates = report.rows - report.distinct - collector.keyless
    report.first_total, report.last_total = facts.first_total, facts.last_total
    return facts


def _shown(facts: PassFacts, collector: Collector, report: Report) -> _Shown:
    return _Shown(
        fingerprint=collector.fingerprint(),
        sequence=collector.sequence() if report.duplicates else None,
        rows=report.rows,
        repeated=report.duplicates,
        total=facts.last_total,
        steady=not facts.moved and len(facts.totals) <= 1,
    )


def _problem(
    endpoint: Endpoint, facts: PassFacts, report: Report, before: _Shown | None, confirmed: bool, unique: bool,
    verify: bool | None,
) -> str | None:  # fmt: skip
    """What speaks against this pass; None where it is proven."""
    if facts.moved:
        return "rows moved between pages while they were read"
    if len(facts.totals) > 1:
        return (
            f"the total changed from {facts.first_total} to {facts.last_total} while the pages were read, "
            f"{report.distinct} different rows came"
        )
    if facts.ended == "maximum":
        return None
    different = report.rows - report.duplicates if unique else report.rows
    total = facts.last_total
    if total is not None and different != total:
        short = f"the server says {total} rows, {different} different ones came in {facts.pages} pages"
        if different < total and report.rows < total:
            return short
        # As many or more rows than stated: true repetitions, or one row twice and another one not at all.
        return None if confirmed and not (report.duplicates and facts.ended == "total") else short
    if confirmed or verify is False:
        return None
    if verify:
        return "one pass is not proof enough (verify: true)"
    if report.duplicates and not unique:
        return "rows came more than once, and without a primary key they may stand for others"
    paginator = endpoint.paginator
    by_position = isinstance(paginator, ByPosition)
    if (
        isinstance(paginator, ByPosition)
        and paginator.counts_rows
        and facts.unproven
        and (total is not None or facts.turns)
    ):
        return "the server takes round offsets only, so one pass does not show that no row moved"
    if by_position and total is None:
        alone = not facts.turns and not facts.unproven and (report.rows or facts.ended != "empty page")
        if before is not None and before.steady and not alone:
            return f"two passes differ: {before.rows} rows, then {report.rows}"
        if not alone:
            return "the server states no total, so one pass does not show that no row moved"
    return None


def _proof(facts: PassFacts, report: Report, confirmed: bool) -> str:
    if facts.ended == "maximum":
        return "read up to the maximum that the connection sets"
    if facts.last_total is not None and report.rows - report.duplicates == facts.last_total:
        return f"as many rows as the stated total of {facts.last_total}"
    return "two passes hold the same rows" if confirmed else f"read to the end: {facts.ended}"


def _note(endpoint: Endpoint, facts: PassFacts, report: Report, log: logging.Logger, unique: bool) -> None:
    """Warn of what is odd about a read that is complete all the same."""
    warnings: list[str] = []
    if facts.cap is not None:
        warnings.append(
            f"the server sends {facts.cap} rows a page where more are asked for; all rows came, paging by what comes. "
            f"Set paginator.limit to {facts.cap} to say so"
        )
    if report.duplicates:
        warnings.append(f"{report.duplicates} rows came more than once and landed once")
    different = report.rows - report.duplicates if unique else report.rows
    if facts.last_total is not None and facts.ended != "maximum" and different != facts.last_total:
        warnings.append(
            f"the server says {facts.last_total} rows, and holds {different}: two passes show the same ones"
        )
    for text in warnings:
        report.warnings.append(text)
        log.warning("%s: %s", endpoint.name, text)


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
