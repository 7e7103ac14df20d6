"""`rmm sync`: materializes connections in this process and prints a readable summary."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmm_assets.cli.instance import dagster_instance, leave
from rmm_assets.cli.progress import progress_of

if TYPE_CHECKING:
    import dagster as dg


@click.command()
@click.argument("connections", nargs=-1)
@click.option("--strict", is_flag=True, help="Also exit with 1 if a check warns.")
def sync(connections: tuple[str, ...], strict: bool) -> None:
    """Materialize and check every asset of CONNECTIONS (default: all connections).

    Runs in this process and records the runs in the Dagster instance in $DAGSTER_HOME, where `dagster dev` shows them.
    Exits with 1 if a load or check fails or a connection file is broken; the other connections are still synced.
    """
    import dagster as dg

    from rmm_assets.definitions import broken_connections, build_defs
    from rmm_assets.orchestration.lost_runs import end_lost_runs

    warnings.simplefilter("ignore", dg.BetaWarning)
    definitions = build_defs()
    jobs = {
        job.tags["rmm_assets/connection"]: job.name
        for job in definitions.resolve_all_job_defs()
        if "rmm_assets/connection" in job.tags
    }
    broken = broken_connections(definitions)
    unknown = [name for name in connections if name not in jobs and name not in broken]
    if unknown:
        known = ", ".join(sorted({*jobs, *broken})) or "none"
        raise click.UsageError(f"unknown connection {', '.join(unknown)}; known connections: {known}")
    wanted = [name for name in connections or sorted(jobs) if name in jobs]
    problems = {name: problem for name, problem in broken.items() if not connections or name in connections}
    with dagster_instance() as instance:
        for run in end_lost_runs(instance):
            click.echo(f"Ended run {run.run_id} of {run.job_name}: its process is gone.", err=True)
        succeeded = [_sync_one(definitions, jobs[name], name, instance, strict=strict) for name in wanted]
    for name, problem in problems.items():
        _console().print(f"[red]{name}[/red] is not loaded: {escape(problem)}", highlight=False)
    leave(0 if all(succeeded) and not problems else 1)


@dataclass
class _AssetSummary:
    """One row of the table that `rmm sync` prints."""

    before: int | None = None
    warned: list[str] = field(default_factory=list)
    loaded: dict[str, Any] = field(default_factory=dict)
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    problem: str = ""

    def cells(self) -> tuple[str, ...]:
        """Returns the cells that follow the asset's name."""
        number = self.passed + len(self.warned) + len(self.failed)
        checks = f"{self.passed} of {number}" if number else ""
        failed = f" [red]({', '.join(self.failed)})[/red]" if self.failed else ""
        failed += f" [yellow](warns: {', '.join(self.warned)})[/yellow]" if self.warned else ""
        if self.problem:
            return "[red]failed[/red]", "", "", checks + failed, ""
        if "dagster/row_count" not in self.loaded:  # no table, or skipped because an upstream asset failed
            return "" if self.loaded else "not run", "", "", checks + failed, ""
        return (
            f"{self.loaded['dagster/row_count']:,}",
            self._change(),
            str(self.loaded["pages"]),
            checks + failed,
            f"{self.loaded['seconds']:.1f}",
        )

    @property
    def has_table(self) -> bool:
        """Whether a load has made a table, now or before."""
        columns: Any = self.loaded.get("dagster/column_schema")
        return bool(self.before) or bool(columns and columns.columns)

    def _change(self) -> str:
        counts = {"rejected": "rows_rejected", "repeated": "rows_repeated"}
        if self.before is not None:
            counts = {"new": "rows_new", "changed": "rows_changed", "gone at the source": "rows_absent", **counts}
        parts = [f"{self.loaded[key]:,} {word}" for word, key in counts.items() if self.loaded[key]]
        if self.before is None:
            parts.insert(0, "first load")
        return ", ".join(parts) or "no changes"


