"""Tests that `fleet_overview` runs after the loads, has its numbers in its metadata, and writes one page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.component import RmmConnection
from rmm_assets.simulator import Faults, Fleet, Simulator
from rmm_assets_tests.orchestration import bench

pytestmark = pytest.mark.slow

RESOURCES = ("organizations", "devices", "alerts", "patches")
OVERVIEW = dg.AssetKey(["acme", "fleet_overview"])
PAGE = Path("data/acme_fleet.html")


@pytest.fixture
def fleet(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("ACME_API_KEY", bench.KEY)
    rows = Fleet(devices=60, alerts=40, patches=50)
    # Today's fleet, because a chart shows the months before a load.
    with Simulator(fleet=rows, tick=rows.tick_at(datetime.now(UTC)), api_key=bench.KEY) as rmm:
        yield rmm


def fleet_connection(url: str, **changes: object) -> RmmConnection:
    resources = [{"name": name, "endpoint": {"path": f"/v1/{name}"}} | changes for name in RESOURCES]
    return bench.connection(url, resources)


def test_the_job_draws_four_charts_and_one_page_which_depends_only_on_the_tables(
    fleet: Simulator, instance: dg.DagsterInstance
) -> None:
    definitions = build_connection_defs(fleet_connection(fleet.base_url))
    result = bench.run(definitions, "sync_acme", instance)
    assert result.success
    metadata = bench.metadata(result, "fleet_overview")
    assert metadata["charts"] == 4 and metadata["page"] == str(PAGE)
    assert metadata["status_by_organization"].startswith(f"{len(fleet.rows('devices'))} devices, ")
    # The event log stores it three times per run.
    assert sum(len(str(text)) for text in metadata.values()) < 1000

    html = PAGE.read_text()
    assert html.count("<svg") == 4 and "Contoso Dental" in html

    # The same tables give the same page.
    first = PAGE.read_bytes()
    alone = dg.define_asset_job("alone", selection=dg.AssetSelection.assets(OVERVIEW))
    again = bench.run(dg.Definitions.merge(definitions, dg.Definitions(jobs=[alone])), "alone", instance)
    assert bench.materialized(again) == {"acme/fleet_overview"}
    assert PAGE.read_bytes() == first


def test_it_depends_on_the_tables_that_it_reads() -> None:
    definitions = build_connection_defs(fleet_connection("https://rmm.example.com"))
    asset = definitions.get_assets_def(OVERVIEW)
    assert asset.asset_deps[OVERVIEW] == {dg.AssetKey(["acme", name]) for name in RESOURCES}
    assert asset.group_names_by_key[OVERVIEW] == "acme"


def test_devices_and_alerts_are_enough_and_missing_tables_are_noted(
    fleet: Simulator, instance: dg.DagsterInstance
) -> None:
    target = bench.connection(
        fleet.base_url, [{"name": name, "endpoint": {"path": f"/v1/{name}"}} for name in ("devices", "alerts")]
    )
    result = bench.run(build_connection_defs(target), "sync_acme", instance)
    assert result.success
    metadata = bench.metadata(result, "fleet_overview")
    assert metadata["charts"] == 3
    assert "no patches are loaded" in metadata["patch_age"].lower()


@pytest.mark.parametrize("resources", [("devices",), ("alerts", "patches")])
def test_a_connection_without_devices_or_alerts_has_no_overview(resources: tuple[str, ...]) -> None:
    definitions = build_connection_defs(bench.connection("https://rmm.example.com", resources))
    assert OVERVIEW not in definitions.resolve_asset_graph().get_all_asset_keys()


def test_devices_that_could_not_be_read_are_not_drawn(fleet: Simulator, instance: dg.DagsterInstance) -> None:
    fleet.set_faults(Faults(resource="devices", status=404))
    result = bench.run(build_connection_defs(fleet_connection(fleet.base_url)), "sync_acme", instance)
    assert not result.success
    assert bench.materialized(result) == {"acme/organizations", "acme/alerts", "acme/patches"}
    assert not PAGE.exists()


def test_the_page_can_be_elsewhere_or_nowhere(fleet: Simulator, instance: dg.DagsterInstance) -> None:
    resources = [{"name": name, "endpoint": {"path": f"/v1/{name}"}} for name in ("devices", "alerts")]
    definitions = build_connection_defs(bench.connection(fleet.base_url, resources))
    for page in ("pages/one.html", ""):
        config = {"ops": {"acme__fleet_overview": {"config": {"page": page}}}}
        job = definitions.resolve_job_def("sync_acme")
        result = job.execute_in_process(instance=instance, run_config=config | bench.QUIET)
        assert ("page" in bench.metadata(result, "fleet_overview")) is bool(page)
    assert Path("pages/one.html").exists() and not PAGE.exists()


def test_a_sensitive_column_is_not_drawn(fleet: Simulator, instance: dg.DagsterInstance) -> None:
    # The object with all of its fields.
    hidden = {"columns": {"name": {"sensitive": True}, "organization": {"sensitive": True}}}
    result = bench.run(build_connection_defs(fleet_connection(fleet.base_url, **hidden)), "sync_acme", instance)
    assert bench.metadata(result, "fleet_overview")["charts"] == 4
    assert "Contoso" not in PAGE.read_text()
