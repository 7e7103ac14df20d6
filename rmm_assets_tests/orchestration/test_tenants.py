"""Tests how Dagster sees tenants: partitions that come and go, runs of batches, and failures that concern one of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import duckdb
import pytest
import yaml
from click.testing import CliRunner
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from rmm_assets.cli import main
from rmm_assets.config import Connection
from rmm_assets.config.store import store_of
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.status import status_of
from rmm_assets.orchestration.tenants import batches, partitions_of, update_partitions
from rmm_assets.tables import syncs
from rmm_assets_tests.customers import NORTH, SOUTH, WEST, Customers, key_of
from rmm_assets_tests.syncing import devices, resource, rows_of

pytestmark = pytest.mark.slow

DEVICES = dg.AssetKey(["msp", "devices"])
ALERTS = dg.AssetKey(["msp", "alerts"])


@pytest.fixture
def customers(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Customers]:
    for name, variable in ((NORTH, "NORTH_1"), (SOUTH, "SOUTH"), (WEST, "WEST")):
        monkeypatch.setenv(f"MSP_{variable}_KEY", key_of(name))
    with Customers() as found:
        found.devices = {NORTH: devices(5), SOUTH: devices(3), WEST: devices(2)}
        yield found


def msp(
    url: str, *resources: Mapping[str, Any], names: tuple[str, ...] = (NORTH, SOUTH, WEST), **more: Any
) -> Connection:
    listed = [{"name": name, "settings": {"path": name}} for name in names]
    return Connection.model_validate(
        {
            "name": "msp",
            "client": {
                "base_url": f"{url}/{{settings.path}}",
                "auth": {"type": "api_key", "name": "api_key", "location": "query"},
            },
            "api_key": {"env": "MSP_{tenant}_KEY"},
            "retry": {"backoff_factor": 0.001},
            "destination": {"type": "duckdb", "credentials": "rmm.duckdb"},
            "dataset": "acme",
            "tenants": {"list": listed, **more.pop("tenants", {})},
            "resources": list(resources) or [resource(), resource("alerts", endpoint={"path": "/v1/devices"})],
            **more,
        }
    )


def provider(customers: Customers, **more: Any) -> Connection:
    """Returns a connection whose resource `customers` has the devices of North."""
    return Connection.model_validate({
        **msp(customers.server.url)._written, "name": "provider", "dataset": "provider", "tenants": None,
        "api_key": {"env": "MSP_NORTH_1_KEY"},
        "client": {"base_url": f"{customers.server.url}/{NORTH}",
                   "auth": {"type": "api_key", "name": "api_key", "location": "query"}},
        "resources": [resource("customers", endpoint={"path": "/v1/devices"}, **more)],
    })  # fmt: skip


def sync(made: Connection, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    names = update_partitions(instance, made).names
    [tags] = batches(names, 50)
    job = build_connection_defs(made).resolve_job_def("sync_msp")
    return job.execute_in_process(instance=instance, raise_on_error=False, tags=tags, **options)


def partitions(made: Connection, instance: dg.DagsterInstance, key: dg.AssetKey) -> tuple[set[str], set[str]]:
    """Returns the materialized and the failed partitions, as the UI shows them."""
    definition = partitions_of(made)
    cached = get_and_update_asset_status_cache_value(instance, key, definition, dynamic_partitions_loader=instance)
    if cached is None:
        return set(), set()
    return (
        set(cached.deserialize_materialized_partition_subsets(definition).get_partition_keys()),
        set(cached.deserialize_failed_partition_subsets(definition).get_partition_keys()),
    )


def test_a_tenant_that_fails_is_one_red_partition(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path
) -> None:
    made = msp(customers.server.url)
    customers.fails = {SOUTH: 403}
    result = sync(made, instance)
    assert not result.success
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    assert data is not None and data.description is not None
    assert data.description.count("1 of 3 tenants failed: tenant south: ") == 2
    assert key_of(SOUTH) not in data.description
    for key in (DEVICES, ALERTS):
        assert partitions(made, instance, key) == ({NORTH, WEST}, {SOUTH})
    assert {row["tenant"] for row in rows_of(workplace)} == {NORTH, WEST}

    customers.fails = {}
    assert sync(made, instance).success
    assert partitions(made, instance, ALERTS) == ({NORTH, SOUTH, WEST}, set())


def test_what_a_tenant_did_is_small_and_its_batch_is_described_once(
    customers: Customers, instance: dg.DagsterInstance
) -> None:
    made = msp(customers.server.url, resource(checks={"not_null": ["status"]}))
    result = sync(made, instance)
    assert result.success
    events = {event.partition: event.materialization.metadata for event in result.get_asset_materialization_events()}
    assert {name: metadata["dagster/partition_row_count"].value for name, metadata in events.items()} == {
        NORTH: 5, SOUTH: 3, WEST: 2
    }  # fmt: skip
    assert all(len(metadata) <= 10 for metadata in events.values())
    [observed] = instance.fetch_observations(DEVICES, limit=10).records
    assert observed.asset_observation is not None
    metadata = observed.asset_observation.metadata
    assert (metadata["dagster/row_count"].value, metadata["complete"].value) == (10, True)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks["unique_tenant_id"] and checks["not_null_status"] and checks["complete"]
    assert all(checks.values()), checks


def test_checks_compare_rows_of_one_tenant(customers: Customers, instance: dg.DagsterInstance) -> None:
    """A device of North is none of South's, whatever its id."""
    customers.devices[NORTH] = devices(5, device_id=5)
    customers.devices[SOUTH] = devices(3, device_id=5)
    made = msp(customers.server.url, resource(), resource(
        "alerts", endpoint={"path": "/v1/devices"}, checks={"references": {"device_id": "devices.id"}}))  # fmt: skip
    result = sync(made, instance)
    assert result.success
    [check] = [each for each in result.get_asset_check_evaluations() if each.check_name == "references_device_id"]
    assert not check.passed and check.metadata["rows_at_fault"].value == 3
    assert str(check.metadata["examples"].value).count(SOUTH) == 3
    again = sync(made, instance, asset_selection=None)
    assert again.success


