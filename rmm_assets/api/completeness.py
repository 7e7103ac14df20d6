"""Passes over an endpoint to a verdict: is every row that the API holds here?

What proves a pass complete, strongest first:

* offsets with a stated total: each page begins with the row that the page before ended on, every page states the same
  total, and as many distinct rows came;
* page numbers, links and cursors with a stated total: every page states the same one, and as many distinct rows came;
* links and cursors without a total: the server keeps the place and says that there is no next page;
* offsets and page numbers without a total: nothing in one pass shows that rows did not move between pages, so the
  endpoint is read twice, and both passes must hold the same rows.

A pass that is not proven is followed by another one, three at most. Two passes in a row that show the same rows settle
what the server holds, and a total that still says more makes the read incomplete.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rmm_assets.api.paging import Endpoint, Pager, PassFacts
from rmm_assets.warehouse.keys import NO_KEY, row_keys
from rmm_assets.warehouse.rows import Page, RowShape

MAX_PASSES = 3


class IncompleteError(Exception):
    """The read cannot be shown to hold every row; the text says what is missing and why."""


class Collector(Protocol):
    """What gathers a pass's rows; `warehouse.rows.Spool` is one."""

    rows: int

    @property
    def distinct(self) -> int: ...

    @property
    def keyless(self) -> int: ...

    def add(self, page: Page) -> None: ...

    def clear(self) -> None: ...

    def fingerprint(self) -> Any: ...


@dataclass
class Report:
    """What a read showed: the `complete` check, the asset's metadata and one log line are made from it.

    Attributes:
        pages: Pages taken, over all passes.
        rows: Rows received in the pass that counts.
        distinct: Different primary keys among them.
        duplicates: Rows that came more than once; each lands once.
        passes: How often the endpoint was read.
        complete: The verdict.
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
    """What one pass showed, as far as the next one is compared with it."""

    fingerprint: Any
    rows: int
    total: int | None
    steady: bool


def read_complete(
    pager: Pager,
    endpoint: Endpoint,
    collector: Collector,
    report: Report,
    *,
    unique: bool = True,
    verify: bool | None = None,
    log: logging.Logger | None = None,
) -> None:
    """Read an endpoint until it is shown complete; the collector holds the rows then.

    Args:
        unique: Rows have a primary key, so that equal keys are one row.
        verify: True: always read twice; False: never for want of a total; None: where nothing else proves it.

    Raises:
        IncompleteError: three passes did not settle it. The collector holds the rows of the last one.
        TransportError, PagingError: a page could not be had.
    """
    log = log or logging.getLogger("rmm_assets")
    before: _Shown | None = None
    overlapping = True
    while True:
        if report.passes:
            collector.clear()
        report.passes += 1
        facts = PassFacts()
        for read in pager.pages(endpoint, facts, overlapping=overlapping):
            collector.add(read.page)
        _record(report, facts, collector)
        if facts.moved_at_first_overlap and overlapping:
            # Round offsets only, or rows that move: the next passes show which. This one cost two requests.
            overlapping = False
            report.passes -= 1
            continue
        shown = _Shown(collector.fingerprint(), collector.rows, facts.last_total, not facts.moved)
        problem = _problem(endpoint, facts, collector, before, shown, overlapping, unique, verify)
        if problem is None:
            report.complete = True
            report.partial = facts.ended == "maximum"
            report.reason = _proof(facts, report)
            if facts.cap is not None:
                _warn(report, log, f"{endpoint.name}: the server sends {facts.cap} rows a page where more are asked for; "
                      f"all rows came, paging by what comes. Set paginator.limit to {facts.cap} to say so")
            if report.duplicates and unique:
                _warn(report, log, f"{endpoint.name}: {report.duplicates} rows came more than once and landed once")
            return
        settled = before is not None and before.steady and shown.steady and before.fingerprint == shown.fingerprint
        if report.passes >= MAX_PASSES or (settled and before is not None and before.total == shown.total):
            report.reason = problem
            raise IncompleteError(f"{endpoint.name}: {problem} (after {report.passes} passes)")
        log.info("%s: %s; reading it again (pass %d of %d at most)", endpoint.name, problem, report.passes + 1, MAX_PASSES)
        before = shown


def _problem(
    endpoint: Endpoint, facts: PassFacts, collector: Collector, before: _Shown | None, shown: _Shown,
    overlapping: bool, unique: bool, verify: bool | None,
) -> str | None:  # fmt: skip
    """What speaks against this pass; None where it is proven."""
    if facts.moved:
        return "rows moved between pages while they were read"
    if len(facts.totals) > 1:
        return (
            f"the total changed from {facts.first_total} to {facts.last_total} while the pages were read, "
            f"{collector.distinct} different rows came"
        )
    confirmed = (
        before is not None and before.steady and before.fingerprint == shown.fingerprint and before.rows == shown.rows
    )
    different = collector.distinct + collector.keyless if unique else collector.rows
    total = facts.last_total
    if facts.ended == "maximum":
        return None
    if total is not None and different != total:
        short = f"the server says {total} rows, {different} different ones came in {facts.pages} pages"
        if different < total and collector.rows < total:
            return short
        # As many or more rows than stated: true repetitions, or one row twice and another one not at all.
        return None if confirmed else short
    if verify and not confirmed:
        return "one pass is not proof enough (verify: true)"
    kind = endpoint.paginator["type"]
    if total is None and kind in ("offset", "page_number") and verify is None and facts.pages > 1 and not confirmed:
        if before is None:
            return "the server states no total, so one pass does not show that no row moved"
        return f"two passes differ: {before.rows} rows, then {shown.rows}"
    if total is not None and kind == "offset" and not overlapping and facts.pages > 1 and not confirmed:
        return "the server takes round offsets only, or rows moved"
    return None


def _record(report: Report, facts: PassFacts, collector: Collector) -> None:
    report.pages += facts.pages
    report.rows = collector.rows
    report.distinct = collector.distinct
    report.duplicates = collector.rows - collector.distinct - collector.keyless
    report.first_total = facts.first_total
    report.last_total = facts.last_total


def _proof(facts: PassFacts, report: Report) -> str:
    if facts.ended == "maximum":
        return "read up to the maximum that the connection sets"
    if facts.last_total is not None:
        return f"as many rows as the stated total of {facts.last_total}"
    return "two passes hold the same rows" if report.passes > 1 else f"read to the end: {facts.ended}"


def _warn(report: Report, log: logging.Logger, text: str) -> None:
    report.warnings.append(text)
    log.warning(text)


class MemoryCollector:
    """A collector for small reads, such as one parent's children: pages in memory."""

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
        return len(self.fingerprint() - {NO_KEY})

    @property
    def keyless(self) -> int:
        return sum(int((row_keys(page, self._shape) == NO_KEY).sum()) for page in self.pages)

    def fingerprint(self) -> frozenset[Any]:
        return frozenset(key for page in self.pages for key in row_keys(page, self._shape))
