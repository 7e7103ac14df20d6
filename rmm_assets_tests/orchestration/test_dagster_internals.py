"""Tests that private names of Dagster behave as needed; a failure says which one has changed and what breaks."""

from __future__ import annotations

import ast
from pathlib import Path

import dagster as dg
import pytest
from dagster._serdes import deserialize_value, serialize_value

import rmm_assets
from rmm_assets.orchestration import dagster_internals
from rmm_assets.orchestration.dagster_internals import schedule_is_running, short_column, stored_bytes, ticks

PACKAGE = Path(rmm_assets.__file__).parent


def test_short_columns_are_stored_short_and_read_as_normal_columns() -> None:
    column = short_column("name", "text")
    assert stored_bytes(column) < stored_bytes(dg.TableColumn("name", "text")) / 2, (
        "Dagster stores columns differently now: the metadata of wide tables is larger than contracts.md says"
    )
    assert deserialize_value(serialize_value(column)) == dg.TableColumn("name", "text")


def test_ticks_are_those_of_dagsters_schedules() -> None:
    first, second = ticks("30 6 * * *", "UTC", 2)
    assert (second - first).total_seconds() == 86_400, (
        "freshness windows rely on Dagster's evaluation of cron expressions"
    )
    assert (first.hour, first.minute) == (6, 30)


def test_positions_of_a_yaml_file_are_found_by_path() -> None:
    tree = dagster_internals.SourcePositionTree
    assert {"children", "position"} <= set(tree.__annotations__), (
        "faults of a connection file are reported by line with Dagster's position trees, which have changed"
    )
    assert hasattr(tree, "lookup_closest_and_path")


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_private_names_of_dagster_are_used_in_one_place_only(file: Path) -> None:
    if file.name == "dagster_internals.py":
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dagster"):
            assert "._" not in node.module and not node.module.startswith("dagster_shared"), node.module
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]


@pytest.mark.parametrize(
    ("switched", "default", "running"),
    [
        (None, "RUNNING", True), (None, "STOPPED", False), ("RUNNING", "STOPPED", True), ("STOPPED", "RUNNING", False),
    ],
)  # fmt: skip
def test_a_schedule_is_on_as_set_in_the_ui_else_as_defined(switched: str | None, default: str, running: bool) -> None:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import (
        InProcessCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )  # fmt: skip
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    schedule = dg.ScheduleDefinition(
        name="sync_acme_schedule", job_name="sync_acme", cron_schedule="0 * * * *",
        default_status=dg.DefaultScheduleStatus[default],
    )  # fmt: skip
    data = ScheduleInstigatorData(schedule.cron_schedule)
    with dg.instance_for_test() as instance:
        for location in ("rmm_assets", "another"):
            code = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="rmm_assets"), location_name=location)
            origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), schedule.name)
            if switched and location == "rmm_assets":
                state = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus[switched], data)
                instance.add_instigator_state(state)
        assert schedule_is_running(instance, schedule, "rmm_assets") is running
        assert schedule_is_running(instance, schedule, "another") is (default == "RUNNING")