def test_the_schedule_makes_a_run_for_each_batch(customers: Customers) -> None:
    with dg.instance_for_test() as instance:  # a schedule opens it by its folder
        _tick_and_run(customers, instance)


def _tick_and_run(customers: Customers, instance: dg.DagsterInstance) -> None:
    alerts = resource("alerts", endpoint={"path": "/v1/devices"}, schedule={"cron": "0 3 * * *"})
    made = msp(customers.server.url, resource(), alerts, tenants={"batch": 2}, schedule={"cron": "0 * * * *"})
    definitions = build_connection_defs(made)
    repository = definitions.get_repository_def()
    everybody = {NORTH, SOUTH, WEST}
    for name, done in (("sync_msp", (everybody, set[str]())), ("sync_msp__alerts", (everybody, everybody))):
        schedule = definitions.resolve_schedule_def(f"{name}_schedule")
        now = datetime.now(UTC)
        with dg.build_schedule_context(
            instance=instance, repository_def=repository, scheduled_execution_time=now
        ) as context:
            requests = schedule.evaluate_tick(context).run_requests
        assert requests is not None
        ranges = [{name: value for name, value in request.tags.items() if "range" in name} for request in requests]
        assert ranges == [*batches([NORTH, SOUTH], 2), *batches([WEST], 2)]
        for request in requests:
            job = definitions.resolve_job_def(name)
            only = None if request.asset_selection is None else list(request.asset_selection)
            assert job.execute_in_process(instance=instance, tags=request.tags, asset_selection=only).success
        assert tuple(partitions(made, instance, key)[0] for key in (DEVICES, ALERTS)) == done


