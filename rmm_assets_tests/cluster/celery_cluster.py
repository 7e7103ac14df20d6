"""Tests a cluster of two Celery workers that share no folder: `make test-cluster`, in an environment with the extra `celery`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg2  # type: ignore[import-untyped]
import pytest

from rmm_assets.orchestration.lost_runs import PROCESS_TAG
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.cluster.machines import WORKERS, Cluster, cluster, until
from rmm_assets_tests.cluster.network import Network, network
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
  allow_http: true
  destination: postgres
  limits: {{requests_per_minute: {per_minute}}}
  resource_defaults: {{primary_key: id, write_disposition: merge}}
  resources:
    - name: devices
      endpoint: {{path: /v1/devices, data_selector: data, paginator: {{type: offset, limit: 100}}}}
"""
SECOND = """\
    - name: machines
      endpoint: {path: /v1/devices, data_selector: data, paginator: {type: offset, limit: 100}}
      schedule: {cron: "0 0 1 1 *"}
"""
ENDS_WITHIN = 600.0


@pytest.fixture(scope="module")
def between() -> Iterator[Network]:
    with network(WORKERS) as made:
        yield made


@pytest.fixture(scope="module")
def rmm(between: Network) -> Iterator[Simulator]:
    with Simulator(tables={"devices": devices(2000)}, api_key=KEY, host=between.address) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, rmm: Simulator, between: Network) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    for name in ("acme", "north", "south"):
        (folder / "connections" / name).mkdir(parents=True)
        (folder / "connections" / name / "defs.yaml").write_text(
            CONNECTION.format(name=name, base_url=rmm.base_url, per_minute=6000)
        )
    # Two jobs of one connection, under one limit.
    (folder / "connections" / "west").mkdir()
    (folder / "connections" / "west" / "defs.yaml").write_text(
        CONNECTION.format(name="west", base_url=rmm.base_url, per_minute=120) + SECOND
    )
    with cluster(folder, {"ACME_API_KEY": KEY}, between) as made:
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


def test_workers_share_no_loopback(running: Cluster, between: Network) -> None:
    """They reach this machine by address only, and nothing of each other."""
    if not between.namespaces:
        pytest.skip(between.reason)
    own = os.stat("/proc/self/ns/net").st_ino
    inside = [os.stat(f"/proc/{running.processes[name].pid}/ns/net").st_ino for name in WORKERS]
    assert len({own, *inside}) == 1 + len(WORKERS)

    def reaches(worker: str, url: str) -> bool:
        parts = urlsplit(url)
        script = f"import socket; socket.create_connection(({parts.hostname!r}, {parts.port}), 10)"
        done = subprocess.run([*between.inside(worker), sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0 or "Connection refused" in done.stderr or "unreachable" in done.stderr, done.stderr
        return done.returncode == 0

    north = WORKERS[0]
    server = "import socket; s = socket.create_server(('127.0.0.1', 4711)); print('listens', flush=True); s.accept(); s.accept()"
    with subprocess.Popen(
        [*between.inside(north), sys.executable, "-c", server], stdout=subprocess.PIPE
    ) as listening:  # fmt: skip
        assert listening.stdout is not None and listening.stdout.readline()
        assert [reaches(name, "tcp://127.0.0.1:4711") for name in WORKERS] == [True, False]
        listening.kill()
    for worker in WORKERS:
        assert reaches(worker, running.warehouse)
        assert not reaches(worker, running.warehouse.replace(between.address, "127.0.0.1"))
        assert not reaches(worker, running.url)


def test_workers_on_networks_of_their_own_share_a_limit(running: Cluster, rmm: Simulator) -> None:
    before = len(rmm.requests)
    runs = [running.launch(job) for job in ("sync_west", "sync_west__machines")]
    ended = [finished(running, run) for run in runs]
    assert [run["status"] for run in ended] == ["SUCCESS", "SUCCESS"]
    assert {machine_of(run) for run in ended} == {*WORKERS}
    times = [request.at for request in rmm.requests[before:]]
    assert len(times) > 40
    # One every 500 ms, whoever asks; under a limit each, it would take half of this.
    assert max(times) - min(times) > 0.5 * (len(times) - 1) * 0.8


def test_what_a_killed_cluster_left_is_removed_by_the_next_one(between: Network) -> None:
    code = """if 1:
        import os, signal
        from rmm_assets_tests.cluster.network import network
        with network(["x"]) as made:
            print(os.getpid(), made.reason, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    pid, _, reason = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.partition(" ")
    if reason.strip():
        pytest.skip(reason)

    def there() -> str:
        return "".join(
            subprocess.run(["ip", *words], capture_output=True, text=True).stdout for words in (["netns"], ["link"])
        )

    assert f"rmm-{pid}-x" in there() and f"rmm-{pid}:" in there()
    with subprocess.Popen([sys.executable, "-c", code.replace("SIGKILL", "SIGTERM")], stdout=subprocess.DEVNULL):
        pass
    assert f"rmm-{pid}" not in there()
    # Those of clusters that run stay.
    assert all(name in there() for name in between.namespaces.values())
    # What runs stays.
    subprocess.run(
        [sys.executable, "-c", "from rmm_assets_tests.cluster.network import network\nwith network([]): pass"]
    )


def test_a_run_of_a_killed_worker_starts_again_on_the_other_and_its_table_is_right(
    running: Cluster, rmm: Simulator
) -> None:
    rmm.set_faults(Faults(delay=1.0))
    before, lost = len(rmm.requests), running.launch("sync_acme")
    until(
        lambda: len(rmm.requests) > before + 2, explain=lambda: "\n".join(running.log(name)[-3000:] for name in WORKERS)
    )
    [run] = [run for run in running.runs() if run["runId"] == lost]
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
