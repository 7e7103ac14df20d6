"""What a connection file says about one resource: its endpoint, table and hints in dlt's words, and what is
ours.

How the defaults of a connection get into its resources stands here as well.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from rmm_assets.config import rules
from rmm_assets.config.client import PYTHON_ONLY, Auth, Client, Names, Paginator, WebAddress
from rmm_assets.settings import Settings

# --- endpoint


class ResponseAction(Settings):
    """What to do with responses of a kind."""

    status_code: int | None = Field(default=None, ge=100, le=599, description="Status of such a response.")
    content: str | None = Field(
        default=None, min_length=1, description="Text that stands in the body of such a response."
    )
    action: Literal["ignore"] = Field(description="`ignore`: the response counts as the end of the rows.")


class Incremental(Settings):
    """Reading only what changed since the last run: dlt's `incremental`."""

    elsewhere: ClassVar[dict[str, str]] = {"convert": PYTHON_ONLY, "transform": PYTHON_ONLY}

    cursor_path: str = Field(min_length=1, description="JSONPath of the field that grows with every change.")
    initial_value: Any = Field(default=None, description="Where the first run begins.")
    end_value: Any = Field(default=None, description="Where reading ends; for backfills.")
    start_param: str | None = Field(default=None, description="Query parameter that takes the start.")
    end_param: str | None = Field(default=None, description="Query parameter that takes the end.")
    last_value_func: Literal["min", "max"] = Field(default="max", description="Which of the values seen is the newest.")
    primary_key: Names | None = Field(default=None, description="Key by which rows at the border are told apart.")
    row_order: Literal["asc", "desc"] | None = Field(default=None, description="The order in which the API sends rows.")
    lag: float | None = Field(
        default=None, ge=0, description="How far before the last value to begin: seconds, days or units."
    )
    on_cursor_value_missing: Literal["raise", "include", "exclude"] = Field(
        default="raise", description="What happens to a row without the field."
    )
    range_start: Literal["open", "closed"] = Field(
        default="closed", description="Whether the start itself is included."
    )
    range_end: Literal["open", "closed"] = Field(default="open", description="Whether the end itself is included.")
    allow_external_schedulers: bool = Field(default=False, description="Whether a scheduler may set the range.")


class Endpoint(Settings):
    """One request of a resource, and how its answers are read: dlt's `endpoint`."""

    path: str | None = Field(
        default=None,
        min_length=1,
        description="Path below `client.base_url`; the resource's name by default. "
        "`{resources.parent.field}` takes a value from each row of another resource.",
    )
    method: Annotated[
        Literal["GET", "POST"],
        BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
    ] = Field(default="GET", description="HTTP method.")
    params: dict[str, Any] = Field(default_factory=dict, description="Query parameters.")
    # `json` is a method of pydantic's models, so the field has another name inside.
    json_body: dict[str, Any] | None = Field(default=None, alias="json", description="JSON request body.")
    data: Any = Field(default=None, description="Request body of another form.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers of this endpoint. Never the secret.")
    paginator: Paginator | None = Field(
        default=None,
        description="How the next page is found: `offset`, `page_number`, `cursor`, `header_cursor`, "
        "`header_link`, `json_link`, or `single_page` for an endpoint that sends everything at once. "
        "Never guessed.",
    )
    data_selector: str | None = Field(default=None, min_length=1, description="JSONPath of the rows in the body.")
    response_actions: tuple[ResponseAction, ...] | None = Field(
        default=None, description="Responses to treat in another way."
    )
    incremental: Incremental | None = Field(default=None, description="Read only what changed since the last run.")
    auth: Auth | None = Field(default=None, description="Another way for the same secret to reach this endpoint.")