def test_the_sensor_follows_the_tenants(customers: Customers, instance: dg.DagsterInstance, workplace: Path) -> None:
    file = workplace / "tenants.csv"
    made = msp(customers.server.url, tenants={"list": None, "file": str(file)})
    sensor = build_connection_defs(made).resolve_sensor_def("msp_tenants")

    def tick() -> list[str]:
        with dg.build_sensor_context(instance=instance) as context:
            sensor.evaluate_tick(context)
        return sorted(instance.get_dynamic_partitions("msp_tenants"))

    file.write_text(f"name,path,note\n{NORTH},{NORTH},first\n{SOUTH},{SOUTH},\n")
    assert tick() == [NORTH, SOUTH]
    file.write_text(f"name,path,note\n{WEST},{WEST},first\n{SOUTH},{SOUTH},\n")
    assert tick() == [SOUTH, WEST]
    assert sync(made, instance).success
    file.write_text("name,path\n")
    with pytest.raises(Exception, match="has no tenants"):
        tick()
    file.write_text(f"name,path\n{WEST},{WEST}\n{WEST},{WEST}\n{NORTH},{NORTH}\n")
    with pytest.raises(Exception, match="two names have the same letters"):
        tick()
    # A tenant that the list names twice is still one; another one has come.
    assert sorted(instance.get_dynamic_partitions("msp_tenants")) == [NORTH, SOUTH, WEST]
    file.write_text(f"name,path\n{WEST},{WEST}\n{SOUTH},{SOUTH}\n")
    assert tick() == [SOUTH, WEST]
    assert sorted(instance.get_dynamic_partitions("msp_tenants")) == [SOUTH, WEST]


def test_an_entry_with_a_fault_is_one_red_partition(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path
) -> None:
    file = workplace / "tenants.csv"
    made = msp(customers.server.url, resource(), tenants={"list": None, "file": str(file), "gone": "mark"})
    file.write_text(f"name,path\n{NORTH},{NORTH}\n{SOUTH},{SOUTH}\n{WEST},{WEST}\n")
    assert sync(made, instance).success
    # Nobody knows what the row of South now says, nor whether West is the one with the odd name.
    file.write_text(f"name,path\n{NORTH},{NORTH}\n{SOUTH},a,b\na/b,{WEST}\n")
    customers.devices[NORTH] = devices(6)
    [tags] = batches([NORTH, SOUTH, WEST], 50)
    update_partitions(instance, made)
    job = build_connection_defs(made).resolve_job_def("sync_msp")
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    assert data is not None and "2 of 3 tenants failed: tenant south: not in the list of tenants" in str(
        data.description
    )
    assert "line 3 has more values than columns" in str(data.description)
    assert partitions(made, instance, DEVICES)[1] == {SOUTH, WEST}
    rows = rows_of(workplace, own=True)
    assert sorted(row["tenant"] for row in rows) == [NORTH] * 6 + [SOUTH] * 3 + [WEST] * 2
    assert not any(row.get("_absent_since") for row in rows)


def test_a_tenant_that_goes_while_its_run_waits_spares_the_others(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path
) -> None:
    everybody = msp(customers.server.url)
    [tags] = batches(update_partitions(instance, everybody).names, 50)
    job = build_connection_defs(everybody).resolve_job_def("sync_msp")
    waiting = instance.create_run_for_job(job, tags=tags)
    made = msp(customers.server.url, names=(SOUTH,))
    assert update_partitions(instance, made).names == [SOUTH]
    assert instance.get_dynamic_partitions("msp_tenants") == [NORTH, SOUTH, WEST]
    job = build_connection_defs(made).resolve_job_def("sync_msp")
    assert job.execute_in_process(instance=instance, tags=tags).success
    assert partitions(made, instance, DEVICES) == ({SOUTH}, set())
    instance.report_run_canceled(waiting)
    assert update_partitions(instance, made).names == instance.get_dynamic_partitions("msp_tenants") == [SOUTH]


