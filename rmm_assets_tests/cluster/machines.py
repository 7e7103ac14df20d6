"""Runs a cluster as docs/how-to/deploy.md describes it, on loopback: PostgreSQL, Redis, two Celery workers, daemon and webserver.

Each worker has a host name, a home and a working directory of its own, and finds neither the other's nor the daemon's files. As
root, it has a network of its own, too: see `network`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmm_assets_tests.cluster.network import Network
from rmm_assets_tests.postgres import postgresql
from rmm_assets_tests.redis_server import free_port, redis_server

DEPLOY = Path(__file__).parents[2] / "deploy" / "celery"
# As docs/how-to/deploy.md says it.
WORKER = ["celery", "-A", "dagster_celery.app", "worker", "-n", "{name}@%h", "-l", "INFO", "--disable-prefetch"]
WORKERS = ("north", "south")
STARTS_WITHIN = 300.0

_LAUNCH = """mutation($job: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "rmm_assets", repositoryName: "__repository__", jobName: $job}, runConfigData: {}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUNS = "{ runsOrError { ... on Runs { results { runId parentRunId jobName status tags { key value } } } } }"


@dataclass
class Cluster:
    """A cluster that runs.

    Attributes:
        folder: Where its files are, one folder for each machine.
        url: Address of Dagster's webserver.
        warehouse: URL of the database that tables are loaded into; it also holds Dagster's storage.
        network: The networks of the workers.
    """

    folder: Path
    url: str
    warehouse: str
    network: Network = field(default_factory=Network)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def launch(self, job: str) -> str:
        """Launches a job, and returns the id of its run."""
        answer = self.query(_LAUNCH, job=job)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def runs(self) -> list[dict[str, Any]]:
        """Returns all runs, newest first; tags are a mapping."""
        found = self.query(_RUNS)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def query(self, text: str, **variables: str) -> Any:
        """Returns the data of a GraphQL query."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def kill(self, name: str) -> None:
        """Kills a machine's processes, as a power failure does."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def log(self, name: str) -> str:
        """Returns what a machine's process has written."""
        return (self.folder / name / "log").read_text(errors="replace")


def until(condition: Callable[[], bool], seconds: float = STARTS_WITHIN, explain: Callable[[], str] = str) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out\n{explain()}"
        time.sleep(0.2)


@contextmanager
def cluster(folder: Path, environment: Mapping[str, str], between: Network) -> Iterator[Cluster]:
    """Yields a cluster that loads the connections in `folder/connections`, and stops everything that it started.

    Args:
        folder: An empty folder, but for the connections.
        environment: More variables of the machines, such as the API keys.
        between: The networks of the workers.
    """
    with ExitStack() as stack:
        warehouse = stack.enter_context(postgresql(between.addresses))
        redis = stack.enter_context(redis_server(addresses=between.addresses))
        port = free_port()
        made = Cluster(folder, f"http://127.0.0.1:{port}", warehouse, between)
        stack.callback(_stop, made)
        common = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(DEPLOY), os.environ.get("PYTHONPATH", "")]),
            "RMM_CONNECTIONS": str(folder / "connections"),
            "DAGSTER_STORAGE": warehouse,
            "RMM_CELERY": redis,
            "RMM_RATE_LIMITS": f"{redis.rpartition('/')[0]}/1",
            "DO_NOT_TRACK": "1",
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        # Only workers need secrets.
        secrets = {"DESTINATION__POSTGRES__CREDENTIALS": warehouse, **environment}
        workspace = ["--workspace", str(DEPLOY / "workspace.yaml")]
        # The first process creates Dagster's tables; two that do so at once would disturb each other.
        _start(made, "webserver", ["dagster-webserver", "--host", "127.0.0.1", "--port", str(port), *workspace], common)
        until(lambda: answers(f"{made.url}/server_info"), explain=lambda: made.log("webserver"))
        _start(made, "daemon", ["dagster-daemon", "run", *workspace], common)
        for name in WORKERS:
            command = [word.format(name=name) for word in WORKER]
            _start(made, name, command, common | secrets)
        for name in WORKERS:
            until(lambda name=name: " ready." in made.log(name), explain=lambda name=name: made.log(name))  # type: ignore[misc]
        yield made


def _start(made: Cluster, name: str, command: list[str], environment: Mapping[str, str]) -> None:
    machine = made.folder / name
    (machine / "home").mkdir(parents=True)
    shutil.copy(DEPLOY / "dagster.yaml", machine / "home")
    # Another host name: processes of this host are looked up by their id. Without the right to set it, all have the same.
    named = ["unshare", "--uts", "--map-root-user"] if os.geteuid() else ["unshare", "--uts"]
    inside = [*made.network.inside(name), *named]
    script = 'hostname "$0" && exec "$@"'
    with (machine / "log").open("wb") as log:
        made.processes[name] = subprocess.Popen(
            [*inside, "sh", "-c", script, name, *command], cwd=machine, stdout=log, stderr=log, start_new_session=True,
            env={**environment, "DAGSTER_HOME": str(machine / "home"), "HOME": str(machine)},
        )  # fmt: skip


def answers(url: str) -> bool:
    """Returns whether a web server answers."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


def _stop(made: Cluster) -> None:
    for process in made.processes.values():
        process.terminate()
    end = time.monotonic() + 20
    for process in made.processes.values():
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, end - time.monotonic()))
    for process in made.processes.values():
        # What is left: children of a daemon or worker, which are in its group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
