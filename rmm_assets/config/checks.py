"""Defines what a connection file says should hold in a table after every load."""

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

    min: int | None = Field(default=None, ge=0, description="The fewest rows.")
    max: int | None = Field(default=None, ge=0, description="The most rows.")
    band: float | None = Field(
        default=None,
        gt=0,
        description="How far the number may be from the median of the ten loads before, as a share of it: 0.2 "
        "is a fifth, up or down.",
    )


class Checks(Settings):
    """What is checked in the table after every load, in SQL at the destination."""

    unique: (
        Annotated[
            tuple[Names, ...],
            BeforeValidator(_as_name_sets, json_schema_input_type=str | list[str] | list[list[str]]),
        ]
        | None
    ) = Field(
        default=None,
        description="Columns that together are unique, or a list of such lists; the primary key by "
        "default, none with an empty list.",
    )
    not_null: Names = Field(default=(), description="Columns without nulls.")
    accepted_values: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict,
        description="By column, the values that may stand in it; nulls are not looked at.",
    )
    row_count: RowCount | None = Field(
        default=None, description="Bounds of the number of rows, or a band around its history."
    )
    references: dict[str, Annotated[str, Field(pattern=r"^[^.]+\.[^.]+$")]] = Field(
        default_factory=dict,
        description="By column, the `resource.column` that holds each of its values, for example "
        "`organization__id: organizations.id`; nulls are not looked at.",
    )
    sql: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = Field(
        default_factory=dict,
        description="By name, a query that selects rows at fault; the check passes when there are none. `{table}` "
        "stands for this table, `{name}` for the table of the resource of that name.",
    )