def test_a_backfill_keeps_the_partitions_of_its_tenants(customers: Customers) -> None:
    with dg.instance_for_test() as instance:
        everybody, made = msp(customers.server.url), msp(customers.server.url, names=(SOUTH,))
        update_partitions(instance, everybody)
        backfill: Any = PartitionBackfill(
            "b", BulkActionStatus.REQUESTED, False, {}, datetime.now(UTC).timestamp(), asset_selection=[DEVICES]
        )
        instance.add_backfill(backfill)
        update_partitions(instance, made)
        assert instance.get_dynamic_partitions("msp_tenants") == [NORTH, SOUTH, WEST]
        instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
        update_partitions(instance, made)
        assert instance.get_dynamic_partitions("msp_tenants") == [SOUTH]


def test_a_tenant_that_is_gone_needs_nobody(customers: Customers, instance: dg.DagsterInstance) -> None:
    customers.fails = {SOUTH: 403}
    assert not sync(msp(customers.server.url), instance).success
    made = msp(customers.server.url, names=(NORTH, WEST))
    assert sync(made, instance).success
    [found] = status_of({"msp": made}, build_connection_defs(made), instance, datetime.now(UTC)).connections
    assert not found.needs_a_person and [tenant.name for tenant in found.tenants] == [NORTH, WEST]


def test_one_tenant_can_be_materialized_alone(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path
) -> None:
    made = msp(customers.server.url)
    update_partitions(instance, made)
    job = build_connection_defs(made).resolve_job_def("sync_msp")
    result = job.execute_in_process(instance=instance, partition_key=SOUTH, asset_selection=[DEVICES])
    assert result.success
    assert {(row["tenant"], row["id"]) for row in rows_of(workplace)} == {(SOUTH, 1), (SOUTH, 2), (SOUTH, 3)}
    assert partitions(made, instance, ALERTS) == (set(), set())


def test_tenants_can_be_the_rows_of_another_connection(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path
) -> None:
    listing = provider(customers)
    customers.devices[NORTH] = [
        {"id": 1, "slug": SOUTH, "host": {"path": SOUTH}},
        {"id": 2, "slug": WEST, "host": {"path": WEST}},
    ]
    made = msp(
        customers.server.url,
        tenants={"list": None, "from": "provider/customers", "name": "slug", "settings": {"path": "host__path"}},
    )
    with pytest.raises(Exception, match="does not exist yet; sync provider first"):
        update_partitions(instance, made)
    job = build_connection_defs(listing).resolve_job_def("sync_provider")
    assert job.execute_in_process(instance=instance).success
    assert sync(made, instance).success
    assert {row["tenant"] for row in rows_of(workplace)} == {SOUTH, WEST}
    # An entry that lacks its name is none; one that is gone is no tenant.
    customers.devices[NORTH] = [{"id": 1, "slug": SOUTH, "host": {"path": SOUTH}}, {"id": 3, "slug": None}]
    assert job.execute_in_process(instance=instance).success
    found = update_partitions(instance, made)
    assert found.names == [SOUTH, WEST] and "provider/customers: tenant 2: name" in found.problem
    customers.devices[NORTH] = [{"id": 1, "slug": SOUTH, "host": {"path": SOUTH}}]
    assert job.execute_in_process(instance=instance).success
    assert update_partitions(instance, made) == ([SOUTH], "")


