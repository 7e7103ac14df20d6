"""Says what a read showed, and by what evidence it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Evidence(StrEnum):
    """What shows that a read is at its end: nothing else does. Strongest first."""

    STATED_TOTAL = "the stated total was reached by distinct rows"
    END_MARK = "the API marked the end"
    EMPTY_LIST = "an empty page follows the last row"
    TWO_READS = "two reads agree"
    USER = "the connection file says so"


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
        evidence: What ended the read; of many reads, such as one a parent, the weakest.
        signals: What the API said about there being more, what was believed and what was refuted: a line each.
        ignored: Status of the first answer where it is one that `response_actions` ignores; else None.
        empty: The read is complete and brought no row, which is what a key without rights looks like, too.
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

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, part: Report) -> None:
        """Takes in the report of one of several reads that make up this one, such as one parent's."""
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
