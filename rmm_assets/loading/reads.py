"""Reads a resource until the read is proven complete: once, or once per row of its parent, several in parallel."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rmm_assets.errors import ConflictingRowsError, IncompleteError, ParentRowError, RmmError
from rmm_assets.loading.cursor import Bounds
from rmm_assets.loading.landing import Landing
from rmm_assets.loading.parents import FROM_API, Parents
from rmm_assets.loading.refusals import NOTHING_THERE, Refusals
from rmm_assets.loading.requests import Requests, inherited_values, label_of, parent_in_table, request_of
from rmm_assets.reading.collector import Collector, MemoryCollector
from rmm_assets.reading.completeness import read_complete
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.report import Report
from rmm_assets.rows.page import Page
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape


@dataclass(kw_only=True)
class Reading(Landing):
    """What one run needs to read a resource and to land its rows, and what it found.

    Attributes:
        pager: Fetches pages; open for the run.
        begun: Called before the first request.
        parents: The rows of parents that the run has already.
        unread_parents: For a child resource, the parents whose children may not all have been read: their keys by the
            table's columns, or why they cannot be identified.
    """

    pager: Pager
    begun: Callable[[], None] = lambda: None
    parents: Parents = field(default_factory=Parents)
    unread_parents: Sequence[Mapping[str, Any]] | str = ()


@dataclass(frozen=True)
class _Child:
    """The read for one row of the parent.

    Attributes:
        report: The report of this read.
        rows: The rows received.
        parent: The parent's key by its columns in the table; empty if it has none there.
        label: Names the parent in messages.
        inherited: Fields of the parent's row to add to its children's rows.
        problem: Why the read is not complete, if its rows land nevertheless.
    """

    report: Report
    rows: MemoryCollector
    parent: Mapping[str, Any]
    label: str
    inherited: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def is_proven(self) -> bool:
        """Whether rows that were not received do not exist."""
        return not self.problem and not _tells_nothing(self.report)


def _tells_nothing(report: Report) -> bool:
    """Returns whether the only response was ignored and does not mean that there is nothing."""
    return report.ignored is not None and report.ignored not in NOTHING_THERE


_UNREAD = "a response that response_actions ignores does not show that there are no rows"
_UNKNOWN_PARENT = (
    "some belong to parents that could not be read; include_from_parent with the parent's key would show which"
)


def read(requests: Requests, reading: Reading, collector: Collector, bounds: Bounds | None) -> None:
    """Reads a resource until the read is proven complete, leaving its rows in the collector.

    Raises:
        IncompleteError, TransportError, PagingError, ParentRowError: It is not complete; the collector holds the rows
            received.
    """
    _read(requests, reading, collector, reading.report, bounds, reading.folder / "parents")


def _read(
    requests: Requests, reading: Reading, collector: Collector, report: Report, bounds: Bounds | None, folder: Path
) -> None:
    """Reads a resource; reads it again if rows share a key but differ, as a row may have changed between two pages.

    Raises:
        ConflictingRowsError: Rows share a key and differ in the second read as well.
    """
    _read_once(requests, reading, collector, report, bounds, folder)
    if not _conflicts(collector):
        return
    reading.log.info("%s: rows share a primary key and differ; reading again", report.resource)
    again = Report(report.resource)
    _read_once(requests, reading, collector, again, bounds, folder)
    again.pages, again.passes = again.pages + report.pages, again.passes + report.passes
    vars(report).update(vars(again))
    found = _conflicts(collector)
    if found:
        key = ", ".join(requests.resource.keys)
        report.complete = False
        report.reason = (
            f"{report.resource}: rows share the primary key ({key}) but differ, so all but one of them would be lost: "
            f"{'; '.join(found)}. Write a primary_key that distinguishes them"
            + ("; the parent's field (include_from_parent) may be a part of it" if requests.parent else "")
        )
        raise ConflictingRowsError(report.reason)


def _conflicts(collector: Collector) -> Sequence[str]:
    # The collector of one parent's children has none: their rows are compared in that of the resource.
    found = getattr(collector, "conflicts", None)
    return () if found is None else found()


def _read_once(
    requests: Requests, reading: Reading, collector: Collector, report: Report, bounds: Bounds | None, folder: Path
) -> None:
    if requests.parent is None:
        _read_one(request_of(requests, bounds), requests, reading, collector, report)
        reading.unread_parents = _UNREAD if _tells_nothing(report) else ()
        return
    above = Report(requests.parent.resource.name)
    parents, problems = _parents(requests, reading, above, folder)
    # Children of parents that were not received are not requested.
    unread = list[Mapping[str, Any]]()
    cannot_tell = _UNKNOWN_PARENT if problems or reading.unread_parents else ""
    collector.clear()
    report.parents_from = above.parents_from
    report.complete, report.partial = True, above.partial
    refusals = Refusals()
    for child in _children(requests, reading, parents, bounds):
        for page in child.rows.pages:
            collector.add(with_fields(page, child.inherited) if child.inherited else page)
        if child.report.ignored is not None:
            refusals.add(child.report.ignored, child.label)
        report.add(child.report)
        report.parents += 1
        if not child.is_proven:
            unread.append(child.parent)
        problems += [child.problem] if child.problem else []
    # A place may be missing in one parent's responses only.
    outdated = requests.endpoint.learned.outdated
    report.warnings = [text for text in report.warnings if text not in outdated]
    report.rows, report.distinct = collector.rows, collector.distinct
    report.duplicates = collector.rows - collector.distinct - collector.keyless
    report.empty = not report.rows
    reading.unread_parents = cannot_tell or (_UNKNOWN_PARENT if {} in unread else unread)
    report.parents_missing, report.parents_refused = refusals.missing, refusals.refused
    report.reason = _told(refusals, report.parents, above.resource)
    if above.parents_from != FROM_API:
        report.reason += f"; {above.resource} are from {above.parents_from}"
    if above.parents_missing or above.parents_refused:
        report.reason += f"; {above.resource}: {above.reason}"
    if refusals.refused:
        said = (
            f"the API refuses to show {requests.resource.name} of {above.resource}, and earlier rows of them are kept"
        )
        _warn(reading, report, f"{said} ({refusals.named(missing=False)})")
    if all_refused := _all_refused(requests, refusals, report.parents):
        problems.append(all_refused)
        reading.unread_parents = all_refused
    if problems:
        report.complete = False
        report.reason = problems[0] if len(problems) == 1 else f"{problems[0]}; and {len(problems) - 1} more like this"
        raise IncompleteError(report.reason)


def _told(refusals: Refusals, parents: int, parent: str) -> str:
    """Returns why a read for each parent is complete: all are read to the end, except those that the API refuses."""
    if not refusals.all:
        return f"every one of {parents} {parent} was read to the end"
    said = f"{parents - refusals.all} of {parents} {parent} were read to the end"
    if refusals.missing:
        said += f"; the API has nothing for {refusals.missing} ({refusals.named(missing=True)})"
    if refusals.refused:
        said += f"; it refuses {refusals.refused}, whose earlier rows are kept ({refusals.named(missing=False)})"
    return said


def _all_refused(requests: Requests, refusals: Refusals, parents: int) -> str:
    """Returns what is wrong if the API refused every parent; empty if nothing is."""
    unsaid = any(status in requests.endpoint.refusals for status in refusals.counts)
    # For one parent, the file's word is enough.
    if refusals.all < parents or parents < (1 if unsaid else 2):
        return ""
    assert requests.parent is not None
    name, parent = requests.resource.name, requests.parent.resource.name
    if not unsaid:
        return (
            f"{name}: response_actions ignored the responses for all {parents} rows of {parent}: this also happens if the key "
            "lacks permissions"
        )
    which = f"all {parents} rows of {parent}" if parents > 1 else f"the only row of {parent}"
    return (
        f"{name}: the API refused the requests for {which} ({refusals.named()}): the key may lack permissions, or the path may be "
        f"wrong. If it means that there are no {name}, write response_actions"
    )


def _warn(reading: Landing, report: Report, text: str) -> None:
    report.warnings.append(text)
    reading.log.warning("%s: %s", report.resource, text)


def _parents(
    requests: Requests, reading: Reading, report: Report, folder: Path
) -> tuple[Iterable[Mapping[str, Any]], list[str]]:
    """Returns the parent's rows, which are requested if the run has not got them yet, and what is wrong with them.

    Raises:
        IncompleteError, ParentRowError: Parents or their keys are missing and the file does not say to continue.
    """
    assert requests.parent is not None
    name = report.resource
    known = reading.parents.rows_of(name)
    if known is not None:
        rows, report.parents_from = known
        reading.unread_parents = ()
        reading.log.info("%s: %d %s are from %s", requests.resource.name, len(rows), name, report.parents_from)
        return rows, []
    # Children are requested once even if a parent is received twice.
    spool = RecordSpool(requests.parent.endpoint.shape, folder)
    problems = _read_parents(requests, reading, spool, report, folder)
    report.parents_from = FROM_API
    received = (row for batch in spool.records() for row in batch)
    if problems or report.partial or reading.unread_parents or not spool.used_values.digest():
        return received, problems
    reading.parents.share(requests.parent, received)
    return (row for batch in spool.records() for row in batch), []


def _read_parents(
    requests: Requests, reading: Reading, parents: RecordSpool, report: Report, folder: Path
) -> list[str]:
    """Reads the parent resource; returns its problems if the connection wants the children nevertheless.

    Raises:
        IncompleteError, ParentRowError: Parents or their keys are missing and the file does not say to continue.
    """
    assert requests.parent is not None
    resource, problems = requests.resource, []
    try:
        _read(requests.parent, reading, parents, report, requests.parent.first_bounds, folder / "parents")
    except IncompleteError as error:
        if resource.on_incomplete == "fail":
            raise
        problems.append(str(error))
    if parents.rejected_rows:
        keys = ", ".join(requests.parent.resource.keys) or "fields"
        said = (
            f"{resource.name}: {parents.rejected_rows} rows of {report.resource} have no key ({keys}), so their "
            f"{resource.name} cannot be requested"
        )
        if resource.on_incomplete == "fail":
            raise ParentRowError(said)
        problems.append(said)
    return problems


def _read_one(endpoint: Endpoint, requests: Requests, reading: Reading, collector: Collector, report: Report) -> None:
    resource = requests.resource
    read_complete(
        reading.pager, endpoint, collector, report, unique=bool(endpoint.shape.primary_key), verify=resource.verify,
        to_the_end=resource.on_incomplete == "warn", log=reading.log,
    )  # fmt: skip


def _children(
    requests: Requests, reading: Reading, rows: Iterable[Mapping[str, Any]], bounds: Bounds | None
) -> Iterator[_Child]:
    """Yields the read for each parent's row, in the order of these rows; each read is proven complete by itself."""
    # Responses do not contain the parent's fields, so keys are used without them until they are added.
    added, shape = set(requests.inherited_columns.values()), requests.endpoint.shape
    bare = replace(shape, primary_key=tuple(name for name in shape.primary_key if name not in added))
    # Parents have their own workers, as the pager's are busy with pages. Only twice as many reads as workers are started
    # ahead, so that few finished ones wait in memory.
    workers = ThreadPoolExecutor(max_workers=reading.pager.width, thread_name_prefix="rmm-parent")
    waiting: deque[Future[_Child]] = deque()
    try:
        for row in rows:
            waiting.append(workers.submit(_read_child, requests, reading, row, bounds, bare))
            if len(waiting) >= 2 * reading.pager.width:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an error, reads in progress end when the transport closes.
        workers.shutdown(wait=False, cancel_futures=True)


