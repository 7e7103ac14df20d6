"""Defines a resource in a connection file, and merges the connection's defaults into it as dlt does."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from rmm_assets.config.checks import Checks
from rmm_assets.config.client import PYTHON_ONLY, Client, Names, WebAddress
from rmm_assets.config.endpoint import OUR_INCREMENTAL_KEYS, Endpoint, Incremental, IncrementalParam, as_endpoint
from rmm_assets.config.names import normalized_column, normalized_table
from rmm_assets.config.schedule import Schedule
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
from rmm_assets.reading.paginators import TotalPath
from rmm_assets.rows.stamps import Stamp
from rmm_assets.settings import Settings, leaves

# What dlt fills in; any other brace is a brace, as in GraphQL or JSON.
_PLACEHOLDER = re.compile(r"(\{(?:resources|incremental)(?:\.[^{}\s]+)+\})")

OUR_PAGINATOR_KEYS = ("range_param", "last_path", "cursor_stays", "keep_params")
OUR_ENDPOINT_KEYS = {"total_header", "count", "wrong_signals", "empty_as", "single_object", "map_key", "response"}


def _as_texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ResourceDefaults(Settings):
    """All keys of a resource except its name; under `resource_defaults`, they apply to all resources.

    They are merged as in dlt: `endpoint` key by key, `params`, `json` and `columns` one level deeper, and everything
    else as a whole.
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
        "parallelized": "pages are always prefetched, up to `limits.max_concurrency` at a time; leave it out",
        "parent_table_name": "lists become child tables with `child_tables: true`; leave it out",
        "processing_steps": PYTHON_ONLY,
        "validator": PYTHON_ONLY,
    }

    endpoint: Annotated[Endpoint, BeforeValidator(as_endpoint, json_schema_input_type=str | Endpoint)] = Field(
        default=Endpoint(), description="The request and how its responses are read; a string is used as its path."
    )
    primary_key: Names | None = Field(
        default=None, description="Column or columns that identify a row. Required to merge."
    )
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
        description="`merge`, `append` or `replace`, or a mapping with dlt's options; by default `append`.",
    )
    columns: Annotated[
        dict[str, Column],
        BeforeValidator(as_columns, json_schema_input_type=dict[str, Column] | list[Column]),
    ] = Field(default_factory=dict, description="Types and hints by column; other columns are inferred from the rows.")
    read_at_column: str | None = Field(
        default=None,
        min_length=1,
        description="Column to add with the time when the read of the row started (UTC), for snapshots that are appended.",
    )
    null_values: Annotated[tuple[str, ...], BeforeValidator(_as_texts, json_schema_input_type=str | list[str])] = Field(
        default=(),
        description='Texts that this API writes instead of null, for example `[""]`. They become null everywhere in the '
        "rows, in lists and nested objects as well; a row whose key is one of them is rejected.",
    )
    schema_contract: (
        Annotated[SchemaContract, BeforeValidator(as_contract, json_schema_input_type=Evolution | SchemaContract)]
        | None
    ) = Field(default=None, description="What a load may change in the table's schema; by default everything.")
    table_name: str | None = Field(
        default=None, min_length=1, description="Name of the table; by default the resource's name."
    )
    table_format: Literal["iceberg", "delta", "hive", "native"] | None = Field(
        default=None, description="dlt's table format."
    )
    file_format: str | None = Field(default=None, description="dlt's format of the load files; by default parquet.")
    references: tuple[Reference, ...] | None = Field(default=None, description="dlt's references to other tables.")
    nested_hints: dict[str, dict[str, Any]] | None = Field(default=None, description="dlt's hints for nested tables.")
    max_table_nesting: int | None = Field(default=None, ge=0, description="Maximum depth of nested tables.")
    selected: bool = Field(
        default=True,
        description="Whether to load the rows; set it to false for a parent that is read only for its children.",
    )
    include_from_parent: Names | None = Field(
        default=None, description="Fields of the parent's row to add to each row."
    )

    description: str | None = Field(default=None, description="What the resource is, in Markdown; shown in Dagster.")
    docs: WebAddress | None = Field(
        default=None,
        description="URL of the vendor's documentation of this resource, linked in its asset's description; by default "
        "the connection's `docs`.",
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Dagster tags of the asset.")
    owners: Names = Field(default=(), description="Owners of the asset: e-mail addresses, or `team:name`.")
    checks: Checks = Field(default=Checks(), description="Checks of the table after every load.")
    absent: Literal["keep", "mark", "remove"] = Field(
        default="mark",
        description="What to do with rows that are missing from a complete full read: `keep` does nothing, `mark` sets "
        "`_absent_since`, `remove` also deletes them if the next complete read does not contain them either.",
    )
    max_absent_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of a table's rows, 0 to 1, that may disappear in one load. Above it, the run fails and the "
        "table is not changed, because a key that has lost permissions may see an empty fleet.",
    )
    history: bool = Field(default=False, description="Keep every version of a row (dlt's scd2).")
    child_tables: bool = Field(
        default=False,
        description="Whether lists become child tables, linked as in dlt, instead of JSON columns. An existing table must be "
        "dropped first.",
    )
    on_incomplete: Literal["fail", "warn"] = Field(
        default="fail",
        description="Whether a read that is not proven complete fails the run, or is loaded with a failed check.",
    )
    on_rejected: Literal["warn", "fail"] = Field(
        default="warn",
        description="Severity of the check on rows that could not be loaded and are kept in `<table>_rejected`.",
    )
    total_path: TotalPath | None = Field(
        default=None,
        description="JSONPath of the total number of rows, for paginators that do not have this key.",
    )
    verify: bool | None = Field(
        default=None,
        description="Whether to read twice, to prove that no rows moved; by default only if the API gives no other "
        "proof.",
    )
    normalizer: Literal["arrow", "dlt"] = Field(
        default="arrow",
        description="`arrow` is the fast path; `dlt` is dlt's own normalizer, which is always used for `history`, for "
        "child tables with a schema contract or `nested_hints`, and for incremental ranges without a plain cursor or "
        "without a key.",
    )
    fresh_within: float | None = Field(
        default=None,
        gt=0,
        description="Minutes after which the asset counts as stale; by default twice the longest interval between ticks "
        "of the schedule if its `status` is `running`, else never.",
    )
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Maximum number of concurrent requests of this resource, if its endpoint allows fewer than "
        "`limits.max_concurrency`.",
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that fetching this resource may take; by default `limits.deadline`.",
    )