def _as_endpoint(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


# --- resource


class Column(Settings):
    """A column's type and hints, in dlt's words."""

    name: str | None = Field(default=None, description="Name of the column, where columns are written as a list.")
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
    ) = Field(default=None, description="dlt's data type; found from the rows by default.")
    nullable: bool | None = Field(default=None, description="Whether nulls may stand in the column.")
    precision: int | None = Field(default=None, ge=0, description="Digits, bits or characters, by type.")
    scale: int | None = Field(default=None, description="Digits after the point of a decimal.")
    timezone: bool | None = Field(default=None, description="Whether a timestamp carries a time zone.")
    partition: bool | None = Field(default=None, description="Partition the table by this column.")
    cluster: bool | None = Field(default=None, description="Cluster the table by this column.")
    sort: bool | None = Field(default=None, description="Sort the table by this column.")
    unique: bool | None = Field(default=None, description="A unique constraint, where the destination has them.")
    primary_key: bool | None = Field(default=None, description="Whether the column is part of the primary key.")
    merge_key: bool | None = Field(default=None, description="Whether the column is part of the merge key.")
    row_key: bool | None = Field(default=None, description="Whether the column is the row's own key.")
    parent_key: bool | None = Field(default=None, description="Whether the column holds the parent row's key.")
    root_key: bool | None = Field(default=None, description="Whether the column holds the root row's key.")
    hard_delete: bool | None = Field(default=None, description="Whether the column says that a row is deleted.")
    dedup_sort: Literal["asc", "desc"] | None = Field(
        default=None, description="Which of several rows with one key stays."
    )
    variant: bool | None = Field(default=None, description="Whether the column is a variant of another one.")
    incremental: bool | None = Field(default=None, description="Whether the column is the incremental cursor.")
    sensitive: bool = Field(default=False, description="Ours: the column is masked in previews.")


def _as_columns(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(column, dict) and "name" in column for column in value):
        return {str(column["name"]): column for column in value}
    return value


class WriteDisposition(Settings):
    """How rows meet the rows that are there, with dlt's options."""

    disposition: Literal["merge", "append", "replace", "skip"] = Field(description="What happens to rows of a load.")
    strategy: Literal["delete-insert", "upsert", "scd2", "insert-only", "cdc"] | None = Field(
        default=None, description="How a merge is done; the fastest right one by default."
    )
    deduplicated: bool | None = Field(default=None, description="Whether the rows are known to have no duplicate keys.")
    validity_column_names: tuple[str, str] | None = Field(
        default=None, description="Names of scd2's two validity columns."
    )
    active_record_timestamp: str | None = Field(default=None, description="scd2's mark of a row that is still valid.")
    boundary_timestamp: str | None = Field(
        default=None, description="scd2's time of change; the load's time by default."
    )
    row_version_column_name: str | None = Field(default=None, description="Column that changes when the row changes.")
    skip_unchanged_rows: bool | None = Field(default=None, description="Leave rows alone that equal what is there.")
    source_filter: str | None = Field(default=None, description="SQL condition on the rows to merge.")
    destination_scope: str | None = Field(
        default=None, description="SQL condition on the rows that a merge may delete."
    )


def _as_disposition(value: Any) -> Any:
    return {"disposition": value} if isinstance(value, str) else value


Evolution = Literal["evolve", "freeze", "discard_row", "discard_value"]


class SchemaContract(Settings):
    """What may change in a table by itself, by kind of change."""

    tables: Evolution | None = Field(default=None, description="New tables.")
    columns: Evolution | None = Field(default=None, description="New columns.")
    data_type: Evolution | None = Field(default=None, description="Values of another type.")


def _as_contract(value: Any) -> Any:
    return dict.fromkeys(("tables", "columns", "data_type"), value) if isinstance(value, str) else value


class Reference(Settings):
    """Columns that name rows of another table: dlt's `references`."""

    columns: Names = Field(description="Columns of this table.")
    referenced_table: str = Field(min_length=1, description="The other table.")
    referenced_columns: Names = Field(description="Columns of the other table, in the same order.")
    label: str | None = Field(default=None, description="What the reference means.")
    cardinality: str | None = Field(default=None, description="For example `many_to_one`.")


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


