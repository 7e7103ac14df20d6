"""Wraps the undocumented parts of dlt in one place, so that a new version of dlt needs checking only here.

They are those of dlt 1.31.0; `loading/test_dlt_internals.py` says which of them a newer version has changed. It also tests
those that lower packages use themselves (row ids, type coercion, paginators).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple, cast

import dlt
from dlt.common import jsonpath
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.runtime.collector import LogCollector
from dlt.common.schema import Schema
from dlt.common.schema.typing import DEFAULT_VALIDITY_COLUMN_NAMES, MERGE_DISPOSITION_HINTS
from dlt.common.schema.utils import get_nested_tables
from dlt.common.versioned_state import compress_state, decompress_state
from dlt.extract.utils import digest_dedup_value, has_legacy_dedup_hashes
from dlt.pipeline.state_sync import bump_pipeline_state_version_if_modified
from dlt.sources.rest_api.config_setup import build_resource_dependency_graph

# The names of scd2's two columns are documented, the constant is not.
VALIDITY_COLUMNS: tuple[str, str] = (DEFAULT_VALIDITY_COLUMN_NAMES[0], DEFAULT_VALIDITY_COLUMN_NAMES[1])


class Resolved(NamedTuple):
    """One resource of a `rest_api` config as dlt resolves it.

    Attributes:
        endpoint: Its endpoint with defaults and static path parameters filled in.
        fields: For each placeholder, the field of the parent's row that fills it.
        parent: Name of the parent resource; None if there is none.
    """

    endpoint: dict[str, Any]
    fields: dict[str, str]
    parent: str | None
    include_from_parent: tuple[str, ...]


def resolve_endpoints(config: Mapping[str, Any]) -> dict[str, Resolved]:
    """Returns the resources of a `rest_api` config by name, resolved by dlt's own rules (1.31.0: no public API)."""
    _, found, params = build_resource_dependency_graph({}, config["resources"])
    resolved: dict[str, Resolved] = {}
    for name, resource in found.items():
        bound: list[Any] = params[name] or []
        entry: Any = resource
        resolved[name] = Resolved(
            endpoint=entry["endpoint"],
            fields={param.param_name: param.resolve_config["field"] for param in bound},
            parent=bound[0].resolve_config["resource"] if bound else None,
            include_from_parent=tuple(entry.get("include_from_parent") or ()),
        )
    return resolved


def reload_secrets() -> None:
    """Makes dlt reload its secrets (1.31.0): its providers cache what they read when the process started."""
    Container()[PluggableRunContext].reload_providers()


class LongSteps(LogCollector):
    """Logs the progress of dlt's steps (extract, normalize, load) that take long.

    dlt itself logs the beginning and the end of each, which is eight entries for a resource without news, each of them a
    transaction in Dagster's database.

    Args:
        logger: Receives the lines.
        every: Seconds between two lines, and before the first.
    """

    def __init__(self, logger: logging.Logger, *, every: float = 10.0) -> None:
        super().__init__(log_period=every, logger=logger, dump_system_stats=False)

    def _start(self, step: str) -> None:
        super()._start(step)
        self._began = time.monotonic()

    def on_log(self) -> None:
        """Logs the counts, which dlt asks for with the first one, when `log_period` is over, and at the end."""
        if time.monotonic() - self._began >= self.log_period:
            super().on_log()


def parent_column(parent: str, field: str) -> str:
    """Returns the name of a parent's field in a child's rows."""
    return f"_{parent}_{field}"


def values_at(path: str, row: Mapping[str, Any]) -> list[Any]:
    """Returns the values at a JSONPath, using dlt's parser (`dlt.common.jsonpath`, 1.31.0)."""
    return list(jsonpath.find_values(path, dict(row)))


def cursor_state(resource: str, path: str) -> MutableMapping[str, Any]:
    """Returns the state of dlt's `Incremental` for a cursor (1.31.0: its place is not documented)."""
    state: dict[str, Any] = dlt.current.resource_state(resource)
    kept: dict[str, Any] = state.setdefault("incremental", {}).setdefault(path, {})
    return kept


