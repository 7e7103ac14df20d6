"""Describes a resource's rows before they come: their table, keys, declared and known columns, nesting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Nesting:
    """Says that lists become child tables, as dlt makes them, and what is known of these.

    Attributes:
        known: Child tables that the destination has already: dlt table schemas by name.
        rooted: Whether child rows carry the id of their root row, which dlt's merges go by.
    """

    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rooted: bool = True


# Compared by identity, so that a layout can be kept for each.
@dataclass(frozen=True, eq=False)
class RowShape:
    """Describes what is known of a resource's rows before one of them came.

    Attributes:
        table: Name of the resource's table.
        primary_key: Source field names; a nested one as `organization.id` or `organization__id`.
        columns: dlt column hints by column name, as the source or as the table writes it.
        max_table_nesting: How many levels of objects and lists become columns and tables, as in dlt; None is all of them.
        known: Columns that the table at the destination has already: dlt column schemas by normalized name.
        max_identifier_length: Longest name that the destination takes, in characters; None is no limit.
        row_ids: Whether rows get an id, as dlt calls it: made of the primary key, so that it stays the same from load to
            load, or random, where the same row lands again beside what is there.
        nesting: How lists become child tables, which takes ids; None where each list is one JSON column.
        raw_paths: Paths in a row whose values `tables` hands to its `choose` as they came.
        keeps_repeats: Rows that share a key are all handed on: the destination chooses, by a column's `dedup_sort`.
    """

    table: str
    primary_key: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_table_nesting: int | None = None
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_identifier_length: int | None = None
    row_ids: Literal["key", "random"] | None = None
    nesting: Nesting | None = None
    raw_paths: tuple[tuple[str, ...], ...] = ()
    keeps_repeats: bool = False