class ResourceDefaults(Settings):
    """Everything that a resource may say but its name; written under `resource_defaults`, it holds for all
    of them.

    Merged the way dlt merges: `endpoint` key by key, `params`, `json` and `columns` one level deeper, the
    rest as a whole.
    """

    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            (
                "path",
                "method",
                "params",
                "json",
                "data",
                "paginator",
                "data_selector",
                "response_actions",
                "headers",
            ),
            "write it under `endpoint`",
        ),
        "incremental": "write it under `endpoint`",
        "processing_steps": PYTHON_ONLY,
        "validator": PYTHON_ONLY,
    }

    endpoint: Annotated[Endpoint, BeforeValidator(_as_endpoint, json_schema_input_type=str | Endpoint)] = Field(
        default=Endpoint(), description="The request and how its answers are read; a string is its path."
    )
    primary_key: Names | None = Field(default=None, description="Column or columns that name a row. Needed to merge.")
    merge_key: Names | None = Field(
        default=None, description="Column or columns whose rows a merge replaces as a whole."
    )
    write_disposition: (
        Annotated[
            WriteDisposition,
            BeforeValidator(
                _as_disposition,
                json_schema_input_type=Literal["merge", "append", "replace", "skip"] | WriteDisposition,
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="`merge`, `append`, `replace` or `skip`, or a mapping with dlt's options; `append` by default.",
    )
    columns: Annotated[
        dict[str, Column],
        BeforeValidator(_as_columns, json_schema_input_type=dict[str, Column] | list[Column]),
    ] = Field(default_factory=dict, description="Types and hints by column; others are found from the rows.")
    schema_contract: (
        Annotated[SchemaContract, BeforeValidator(_as_contract, json_schema_input_type=Evolution | SchemaContract)]
        | None
    ) = Field(default=None, description="What may change in the table by itself; everything by default.")
    table_name: str | None = Field(
        default=None, min_length=1, description="Name of the table; the resource's name by default."
    )
    parent_table_name: str | None = Field(
        default=None, min_length=1, description="dlt's `parent_table_name`, for nested tables."
    )
    table_format: Literal["iceberg", "delta", "hive", "native"] | None = Field(
        default=None, description="dlt's table format."
    )
    file_format: str | None = Field(default=None, description="dlt's format of the load files; parquet by default.")
    references: tuple[Reference, ...] | None = Field(default=None, description="dlt's references to other tables.")
    nested_hints: dict[str, dict[str, Any]] | None = Field(default=None, description="dlt's hints of nested tables.")
    max_table_nesting: int | None = Field(default=None, ge=0, description="Depth of nested tables.")
    selected: bool = Field(
        default=True, description="Whether the rows land; a parent that only feeds children need not."
    )
    parallelized: bool = Field(default=False, description="dlt's `parallelized`, for resources on dlt's own path.")
    include_from_parent: Names | None = Field(
        default=None, description="Fields of the parent's row to add to each row."
    )

    description: str | None = Field(default=None, description="What the resource is, in Markdown; shown in Dagster.")
    docs: WebAddress | None = Field(
        default=None,
        description="Address of the vendor's documentation of this resource, a link in its asset's description; the "
        "connection's `docs` by default.",
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Dagster tags of the asset.")
    owners: Names = Field(default=(), description="Owners of the asset: e-mail addresses, or `team:name`.")
    checks: Checks = Field(default=Checks(), description="What is checked in the table after every load.")
    absent: Literal["keep", "mark", "remove"] = Field(
        default="mark",
        description="What happens to rows that a complete full read no longer holds: `keep` leaves them, "
        "`mark` sets `_absent_since`, `remove` deletes them.",
    )
    max_absent_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of a table's rows, 0 to 1, that may be gone at the source; above it the "
        "run fails and the table stays as it is, because a wrong key can look like an empty fleet.",
    )
    history: bool = Field(default=False, description="Keep every version of a row (dlt's scd2).")
    child_tables: bool = Field(
        default=False,
        description="Lists become child tables, linked as in dlt; by default each is one JSON column. A table that is "
        "there already has to be dropped first.",
    )
    on_incomplete: Literal["fail", "warn"] = Field(
        default="fail",
        description="Whether a read that is not proven complete fails, or lands with a failed check.",
    )
    on_rejected: Literal["warn", "fail"] = Field(
        default="warn",
        description="Severity of the check on rows that could not land and are kept in `<table>_rejected`.",
    )
    total_path: str | None = Field(
        default=None,
        min_length=1,
        description="JSONPath of the stated number of rows, for paginators that have no such key.",
    )
    verify: bool | None = Field(
        default=None,
        description="Read twice to prove that nothing moved; by default where the API gives no other proof.",
    )
    normalizer: Literal["arrow", "dlt"] = Field(
        default="arrow",
        description="`arrow` is the fast path; `dlt` sends rows through dlt's own normalizer, where `history`, child "
        "tables with a schema contract or `nested_hints`, and incremental ranges without a plain cursor or a key go by "
        "themselves.",
    )
    fresh_within: float | None = Field(
        default=None,
        gt=0,
        description="Minutes after which the asset counts as stale; by default twice the longest time between two "
        "ticks of the schedule, and never without a schedule.",
    )
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Requests of this resource that may be under way at once, where its endpoint allows fewer than "
        "`limits.max_concurrency`.",
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that fetching this resource may take; `limits.deadline` by default.",
    )


class Resource(ResourceDefaults):
    """One resource, with the connection's defaults in it: one asset, one table."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*$",
        description="Name of the resource: last part of its asset key, and its table unless `table_name` "
        "says otherwise.",
    )

    @property
    def path(self) -> str:
        """The endpoint's path, placeholders included."""
        return self.endpoint.path or self.name

    @property
    def table(self) -> str:
        """Name of the table as dlt's snake_case naming makes it."""
        return rules.normalized_table(self.table_name or self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        """The primary key's columns, as written; empty without one."""
        return self.primary_key or tuple(name for name, column in self.columns.items() if column.primary_key)

    @property
    def disposition(self) -> Literal["merge", "append", "replace", "skip"]:
        """dlt's write disposition; `history` makes it merge."""
        if self.write_disposition is None:
            return "merge" if self.history else "append"
        return self.write_disposition.disposition

    @property
    def strategy(self) -> str | None:
        """The merge strategy that the file asks for; None leaves the choice to the loader."""
        if self.history:
            return "scd2"
        return self.write_disposition.strategy if self.write_disposition else None

    @property
    def unique(self) -> tuple[tuple[str, ...], ...]:
        """Sets of columns that must be unique, in the table's names; the primary key by default."""
        if self.checks.unique is not None:
            return self.checks.unique
        return (tuple(rules.normalized_column(key) for key in self.keys),) if self.keys else ()

    @property
    def parent(self) -> str | None:
        """Name of the resource whose rows this one's requests take values from."""
        return next(iter(rules.parents(self)), None)

    def as_dlt(self) -> dict[str, Any]:
        """The resource in the words of dlt's `rest_api`: only what the file says, nothing that is ours."""
        said = self.model_dump(by_alias=True, exclude_unset=True, exclude=OUR_KEYS)
        endpoint = self.endpoint.model_dump(by_alias=True, exclude_unset=True)
        said["endpoint"] = {key: value for key, value in endpoint.items() if value is not None} | {"path": self.path}
        if self.endpoint.paginator is not None and not rules.is_known_to_dlt(self.endpoint.paginator.type):
            # Paging is ours; dlt only looks at the words.
            said["endpoint"]["paginator"] = "single_page"
        disposition = {**(said.get("write_disposition") or {}), "disposition": self.disposition}
        if self.strategy is not None:
            disposition["strategy"] = self.strategy
        said["write_disposition"] = self.disposition if len(disposition) == 1 else disposition
        for column in said.get("columns", {}).values():
            column.pop("sensitive", None)
        return {key: as_lists(value) for key, value in said.items() if value is not None}


# Columns' `sensitive` is ours, too.
OUR_KEYS = {
    *("description", "docs", "tags", "owners", "checks"),
    *("absent", "max_absent_share", "history", "child_tables"),
    *("on_incomplete", "on_rejected", "total_path", "verify", "normalizer", "deadline", "fresh_within"),
    "max_concurrency",
}


def as_lists(value: Any) -> Any:
    """The same with lists where dlt's validation refuses tuples."""
    if isinstance(value, dict):
        return {key: as_lists(inner) for key, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def resolved(defaults: ResourceDefaults, client: Client, resource: Resource) -> Resource:
    """A resource with the defaults in it, merged as dlt does, and the paginator that dlt would take."""
    base = defaults.model_dump(by_alias=True, exclude_unset=True)
    own = resource.model_dump(by_alias=True, exclude_unset=True)
    endpoint = {**base.get("endpoint", {}), **own.get("endpoint", {})}
    for key in ("params", "json"):
        if own.get("endpoint", {}).get(key):
            endpoint[key] = {**(base.get("endpoint", {}).get(key) or {}), **own["endpoint"][key]}
    columns = dict(base.get("columns", {}))
    for name, hints in own.get("columns", {}).items():
        columns[name] = {**columns.get(name, {}), **hints}
    merged = {**base, **own, "endpoint": endpoint} | ({"columns": columns} if columns else {})
    # dlt's rule: a path that ends in a placeholder names one thing, not a list of things.
    single = re.search(r"\{[A-Za-z0-9._-]+\}", (endpoint.get("path") or "").rsplit("/", 1)[-1])
    if endpoint.get("paginator") is None:
        if single:
            endpoint["paginator"] = {"type": "single_page"}
        elif client.paginator is not None:
            endpoint["paginator"] = client.paginator.model_dump(by_alias=True, exclude_unset=True)
    if single and endpoint.get("data_selector") is None:
        endpoint["data_selector"] = "$"
    return Resource.model_validate(merged)