def row_digest(identity: Any, known: set[str] | None = None) -> str:
    """Returns the digest by which dlt's `Incremental` remembers a row at the start of the next range (1.31.0).

    Args:
        identity: What identifies the row.
        known: Digests to compare it with; dlt before 1.29 wrote longer ones.
    """
    return str(digest_dedup_value(identity, has_legacy_dedup_hashes(known or ())))


def nested_tables(tables: Any, name: str) -> list[dict[str, Any]]:
    """Returns the schemas of a table's child tables, parents first (`dlt.common.schema.utils`, 1.31.0)."""
    return [dict(table) for table in get_nested_tables(tables, name, include_self=False)]


def forget_merge_options(table: str) -> None:
    """Removes a table's merge options while dlt extracts, which sets those that apply.

    An option that no longer applies would stay in the stored schema (1.31.0), with its condition on the rows to delete.
    """
    schema: Any = dlt.current.source_schema().tables.get(table, {})
    for hint in MERGE_DISPOSITION_HINTS.values():
        schema.pop(hint, None)


class _ChildTable(dict[str, Any]):
    """The schema of a child table, which has a `resource` when dlt looks it up but does not store it.

    dlt asks every table that receives rows for its resource, and a child table must not have one (dlt-hub/dlt#2106).
    """

    def __init__(self, resource: str, schema: Mapping[str, Any]) -> None:
        super().__init__(schema)
        self._resource = resource

    def __missing__(self, key: str) -> str:
        if key != "resource":
            raise KeyError(key)
        return self._resource


def declare_child_table(name: str, parent: str, columns: dict[str, Any]) -> None:
    """Makes dlt accept Arrow tables of that name as rows of a child table (1.31.0, dlt-hub/dlt#2106)."""
    # With `apply_hints` child tables would copy the write disposition and keep it when it changes.
    hints: Any = dlt.mark.make_hints(table_name=name, parent_table_name=parent, columns=columns)
    resource = dlt.current.resource()
    resource._set_hints(hints, create_table_variant=True)
    tables: dict[str, Any] = dlt.current.source_schema().tables
    tables[name] = _ChildTable(resource.name, tables.get(name) or {"name": name, "parent": parent, "columns": {}})


class Stored(NamedTuple):
    """A schema or a state, as dlt stores it at the destination.

    Attributes:
        text: Its content.
        version: Its version number, which increases with each change.
        version_hash: The hash of its content.
    """

    text: str
    version: int
    version_hash: str


def renamed_schema(text: str, name: str, tables: Mapping[str, str], resources: Mapping[str, str]) -> Stored:
    """Renames a stored schema, its tables and their resources (1.31.0: dlt has no API for this).

    Args:
        text: The schema as stored.
        name: Its new name.
        tables: New names of tables by their old names; other tables keep theirs.
        resources: New names of resources by their old names.
    """
    stored = json.loads(text)
    stored["name"] = name
    stored["tables"] = {tables.get(table, table): entry for table, entry in stored["tables"].items()}
    for entry in stored["tables"].values():
        entry["name"] = tables.get(entry["name"], entry["name"])
        for key, names in (("parent", tables), ("resource", resources)):
            if key in entry:
                entry[key] = names.get(entry[key], entry[key])
    schema: Any = Schema.from_dict(stored).to_dict()
    return Stored(json.dumps(schema), schema["version"], schema["version_hash"])


def renamed_state(text: str, name: str, dataset: str, resources: Mapping[str, str]) -> Stored:
    """Renames the pipeline of a stored state, which has one schema of the same name (1.31.0: dlt has no API for this).

    Args:
        text: The state as stored.
        name: The new name of the pipeline and its schema.
        dataset: The new dataset.
        resources: New names of resources by their old names; other resources keep theirs.
    """
    state = decompress_state(text)
    former, sources = state["pipeline_name"], state.get("sources", {})
    if former in sources:
        source = sources[name] = sources.pop(former)
        source["resources"] = {resources.get(key, key): kept for key, kept in source.get("resources", {}).items()}
    state |= {"pipeline_name": name, "dataset_name": dataset, "default_schema_name": name, "schema_names": [name]}
    kept = cast(Any, state)
    version, version_hash, _ = bump_pipeline_state_version_if_modified(kept)
    return Stored(compress_state(kept), version, version_hash)
