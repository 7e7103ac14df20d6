"""Tests a run's log with the shipped `dagster.yaml`: progress and dlt's warnings."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import dlt
import pytest

import rmm_assets
from rmm_assets.loading.dlt_internals import LongSteps
from rmm_assets.reading import progress
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.orchestration.bench import KEY, connection, devices, sync

pytestmark = pytest.mark.slow

SETTINGS = Path(rmm_assets.__file__).parents[1] / "dagster.yaml"


@pytest.fixture
def instance(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    # Another test of this process may have made dlt read another level from the environment.
    monkeypatch.setattr(dlt.current.run_context().runtime_config, "log_level", "WARNING")
    levels = {name: logging.getLogger(name).level for name in ("dlt", "rmm_assets", "dagster")}
    (workplace / "home").mkdir()
    shutil.copy(SETTINGS, workplace / "home" / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(workplace / "home")) as shipped:
        yield shipped
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def said(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[str]:
    """Returns the lines of a run's log that are not Dagster events."""
    return [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.is_dagster_event]


def test_a_run_logs_its_progress_every_few_seconds(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert progress.EVERY_SECONDS == 5
    monkeypatch.setitem(progress.Progress.__init__.__kwdefaults__ or {}, "every", 0.3)
    faults = [Faults(delay=0.1), Faults(status=503, every=5, times=2)]
    with Simulator(tables={"devices": devices(1400), "alerts": devices(1400)}, faults=faults) as rmm:
        rmm.set_faults([*faults, Faults(resource="alerts", no_total=True)])
        target = connection(rmm.base_url, ["devices", "alerts"])
        result = sync(target, instance)
    assert result.success
    lines = said(result, instance)
    known = re.compile(
        r"devices [\d,]+ of 1,400 rows \(\d+ %\), \d+ of 14 pages, [\d,]+ rows/s, about \d+ s left(, (1 retry|2 retries))?"
    )
    unknown = re.compile(r"alerts [\d,]+ rows, \d+ pages, [\d,]+ rows/s(, (1 retry|2 retries))?")
    assert [line for line in lines if known.fullmatch(line)], lines
    assert [line for line in lines if unknown.fullmatch(line)], lines
    assert [line for line in lines if re.search(r"(1 retry|2 retries)$", line)], lines


def test_dlt_s_warnings_reach_the_run_s_log_but_its_debug_messages_do_not(instance: dg.DagsterInstance) -> None:
    # Twice, because Dagster sets levels for each run, dlt only once per process.
    for rows in (5, 6):
        with Simulator(tables={"devices": devices(rows)}) as rmm:
            columns = {"id": {"data_type": "bigint", "nullable": False}, "seen": {"nullable": True}}
            resource = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "columns": columns, "normalizer": "dlt"}
            result = sync(connection(rmm.base_url, [resource]), instance)
        lines = said(result, instance)
        # One of dlt's warnings: a declared column that never had a value.
        assert [line for line in lines if "seen" in line and "did not receive any data" in line], lines
        # Neither dlt's fifty or so INFO lines of each load, nor its steps, which did not take long.
        assert not [line for line in lines if "Closing processing pool" in line], lines
        assert not [line for line in lines if "Extract acme__devices" in line], lines
        assert len(lines) < 10


def test_a_run_logs_steps_of_dlt_that_take_long(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LongSteps.__init__.__kwdefaults__ or {}, "every", 0.0)
    with Simulator(tables={"devices": devices(5)}) as rmm:
        lines = said(sync(connection(rmm.base_url, ["devices"]), instance), instance)
    for step in ("Extract", "Normalize", "Load"):
        assert [line for line in lines if f"- {step} acme__devices" in line], lines
