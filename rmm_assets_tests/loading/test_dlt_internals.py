"""Tests that undocumented names of dlt behave as this project needs; a failure says what would break."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import pytest

import rmm_assets
from rmm_assets.loading.dlt_internals import (
    VALIDITY_COLUMNS,
    cursor_state,
    declare_child_table,
    nested_tables,
    parent_column,
    resolve_endpoints,
    row_digest,
    values_at,
)

SENTENCE = "dlt has changed since 1.31.0: {}"


def expect(is_so: bool, what_is_lost: str) -> None:
    assert is_so, SENTENCE.format(what_is_lost)


@pytest.fixture
def pipeline(tmp_path: Path) -> dlt.Pipeline:
    return dlt.pipeline("internals", destination=dlt.destinations.duckdb(str(tmp_path / "x.duckdb")), dataset_name="d",
                        pipelines_dir=str(tmp_path / "work"))  # fmt: skip


# The names that packages below `loading` and `config` need, by module; each is imported where it is used.
NAMES = {
    "dlt.common.jsonpath": ["compile_path", "find_values"],
    "dlt.common.data_types.type_helpers": ["coerce_value", "py_type_to_sc_type"],
    "dlt.common.destination.capabilities": ["DestinationCapabilitiesContext"],
    "dlt.common.libs.pyarrow": ["get_py_arrow_datatype"],
    "dlt.common.normalizers.json.helpers": ["get_row_hash"],
    "dlt.common.normalizers.json.relational": ["DataItemNormalizer"],
    "dlt.common.normalizers.naming.snake_case": ["NamingConvention"],
    "dlt.common.normalizers.utils": ["DLT_ID_LENGTH_BYTES", "generate_dlt_ids"],
    "dlt.common.schema.detections": ["is_iso_timestamp"],
    "dlt.common.time": ["ensure_datetime_in_tz", "get_context_timezone", "parse_iso_like_datetime"],
    "dlt.common.validation": ["validate_dict"],
    "dlt.destinations.exceptions": ["DatabaseException", "DatabaseUndefinedRelation"],
    "dlt.destinations.job_client_impl": ["SqlJobClientBase"],
    "dlt.destinations.impl.duckdb.configuration": ["DuckDbCredentials"],
    "dlt.extract.utils": ["digest_dedup_value", "has_legacy_dedup_hashes"],
    "dlt.sources.helpers.rest_client.paginators": ["BaseNextUrlPaginator", "BasePaginator", "BaseReferencePaginator"],
    "dlt.sources.rest_api.config_setup": ["build_resource_dependency_graph", "create_paginator"],
}


@pytest.mark.parametrize("module", NAMES)
def test_every_undocumented_name_exists(module: str) -> None:
    found = importlib.import_module(module)
    lost = [name for name in NAMES[module] if not hasattr(found, name)]
    expect(not lost, f"{module} has no {', '.join(lost)} any more")


def test_private_names_of_dlt_are_used_in_one_module() -> None:
    package = Path(rmm_assets.__file__).parent
    for file in [*(package / "loading").glob("*.py"), *(package / "tables").glob("*.py")]:
        if file.name == "dlt_internals.py":
            continue
        lines = file.read_text(encoding="utf-8").splitlines()
        private = [line for line in lines if "import" in line and ("dlt.extract" in line or "config_setup" in line)]
        private += [line for line in lines if "._set_hints" in line or "._pipe" in line or "Injectable" in line]
        assert not private, f"{file.name}: {private}"


def test_a_rest_api_config_is_resolved_with_defaults_static_parameters_and_parents() -> None:
    config = {
        "client": {"base_url": "https://host"},
        "resources": [
            {"name": "orgs", "endpoint": {"path": "orgs/{region}", "params": {"region": "eu"}}},
            {"name": "sites", "include_from_parent": ["name"],
             "endpoint": {"path": "orgs/{resources.orgs.meta.id}/sites"}},
            {"name": "rooms", "endpoint": {"path": "sites/{site}",
                                           "params": {"site": {"type": "resolve", "resource": "sites", "field": "id"}}}},
        ],
    }  # fmt: skip
    found = resolve_endpoints(config)
    expect(found["orgs"].endpoint["path"] == "orgs/eu", "static parameters no longer fill a path")
    expect(found["sites"].fields == {"resources.orgs.meta.id": "meta.id"}, "placeholders are resolved differently")
    expect(found["sites"].parent == "orgs" and found["orgs"].parent is None, "a child has no reference to its parent")
    expect(found["sites"].include_from_parent == ("name",), "fields of the parent's row are in another attribute")
    expect(found["rooms"].fields == {"site": "id"}, "parameters of type `resolve` are resolved differently")


def test_a_field_of_the_parent_has_the_name_that_dlt_gives_it() -> None:
    from dlt.sources.rest_api.config_setup import make_parent_key_name

    expect(parent_column("orgs", "id") == make_parent_key_name("orgs", "id"), "columns from a parent have another name")


def test_values_are_found_by_the_jsonpath_of_dlt() -> None:
    expect(
        values_at("a.b", {"a": {"b": 1}}) == [1] and values_at("a.c", {"a": {}}) == [],
        "a JSONPath finds different values",
    )


def test_cursor_state_and_boundary_rows_are_stored_like_dlt_s(pipeline: dlt.Pipeline) -> None:
    rows = [{"id": 1, "at": "2024-01-01"}, {"id": 2, "at": "2024-01-02"}]
    kept: dict[str, Any] = {}

    @dlt.resource(primary_key=["id"])
    def theirs(at: Any = dlt.sources.incremental("at", initial_value="2024-01-01")) -> Iterator[Any]:  # noqa: B008
        yield rows

    @dlt.resource
    def ours() -> Iterator[Any]:
        kept.update(cursor_state("theirs", "at"))
        yield rows

    pipeline.extract(theirs())
    pipeline.extract(ours(), schema=pipeline.default_schema)
    expect(
        set(kept) >= {"initial_value", "last_value", "unique_hashes", "start_value"},
        "a cursor is stored in another format",
    )
    expect(kept["last_value"] == "2024-01-02", "the last value is stored under another name")
    expect(kept["unique_hashes"] == [row_digest([2])], "rows at the start are stored with another digest")
    old = {row_digest([2], {"x" * 20})}
    expect(old != {row_digest([2])}, "digests of dlt before 1.29 can no longer be recognized by their length")


def test_child_tables_are_found_and_arrow_tables_are_accepted_as_rows(pipeline: dlt.Pipeline) -> None:
    import pyarrow as pa

    @dlt.resource(name="devices", file_format="parquet", write_disposition="append")
    def devices() -> Iterator[Any]:
        yield pa.table({"id": [1], "_dlt_id": ["a"]})
        columns = {"_dlt_parent_id": {"name": "_dlt_parent_id", "data_type": "text", "parent_key": True}}
        declare_child_table("devices__disks", "devices", columns)
        yield dlt.mark.with_table_name(pa.table({"size": [2], "_dlt_parent_id": ["a"]}), "devices__disks")

    pipeline.run(devices())
    tables = pipeline.default_schema.tables
    expect("devices__disks" in tables, "Arrow tables with another name are not accepted")
    child: Any = tables["devices__disks"]
    expect(child.get("parent") == "devices" and "resource" not in child, "a child table is no longer recognized")
    expect(
        [table["name"] for table in nested_tables(tables, "devices")] == ["devices__disks"],
        "child tables are not found",
    )
    with pipeline.sql_client() as client:
        expect(client.execute_sql("SELECT size FROM devices__disks") == [(2,)], "a child table's rows are not loaded")


def test_a_destination_lists_its_schemas_and_columns(pipeline: dlt.Pipeline) -> None:
    pipeline.run([{"id": 1}], table_name="devices")
    with pipeline.destination_client() as client:
        stored: Any = client.get_stored_schema("internals")  # type: ignore[attr-defined]
        columns = dict(client.get_storage_tables(["devices"]))["devices"]  # type: ignore[attr-defined]
    expect("devices" in json.loads(stored.schema)["tables"], "the schema at the destination is read differently")
    expect(columns["id"]["data_type"] == "bigint", "the actual columns of a table are read differently")


def test_the_load_package_s_state_contains_the_load_id(pipeline: dlt.Pipeline) -> None:
    seen: list[str] = []

    @dlt.resource(name="devices")
    def devices() -> Iterator[Any]:
        seen.append(dlt.current.load_package_state()["load_id"])
        yield {"id": 1}

    info = pipeline.run(devices())
    expect(seen == info.loads_ids, "`dlt.current.load_package_state` has another load id")


def test_versions_are_distinguished_by_two_columns(pipeline: dlt.Pipeline) -> None:
    disposition: Any = {"disposition": "merge", "strategy": "scd2"}
    pipeline.run([{"id": 1}], table_name="devices", write_disposition=disposition)
    expect(
        set(VALIDITY_COLUMNS) <= set(pipeline.default_schema.tables["devices"]["columns"]), "scd2 has different columns"
    )


def test_row_ids_use_dlt_s_undocumented_digest() -> None:
    from dlt.common.normalizers.json.helpers import get_row_hash
    from dlt.common.normalizers.utils import DLT_ID_LENGTH_BYTES

    expect(list(inspect.signature(get_row_hash).parameters)[:2] == ["row", "subset"], "row ids are derived differently")
    expect(DLT_ID_LENGTH_BYTES == 10, "row ids have a different length")
    expect(len(get_row_hash(json.loads('{"id": 1}'), ["id"])) == 14, "row ids have a different length")