def _sync_one(
    definitions: dg.Definitions, job_name: str, connection: str, instance: dg.DagsterInstance, *, strict: bool
) -> bool:
    """Runs a connection's job, prints its results, and returns whether everything succeeded."""
    import dagster as dg

    from rmm_assets.orchestration.lost_runs import tag_of_this_process

    console = _console()
    job = definitions.resolve_job_def(job_name)
    keys = sorted(job.asset_layer.executable_asset_keys)
    lines = {key: _AssetSummary(before=_row_count(instance, key)) for key in keys}
    asset_of = {
        assets.op.name: key
        for assets in definitions.resolve_asset_graph().assets_defs
        if assets.is_executable
        for key in assets.keys
    }
    # Dagster's log lines are not printed; they are stored in the instance, where `dagster dev` shows them.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    run_id = str(uuid4())
    with progress_of(instance, run_id, asset_of):
        try:
            result = job.execute_in_process(
                instance=instance, raise_on_error=False, run_config=quiet, tags=tag_of_this_process(), run_id=run_id
            )
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            _interrupted(instance, run_id)
    if any(_is_interrupt(event) for event in result.get_step_failure_events()):
        _interrupted(instance, run_id)
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        lines[event.materialization.asset_key].loaded = {name: value.value for name, value in metadata.items()}
    for check in result.get_asset_check_evaluations():
        line = lines[check.asset_key]
        if check.passed:
            line.passed += 1
        else:
            (line.failed if check.severity is dg.AssetCheckSeverity.ERROR else line.warned).append(check.check_name)
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        lines[asset_of[str(event.step_key)]].problem = (failure and failure.description) or event.message or "failed"
    console.print(_table(lines))
    for key, line in lines.items():
        if line.problem:
            console.print(f"[red]{key.to_user_string()}[/red] {escape(line.problem)}", highlight=False)
    _print_places(console, definitions, connection, lines)
    return result.success and not any(line.failed or (strict and line.warned) for line in lines.values())


def _is_interrupt(failure: dg.DagsterEvent) -> bool:
    error = failure.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error is not None and error.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError")


def _interrupted(instance: dg.DagsterInstance, run_id: str) -> NoReturn:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run, "The command was interrupted.")
    click.echo(f"\nInterrupted: canceled run {run_id}. The next run reads again what this one did not load.", err=True)
    leave(130)


def _print_places(
    console: Console, definitions: dg.Definitions, connection: str, lines: dict[dg.AssetKey, _AssetSummary]
) -> None:
    """Prints where the tables are that exist."""
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.key in lines]
    places = {spec.key: str(spec.metadata["rmm_assets/place"]) for spec in specs if "rmm_assets/place" in spec.metadata}
    existing = {key: place for key, place in places.items() if lines[key].has_table}
    place = escape(", ".join(sorted(set(existing.values()))))
    if existing:
        named = "" if len(existing) == len(places) else f" ({', '.join(sorted(key.path[-1] for key in existing))})"
        console.print(f"The tables of [bold]{connection}[/bold]{named} are in [bold]{place}[/bold].", highlight=False)
    else:
        console.print(f"[bold]{connection}[/bold] has no tables yet.", highlight=False)
    for page in (line.loaded["page"] for line in lines.values() if "page" in line.loaded):
        console.print(f"The fleet charts are in [bold]{escape(page)}[/bold].", highlight=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def _table(lines: dict[dg.AssetKey, _AssetSummary]) -> Table:
    table = Table()
    for name in ("asset", "rows", "since last run", "pages", "checks passed", "seconds"):
        table.add_column(name, justify="left" if name in ("asset", "since last run") else "right")
    for key, line in lines.items():
        table.add_row(key.to_user_string(), *line.cells())
    return table


def _row_count(instance: dg.DagsterInstance, key: dg.AssetKey) -> int | None:
    """Returns the row count in the asset's last materialization, or None if there is none."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    count: Any = event.asset_materialization.metadata.get("dagster/row_count")
    return None if count is None else int(count.value)
