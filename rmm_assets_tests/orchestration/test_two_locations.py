"""Tests that the code locations of two teams share an instance and a warehouse without disturbing each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

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