class Resource(ResourceDefaults):
    """One resource, with the connection's defaults merged in: one asset, one table."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*$",
        description="Name of the resource: the last part of its asset key, and its table unless `table_name` is set.",
    )
    schedule: Schedule | None = Field(
        default=None,
        description="When this resource runs automatically, in a job and runs of its own; by default with the connection's "
        "`schedule`.",
    )

    @property
    def path(self) -> str:
        """Returns the endpoint's path, with placeholders."""
        return self.endpoint.path or self.name

    @property
    def table(self) -> str:
        """Returns the table's name, normalized to dlt's snake_case."""
        return normalized_table(self.table_name or self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        """Returns the columns of the primary key, as written; empty if there is none."""
        return self.primary_key or tuple(name for name, column in self.columns.items() if column.primary_key)

    @property
    def disposition(self) -> Literal["merge", "append", "replace"]:
        """Returns dlt's write disposition; with `history` it defaults to merge."""
        if self.write_disposition is None:
            return "merge" if self.history else "append"
        return self.write_disposition.disposition

    @property
    def strategy(self) -> str | None:
        """Returns the merge strategy that the file sets; None lets the loader choose."""
        if self.history:
            return "scd2"
        return self.write_disposition.strategy if self.write_disposition else None

    @property
    def unique(self) -> tuple[tuple[str, ...], ...]:
        """Returns the sets of columns that must be unique, by their names in the table; by default the primary key."""
        if self.checks.unique is not None:
            return self.checks.unique
        return (tuple(normalized_column(key) for key in self.keys),) if self.keys else ()

    @property
    def parents(self) -> dict[str, tuple[str | int, ...]]:
        """Returns the resources that this one takes values from, each with the path of the key that refers to it."""
        endpoint = self.endpoint
        parents: dict[str, tuple[str | int, ...]] = {}
        for key, value in (
            ("path", self.path),
            ("params", _escaped(endpoint.params)),
            ("json", _escaped(endpoint.json_body)),
            ("data", _escaped(endpoint.data)),
            ("headers", _escaped(endpoint.headers)),
        ):
            for field in _placeholders(value):
                if field.startswith("resources.") and field.count(".") >= 2:
                    parents.setdefault(field.split(".")[1], ("endpoint", key))
        for name, value in endpoint.params.items():
            if isinstance(value, Mapping) and value.get("type") == "resolve":
                parents.setdefault(str(value.get("resource")), ("endpoint", "params", name))
        return parents

    @property
    def range_placeholders(self) -> list[tuple[tuple[str, str], str, str]]:
        """Returns each placeholder for a bound of the range: its key, the text around it and its name."""
        endpoint = self.endpoint
        parts = {name: getattr(endpoint, name) for name in ("params", "data", "headers")}
        parts |= {"path": self.path, "json": endpoint.json_body}
        return [
            (("endpoint", key), text, field.removeprefix("incremental."))
            for key, value in parts.items()
            for text in leaves(value)
            if isinstance(text, str)
            for field in _placeholders(_escaped(text))
            if field.startswith("incremental.")
        ]

    @property
    def parent(self) -> str | None:
        """Returns the name of the resource that this one's requests take values from."""
        return next(iter(self.parents), None)

    @property
    def stamps(self) -> dict[str, Stamp]:
        """Returns how timestamps are written, by column, where the file says so."""
        return {name: column.stamp for name, column in self.columns.items() if column.stamp is not None}

    def stamp_of(self, path: str) -> Stamp | None:
        """Returns how the timestamps of a field are written, if the file says so."""
        column = normalized_column(path.replace(".", "__"))
        return next((stamp for name, stamp in self.stamps.items() if normalized_column(name) == column), None)

    @property
    def incremental(self) -> Incremental | None:
        """Returns what makes reads incremental; None if every read is a full read."""
        if self.endpoint.incremental is not None:
            return self.endpoint.incremental
        where = self.incremental_at
        return None if where is None else IncrementalParam.model_validate(self.endpoint.params[str(where[-1])])

    @property
    def incremental_at(self) -> tuple[str | int, ...] | None:
        """Returns the path of the key that makes reads incremental; None if every read is a full read."""
        if self.endpoint.incremental is not None:
            return ("endpoint", "incremental")
        for name, value in self.endpoint.params.items():
            if isinstance(value, Mapping) and value.get("type") == "incremental":
                return ("endpoint", "params", name)
        return None

    def as_dlt(self) -> dict[str, Any]:
        """Returns the resource as a dlt `rest_api` resource, with only the keys that the file sets and dlt knows."""
        config = self.model_dump(by_alias=True, exclude_unset=True, exclude=OUR_KEYS)
        endpoint = self.endpoint.model_dump(by_alias=True, exclude_unset=True, exclude=OUR_ENDPOINT_KEYS)
        config["endpoint"] = {key: value for key, value in endpoint.items() if value is not None} | {"path": self.path}
        if (path := self.endpoint.xml_path) is not None:
            config["endpoint"]["data_selector"] = ".".join(path).removesuffix(".*")
        for ranged in (endpoint.get("incremental"), *(endpoint.get("params") or {}).values()):
            for key in OUR_INCREMENTAL_KEYS if isinstance(ranged, dict) else ():
                ranged.pop(key, None)
        config["endpoint"] |= {
            key: _escaped(endpoint[key])
            for key in ("params", "json", "data", "headers")
            if endpoint.get(key) is not None
        }
        if endpoint.get("method") == "PATCH":
            config["endpoint"]["method"] = "POST"  # dlt only validates the method; it sends no request here
        if self.endpoint.paginator is not None and not _is_known_to_dlt(self.endpoint.paginator.type):
            # dlt only validates the paginator; it does not page here.
            config["endpoint"]["paginator"] = "single_page"
        for key in OUR_PAGINATOR_KEYS if isinstance(config["endpoint"].get("paginator"), dict) else ():
            config["endpoint"]["paginator"].pop(key, None)
        disposition = {**(config.get("write_disposition") or {}), "disposition": self.disposition}
        if self.strategy is not None:
            disposition["strategy"] = self.strategy
        config["write_disposition"] = self.disposition if len(disposition) == 1 else disposition
        for name, column in config.get("columns", {}).items():
            for key in ("sensitive", "unit", "format"):
                column.pop(key, None)
            if name in self.stamps:
                column["data_type"] = "timestamp"
            if isinstance(column.get("timezone"), str):
                del column["timezone"]
        return {key: as_lists(value) for key, value in config.items() if value is not None}


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


def _escaped(value: Any) -> Any:
    """Returns a part of a request in which only placeholders are single braces, as dlt needs it."""
    if isinstance(value, Mapping):
        return {_escaped(key): _escaped(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(inner) for inner in value]
    if not isinstance(value, str):
        return value
    parts = _PLACEHOLDER.split(value)
    parts[::2] = [part.replace("{", "{{").replace("}", "}}") for part in parts[::2]]
    return "".join(parts)


def _is_known_to_dlt(paginator: str) -> bool:
    from dlt.sources.rest_api.config_setup import PAGINATOR_MAP

    return paginator in PAGINATOR_MAP


# Keys that dlt does not have. On columns, it has no `sensitive`, `unit` and `format`, and no names of time zones.
OUR_KEYS = {
    *("description", "docs", "tags", "owners", "checks"),
    *("absent", "max_absent_share", "history", "child_tables"),
    *("null_values", "read_at_column"),
    *("on_incomplete", "on_rejected", "total_path", "verify", "normalizer", "deadline", "fresh_within", "schedule"),
    "max_concurrency",
}


def as_lists(value: Any) -> Any:
    """Converts tuples to lists, because dlt's validation rejects tuples."""
    if isinstance(value, dict):
        return {key: as_lists(inner) for key, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def resolved(defaults: ResourceDefaults, client: Client, resource: Resource) -> Resource:
    """Returns a resource with the defaults merged in as dlt does, and the client's paginator if it has none."""
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
    # For a path that ends in a placeholder, dlt assumes a single page with one object; here, that has to be explicit.
    if endpoint.get("paginator") is None and client.paginator is not None:
        endpoint["paginator"] = client.paginator.model_dump(by_alias=True, exclude_unset=True)
    return Resource.model_validate(merged)


def with_tenant(resource: Resource, column: str) -> Resource:
    """Returns a resource whose rows have the name of their tenant, as the first column of the key."""
    found = resource.model_dump(by_alias=True, exclude_unset=True)
    hints = {"data_type": "text", "nullable": False, "description": "The tenant that the row belongs to."}
    found["columns"] = {column: hints, **found.get("columns", {})}
    if resource.keys:
        found["primary_key"] = [column, *resource.keys]
    if resource.merge_key:
        found["merge_key"] = [column, *resource.merge_key]
    if resource.checks.unique is not None:
        found["checks"]["unique"] = [[column, *columns] for columns in resource.checks.unique]
    return Resource.model_validate(found)
