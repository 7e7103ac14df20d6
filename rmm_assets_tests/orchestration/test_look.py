"""Tests what Dagster's UI shows of a run: changes, preview, freshness, descriptions and further checks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.component import RmmConnection
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import (
    KEY,
    check_alone,
    checks,
    connection,
    devices,
    failures,
    metadata,
    plain,
    sync,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _key(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)


def resource(name: str = "devices", **more: Any) -> dict[str, Any]:
    columns: Mapping[str, Any] = {"id": {"data_type": "bigint", "nullable": False}}
    return {"name": name, "endpoint": {"path": f"/v1/{name}"}, "columns": columns, **more}


def spec_of(target: RmmConnection, name: str = "devices") -> dg.AssetSpec:
    [found] = [spec for spec in build_connection_defs(target).resolve_all_asset_specs() if spec.key.path[-1] == name]
    return found


def test_a_run_reports_what_it_changed(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(10)}) as rmm:
        target = connection(rmm.base_url)
        first = metadata(sync(target, instance))
        again = metadata(sync(target, instance))
        rows = devices(12)[1:]
        rows[0]["status"] = "offline"
        rmm.set_rows("devices", rows)
        third = metadata(sync(target, instance))

    assert (first["rows_new"], first["rows_changed"], first["rows_absent"]) == (10, 0, 0)
    assert (again["rows_new"], again["rows_changed"], again["rows_absent"]) == (0, 0, 0)
    assert (third["rows_new"], third["rows_changed"], third["rows_absent"]) == (2, 1, 1)
    assert third["dagster/row_count"] == 12


def test_the_preview_shows_ten_rows_and_masks_what_is_sensitive(instance: dg.DagsterInstance) -> None:
    columns = {"id": {"data_type": "bigint", "nullable": False}, "owner": {"data_type": "text", "sensitive": True}}
    with Simulator(tables={"devices": devices(30, owner="somebody@acme.example")}) as rmm:
        target = connection(rmm.base_url, [resource(columns=columns)])
        result = sync(target, instance)

    [event] = result.get_asset_materialization_events()
    preview = event.materialization.metadata["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    assert [record.data["id"] for record in preview.records] == list(range(1, 11))
    assert {record.data["owner"] for record in preview.records} == {"***"}
    assert not any(name.startswith("_") for name in preview.records[0].data)


def test_a_sensitive_column_is_masked_in_any_spelling_with_its_nested_fields(
    instance: dg.DagsterInstance,
) -> None:
    rows = devices(3, LastUser="somebody@acme.example", contact={"phone": "0664 1234", "name": None})
    columns = {"LastUser": {"sensitive": True}, "contact": {"sensitive": True}}
    with Simulator(tables={"devices": rows}) as rmm:
        result = sync(connection(rmm.base_url, [resource(columns=columns)]), instance)
    [event] = result.get_asset_materialization_events()
    preview = event.materialization.metadata["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    for record in preview.records:
        assert record.data["last_user"] == record.data["contact__phone"] == "***"
        assert record.data["name"] != "***"


def test_a_preview_of_a_table_with_many_columns_still_has_ten_rows(instance: dg.DagsterInstance) -> None:
    more = {f"some_agent_field_{number:03}": "x" * 90 for number in range(45)}
    with Simulator(tables={"devices": devices(30, **more)}) as rmm:
        result = sync(connection(rmm.base_url), instance)
    [event] = result.get_asset_materialization_events()
    preview = event.materialization.metadata["preview"]
    assert isinstance(preview, dg.TableMetadataValue)
    assert len(preview.records) == 10
    assert [column.name for column in preview.schema.columns][:3] == ["id", "name", "status"]


def test_columns_are_described_on_the_asset_before_anything_is_loaded_and_not_again_on_each_run(
    instance: dg.DagsterInstance,
) -> None:
    columns = {"id": {"data_type": "bigint", "nullable": False}, "LastSeen": {"description": "When it was last there."}}
    with Simulator(tables={"devices": devices(2, LastSeen="2026-01-02T03:04:05Z")}) as rmm:
        target = connection(rmm.base_url, [resource(columns=columns)])
        result = sync(target, instance)
    declared = spec_of(target).metadata["dagster/column_schema"]
    assert {column.name: column.description for column in declared.columns} == {
        "id": None,
        "last_seen": "When it was last there.",  # as in the table, because the UI matches the two by name
        "_dlt_load_id": "The load that last changed the row: `load_id` of its run.",
        "_absent_since": "When the row was first missing from the API; null while the API returns it.",
        "_content_hash": "A hash of the row as the API sent it, by which the next load tells whether it has changed.",
    }
    assert not any(column.description for column in metadata(result)["dagster/column_schema"].columns)


def test_a_row_count_outside_its_bounds_fails(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(10)}) as rmm:
        bounded = connection(rmm.base_url, [resource(checks={"row_count": {"min": 5, "max": 9}})])
        found = checks(sync(bounded, instance))["row_count"]
    assert not found.passed
    assert plain(found.metadata) == {"rows": 10, "at_least": 5, "at_most": 9}


def test_a_row_count_outside_the_band_of_its_history_fails(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(100)}) as rmm:
        banded = connection(rmm.base_url, [resource(checks={"row_count": {"band": 0.2}})])
        assert checks(sync(banded, instance))["row_count"].passed
        rmm.set_rows("devices", devices(119))
        assert checks(sync(banded, instance))["row_count"].passed
        rmm.set_rows("devices", devices(160))
        found = checks(sync(banded, instance))["row_count"]
        alone = check_alone(banded, instance, "row_count")["row_count"]
    assert not found.passed
    assert plain(found.metadata) == {"rows": 160, "usual": 109.5, "at_least": 88, "at_most": 131}
    assert not alone.passed


def test_a_reference_to_nothing_is_found_once_both_tables_are_loaded(instance: dg.DagsterInstance) -> None:
    alerts: list[dict[str, Any]] = [{"id": 1, "device_id": 3}, {"id": 2, "device_id": 99}, {"id": 3, "device_id": None}]
    with Simulator(tables={"devices": devices(10), "alerts": alerts}) as rmm:
        target = connection(
            rmm.base_url,
            # Loaded first by name, but checked after the devices are loaded.
            [resource("alerts", checks={"references": {"device_id": "devices.id"}}), resource("devices")],
        )
        result = sync(target, instance)
        alone = check_alone(target, instance, "references_device_id", resource="alerts")
    found = checks(result)["references_device_id"]
    assert not found.passed
    assert plain(found.metadata) == {"rows_looked_at": 3, "rows_at_fault": 1, "examples": ["2, 99"]}
    assert plain(alone["references_device_id"].metadata)["rows_at_fault"] == 1


def test_a_failing_resource_does_not_fail_the_one_that_refers_to_it(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"alerts": [{"id": 1, "device_id": 3}]}) as rmm:
        target = connection(
            rmm.base_url,
            [resource("alerts", checks={"references": {"device_id": "devices.id"}}), resource("devices")],
        )
        result = sync(target, instance)
    assert not result.success  # /v1/devices does not exist
    assert metadata(result, "alerts")["dagster/row_count"] == 1


def test_a_users_own_query_finds_faulty_rows(instance: dg.DagsterInstance) -> None:
    own = {
        "no_pc_7": "SELECT id, name FROM {table} WHERE name = 'PC-0007';",
        "known_elsewhere": "SELECT id FROM {table} WHERE id NOT IN (SELECT id FROM {devices})",
    }
    with Simulator(tables={"devices": devices(10)}) as rmm:
        found = checks(sync(connection(rmm.base_url, [resource(checks={"sql": own})]), instance))
    assert plain(found["sql_no_pc_7"].metadata) == {
        "rows_looked_at": 10,
        "rows_at_fault": 1,
        "examples": ["7, PC-0007"],
    }
    assert not found["sql_no_pc_7"].passed
    assert found["sql_known_elsewhere"].passed


def test_rows_that_a_query_selects_are_truncated(instance: dg.DagsterInstance) -> None:
    own = {"long": "SELECT * FROM {table}"}
    with Simulator(tables={"devices": devices(10, note="x" * 5000)}) as rmm:
        found = checks(sync(connection(rmm.base_url, [resource(checks={"sql": own})]), instance))
    examples = plain(found["sql_long"].metadata)["examples"]
    assert len(examples) == 5 and {len(example) for example in examples} == {200}


def test_more_missing_rows_than_allowed_are_not_marked_and_reported(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(10)}) as rmm:
        target = connection(rmm.base_url)
        sync(target, instance)
        rmm.set_rows("devices", [{**row, "id": row["id"] + 100} for row in devices(10)])
        result = sync(target, instance)
    assert metadata(result)["absences_held_back"] is True
    assert not checks(result)["no_sudden_loss"].passed
    assert plain(checks(result)["no_sudden_loss"].metadata) == {"rows_absent": 10}


def test_an_assets_description_says_where_its_rows_come_from() -> None:
    spec = spec_of(connection("https://api.example.com", [resource(description="What hums.")]))
    assert spec.description is not None
    assert spec.description.startswith("What hums.\n\n| | |")
    for fact in ("`GET /v1/devices`", "`https://api.example.com`", "`id`", "`offset` (limit 100)", "acme.devices"):
        assert fact in spec.description


def test_an_asset_links_to_the_vendors_documentation_and_a_resources_own_wins() -> None:
    everywhere = {"docs": "https://developer.example.com/api"}
    own = resource("alerts", description="What is wrong.", docs="https://developer.example.com/alerts_(v2)")
    target = connection("https://api.example.com", [resource(), own], **everywhere)
    assert (spec_of(target).description or "").startswith(
        "[API documentation](https://developer.example.com/api)\n\n| | |"
    )
    assert (spec_of(target, "alerts").description or "").startswith(
        "What is wrong.\n\n[API documentation](https://developer.example.com/alerts_%28v2%29)\n\n| | |"
    )
    assert "documentation" not in (spec_of(connection("https://api.example.com")).description or "")


def test_a_child_is_downstream_of_its_parent_in_the_graph() -> None:
    child = resource("disks") | {"endpoint": {"path": "/v1/devices/{resources.devices.id}/disks"}}
    target = connection("https://api.example.com", [resource(), child])
    assert [dep.asset_key for dep in spec_of(target, "disks").deps] == [dg.AssetKey(["acme", "devices"])]
    assert not list(spec_of(target).deps)
    # A parent that is only read for its children is not an asset, and nothing is downstream of it.
    target = connection("https://api.example.com", [resource(selected=False), child])
    assert [spec.key.path[-1] for spec in build_connection_defs(target).resolve_all_asset_specs()] == ["disks"]
    assert not list(spec_of(target, "disks").deps)


def test_owners_and_tags_are_those_of_the_file_and_of_its_defaults() -> None:
    defaults = {"owners": "team:infrastructure", "tags": {"domain": "inventory"}, "primary_key": "id"}
    own = resource("alerts", owners=["noc@acme.example", "team:noc"])
    target = connection(
        "https://api.example.com",
        [resource(), own],
        resource_defaults=defaults | {"endpoint": {"paginator": "single_page"}},
    )
    assert list(spec_of(target).owners) == ["team:infrastructure"]
    assert list(spec_of(target, "alerts").owners) == ["noc@acme.example", "team:noc"]
    assert spec_of(target, "alerts").tags["domain"] == "inventory"


@pytest.mark.parametrize(
    ("cron", "hours"),
    [("0 * * * *", 2), ("*/15 * * * *", 0.5), ("0 6 * * *", 48), ("0 6 * * 1-5", 144)],
)
def test_an_asset_is_stale_after_twice_the_schedules_longest_interval(cron: str, hours: float) -> None:
    schedule = {"cron": cron, "status": "running"}
    policy = spec_of(connection("https://api.example.com", schedule=schedule)).freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))


def test_fresh_within_sets_when_an_asset_is_stale() -> None:
    target = connection("https://api.example.com", [resource(fresh_within=90)], schedule={"cron": "0 6 * * *"})
    assert spec_of(target).freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=90))
    assert spec_of(connection("https://api.example.com")).freshness_policy is None


def test_a_database_named_like_its_dataset_is_refused_with_an_explanation(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(3)}) as rmm:
        target = connection(rmm.base_url, destination={"type": "duckdb", "credentials": "data/acme.duckdb"})
        result = sync(target, instance)
    [failure] = failures(result)
    assert "acme.duckdb has the same name as the dataset acme" in failure
    assert not Path("data/acme.duckdb").exists()
