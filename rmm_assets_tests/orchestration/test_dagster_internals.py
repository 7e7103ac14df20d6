"""Says which private name of Dagster's has changed, and what that means."""

from __future__ import annotations

import ast
from pathlib import Path

import dagster as dg
import pytest
from dagster._serdes import deserialize_value, serialize_value

import rmm_assets
from rmm_assets.orchestration import dagster_internals
from rmm_assets.orchestration.dagster_internals import short_column, stored_bytes, ticks

PACKAGE = Path(rmm_assets.__file__).parent


def test_short_columns_are_stored_short_and_read_as_any_other_column() -> None:
    column = short_column("name", "text")
    assert stored_bytes(column) < stored_bytes(dg.TableColumn("name", "text")) / 2, (
        "Dagster stores columns in another way than before: metadata of wide tables is longer than contracts.md says"
    )
    assert deserialize_value(serialize_value(column)) == dg.TableColumn("name", "text")


def test_ticks_are_those_of_dagsters_schedules() -> None:
    first, second = ticks("30 6 * * *", "UTC", 2)
    assert (second - first).total_seconds() == 86_400, "freshness windows are made of Dagster's own reading of cron"
    assert (first.hour, first.minute) == (6, 30)


def test_positions_of_a_yaml_file_are_found_by_path() -> None:
    tree = dagster_internals.SourcePositionTree
    assert {"children", "position"} <= set(tree.__annotations__), (
        "faults of a connection file are told by line with Dagster's position trees, which look different now"
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
