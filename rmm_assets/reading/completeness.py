"""Decides whether every row that the API has was received, repeating the read if one pass does not prove it.

A read is complete only by evidence from a closed list, `Evidence`:

* the stated total was reached by distinct rows, and every page states the same total;
* the API marked the end: a null or empty reference to the next page, or `has_more` false;
* an empty page follows the last row, if paging goes by position;
* two reads agree: of the last page if the API keeps the position (links, cursors), of everything if it does not, or in smaller
  pages if the last page is full;
* the connection file says so: a maximum, `verify: false`, `single_page`.

Anything else in a response that says there are more rows, configured or not, contradicts an end (see `signals`). Offsets and
page numbers also need proof that no row moved between pages during the read. With offsets, requesting the last row of each
page again proves it; without such proof everything is read twice.

An unproven pass is followed by another, up to three. Two consecutive passes with the same rows show what the API has; if
something still says there are more, the read is incomplete.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.reading.collector import Collector
from rmm_assets.reading.count import count_rows
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import ByPosition
from rmm_assets.reading.probes import refuse_other_base, refuse_unsorted, rows_between, rows_elsewhere
from rmm_assets.reading.progress import Progress
from rmm_assets.reading.report import Evidence, Report
from rmm_assets.reading.signals import ROUND_TOTALS, Kind, Signals
from rmm_assets.reading.stated import never_found, reference_not_found
from rmm_assets.reading.walk import walk

MAX_PASSES = 3

# From this many rows on, a read checks from time to time whether the server has started over.
_LOOK_FOR_ROUNDS_AT = 10_000
# Numbers of rows after which APIs are known to end a read.
_MOST_ROWS = frozenset((1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000))
_LOG = logging.getLogger("rmm_assets")


@dataclass(frozen=True)
class _PassSummary:
    """The outcome of one pass, to be compared with the next.

    Attributes:
        fingerprint: Digest of the set of keys.
        sequence: Digest of all keys in the order received if some were repeated, else None.
        rows: Number of rows received.
        repeated: Number of rows received more than once.
        total: The last stated total; None if there is none.
        steady: Whether no row moved and every page stated the same total.
    """

    fingerprint: Any
    sequence: Any
    rows: int
    repeated: int
    total: int | None
    steady: bool

    def confirms(self, before: _PassSummary) -> bool:
        """Returns whether this pass and the one before show that these are all the server's rows.

        If a row moved and one pass missed it, that pass saw another row twice or the passes differ. So equal rows are proof,
        and with repeated rows equal order.
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
    """Reads an endpoint until the read is proven complete and leaves its rows in the collector.

    Args:
        pager: Fetches the pages.
        endpoint: The endpoint.
        collector: Receives the rows; cleared before each pass.
        report: Filled in, also if the read fails.
        unique: Whether rows have a primary key, so that equal keys mean the same row.
        verify: True: always read twice; False: never; None: only if nothing else proves the read complete.
        to_the_end: If the read stays unproven, leave a pass in the collector that continued to the end despite moving rows.
        log: Receives progress and warnings.

    Raises:
        IncompleteError: Three passes did not prove the read complete. The collector holds the rows of the last one.
        TransportError: A page could not be fetched.
        PagingError: The paging does not work as configured.
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
    before: _PassSummary | None = None
    overlapping, past_total, stumbles, suspicion = True, False, 0, ""
    counted = count_rows(pager, endpoint)
    while True:
        report.passes += 1
        signals.begin(counted)
        try:
            facts = _one_pass(
                pager, endpoint, collector, report, signals, log, overlapping=overlapping, past_total=past_total,
                unique=unique, trusted=verify is False,
            )  # fmt: skip
        except TransportError as error:
            if suspicion:  # the API may not allow this page size
                raise PagingError(f"{suspicion}. In smaller pages: {error}") from None
            raise
        if facts.moved_at_once:
            # The API accepts only round offsets, or rows move: tried twice. Such a pass takes two requests and is not counted.
            stumbles += 1
            overlapping = not facts.round_offsets and stumbles < 2
            report.passes -= 1
            continue
        counted = _add_totals(pager, endpoint, facts, signals, counted)
        report.first_total, report.last_total = facts.first_total, facts.last_total
        if facts.suspicion:
            smaller = None if suspicion else endpoint.in_smaller_pages(report.rows, facts.full_page)
            if smaller is None:
                raise PagingError(facts.suspicion)
            log.info("%s; reading it again in smaller pages", facts.suspicion)
            endpoint, suspicion, before = smaller, facts.suspicion, _summary(facts, collector, report)
            continue
        summary = _summary(facts, collector, report) if before is not None else None
        confirmed = before is not None and summary is not None and summary.confirms(before)
        verdict = _verdict(endpoint, facts, signals, report, before, confirmed, unique, verify)
        if suspicion and not confirmed and isinstance(verdict, Evidence):
            verdict = suspicion
        if isinstance(verdict, Evidence):
            # A stated 0 does not show that the right page was requested.
            reached = verdict is Evidence.STATED_TOTAL and report.rows
            may_ask = verify is not False and not facts.ignored
            if may_ask and not reached:
                refuse_other_base(pager, endpoint, facts, signals, report.rows - report.duplicates)
                refuse_unsorted(pager, endpoint, facts)
            if may_ask and facts.ended != "maximum":
                verdict = (
                    rows_elsewhere(pager, endpoint, facts, signals, report.rows)
                    or rows_between(pager, endpoint, facts, signals, report.rows)
                    or verdict
                )
        if isinstance(verdict, Evidence):
            report.complete, report.evidence = True, verdict
            report.partial, report.ignored = facts.ended == "maximum", facts.ignored
            report.empty = not report.rows
            report.reason = _reason(facts, verdict)
            if facts.ignored is None:
                missing, missed = never_found(endpoint, signals), endpoint.learned.missed
                facts.warnings += [missed.setdefault(key, text) for key, text in missing.items()]
            _warn(endpoint, facts, report, log, unique)
            return
        if report.passes >= MAX_PASSES or (confirmed and before is not None and before.total == facts.last_total):
            report.reason = verdict
            if facts.moved and to_the_end:
                _one_pass(
                    pager, endpoint, collector, report, signals, log, overlapping=False, past_total=False, unique=unique
                )
            raise IncompleteError(
                f"{endpoint.name}: {verdict} (after {report.passes} passes){reference_not_found(endpoint, signals)}"
            )
        log.info(
            "%s: %s; reading it again (pass %d of %d at most)", endpoint.name, verdict, report.passes + 1, MAX_PASSES
        )
        before = summary or _summary(facts, collector, report)
        # Repeated rows may reach a total that does not count them before the last rows are received.
        past_total |= report.duplicates > 0


def _add_totals(
    pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, counted: int | None
) -> int | None:
    """Adds totals stated outside this pass, by a count request or an earlier pass; returns the new count, if any."""
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
    """Reads the endpoint once and returns what the pass showed.

    Raises:
        PagingError: The paging does not work, or most rows are repeats: the server starts over and over again.
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
                    "server starts over instead of ending. Name the end with has_more_path or total_path"
                )
    # Each of these goes through all keys, so each is computed once.
    report.rows, report.distinct = collector.rows, collector.distinct
    report.duplicates = report.rows - report.distinct - collector.keyless
    return facts


