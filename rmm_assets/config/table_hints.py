"""Defines a table's hints in a connection file, with dlt's keys: columns, write disposition, contract, references."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rmm_assets.config.client import Names
from rmm_assets.rows.stamps import Stamp, Unit
from rmm_assets.settings import Settings, line_error, refuse, time_zone_fault


class Column(Settings):
    """A column's type and hints, with dlt's keys."""

    elsewhere: ClassVar[dict[str, str]] = {
        "merge_key": "write `merge_key` on the resource",
        **dict.fromkeys(("row_key", "parent_key", "root_key", "variant"), "dlt sets it itself; leave it out"),
        "incremental": "write `incremental: {cursor_path: ...}` under `endpoint`",
    }

    name: str | None = Field(default=None, description="Name of the column, if columns are written as a list.")
    description: str | None = Field(default=None, description="What the column means; shown in Dagster.")
    data_type: (
        Literal[
            "text",
            "double",
            "bool",
            "timestamp",
            "bigint",
            "json",
            "decimal",
            "wei",
            "date",
            "time",
            "binary",
        ]
        | None
    ) = Field(default=None, description="dlt's data type; by default inferred from the rows.")
    nullable: bool | None = Field(default=None, description="Whether the column may contain nulls.")
    precision: int | None = Field(
        default=None, ge=0, description="Number of digits, bits or characters, depending on the type."
    )
    scale: int | None = Field(default=None, description="Number of digits after the decimal point.")
    unit: Unit | None = Field(
        default=None,
        description="Not in dlt: unit of timestamps that are numbers since 1970, with or without a fraction: `s`, `ms` or `us`.",
    )
    format: str | None = Field(
        default=None,
        min_length=1,
        description="Not in dlt: how timestamps are written, as a pattern of Python's `strptime`, for example `%d.%m.%Y %H:%M`.",
    )
    timezone: bool | str | None = Field(
        default=None,
        description="Whether a timestamp has a time zone; or, not in dlt, the IANA name of the zone of timestamps that are "
        "written without one, for example `Europe/Vienna`, by default UTC.",
    )
    partition: bool | None = Field(default=None, description="Partition the table by this column.")
    cluster: bool | None = Field(default=None, description="Cluster the table by this column.")
    sort: bool | None = Field(default=None, description="Sort the table by this column.")
    unique: bool | None = Field(default=None, description="Unique constraint, if the destination supports it.")
    primary_key: bool | None = Field(default=None, description="Whether the column is part of the primary key.")
    hard_delete: bool | None = Field(default=None, description="Whether the column marks rows as deleted.")
    dedup_sort: Literal["asc", "desc"] | None = Field(
        default=None,
        description="Which of several rows with the same key is kept: the one with the lowest or highest value.",
    )
    sensitive: bool = Field(default=False, description="Not in dlt: whether the column is masked in previews.")

    @model_validator(mode="after")
    def _reads_timestamps(self) -> Self:
        errors = []
        zone = self.timezone if isinstance(self.timezone, str) else None
        if zone is not None and (fault := time_zone_fault(zone)):
            errors.append(line_error(("timezone",), fault))
        if self.format is not None and (fault := format_fault(self.format)):
            errors.append(line_error(("format",), fault))
        if self.unit is not None and (self.format is not None or zone is not None):
            other = "format" if self.format is not None else "timezone"
            errors.append(line_error((other,), "numbers since 1970 have a unit only; leave it out, or `unit`"))
        if self.stamp is not None and self.data_type not in (None, "timestamp"):
            errors.append(
                line_error(
                    ("data_type",), "`unit`, `format` and the name of a time zone make a timestamp; write timestamp"
                )
            )
        refuse(errors)
        return self

    @property
    def stamp(self) -> Stamp | None:
        """How the column's timestamps are written; None if the file does not say."""
        zone = self.timezone if isinstance(self.timezone, str) else None
        if self.unit is None and self.format is None and zone is None:
            return None
        return Stamp(self.unit, self.format, zone or "UTC")


def format_fault(pattern: str) -> str | None:
    """Returns why a pattern cannot be read and written; None if it can."""
    day = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    try:
        read = datetime.strptime(day.strftime(pattern), pattern)  # noqa: DTZ007
    except ValueError:
        return "not a pattern of strptime; write one such as %d.%m.%Y %H:%M"
    if (read.year, read.month, read.day) != (2001, 2, 3):
        return "lacks a year, month or day; write one such as %d.%m.%Y %H:%M"
    return None


def as_columns(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(column, dict) and "name" in column for column in value):
        return {str(column["name"]): column for column in value}
    return value


class WriteDisposition(Settings):
    """How loaded rows are combined with existing ones, with dlt's options."""

    elsewhere: ClassVar[dict[str, str]] = {
        "deduplicated": "rows are always unique by key before they are loaded; leave it out"
    }

    disposition: Literal["merge", "append", "replace"] = Field(description="What to do with the rows of a load.")
    strategy: Literal["delete-insert", "upsert", "scd2", "insert-only", "cdc"] | None = Field(
        default=None, description="How to merge; by default the fastest strategy that is correct for the table."
    )
    validity_column_names: tuple[str, str] | None = Field(
        default=None, description="Names of scd2's two validity columns."
    )
    active_record_timestamp: str | None = Field(
        default=None, description="The end of validity that scd2 writes for rows that are still valid."
    )
    boundary_timestamp: str | None = Field(
        default=None, description="The time of change that scd2 writes; by default the time of the load."
    )
    row_version_column_name: str | None = Field(default=None, description="Column that changes when the row changes.")
    skip_unchanged_rows: bool | None = Field(default=None, description="Do not rewrite rows that have not changed.")
    source_filter: str | None = Field(default=None, description="SQL condition on the rows to merge.")
    destination_scope: str | None = Field(
        default=None, description="SQL condition on the rows that a merge may delete."
    )


def as_disposition(value: Any) -> Any:
    """Returns a write disposition as a mapping; a string is its `disposition`.

    Raises:
        pydantic.ValidationError: It is dlt's `skip`, which does not load anything.
    """
    if value == "skip" or (isinstance(value, dict) and value.get("disposition") == "skip"):
        refuse(
            [line_error((), "`skip` loads nothing; write `selected: false` to read a resource for its children only")]
        )
    return {"disposition": value} if isinstance(value, str) else value


Evolution = Literal["evolve", "freeze", "discard_row", "discard_value"]


class SchemaContract(Settings):
    """What a load may change in a table's schema: dlt's `schema_contract`."""

    tables: Evolution | None = Field(default=None, description="New tables.")
    columns: Evolution | None = Field(default=None, description="New columns.")
    data_type: Evolution | None = Field(default=None, description="Values of another type.")


def as_contract(value: Any) -> Any:
    return dict.fromkeys(("tables", "columns", "data_type"), value) if isinstance(value, str) else value


class Reference(Settings):
    """Columns that refer to rows of another table: dlt's `references`."""

    columns: Names = Field(description="Columns of this table.")
    referenced_table: str = Field(min_length=1, description="The other table.")
    referenced_columns: Names = Field(description="Columns of the other table, in the same order.")
    label: str | None = Field(default=None, description="What the reference means.")
    cardinality: (
        Literal[
            "zero_to_one",
            "one_to_zero",
            "zero_to_many",
            "many_to_zero",
            "one_to_many",
            "many_to_one",
            "one_to_one",
            "many_to_many",
        ]
        | None
    ) = Field(default=None, description="How many rows refer to how many, for example `many_to_one`.")
