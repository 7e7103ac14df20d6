"""Counts the parents for which the API answered with an error instead of a list of their children, and names some of them."""

from __future__ import annotations

from dataclasses import dataclass, field

# Statuses of a first response for one parent that are no error of the whole read, unless the file says otherwise.
REFUSALS = (403, 404, 410)
# Statuses that mean there is nothing. Any other means that it cannot be seen.
NOTHING_THERE = (200, 204, 404, 410)

_EXAMPLES = 3


@dataclass
class Refusals:
    """The parents without a list of children, by the status of the response.

    Attributes:
        counts: How many there are.
        examples: The labels of the first ones.
    """

    counts: dict[int, int] = field(default_factory=dict)
    examples: dict[int, list[str]] = field(default_factory=dict)

    def add(self, status: int, label: str) -> None:
        """Adds a parent."""
        self.counts[status] = self.counts.get(status, 0) + 1
        if self.counts[status] <= _EXAMPLES:
            self.examples.setdefault(status, []).append(label)

    @property
    def all(self) -> int:
        return sum(self.counts.values())

    @property
    def missing(self) -> int:
        """Number of parents for which there is nothing."""
        return sum(number for status, number in self.counts.items() if status in NOTHING_THERE)

    @property
    def refused(self) -> int:
        """Number of parents whose children cannot be seen."""
        return self.all - self.missing

    def named(self, *, missing: bool | None = None) -> str:
        """Names the first of those that are missing, of those that are refused, or of all, by their statuses."""
        said = []
        for status, labels in sorted(self.examples.items()):
            if missing in (None, status in NOTHING_THERE):
                more = self.counts[status] - len(labels)
                said.append(f"HTTP {status}: {', '.join(labels)}{f' and {more:,} more' if more else ''}")
        return "; ".join(said)
