"""Tests that the code locations of two teams share an instance and a warehouse without disturbing each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from rmm_assets.definitions import build_defs, load_connections
from rmm_assets.orchestration.prune import prune
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, QUIET, devices, query

CONNECTION = """
type: rmm_assets.RmmConnection
attributes:
  name: {name}
  client:
    base_url: {base_url}
    auth: {{type: api_key, name: api_key, location: query}}
  api_key: {{env: ACME_API_KEY}}
  limits: {{requests_per_minute: 6000}}
  resource_defaults: {{primary_key: id, write_disposition: merge}}
  resources:
    - name: devices
      endpoint: {{path: /v1/devices, data_selector: data, paginator: {{type: offset, limit: 100}}}}
"""


@pytest.mark.slow
def test_two_teams_share_instance_and_warehouse(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    home = workplace / "home"
    home.mkdir()
    with (
        Simulator(tables={"devices": devices(250)}) as server,
        dg.DagsterInstance.local_temp(str(home)) as instance,
        ThreadPoolExecutor() as pool,
    ):
        locations = {}
        for name in ("north", "south"):
            folder = workplace / name / "devices"
            folder.mkdir(parents=True)
            (folder / "defs.yaml").write_text(CONNECTION.format(name=name, base_url=server.base_url))
            locations[name] = build_defs(folders=[workplace / name])
        keys = [location.resolve_asset_graph().get_all_asset_keys() for location in locations.values()]
        assert keys[0].isdisjoint(keys[1])
        jobs = [locations[name].resolve_job_def(f"sync_{name}") for name in locations]
        # Both at once, into one file.
        runs = pool.map(lambda job: job.execute_in_process(instance=instance, run_config=QUIET), jobs)
        assert [run.success for run in runs] == [True, True]
        for name in locations:
            assert query(f"SELECT count(*), max(id) FROM {name}.devices") == [(250, 250)]
            assert query(f"SELECT DISTINCT resource FROM {name}.rmm_syncs") == [("devices",)]
            assert (workplace / "data" / "work" / "pace" / name).is_dir()
        # A second run of each, and one of a single asset, so that there is something to delete.
        for name, job in zip(locations, jobs, strict=True):
            job.execute_in_process(
                instance=instance, run_config=QUIET, asset_selection=[dg.AssetKey([name, "devices"])]
            )
        everything = locations["south"].resolve_implicit_global_asset_job_def()
        for _ in range(2):
            everything.execute_in_process(
                instance=instance, run_config=QUIET, asset_selection=[dg.AssetKey(["south", "devices"])]
            )
        theirs = {run.run_id for run in instance.get_runs() if "south" in str(run.asset_selection or run.job_name)}
        assert len(theirs) == 4
        [own] = load_connections(workplace / "north" / "devices")
        done = prune(instance, [own], datetime.now(UTC) + timedelta(hours=1), keep_last=1)
        assert done.runs == 1
        assert theirs <= {run.run_id for run in instance.get_runs()}


@pytest.mark.slow
def test_two_locations_with_one_name_do_not_load_a_table_in_turn(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    folder = workplace / "connections" / "acme"
    folder.mkdir(parents=True)
    with Simulator(tables={"devices": devices(5)}) as server, dg.instance_for_test() as instance:
        (folder / "defs.yaml").write_text(CONNECTION.format(name="acme", base_url=server.base_url))
        job = build_defs(folders=[folder.parent]).resolve_job_def("sync_acme")
        keys = frozenset(job.asset_layer.executable_asset_keys)

        def run(location: str, **tags: str) -> str:
            """Runs the job as one of a code location, and returns why it failed."""
            origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="rmm_assets"), location_name=location)
            repository = RemoteRepositoryOrigin(origin, "__repository__")
            made = instance.create_run_for_job(
                job, tags={".dagster/repository": repository.get_label(), **tags}, run_config=QUIET,
                remote_job_origin=RemoteJobOrigin(repository, job.name), asset_selection=keys,
            )  # fmt: skip
            result = execute_run(InMemoryJob(job), made, instance)
            failures = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
            assert result.success == (not failures)
            said = failures[0].user_failure_data if failures else None
            return "" if said is None else str(said.description)

        scheduled = {"dagster/schedule_name": "sync_acme_schedule"}
        assert run("north", **scheduled) == run("north", **scheduled) == ""
        # The connection may have moved, or its location may have another name.
        assert run("south", **scheduled) == run("south", **scheduled) == ""
        asked = len(server.requests)
        refused = run("north", **scheduled)
        assert refused.startswith("acme/devices: the code location south has loaded this table since north did")
        assert "launch sync_acme by hand once" in refused and len(server.requests) == asked
        # It stays so; the other location goes on.
        assert run("north", **scheduled) == refused and run("south", **scheduled) == ""
        assert run("north") == run("north", **scheduled) == ""