def _read_child(
    requests: Requests, reading: Reading, row: Mapping[str, Any], bounds: Bounds | None, shape: RowShape
) -> _Child:
    resource = requests.resource
    collector, report = MemoryCollector(shape), Report(resource.name)
    place, inherited, parent, label = "", {}, parent_in_table(requests, row), label_of(requests, row)
    try:
        inherited = inherited_values(requests, row)
        endpoint = replace(request_of(requests, bounds, row), shape=shape)
        place = f" (for {label}, at {endpoint.path})"
        _read_one(endpoint, requests, reading, collector, report)
    except RmmError as error:
        said = f"{error}{place}"
        if resource.on_incomplete == "warn" and isinstance(error, (IncompleteError, ParentRowError)):
            return _Child(report, collector, parent, label, inherited, said)
        # The same error, with the parent in its message.
        error.args = (said, *error.args[1:])
        raise
    if report.ignored in requests.endpoint.refusals:
        report.evidence = None  # it is the file's word only if the file says so
    return _Child(report, collector, parent, label, inherited)


def with_fields(page: Page, fields: Mapping[str, Any]) -> Page:
    """Returns the page with fields of the parent added to each row."""
    rows = [{**row, **fields} if isinstance(row, dict) else row for row in page.objects()]
    return Page(len(rows), None, page.size, None, b"", None, rows)
