"""Defines the result of an audit: numbers, examples, and what could not be verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

EXAMPLES = 5

Verdict = Literal["equal", "differences", "unverified"]

_WORDS = {
    "missing": "missing from the table",
    "marked_absent": "marked absent although the API has them",
    "extra": "in the table only",
    "different": "with other values",
    "same_key": "with the key of another row, so the table cannot contain both",
}


@dataclass(frozen=True)
class Audit:
    """The result of one resource's audit.

    Attributes:
        rows_api: Number of rows that the API sent.
        rows_table: Number of rows in the table that are not marked absent.
        found: Number of rows by kind of difference: `missing`, `marked_absent`, `extra`, `different`, `same_key`.
        examples: Keys of up to five of them, by kind.
        columns: Number of rows that differ, by column.
        rejected: Number of rows that are in the table of rejected rows instead.
        deleted: Number of rows that the API itself flags as deleted.
        unverified: What could not be verified, one sentence each.
        tenant: The tenant whose rows were compared; None in a connection without tenants.
        loaded_at: When the last load of the table began, or without a record of it when the newest row was loaded.
    """

    connection: str
    resource: str
    rows_api: int = 0
    rows_table: int = 0
    found: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: Mapping[str, int] = field(default_factory=dict)
    rejected: int = 0
    deleted: int = 0
    requests: int = 0
    unverified: tuple[str, ...] = ()
    loaded_at: datetime | None = None
    tenant: str | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the table has what the API sent, as far as that could be verified."""
        if any(self.found.values()):
            return "differences"
        return "unverified" if self.unverified else "equal"

    def sentences(self, *, examples: bool = True) -> list[str]:
        """Returns what differs and what could not be verified, as sentences.

        Args:
            examples: Whether to name keys of rows, as in examples and in addresses that could not be read.
        """
        lines = []
        for kind, number in self.found.items():
            if number:
                shown = "; ".join(self.examples.get(kind, ())) if examples else ""
                lines.append(f"{number:,} {_rows(number)} {_WORDS[kind]}" + (f", for example {shown}" if shown else ""))
        if self.columns:
            counts = ", ".join(f"{name} ({number:,})" for name, number in sorted(self.columns.items()))
            lines.append(f"columns that differ: {counts}")
        if self.rejected:
            lines.append(f"{self.rejected:,} {_rows(self.rejected)} in the table of rejected rows")
        if not examples and self.unverified:
            return [*lines, f"not everything could be verified ({len(self.unverified):,} reasons)"]
        return [*lines, *(f"unverified: {sentence}" for sentence in self.unverified)]

    def as_json(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        loaded_at = self.loaded_at.isoformat() if self.loaded_at else None
        return {**asdict(self), "verdict": self.verdict, "loaded_at": loaded_at}


def worst_first(audits: Iterable[Audit]) -> list[Audit]:
    """Returns audits with those first that found most differences, then those with something unverified."""
    return sorted(audits, key=lambda audit: (-sum(audit.found.values()), not audit.unverified))


def _rows(number: int) -> str:
    return "row" if number == 1 else "rows"
