"""Defines the checks in a connection file, which run after every load."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from rmm_assets.config.client import Names
from rmm_assets.settings import Settings

Scalar = StrictStr | StrictBool | StrictInt | StrictFloat


def _as_name_sets(value: Any) -> Any:
    if isinstance(value, str):
        return ((value,),)
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
        return (tuple(value),)
    return value


class RowCount(Settings):
    """How many rows a table should have."""

    min: int | None = Field(default=None, ge=0, description="Minimum number of rows.")
    max: int | None = Field(default=None, ge=0, description="Maximum number of rows.")
    band: float | None = Field(
        default=None,
        gt=0,
        description="How far the number may deviate from the median of the previous ten loads, as a share of it: 0.2 "
        "allows 20 % more or fewer.",
    )


class Checks(Settings):
    """Checks of the table after every load, in SQL at the destination."""

    unique: (
        Annotated[
            tuple[Names, ...],
            BeforeValidator(_as_name_sets, json_schema_input_type=str | list[str] | list[list[str]]),
        ]
        | None
    ) = Field(
        default=None,
        description="Columns that are unique together, or a list of such lists; by default the primary key. An empty "
        "list disables the check.",
    )
    not_null: Names = Field(default=(), description="Columns that must not contain nulls.")
    accepted_values: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict,
        description="The values that a column may contain, by column; nulls are ignored.",
    )
    row_count: RowCount | None = Field(
        default=None, description="Bounds for the number of rows, or a band around its history."
    )
    references: dict[str, Annotated[str, Field(pattern=r"^[^.]+\.[^.]+$")]] = Field(
        default_factory=dict,
        description="The `resource.column` that must contain a column's values, by column, for example "
        "`organization__id: organizations.id`; nulls are ignored.",
    )
    sql: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = Field(
        default_factory=dict,
        description="Queries that select faulty rows, by name; a check passes if its query returns none. `{table}` is "
        "replaced by this table, `{name}` by the table of the resource with that name. A query is one SELECT that only "
        "reads tables.",
    )
