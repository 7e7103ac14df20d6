"""Tests the contracts with other code locations, dashboards and SQL; changing a test here changes the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import serialize_value

from rmm_assets.definitions import build_defs
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.metadata import MAX_BYTES
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, checks, connection, devices, metadata, query, sync

pytestmark = pytest.mark.slow

METADATA: dict[str, type] = {
    "dagster/row_count": int,
    "dagster/column_schema": dg.TableSchema,
    "dagster/table_name": str,
    "rows_loaded": int,
    "rows_written": int,
    "rows_new": int,
    "rows_changed": int,
    "rows_left_out": int,
    "parents": dict,
    "rows_rejected": int,
    "rows_absent": int,
    "absences_held_back": bool,
    "rows_repeated": int,
    "pages": int,
    "passes": int,
    "requests": int,
    "retries": int,
    "complete": bool,
    "completeness": str,
    "evidence": str,
    "signals": list,
    "changed_types": list,
    "load_id": str,
    "preview": dg.TableMetadataValue,
    "seconds": float,
    "seconds_waiting": float,
    "rows_per_second": float,
}

DEMO_CHECKS = {
    "demo/organizations": {"accepted_values_status"},
    "demo/devices": {"accepted_values_status", "references_organization__id", "row_count"},
    "demo/alerts": {
        "accepted_values_severity",
        "accepted_values_status",
        "references_device_id",
        "sql_resolved_after_opened",
    },
    "demo/patches": {"accepted_values_status", "references_device_id"},
}
EVERYWHERE = {
    "unique_id",
    "not_null_id",
    "not_null_status",
    "complete",
    "schema_change",
    "no_rejected_rows",
    "no_sudden_loss",
    "not_empty",
}


@pytest.fixture
def demo() -> dg.Definitions:
    return build_defs()


def test_the_demos_assets(demo: dg.Definitions) -> None:
    specs = {spec.key.to_user_string(): spec for spec in demo.resolve_all_asset_specs()}
    assert specs.keys() == {*DEMO_CHECKS, "demo/fleet_overview"}
    assert specs.pop("demo/fleet_overview").group_name == "demo"
    for key, spec in specs.items():
        assert spec.group_name == "demo"
        assert spec.kinds == {"dlt", "duckdb"}
        assert spec.metadata["dagster/table_name"] == key.replace("/", ".")
        assert list(spec.deps) == []
        assert spec.description


def test_the_demos_checks(demo: dg.Definitions) -> None:
    found: dict[str, set[str]] = {}
    for key in demo.resolve_asset_graph().asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert found == {key: EVERYWHERE | own for key, own in DEMO_CHECKS.items()}


def test_only_the_primary_keys_check_blocks(demo: dg.Definitions) -> None:
    graph = demo.resolve_asset_graph()
    blocking = {key.name for key in graph.asset_check_keys if graph.get_check_spec(key).blocking}
    assert blocking == {"unique_id"}


def test_the_demos_job_schedule_and_resource(demo: dg.Definitions) -> None:
    repository = demo.get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert jobs == {"sync_demo", "audit_demo", "prune"}
    assert {schedule.name for schedule in repository.schedule_defs} == {"sync_demo_schedule", "prune_schedule"}
    assert repository.get_job("sync_demo").resource_defs.keys() - {"io_manager"} == {"demo_api"}


def test_each_asset_has_its_own_op_and_no_pool_that_a_killed_run_could_block(demo: dg.Definitions) -> None:
    assets = list(demo.resolve_asset_graph().assets_defs)
    loaders = [one for one in assets if one.check_keys and one.keys]
    assert all(len(one.keys) == 1 for one in loaders)
    assert {one.op.pool for one in assets} == {None}


@pytest.mark.parametrize("rows", [0, 7])
def test_metadata_has_these_keys_and_types_on_every_run(
    rows: int, workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    with Simulator(tables={"devices": devices(rows)}) as rmm:
        result = sync(connection(rmm.base_url), instance)
    found = metadata(result)
    assert {name: type(value) for name, value in found.items()} == METADATA
    assert found["dagster/table_name"] == "rmm.acme.devices"


# Like real columns: names of eighteen letters, and timestamps for every third.
def wide(fields: int) -> dict[str, Any]:
    values = ("x" * 90, 7, "2026-01-02T03:04:05Z")
    return {f"some_agent_field_{number:03}": values[number % 3] for number in range(fields)}


@pytest.mark.parametrize("columns", [8, 70, 120])
def test_metadata_is_under_8_kb_up_to_70_columns_and_contains_no_paths(
    columns: int, workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    with Simulator(tables={"devices": devices(50, **wide(columns - 6))}) as rmm:
        result = sync(connection(rmm.base_url), instance)
    # As stored and read back.
    [loaded] = instance.fetch_materializations(dg.AssetKey(["acme", "devices"]), limit=1).records
    assert loaded.asset_materialization is not None
    found = loaded.asset_materialization.metadata
    schema = found["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchemaMetadataValue)
    # A table's columns are never truncated, however many there are.
    assert len(schema.schema.columns) == columns

    [event] = result.get_asset_materialization_events()
    noted: Any = event.materialization.metadata
    stored = serialize_value(noted)
    columns_take = len(serialize_value(noted["dagster/column_schema"]))
    assert columns_take < 85 * columns + 350
    assert len(stored) <= (MAX_BYTES if columns <= 70 else columns_take + 2100)
    evaluations: list[Any] = list(checks(result).values())
    for said in (stored, *(serialize_value(evaluation.metadata) for evaluation in evaluations)):
        assert said is stored or len(said) <= 2000
        assert str(workplace) not in said
        assert "127.0.0.1" not in said
        assert KEY not in said


def test_short_columns_can_be_read_without_this_package(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    with Simulator(tables={"devices": devices(5)}) as rmm:
        sync(connection(rmm.base_url), instance)
    [record] = instance.fetch_materializations(dg.AssetKey(["acme", "devices"]), limit=1).records
    text = serialize_value(record.event_log_entry)
    read = (
        "import sys; from dagster._serdes import deserialize_value; "
        "event = deserialize_value(sys.stdin.read()); "
        "[print(column) for column in event.asset_materialization.metadata['dagster/column_schema'].value.columns]; "
        "assert not [name for name in sys.modules if name.startswith('rmm_assets')]"
    )
    done = subprocess.run([sys.executable, "-c", read], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == [
        str(dg.TableColumn("id", "bigint", constraints=dg.TableColumnConstraints(nullable=False, unique=True))),
        str(dg.TableColumn("name", "text")),
    ]


def test_nested_objects_are_flattened_and_lists_are_json(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    rows = devices(2, organization={"id": 5, "Display Name": "Süd"}, tags=["a", "ß"], LastSeen="2026-01-02T03:04:05Z")
    with Simulator(tables={"devices": rows}) as rmm:
        assert sync(connection(rmm.base_url), instance).success
    types = dict(query("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'devices'"))
    assert types == {
        "id": "BIGINT",
        "name": "VARCHAR",
        "status": "VARCHAR",
        "organization__id": "BIGINT",
        "organization__display_name": "VARCHAR",
        "tags": "JSON",
        "last_seen": "TIMESTAMP WITH TIME ZONE",
        "_absent_since": "TIMESTAMP WITH TIME ZONE",
        "_content_hash": "BIGINT",
        "_dlt_load_id": "VARCHAR",
    }
    assert query("SELECT tags->>1, organization__display_name FROM acme.devices LIMIT 1") == [("ß", "Süd")]


def test_setting_a_dataset_changes_the_table_but_not_the_asset(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    with Simulator(tables={"devices": devices(2)}) as rmm:
        target = connection(rmm.base_url, dataset="raw_acme", destination={"type": "duckdb", "credentials": "x.duckdb"})
        result = sync(target, instance)
    assert metadata(result)["dagster/table_name"] == "x.raw_acme.devices"
    assert query("SELECT count(*) FROM raw_acme.devices", database=Path("x.duckdb")) == [(2,)]
    (spec,) = build_connection_defs(target).resolve_all_asset_specs()
    assert spec.key == dg.AssetKey(["acme", "devices"])
