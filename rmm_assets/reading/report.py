"""Defines the report of a read and the evidence by which it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Evidence(StrEnum):
    """The only kinds of proof that a read has reached its end, strongest first."""

    STATED_TOTAL = "the stated total was reached by distinct rows"
    END_MARK = "the API marked the end"
    EMPTY_LIST = "an empty page follows the last row"
    TWO_READS = "two reads agree"
    USER = "the connection file says so"


@dataclass
class Report:
    """The outcome of a read; the `complete` check, the asset's metadata and one log line are made from it.

    Attributes:
        pages: Number of pages received in all passes.
        rows: Number of rows received in the last pass.
        distinct: Number of distinct primary keys among them. Without a key, rows are the same if they are equal and on different
            pages.
        duplicates: Number of rows received more than once; each lands once.
        passes: How often the endpoint was read; a pass that ends at its first boundary does not count.
        complete: Whether the read is proven complete.
        partial: Whether the read ended at a maximum that the connection sets.
        reason: Why it is not complete, or how it was proven.
        evidence: What ended the read; of several reads, such as one per parent, the weakest.
        signals: What the API said about there being more, and what was believed or refuted, one line each.
        ignored: Status of the first response if it is an error that means no rows; else None.
        empty: Whether the read is complete and has no rows, which may also mean that the key lacks permissions.
        parents: Number of parents whose children were requested; 0 if the resource has no parent.
        parents_from: Where the parents' rows are from; empty if the resource has no parent.
        parents_missing: Number of parents for which the API has nothing, as it says by an error such as 404.
        parents_refused: Number of parents whose children cannot be seen, as the API says by an error such as 403.
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
    evidence: Evidence | None = None
    signals: list[str] = field(default_factory=list)
    ignored: int | None = None
    empty: bool = False
    parents: int = 0
    parents_from: str = ""
    parents_missing: int = 0
    parents_refused: int = 0

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, part: Report) -> None:
        """Adds the report of one of several reads that make up this one, such as one parent's."""
        self.pages += part.pages
        self.passes = max(self.passes, part.passes)
        self.partial |= part.partial
        self.warnings += part.warnings
        if part.last_total is not None:
            self.first_total = (self.first_total or 0) + (part.first_total or 0)
            self.last_total = (self.last_total or 0) + part.last_total
        order = list(Evidence)
        found = [each for each in (self.evidence, part.evidence) if each is not None]
        self.evidence = max(found, key=order.index, default=None)
        self.signals += [line for line in part.signals if line not in self.signals][: _MOST_LISTED - len(self.signals)]


_MOST_LISTED = 12
