"""Defines a table's hints in a connection file, with dlt's keys: columns, write disposition, contract, references."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from rmm_assets.config.client import Names
from rmm_assets.settings import Settings, line_error, refuse


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
    timezone: bool | None = Field(default=None, description="Whether a timestamp has a time zone.")
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