def test_a_list_that_is_not_proven_complete_lets_no_tenant_go(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path
) -> None:
    """Each read replaces the list, and the last one has not received all of it."""
    listing = provider(customers, write_disposition="replace", on_incomplete="warn", max_absent_share=1.0)
    customers.devices[NORTH] = [{"id": n, "slug": name} for n, name in enumerate((SOUTH, WEST))]
    made = msp(
        customers.server.url, resource(max_absent_share=1.0), settings={"path": SOUTH},
        tenants={"list": None, "from": "provider/customers", "name": "slug", "gone": "mark"},
    )  # fmt: skip
    job = build_connection_defs(listing).resolve_job_def("sync_provider")
    assert job.execute_in_process(instance=instance).success
    customers.devices[SOUTH] = devices(3)
    os.environ["MSP_WEST_KEY"] = key_of(SOUTH)
    assert sync(made, instance).success
    customers.devices[NORTH], customers.lost = customers.devices[NORTH][:1], 1
    job.execute_in_process(instance=instance, raise_on_error=False)
    customers.lost = 0
    found = update_partitions(instance, made)
    assert found.names == [SOUTH, WEST]
    assert found.problem == "provider/customers: its last load is not proven complete (incomplete)"
    result = sync(made, instance)
    assert partitions(made, instance, DEVICES)[1] == {WEST} and not result.success
    assert not any(row.get("_absent_since") for row in rows_of(workplace, own=True))
    job.execute_in_process(instance=instance, raise_on_error=False)
    assert sync(made, instance).success
    assert {row["tenant"] for row in rows_of(workplace, own=True) if row.get("_absent_since")} == {WEST}


