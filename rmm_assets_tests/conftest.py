"""What every test may rely on: nothing of this machine's settings, and nobody is told that it ran."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets_tests.postgres import postgresql

# Before dlt and Dagster are imported by a test, and for the processes that tests start.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
for variable in (
    *("DAGSTER_HOME", "RMM_DATABASE", "RMM_CONNECTIONS", "API_KEY"),
    *("RMM_PRUNE_AFTER", "RMM_ALERT_WEBHOOK", "RMM_DAGSTER_URL"),
):
    os.environ.pop(variable, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the modules that take minutes: one of them alone at the end would keep the other worker waiting."""
    items.sort(key=lambda item: not {"integration", "browser"} & set(item.path.parts) and item.path.stem != "test_docs")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory: database and working files land below it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL database for all tests of a worker."""
    with postgresql() as url:
        yield url


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that forgets everything afterwards."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run that skipped a test where `RMM_SKIP_NOTHING` is set, as in continuous integration."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("RMM_SKIP_NOTHING") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
