"""Defines one empty asset per resource of the task, each an op with as many checks as ours; no rows are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from benchmarks.contenders.task import task_from_environment

CHECKS = ("unique_id", "complete", "schema_change", "no_rejected_rows", "no_sudden_loss")


def _asset(name: str) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=name,
        specs=[dg.AssetSpec(name)],
        check_specs=[dg.AssetCheckSpec(check, asset=name) for check in CHECKS],
        can_subset=True,
    )
    def load() -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        yield dg.MaterializeResult(name, metadata={"rows_loaded": 0})
        for check in CHECKS:
            yield dg.AssetCheckResult(passed=True, asset_key=name, check_name=check)

    return load


defs = dg.Definitions(assets=[_asset(name) for name in task_from_environment().names], executor=dg.in_process_executor)
