"""Tests when the assets of `examples/downstream` run: Dagster evaluates their conditions tick by tick."""

from __future__ import annotations

import random
import re
import runpy
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData

import rmm_assets
from rmm_assets_tests.examples import examples

pytestmark = pytest.mark.slow

EXAMPLE = runpy.run_path(str(Path(rmm_assets.__file__).parents[1] / "examples" / "downstream" / "definitions.py"))
DEVICES: dg.AssetKey = EXAMPLE["DEVICES"]
Condition = dg.AutomationCondition[dg.AssetKey]

# A load ends before the asset's own run: in the tick of its request, during the run, in the tick of its end.
LATE = {
    "right after the request": "tick load tick start load tick end",
    "while the run goes": "tick load tick start tick load tick end",
    "as the run ends": "tick load tick start tick load end",
    "right after the run": "tick load tick start tick end load",
}


def last_load_and_last_read(condition: Condition, happenings: Iterable[str]) -> tuple[int, int]:
    """Returns the number of the last load, and of the one that the asset's last run could read, after everything has finished.

    Args:
        happenings: `tick`, `load`, and `start` and `end` of the asset's own run; impossible events are skipped.
    """

    @dg.asset(deps=[DEVICES], automation_condition=condition)
    def follower() -> None: ...

    definitions = dg.Definitions(assets=[follower])
    job = definitions.resolve_implicit_global_asset_job_def()
    key = follower.key
    loads = read = reads = 0
    requested, cursor = False, None
    run: dg.DagsterRun | None = None
    with dg.DagsterInstance.ephemeral() as instance:
        for happening in (*happenings, *("tick", "start", "end") * 4):
            if happening == "tick":
                ticked = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
                cursor, requested = ticked.cursor, requested or bool(ticked.total_requested)
            elif happening == "load":
                instance.report_runless_asset_event(dg.AssetMaterialization(DEVICES))
                loads += 1
            elif happening == "start" and requested and run is None:
                run = instance.create_run_for_job(
                    job, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset([key])
                )
                planned = AssetMaterializationPlannedData(key)
                event = DagsterEvent.build_asset_materialization_planned_event(job.name, "follower", planned)
                instance.report_dagster_event(event, run.run_id)
                requested, reads = False, loads
            elif happening == "end" and run is not None:
                made = StepMaterializationData(dg.AssetMaterialization(key), [])
                for event in (
                    DagsterEvent("ASSET_MATERIALIZATION", job.name, step_key="follower", event_specific_data=made),
                    DagsterEvent("PIPELINE_SUCCESS", job.name),
                ):
                    instance.report_dagster_event(event, run.run_id)
                run, read = None, reads
    return loads, read


@pytest.mark.parametrize("when", LATE)
def test_a_load_that_ends_during_the_bills_run_is_billed(when: str) -> None:
    loads, read = last_load_and_last_read(EXAMPLE["after_every_load"](), LATE[when].split())
    assert loads == read == 2


def test_no_order_of_loads_ticks_and_runs_misses_a_load() -> None:
    dice = random.Random(5)
    for _ in range(examples(5, 25)):
        happenings = ["tick", *dice.choices(["tick", "load", "start", "end"], k=12)]
        loads, read = last_load_and_last_read(EXAMPLE["after_every_load"](), happenings)
        assert loads == read, happenings


def test_eager_misses_such_a_load_as_documented() -> None:
    # If this fails, Dagster has fixed `eager()`: use it, and remove the explanations from docs and example.
    for when in LATE.values():
        eager: Any = dg.AutomationCondition.eager()
        assert last_load_and_last_read(eager, when.split()) == (2, 1)


def test_the_assets_of_the_example_have_these_conditions() -> None:
    conditions: Callable[[str], Condition | None] = lambda name: EXAMPLE[name].get_asset_spec().automation_condition  # noqa: E731
    assert conditions("device_report") == dg.AutomationCondition.eager()
    assert conditions("licence_bill") == (
        EXAMPLE["after_every_load"]() & dg.AutomationCondition.all_deps_blocking_checks_passed()
    )


def test_the_code_in_the_how_to_behaves_like_the_example() -> None:
    page = Path(rmm_assets.__file__).parents[1] / "docs" / "how-to" / "downstream.md"
    inventory = dg.JobDefinition(name="inventory", graph_def=dg.GraphDefinition("inventory"))
    found: dict[str, Any] = {"dg": dg, "inventory": inventory}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, found)
    assert found["after_every_load"]() == EXAMPLE["after_every_load"]()

    sensors = (found["devices_changed"], "acme"), (EXAMPLE["devices_changed"], "demo")
    for (sensor, connection), changed in product(sensors, (0, 3)):
        numbers = {"rows_new": changed, "rows_changed": 0, "rows_absent": 0, "load_id": "1795526490.5"}
        with dg.DagsterInstance.ephemeral() as instance:
            key = dg.AssetKey([connection, "devices"])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=numbers))
            ticked = sensor.evaluate_tick(dg.build_sensor_context(instance))
        assert [request.run_key for request in ticked.run_requests or []] == (["1795526490.5"] if changed else [])
        assert changed or "nothing changed" in (ticked.skip_message or "")
