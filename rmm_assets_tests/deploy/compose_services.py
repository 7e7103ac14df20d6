"""Tests the image and the services of deploy/compose without an engine: each is a plain process. `make test-cluster` runs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmm_assets.simulator import Simulator
from rmm_assets_tests.cluster.celery_cluster import CONNECTION, KEY, finished, ids
from rmm_assets_tests.cluster.machines import Cluster, answers, until
from rmm_assets_tests.deploy.dockerfile import PROJECT, Image
from rmm_assets_tests.postgres import new_database, postgresql
from rmm_assets_tests.redis_server import free_port
from rmm_assets_tests.syncing import devices

pytestmark = pytest.mark.slow

COMPOSE = PROJECT / "deploy" / "compose"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = Image(tmp_path_factory.mktemp("image"))
    made.build(COMPOSE / "Dockerfile", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_the_services_load_a_connection_with_secrets_from_files(image: Image, stack: ExitStack) -> None:
    services: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    server = stack.enter_context(postgresql())
    storage, warehouse = (stack.enter_context(new_database(server)) for _ in range(2))
    rmm = stack.enter_context(Simulator(tables={"devices": devices(2000)}, api_key=KEY))
    secrets = image.root / "run" / "secrets"
    secrets.mkdir(parents=True)
    for name, text in {"storage_url": storage, "warehouse_url": warehouse, "acme_api_key": f"{KEY}\n"}.items():
        (secrets / name).write_text(text)
    folder = image.work / "connections" / "acme"
    folder.mkdir(parents=True)
    (folder / "defs.yaml").write_text(CONNECTION.format(name="acme", base_url=rmm.base_url, per_minute=6000))
    code, web = free_port(), free_port()
    workspace = Path(image.environment["DAGSTER_HOME"]) / "workspace.yaml"
    workspace.write_text(workspace.read_text().replace("host: code", "host: 127.0.0.1").replace("4000", str(code)))
    made = Cluster(image.root, f"http://127.0.0.1:{web}", warehouse)
    for name in ("webserver", "daemon", "code"):
        (image.root / name).mkdir()

    def start(name: str) -> None:
        changes = {"4000": str(code), "3000": str(web), "0.0.0.0": "127.0.0.1"}
        made.processes[name] = image.start(services[name], image.root / name / "log", changes)
        stack.callback(_end, made.processes[name].pid)

    start("code")
    until(lambda: "Started Dagster code server" in made.log("code"), explain=lambda: made.log("code"))
    start("webserver")
    until(lambda: answers(f"{made.url}/server_info"), explain=lambda: made.log("webserver"))
    start("daemon")
    run = finished(made, made.launch("sync_acme"), ("code", "daemon"))
    assert run["status"] == "SUCCESS", made.log("code")[-5000:]
    assert ids(made, "acme") == [*range(1, 2001)]
    # Only the code location has the key, and no service writes one down.
    assert KEY not in "".join(made.log(name) for name in made.processes)
    holders = [
        name for name, process in made.processes.items() if KEY in Path(f"/proc/{process.pid}/environ").read_text()
    ]
    assert holders in ([], ["code"])
    # The standard output of runs is in the folder that webserver and code location share.
    assert [*(image.root / "var" / "lib" / "rmm" / "logs").rglob("*.err")]


def test_a_secret_that_cannot_be_read_is_named(image: Image, tmp_path: Path) -> None:
    service = {"command": ["true"], "environment": {"OTHER_FILE": "/run/secrets/missing", "SSL_CERT_FILE": "/etc/cert"}}
    process = image.start(service, tmp_path / "log", {})
    assert process.wait(60) == 1
    said = (tmp_path / "log").read_text()
    assert f"OTHER is not set: its secret {image.root}/run/secrets/missing cannot be read" in said


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
