"""Defines a resource of a connection file, and merges the connection's defaults into it as dlt does."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from rmm_assets.config.checks import Checks
from rmm_assets.config.client import PYTHON_ONLY, Client, Names, WebAddress
from rmm_assets.config.endpoint import Endpoint, as_endpoint
from rmm_assets.config.names import normalized_column, normalized_table
from rmm_assets.config.table_hints import (
    Column,
    Evolution,
    Reference,
    SchemaContract,
    WriteDisposition,
    as_columns,
    as_contract,
    as_disposition,
)
from rmm_assets.settings import Settings

OUR_ENDPOINT_KEYS = {"total_header", "count", "wrong_signals", "empty_as", "single_object"}


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
                *OUR_ENDPOINT_KEYS,
            ),
            "write it under `endpoint`",
        ),
        "incremental": "write it under `endpoint`",
        "parallelized": "pages are read ahead anyway, `limits.max_concurrency` at once; leave it out",
        "parent_table_name": "lists become child tables with `child_tables: true`; leave it out",
        "processing_steps": PYTHON_ONLY,
        "validator": PYTHON_ONLY,
    }

    endpoint: Annotated[Endpoint, BeforeValidator(as_endpoint, json_schema_input_type=str | Endpoint)] = Field(
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
                as_disposition,
                json_schema_input_type=Literal["merge", "append", "replace"] | WriteDisposition,
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="`merge`, `append` or `replace`, or a mapping with dlt's options; `append` by default.",
    )
    columns: Annotated[
        dict[str, Column],
        BeforeValidator(as_columns, json_schema_input_type=dict[str, Column] | list[Column]),
    ] = Field(default_factory=dict, description="Types and hints by column; others are found from the rows.")
    schema_contract: (
        Annotated[SchemaContract, BeforeValidator(as_contract, json_schema_input_type=Evolution | SchemaContract)]
        | None
    ) = Field(default=None, description="What may change in the table by itself; everything by default.")
    table_name: str | None = Field(
        default=None, min_length=1, description="Name of the table; the resource's name by default."
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
        return normalized_table(self.table_name or self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        """The primary key's columns, as written; empty without one."""
        return self.primary_key or tuple(name for name, column in self.columns.items() if column.primary_key)

    @property
    def disposition(self) -> Literal["merge", "append", "replace"]:
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
        return (tuple(normalized_column(key) for key in self.keys),) if self.keys else ()

    @property
    def parents(self) -> dict[str, tuple[str | int, ...]]:
        """The resources whose rows this one takes values from, each with the path of the key that says so."""
        endpoint = self.endpoint
        found: dict[str, tuple[str | int, ...]] = {}
        for key, value in (
            ("path", self.path),
            ("params", endpoint.params),
            ("json", endpoint.json_body),
            ("data", endpoint.data),
            ("headers", endpoint.headers),
        ):
            for field in _placeholders(value):
                if field.startswith("resources.") and field.count(".") >= 2:
                    found.setdefault(field.split(".")[1], ("endpoint", key))
        for name, value in endpoint.params.items():
            if isinstance(value, Mapping) and value.get("type") == "resolve":
                found.setdefault(str(value.get("resource")), ("endpoint", "params", name))
        return found

    @property
    def parent(self) -> str | None:
        """Name of the resource whose rows this one's requests take values from."""
        return next(iter(self.parents), None)

    @property
    def incremental_at(self) -> tuple[str | int, ...] | None:
        """Path of the key that makes reads incremental; None where every read is a full one."""
        if self.endpoint.incremental is not None:
            return ("endpoint", "incremental")
        for name, value in self.endpoint.params.items():
            if isinstance(value, Mapping) and value.get("type") == "incremental":
                return ("endpoint", "params", name)
        return None

    def as_dlt(self) -> dict[str, Any]:
        """The resource in the words of dlt's `rest_api`: only what the file says, nothing that is ours."""
        said = self.model_dump(by_alias=True, exclude_unset=True, exclude=OUR_KEYS)
        endpoint = self.endpoint.model_dump(by_alias=True, exclude_unset=True, exclude=OUR_ENDPOINT_KEYS)
        said["endpoint"] = {key: value for key, value in endpoint.items() if value is not None} | {"path": self.path}
        if self.endpoint.paginator is not None and not _is_known_to_dlt(self.endpoint.paginator.type):
            # Paging is ours; dlt only looks at the words.
            said["endpoint"]["paginator"] = "single_page"
        disposition = {**(said.get("write_disposition") or {}), "disposition": self.disposition}
        if self.strategy is not None:
            disposition["strategy"] = self.strategy
        said["write_disposition"] = self.disposition if len(disposition) == 1 else disposition
        for column in said.get("columns", {}).values():
            column.pop("sensitive", None)
        return {key: as_lists(value) for key, value in said.items() if value is not None}


def _placeholders(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _placeholders(key)
            yield from _placeholders(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _placeholders(inner)
    elif isinstance(value, str):
        yield from (field for _, field, _, _ in string.Formatter().parse(value) if field)


def _is_known_to_dlt(paginator: str) -> bool:
    from dlt.sources.rest_api.config_setup import PAGINATOR_MAP

    return paginator in PAGINATOR_MAP


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
    """A resource with the defaults in it, merged as dlt does, and the client's paginator where it names none."""
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
    # Where a path ends in a placeholder, dlt takes one page and one object for granted; here that has to be written.
    if endpoint.get("paginator") is None and client.paginator is not None:
        endpoint["paginator"] = client.paginator.model_dump(by_alias=True, exclude_unset=True)
    return Resource.model_validate(merged)
