"""Measures how much each run adds to Dagster's instance: of a connection, and of empty assets with as many checks.

`python -m benchmarks.growth [--runs 50] [--prune] [--markdown FILE]`. It uses only this machine. With `--prune`, it deletes
all but the last ten runs after each run, to show that the folder stops growing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import dagster as dg

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.component import RmmConnection
from rmm_assets.orchestration.prune import prune

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

CONNECTION: dict[str, Any] = {
    "name": "demo",
    "simulator": {"devices": 400},
    "client": {"auth": {"type": "api_key", "name": "api_key", "location": "query"}},
    "resource_defaults": {
        "primary_key": "id",
        "write_disposition": "merge",
        "endpoint": {"data_selector": "data", "paginator": {"type": "offset", "limit": 100}},
    },
    "resources": [
        {"name": name, "endpoint": {"path": f"/v1/{name}"}, "checks": {"not_null": ["id"]}}
        for name in ("organizations", "devices", "alerts", "patches")
    ],
}


def empty(like: dg.Definitions) -> dg.Definitions:
    """Returns assets and checks with the same names that load nothing and have no metadata."""

    def one(keys: list[dg.AssetKey], checks: list[dg.AssetCheckKey], name: str) -> dg.AssetsDefinition:
        specs = [dg.AssetCheckSpec(check.name, asset=check.asset_key) for check in checks]

        @dg.multi_asset(name=name, specs=[dg.AssetSpec(key) for key in keys], check_specs=specs)
        def nothing() -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
            for key in keys:
                yield dg.MaterializeResult(asset_key=key)
            for check in checks:
                yield dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=True)

        return nothing

    assets = [
        one(sorted(each.keys), sorted(each.check_keys, key=str), each.op.name)
        for each in like.resolve_asset_graph().assets_defs
        if each.keys
    ]
    job = dg.define_asset_job("sync_demo", selection=dg.AssetSelection.all())
    return dg.Definitions(assets=assets, jobs=[job], executor=dg.in_process_executor)


def sizes(definitions: dg.Definitions, runs: int, after: Callable[[dg.DagsterInstance], object]) -> list[int]:
    """Runs a job `runs` times in its own instance, and returns the instance's size in bytes after each run."""
    found = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        home = Path(folder) / "home"
        home.mkdir()
        with dg.DagsterInstance.local_temp(str(home)) as instance:
            job = definitions.resolve_job_def("sync_demo")
            for number in range(runs):
                result = job.execute_in_process(instance=instance, run_config=QUIET)
                assert result.success
                after(instance)
                found.append(sum(file.stat().st_size for file in home.rglob("*") if file.is_file()))
                print(f"\r{number + 1} of {runs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


@click.command()
@click.option("--runs", default=50, show_default=True)
@click.option("--prune", "pruning", is_flag=True, help="Delete all but the last ten runs after each run.")
@click.option("--markdown", type=Path, help="Also write the table to this file.")
def main(runs: int, pruning: bool, markdown: Path | None) -> None:
    """Print the size of Dagster's instance after each run."""
    warnings.simplefilter("ignore")
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    connection = RmmConnection.from_attributes_dict(attributes=CONNECTION)
    definitions = build_connection_defs(connection)

    def after(instance: dg.DagsterInstance) -> None:
        if pruning:
            prune(instance, [connection], datetime.now(UTC), keep_last=10)

    ours = sizes(definitions, runs, after)
    plain = sizes(empty(definitions), runs, after)
    lines = [
        "| run | ours, KB | empty assets with as many checks, KB | ratio of growth since run 1 |",
        "|---|---|---|---|",
    ]
    for number, (mine, theirs) in enumerate(zip(ours, plain, strict=True), 1):
        grown = (mine - ours[0]) / (theirs - plain[0]) if theirs > plain[0] else 0.0
        lines.append(f"| {number} | {mine // 1024:,} | {theirs // 1024:,} | {grown:.2f} |")
    if runs > 1:
        each = [(values[-1] - values[0]) / (runs - 1) / 1024 for values in (ours, plain)]
        lines.append(f"\nA run adds {each[0]:,.0f} KB, and {each[1]:,.0f} KB with empty assets.")
    text = "\n".join(lines)
    print(text)
    if markdown is not None:
        markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
