"""Describes a resource's rows before they are read: table, keys, declared and known columns, nesting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmm_assets.rows.stamps import Stamp


@dataclass(frozen=True)
class Nesting:
    """Specifies that lists become child tables, as in dlt.

    Attributes:
        known: Child tables that exist at the destination: dlt table schemas by name.
        rooted: Whether child rows carry the id of their root row, which dlt's merges use.
    """

    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rooted: bool = True


# Compared by identity, so that `layout_of` can cache a layout for each.
@dataclass(frozen=True, eq=False)
class RowShape:
    """Describes what is known of a resource's rows before they are read.

    Attributes:
        table: Name of the resource's table.
        primary_key: Source field names; a nested one as `organization.id` or `organization__id`.
        columns: dlt column hints by column name, as the source or as the table writes it.
        max_table_nesting: How many levels of objects and lists become columns and tables, as in dlt; None means all.
        known: Columns that exist in the table at the destination: dlt column schemas by normalized name.
        max_identifier_length: Longest name that the destination accepts, in characters; None means no limit.
        row_ids: How rows get dlt's row id: made from the primary key, so that it is the same in each load; random, if the
            same row may land more than once; None for no id.
        nesting: How lists become child tables, which requires ids; None if each list is one JSON column.
        raw_paths: Paths in a row whose values `Spool.tables` passes to `choose` as received.
        keeps_repeats: Whether all rows that share a key are passed on; the destination picks one by a column's `dedup_sort`.
        hashes_contents: Whether rows get a hash of their content, to tell in later runs whether they have changed.
        stamps: How timestamps are written, by column name as in `columns`.
        used_paths: Paths in a row whose values child resources use; see `UsedValues`.
        decimal_digits: How many digits of a decimal the destination keeps; None if all that its type has.
        added: Columns that are added to the table, so that no field gets their names.
    """

    table: str
    primary_key: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_table_nesting: int | None = None
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_identifier_length: int | None = None
    decimal_digits: int | None = None
    row_ids: Literal["key", "random"] | None = None
    nesting: Nesting | None = None
    raw_paths: tuple[tuple[str, ...], ...] = ()
    keeps_repeats: bool = False
    hashes_contents: bool = False
    stamps: Mapping[str, Stamp] = field(default_factory=dict)
    used_paths: tuple[tuple[str, ...], ...] = ()
    added: frozenset[str] = frozenset()