def _summary(facts: PassFacts, collector: Collector, report: Report) -> _PassSummary:
    return _PassSummary(
        fingerprint=collector.fingerprint(),
        sequence=collector.sequence() if report.duplicates else None,
        rows=report.rows,
        repeated=report.duplicates,
        total=facts.last_total,
        steady=not facts.moved and len(facts.totals) <= 1,
    )


def _verdict(
    endpoint: Endpoint, facts: PassFacts, signals: Signals, report: Report, before: _PassSummary | None, confirmed: bool,
    unique: bool, verify: bool | None,
) -> Evidence | str:  # fmt: skip
    """Returns the evidence that the read is complete, or a sentence that says why it is not."""
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
    """Returns what the API said that contradicts these being all rows; empty if nothing does."""
    total = facts.last_total
    if total is not None and not reached:
        short = f"the API reports {total} rows; {distinct} distinct rows were received in {facts.pages} pages"
        # With at least as many rows as stated, repeats may be genuine or hide a row that was never received.
        if distinct < total and report.rows < total:
            return short
        if not confirmed or (report.duplicates and facts.ended == "stated end"):
            return short
    # A token that is never used is not one that is also set at the end.
    here = signals.more_here(could_be_full=facts.could_be_full or not facts.followed)
    if reached and facts.could_be_full:
        # Many flags only say whether the page was full, and are wrong on a full last page.
        for name in [name for name in here if signals.kind(name) in (Kind.MORE, Kind.LAST)]:
            signals.dismiss(name, "the stated total was reached on a full page")
            del here[name]
    more = {**signals.more_in_all(report.rows if confirmed else distinct, distinct), **here}
    against = [*more.values(), *facts.contradictions]
    if not against:
        return ""
    return (
        f"the read ended ({facts.ended}) after {distinct} rows, but {' and '.join(against[:3])}. If the API is wrong "
        "about that, list it in wrong_signals"
    )


def _doubt(
    endpoint: Endpoint, facts: PassFacts, signals: Signals, report: Report, before: _PassSummary | None, unique: bool,
    verify: bool | None, reached: bool,
) -> str:  # fmt: skip
    """Returns why one pass is not enough; empty if it is."""
    if verify:
        return "one read is not proof enough (verify: true)"
    if report.duplicates and not unique:
        return "rows were received more than once, and without a primary key they may be in place of others"
    paginator = endpoint.paginator
    by_position = isinstance(paginator, ByPosition)
    total = facts.last_total
    if isinstance(paginator, ByPosition) and paginator.counts_rows and facts.unproven and (reached or facts.turns):
        return "the API accepts only round offsets, so one read does not show that no row moved"
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
    """Warns about oddities of a read that is nevertheless complete."""
    warnings = list(dict.fromkeys(facts.warnings))
    if facts.cap is not None:
        warnings.append(
            f"the API sends at most {facts.cap} rows per page although more are requested; all rows were received. "
            f"Set paginator.limit to {facts.cap}"
        )
    if report.rows in _MOST_ROWS and report.evidence not in (Evidence.STATED_TOTAL, Evidence.USER):
        warnings.append(
            f"exactly {report.rows:,} rows were received, and the API states no total: it may send no more in one read. If it "
            "has more, read them in parts, such as by an incremental range or a parent"
        )
    if endpoint.learned.nul_replaced:
        warnings.append("texts contain the character NUL, which the destination cannot store; U+FFFD replaces it")
    if (repeated := report.duplicates - facts.at_boundaries) > 0:
        warnings.append(f"{repeated} rows were received more than once and loaded once")
    distinct = report.rows - report.duplicates if unique else report.rows
    if facts.last_total is not None and facts.ended != "maximum" and distinct != facts.last_total:
        warnings.append(f"the API reports {facts.last_total} rows but has {distinct}: two reads returned the same ones")
    for text in warnings:
        report.warnings.append(text)
        log.warning("%s: %s", endpoint.name, text)
