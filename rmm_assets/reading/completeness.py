"""Judges passes over an endpoint: has every row that the API holds been received?

A read ends by evidence from a closed list only, `Evidence`:

* the stated total was reached by distinct rows, and every page states the same one;
* the API marked the end: a null or empty reference where the next one would stand, or `has_more` false;
* an empty page follows the last row, where paging goes by position;
* two reads agree: of the last page where the API keeps the place (links, cursors), of everything where it does not;
* the connection file says so: a maximum, `verify: false`, `single_page`.

Whatever else the API says about there being more rows, configured or not, contradicts an end (see `signals`). Offsets and
page numbers need more: that no row moved between pages while they were read. Offsets show it by asking for the last row of
each page again; what shows nothing is read twice.

A pass that is not proven is followed by another one, three at most. Two passes in a row that show the same rows settle
what the API holds, and what still says more makes the read incomplete.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rmm_assets.errors import IncompleteError, PagingError
from rmm_assets.reading.collector import Collector
from rmm_assets.reading.count import count_rows
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.first_page import refuse_other_base
from rmm_assets.reading.paginators import ByPosition
from rmm_assets.reading.progress import Progress
from rmm_assets.reading.report import Evidence, Report
from rmm_assets.reading.signals import ROUND_TOTALS, Kind, Signals
from rmm_assets.reading.stated import never_found
from rmm_assets.reading.walk import walk

MAX_PASSES = 3

# From so many rows on, a read looks now and then whether the server has begun again at the beginning.
_LOOK_FOR_ROUNDS_AT = 10_000
_LOG = logging.getLogger("rmm_assets")


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
    """Reads an endpoint until it is shown complete; the collector holds the rows then.

    Args:
        report: Filled in, also where the read fails.
        unique: Rows have a primary key, so that equal keys are one row.
        verify: True: always read twice; False: never; None: where nothing else proves it.
        to_the_end: Where it stays unproven, have the collector hold a pass that went on to the end, moving rows or not.

    Raises:
        IncompleteError: three passes did not settle it. The collector holds the rows of the last one.
        TransportError, PagingError: a page could not be had.
    """
    signals = Signals(endpoint.wrong_signals)
    try:
        _read(pager, endpoint, collector, report, signals, unique, verify, to_the_end, log or _LOG)
    finally:
        report.signals = signals.summary()


def _read(
    pager: Pager, endpoint: Endpoint, collector: Collector, report: Report, signals: Signals, unique: bool,
    verify: bool | None, to_the_end: bool, log: logging.Logger,
) -> None:  # fmt: skip
    before: _Shown | None = None
    overlapping, past_total, stumbles = True, False, 0
    counted = count_rows(pager, endpoint)
    while True:
        report.passes += 1
        signals.begin(counted)
        facts = _one_pass(
            pager, endpoint, collector, report, signals, log, overlapping=overlapping, past_total=past_total,
            unique=unique, trusted=verify is False,
        )  # fmt: skip
        if facts.moved_at_once:
            # Round offsets only, or rows that move: tried twice. Such a pass cost two requests, and it is not counted.
            stumbles += 1
            overlapping = not facts.round_offsets and stumbles < 2
            report.passes -= 1
            continue
        counted = _add_totals(pager, endpoint, facts, signals, counted)
        report.first_total, report.last_total = facts.first_total, facts.last_total
        shown = _shown(facts, collector, report) if before is not None else None
        confirmed = before is not None and shown is not None and shown.confirms(before)
        verdict = _verdict(endpoint, facts, signals, report, before, confirmed, unique, verify)
        if isinstance(verdict, Evidence):
            # A stated 0 is as good as the number of the page that states it.
            reached = verdict is Evidence.STATED_TOTAL and report.rows
            if not reached and verify is not False and not facts.ignored:
                refuse_other_base(pager, endpoint, facts, signals, report.rows)
            report.complete, report.evidence = True, verdict
            report.partial, report.ignored = facts.ended == "maximum", facts.ignored
            report.empty = not report.rows
            report.reason = _reason(facts, verdict)
            facts.warnings += never_found(endpoint, signals)
            _warn(endpoint, facts, report, log, unique)
            return
        if report.passes >= MAX_PASSES or (confirmed and before is not None and before.total == facts.last_total):
            report.reason = verdict
            if facts.moved and to_the_end:
                _one_pass(
                    pager, endpoint, collector, report, signals, log, overlapping=False, past_total=False, unique=unique
                )
            raise IncompleteError(f"{endpoint.name}: {verdict} (after {report.passes} passes)")
        log.info(
            "%s: %s; reading it again (pass %d of %d at most)", endpoint.name, verdict, report.passes + 1, MAX_PASSES
        )
        before = shown or _shown(facts, collector, report)
        # Rows that are repeated may fill up a total that does not count them, before the last rows have come.
        past_total |= report.duplicates > 0


def _add_totals(
    pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, counted: int | None
) -> int | None:
    """Adds what is stated outside this pass: by a request of its own, or by an earlier pass of this run."""
    if endpoint.count is not None:
        now = count_rows(pager, endpoint)
        if now is not None:
            signals.state("count", now)
        facts.forget_totals()
        facts.state(counted)
        facts.state(now)
        return now
    if facts.last_total is None:
        paginator = endpoint.paginator
        by_rows = isinstance(paginator, ByPosition) and paginator.counts_rows
        name = endpoint.total_header or endpoint.total_path or (paginator.total_path if by_rows else None)  # type: ignore[attr-defined]
        facts.state(signals.total(name) if name else None)
    return None


def _one_pass(
    pager: Pager, endpoint: Endpoint, collector: Collector, report: Report, signals: Signals, log: logging.Logger, *,
    overlapping: bool, past_total: bool, unique: bool, trusted: bool = False,
) -> PassFacts:  # fmt: skip
    """Reads once; what it showed.

    Raises:
        PagingError: besides the pager's reasons, most rows came before: the server goes round and round.
    """
    collector.clear()
    facts = PassFacts(trusted=trusted)
    look_at = _LOOK_FOR_ROUNDS_AT
    progress = Progress(endpoint.name, log, lambda: pager.transport.traffic.retries)
    for read in walk(pager, endpoint, facts, signals, overlapping=overlapping, past_total=past_total):
        collector.add(read.page)
        report.pages += 1
        progress.page(read.page.rows, read.total)
        if unique and collector.rows >= look_at:
            look_at = 2 * collector.rows
            if 2 * (collector.distinct + collector.keyless) < collector.rows:
                raise PagingError(
                    f"{endpoint.name}: {collector.rows} rows were received, only {collector.distinct} of them distinct: the "
                    "server begins again where it should end. Name the end with has_more_path or total_path"
                )
    # Each of these goes through all keys, so they are asked for once.
    report.rows, report.distinct = collector.rows, collector.distinct
    report.duplicates = report.rows - report.distinct - collector.keyless
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


def _verdict(
    endpoint: Endpoint, facts: PassFacts, signals: Signals, report: Report, before: _Shown | None, confirmed: bool,
    unique: bool, verify: bool | None,
) -> Evidence | str:  # fmt: skip
    """By what evidence the read has ended, or what speaks against it."""
    if facts.moved:
        return "rows moved between pages while they were read"
    if len(facts.totals) > 1:
        return (
            f"the stated total changed from {facts.first_total} to {facts.last_total} while the pages were read; "
            f"{report.distinct} distinct rows were received"
        )
    if facts.ended == "maximum":
        return Evidence.USER
    distinct = report.rows - report.duplicates if unique else report.rows
    total = facts.last_total
    reached = total is not None and distinct == total
    if problem := _contradiction(facts, signals, report, distinct, confirmed, reached):
        return problem
    if verify is False:
        return Evidence.STATED_TOTAL if reached else facts.evidence or Evidence.USER
    if not confirmed:
        doubt = _doubt(endpoint, facts, signals, report, before, unique, verify, reached)
        if doubt:
            return doubt
    if reached:
        return Evidence.STATED_TOTAL
    return Evidence.TWO_READS if confirmed or facts.evidence is None else facts.evidence


def _contradiction(
    facts: PassFacts, signals: Signals, report: Report, distinct: int, confirmed: bool, reached: bool
) -> str:
    """What the API said that cannot be true if these are all rows; empty where nothing is."""
    total = facts.last_total
    if total is not None and not reached:
        short = f"the API reports {total} rows; {distinct} distinct rows were received in {facts.pages} pages"
        # As many or more rows than stated: true repetitions, or one row twice and another one not at all.
        if distinct < total and report.rows < total:
            return short
        if not confirmed or (report.duplicates and facts.ended == "stated end"):
            return short
    here = signals.more_here(could_be_full=facts.could_be_full)
    if reached and facts.could_be_full:
        # Many flags only tell whether the page was full, and are wrong on a last page that is.
        for name in [name for name in here if signals.kind(name) in (Kind.MORE, Kind.LAST)]:
            signals.settle(name, "the stated total was reached on a full page")
            del here[name]
    more = {**signals.more_in_all(report.rows if confirmed else distinct), **here}
    against = [*more.values(), *facts.contradictions]
    if not against:
        return ""
    return (
        f"the read ended ({facts.ended}) after {distinct} rows, but {' and '.join(against[:3])}. If the API is wrong "
        "about that, name it in wrong_signals"
    )


def _doubt(
    endpoint: Endpoint, facts: PassFacts, signals: Signals, report: Report, before: _Shown | None, unique: bool,
    verify: bool | None, reached: bool,
) -> str:  # fmt: skip
    """Why one pass is not enough; empty where it is."""
    if verify:
        return "one read is not proof enough (verify: true)"
    if report.duplicates and not unique:
        return "rows came more than once, and without a primary key they may stand for others"
    paginator = endpoint.paginator
    by_position = isinstance(paginator, ByPosition)
    total = facts.last_total
    if isinstance(paginator, ByPosition) and paginator.counts_rows and facts.unproven and (reached or facts.turns):
        return "the API takes round offsets only, so one read does not show that no row moved"
    if by_position and total is None and not facts.ignored:
        alone = not facts.turns and not facts.unproven and (report.rows or facts.ended != "empty page")
        if before is not None and before.steady and not alone:
            return f"two reads returned different rows: {before.rows}, then {report.rows}"
        if not alone:
            return "the API reports no total, so one read does not show that no row moved"
    if reached and not (total in ROUND_TOTALS and not by_position):
        return ""
    if reached:
        return f"the stated total of {total} may be where the API stops counting"
    weak = signals.doubts(rows=report.rows)
    if facts.evidence is not Evidence.TWO_READS and weak:
        return f"{' and '.join(weak[:3])}, so the end needs a second look"
    return "" if facts.evidence is not None else "nothing shows that this is the end, so it needs a second look"


def _reason(facts: PassFacts, evidence: Evidence) -> str:
    if facts.ended == "maximum":
        return "read up to the maximum that the connection sets"
    if evidence is Evidence.STATED_TOTAL:
        return f"as many distinct rows as the stated total of {facts.last_total}"
    return f"{evidence} ({facts.ended})" if evidence in (Evidence.END_MARK, Evidence.USER) else str(evidence)


def _warn(endpoint: Endpoint, facts: PassFacts, report: Report, log: logging.Logger, unique: bool) -> None:
    """Warns of what is odd about a read that is complete all the same."""
    warnings = list(dict.fromkeys(facts.warnings))
    if facts.cap is not None:
        warnings.append(
            f"the API sends {facts.cap} rows a page where more are asked for; all rows came, paging by what comes. "
            f"Set paginator.limit to {facts.cap} to say so"
        )
    if report.duplicates:
        warnings.append(f"{report.duplicates} rows came more than once and landed once")
    distinct = report.rows - report.duplicates if unique else report.rows
    if facts.last_total is not None and facts.ended != "maximum" and distinct != facts.last_total:
        warnings.append(
            f"the API reports {facts.last_total} rows and holds {distinct}: two reads returned the same ones"
        )
    for text in warnings:
        report.warnings.append(text)
        log.warning("%s: %s", endpoint.name, text)
