"""Tests a cluster of two Celery workers that share no folder: `make test-cluster`, in an environment with the extra `celery`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import psycopg2  # type: ignore[import-untyped]
import pytest

from rmm_assets.orchestration.lost_runs import PROCESS_TAG
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.cluster.machines import WORKERS, Cluster, cluster, until
from rmm_assets_tests.syncing import devices

pytestmark = pytest.mark.slow

KEY = "demo-key"
CONNECTION = """
type: rmm_assets.RmmConnection
attributes:
  name: {name}
  client:
    base_url: {base_url}
    auth: {{type: api_key, name: api_key, location: query}}
  api_key: {{env: ACME_API_KEY}}
  destination: postgres
  limits: {{requests_per_minute: {per_minute}}}
  resource_defaults: {{primary_key: id, write_disposition: merge}}
  resources:
    - name: devices
      endpoint: {{path: /v1/devices, data_selector: data, paginator: {{type: offset, limit: 100}}}}
"""
ENDS_WITHIN = 600.0


@pytest.fixture(scope="module")
def rmm() -> Iterator[Simulator]:
    with Simulator(tables={"devices": devices(2000)}, api_key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, rmm: Simulator) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    for name in ("acme", "north", "south"):
        (folder / "connections" / name).mkdir(parents=True)
        (folder / "connections" / name / "defs.yaml").write_text(
            CONNECTION.format(name=name, base_url=rmm.base_url, per_minute=6000)
        )
    with cluster(folder, {"ACME_API_KEY": KEY}) as made:
        yield made


def finished(made: Cluster, run_id: str, logs: Sequence[str] = (*WORKERS, "daemon")) -> dict[str, Any]:
    """Waits until a run has ended, and returns it."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(next(run for run in made.runs() if run["runId"] == run_id))
        return found["status"] in ("SUCCESS", "FAILURE", "CANCELED")

    until(ended, ENDS_WITHIN, lambda: "\n".join(made.log(name)[-3000:] for name in logs))
    return found


def machine_of(run: dict[str, Any]) -> str:
    return str(run["tags"][PROCESS_TAG].partition(" ")[0])


def ids(made: Cluster, dataset: str) -> list[int]:
    with closing(psycopg2.connect(made.warehouse)) as client:
        cursor = client.cursor()
        cursor.execute(f"SELECT id FROM {dataset}.devices ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def test_a_run_of_a_killed_worker_starts_again_on_the_other_and_its_table_is_right(
    running: Cluster, rmm: Simulator
) -> None:
    rmm.set_faults(Faults(delay=1.0))
    lost = running.launch("sync_acme")
    until(lambda: len(rmm.requests) > 2, explain=lambda: "\n".join(running.log(name)[-3000:] for name in WORKERS))
    [run] = running.runs()
    killed = machine_of(run)
    assert killed in WORKERS
    running.kill(killed)
    rmm.set_faults([])
    # The others do not wait for the lost one.
    others = [finished(running, running.launch(f"sync_{name}")) for name in ("north", "south")]
    assert [run["status"] for run in others] == ["SUCCESS", "SUCCESS"]
    assert ids(running, "north") == ids(running, "south") == [*range(1, 2001)]
    assert finished(running, lost)["status"] == "FAILURE"
    until(lambda: any(run["parentRunId"] == lost for run in running.runs()), explain=lambda: running.log("daemon"))
    again = finished(running, next(run["runId"] for run in running.runs() if run["parentRunId"] == lost))
    assert again["status"] == "SUCCESS"
    assert {machine_of(again), killed} == {*WORKERS}
    assert ids(running, "acme") == [*range(1, 2001)]
    # Nothing was coordinated by files: each worker has a working folder of its own, and limits are in Redis.
    assert not [*running.folder.glob("*/data/work/pace")]