def test_a_secret_that_is_not_set_fails_its_tenant(
    customers: Customers, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = msp(customers.server.url)
    monkeypatch.delenv("MSP_SOUTH_KEY")
    result = sync(made, instance)
    [failure] = result.get_step_failure_events()
    assert failure.step_failure_data.user_failure_data is not None
    assert "tenant south: No API key: set the environment variable MSP_SOUTH_KEY" in str(
        failure.step_failure_data.user_failure_data.description
    )
    assert partitions(made, instance, DEVICES) == ({NORTH, WEST}, {SOUTH})


def written(made: Connection, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the connection's file where commands find it."""
    folder = workplace / "connections" / "msp"
    folder.mkdir(parents=True)
    text = yaml.safe_dump({"type": "rmm_assets.RmmConnection", "attributes": dict(made._written)})
    (folder / "defs.yaml").write_text(text)
    monkeypatch.setenv("RMM_CONNECTIONS", str(workplace / "connections"))
    monkeypatch.setattr(os, "_exit", sys.exit)  # a command would end the tests


def test_an_audit_compares_each_tenant_with_its_own_api(
    customers: Customers, instance: dg.DagsterInstance, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (SOUTH, WEST):
        customers.devices[name].append({"name": "without id"})
    made = msp(customers.server.url, resource())
    written(made, workplace, monkeypatch)
    assert sync(made, instance).success
    job = build_connection_defs(made).resolve_job_def("audit_msp")

    def audits(*arguments: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(main, ["audit", "msp", "--json", *arguments])
        return done.exit_code, {each["tenant"]: each for each in json.loads(done.stdout)}

    code, found = audits()
    assert (code, list(found)) == (0, [NORTH, SOUTH, WEST])
    assert [(each["verdict"], each["rows_api"], each["rows_table"]) for each in found.values()] == [
        ("equal", 5, 5), ("equal", 4, 3), ("equal", 3, 2)
    ]  # fmt: skip
    assert found[WEST]["rejected"] == 1 and all(each["loaded_at"] for each in found.values())
    assert job.execute_in_process(instance=instance).success

    # A row of South becomes West's, and a rejected one gets lost.
    with duckdb.connect("rmm.duckdb") as client:
        client.execute(f"UPDATE acme.devices SET tenant = '{WEST}' WHERE tenant = '{SOUTH}' AND id = 3")
        client.execute(f"DELETE FROM acme.devices_rejected WHERE row_json LIKE '%{SOUTH}%'")
    code, found = audits()
    assert (code, list(found)) == (1, [SOUTH, WEST, NORTH])
    assert [found[name]["found"][kind] for name, kind in ((SOUTH, "missing"), (WEST, "extra"))] == [2, 1]
    assert found[NORTH]["verdict"] == "equal"
    assert audits("--tenant", NORTH)[0] == 0
    address = urlsplit(customers.server.url)
    assert [path.name for path in Path("data/work/pace/msp").iterdir()] == [f"{address.hostname}.{address.port}"]
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data.user_failure_data
    assert data is not None and str(data.description).startswith(
        "devices: 2 of 3 tenants differ: tenant south: 2 rows missing from the table; tenant west: 1 row in the table only"
    )
    monkeypatch.delenv("MSP_SOUTH_KEY")
    code, found = audits("--tenant", SOUTH)
    assert code == 2 and "set the environment variable MSP_SOUTH_KEY" in found[SOUTH]["unverified"][0]
    assert "has no tenant east" in CliRunner().invoke(main, ["audit", "msp", "--tenant", "east"]).output


def test_a_tenant_that_is_not_loaded_any_more_fails_a_check(customers: Customers, instance: dg.DagsterInstance) -> None:
    for name, rows in customers.devices.items():
        customers.devices[name] = [{**row, "changed": "2026-01-01T00:00:00Z"} for row in rows]
    incremental = {"cursor_path": "changed", "start_param": "since", "initial_value": "2026-01-01", "full_every": "1d"}
    made = msp(customers.server.url, resource(fresh_within=60, endpoint={"incremental": incremental}))
    assert "fresh_tenants" not in {
        check.name for check in build_connection_defs(msp("https://x")).resolve_asset_graph().asset_check_keys
    }

    def checked(*names: str) -> dict[str, dg.AssetCheckEvaluation]:
        update_partitions(instance, made)
        job = build_connection_defs(made).resolve_job_def("sync_msp")
        for name in names:
            result = job.execute_in_process(instance=instance, raise_on_error=False, partition_key=name)
        return {check.check_name: check for check in result.get_asset_check_evaluations()}

    customers.fails = {WEST: 403}
    # West was never read, until it fails.
    first = checked(NORTH, SOUTH)
    assert first["fresh_tenants"].passed and first["last_full_read"].passed
    sync(made, instance)
    with duckdb.connect("rmm.duckdb") as client:
        for column in ("started", "last_full_read"):
            client.execute(f"UPDATE acme.rmm_syncs SET {column} = {column} - INTERVAL 3 DAY WHERE tenant = '{SOUTH}'")
    later = checked(NORTH)
    found = later["fresh_tenants"].metadata
    assert not later["fresh_tenants"].passed and not later["last_full_read"].passed
    oldest: Any = found["oldest"].value
    assert (found["tenants"].value, found["stale"].value) == (3, 2)
    assert list(oldest) == [WEST, SOUTH] and oldest[WEST] == "never loaded"
    customers.fails = {}
    last = checked(WEST, SOUTH)
    assert last["fresh_tenants"].passed and last["last_full_read"].passed


def test_rows_whose_load_failed_in_a_later_step_are_fresh_and_uncounted(
    customers: Customers, instance: dg.DagsterInstance
) -> None:
    made = msp(customers.server.url, resource(fresh_within=60))
    sync(made, instance)
    now = datetime.now(UTC)
    failed = syncs.Sync("later", "devices", now, 1.0, "failed_after_load", error="the disk is full", tenant=SOUTH)
    with store_of(made).changing("test") as client:
        client.execute_sql(f"UPDATE acme.rmm_syncs SET started = started - INTERVAL 3 DAY WHERE tenant = '{SOUTH}'")
        syncs.write(client, failed)
    definitions = build_connection_defs(made)
    result = definitions.resolve_job_def("sync_msp").execute_in_process(instance=instance, partition_key=NORTH)
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()}["fresh_tenants"]
    [found] = status_of({"msp": made}, definitions, instance, now).connections
    shown = {tenant.name: (tenant.rows, tenant.last_success) for tenant in found.tenants}
    assert shown[SOUTH] == (None, now) and [shown[name][0] for name in (NORTH, WEST)] == [5, 2]
    assert [resource.rows for resource in found.resources] == [None]
