"""Isolates every test from this machine's settings, and disables telemetry."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets_tests.bucket import bucket_server
from rmm_assets_tests.forking import forked_commands, forking_server
from rmm_assets_tests.mariadb import drop_datasets
from rmm_assets_tests.mariadb import mariadb as running_mariadb
from rmm_assets_tests.postgres import new_database, postgresql

# Before dlt and Dagster are imported by a test, and for the processes that tests start.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
for variable in (
    *("DAGSTER_HOME", "RMM_DATABASE", "RMM_CONNECTIONS", "API_KEY"),
    *("RMM_PRUNE_AFTER", "RMM_ALERT_WEBHOOK", "RMM_DAGSTER_URL", "RMM_RATE_LIMITS"),
):
    os.environ.pop(variable, None)

# Files of tests are in memory if it has enough room, as every commit of DuckDB, SQLite and PostgreSQL waits for a disk.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


# Modules and tests live as long as the process: looking for garbage among them takes a tenth of the time of an import and a load.
gc.disable()


def pytest_collection_finish() -> None:
    """Starts garbage collection without what there is."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Lets Python delete at its end what was exempted; libraries report it as leaked if not."""
    gc.unfreeze()


# The modules that take longest, and their folders.
_LONG = {"integration", "browser", "vendors", "soak", "test_docs.py", "test_locks.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the slowest modules, so that no worker runs one alone at the end."""
    items.sort(key=lambda item: not _LONG & set(item.path.parts))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Uses an empty folder as the working directory, for the database and working files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Uses an empty folder as the working directory, and no proxy."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yields the URL of a PostgreSQL server, shared by all tests of a worker."""
    with postgresql() as url:
        yield url


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """Yields the URL of an empty PostgreSQL database."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """Yields the URL of a MariaDB server, shared by all tests of a worker."""
    with running_mariadb() as url:
        yield url


@pytest.fixture
def mariadb(mariadb_server: str) -> Iterator[str]:
    """Yields the URL of a MariaDB server without datasets."""
    yield mariadb_server
    drop_datasets(mariadb_server)


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Yields the URL of a server with a bucket, shared by all tests of a worker."""
    with bucket_server() as url:
        yield url


@pytest.fixture(scope="session")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the address of the server of `forking`, shared by all tests of a worker."""
    with forking_server(tmp_path_factory.mktemp("forking")) as address:
        yield address


@pytest.fixture(scope="session")
def forked(forking: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the commands `dagster` and `dg`, whose processes are forked, as are those that they start."""
    folder = tmp_path_factory.mktemp("forked")
    forked_commands(forking, folder, "dagster", "dg", "python")
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Yields a Dagster instance that is discarded afterwards."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a session that skipped a test if `RMM_SKIP_NOTHING` is set, as in continuous integration."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("RMM_SKIP_NOTHING") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
