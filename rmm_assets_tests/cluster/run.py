"""Shows a cluster on this machine: `make cluster` loads 20 connections at once, and stops everything at Ctrl-C."""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from rmm_assets.orchestration.lost_runs import PROCESS_TAG
from rmm_assets.simulator import Fleet, Simulator
from rmm_assets_tests.cluster.machines import WORKERS, Cluster, cluster
from rmm_assets_tests.cluster.network import network

NAMES = [f"fleet_{number:02}" for number in range(1, 21)]
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
CONNECTION = """
type: rmm_assets.RmmConnection
attributes:
  name: {name}
  client:
    base_url: {base_url}
    auth: {{type: api_key, name: api_key, location: query}}
    paginator: {{type: offset, limit: 100}}
  api_key: {{env: FLEET_API_KEY}}
  allow_http: true
  destination: postgres
  resource_defaults:
    primary_key: id
    write_disposition: merge
    endpoint: {{data_selector: data}}
  resources:
    - {{name: devices, endpoint: {{path: /v1/devices}}}}
    - {{name: alerts, endpoint: {{path: /v1/alerts}}}}
"""


def main() -> None:
    """Starts the cluster, loads the connections and shows where, until Ctrl-C."""
    with (
        tempfile.TemporaryDirectory(prefix="rmm-cluster-") as name,
        network(WORKERS) as between,
        Simulator(fleet=Fleet(), host=between.address) as rmm,
    ):
        folder = Path(name)
        for one in NAMES:
            (folder / "connections" / one).mkdir(parents=True)
            (folder / "connections" / one / "defs.yaml").write_text(CONNECTION.format(name=one, base_url=rmm.base_url))
        print(
            "Starting PostgreSQL, Redis, a webserver, a daemon and the workers",
            " and ".join(WORKERS),
            "on networks of their own ..."
            if between.namespaces
            else f"on this machine's network ({between.reason}) ...",
            flush=True,
        )
        with cluster(folder, {"FLEET_API_KEY": rmm.api_key}, between) as made:
            print(f"Dagster's UI is at {made.url}; Ctrl-C stops everything.", flush=True)
            try:
                _load_all(made)
                signal.pause()
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                print("\nStopping everything ...", flush=True)


def _load_all(made: Cluster) -> None:
    """Launches all connections at once, and prints each that has ended."""
    began, shown = time.monotonic(), set[str]()
    for one in NAMES:
        made.launch(f"sync_{one}")
    while len(shown) < len(NAMES):
        time.sleep(2)
        for run in made.runs():
            if run["status"] in ENDED and run["runId"] not in shown:
                shown.add(run["runId"])
                worker = run["tags"].get(PROCESS_TAG, "no worker").partition(" ")[0]
                seconds = time.monotonic() - began
                print(f"{seconds:5.0f} s  {run['jobName']:14} {run['status']:8} on {worker}", flush=True)
    ended = Counter(run["status"] for run in made.runs())
    print(f"{ended['SUCCESS']} of {len(NAMES)} connections are loaded.", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
