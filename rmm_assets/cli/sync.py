"""`rmm sync`: materializes connections in this process and prints a readable summary."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn
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
@click.argument("names", nargs=-1, metavar="[CONNECTION [RESOURCE]...]...")
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant of the CONNECTION; may be repeated.")
@click.option("--strict", is_flag=True, help="Also exit with 1 if a check warns.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def sync(names: tuple[str, ...], tenants: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Materialize and check the assets of a CONNECTION, or some of its RESOURCEs (default: all connections).

    A name that is not a connection is a resource of the connection before it: `rmm sync acme devices alerts other`.

    Runs in this process and records the runs in the Dagster instance in $DAGSTER_HOME, where `dagster dev` shows them.
    Exits with 1 if a load or check fails or a connection file is broken; the other connections are still synced.
    """
    import dagster as dg

    from rmm_assets.definitions import broken_connections, build_defs
    from rmm_assets.errors import TenantError
    from rmm_assets.orchestration.lost_runs import end_lost_runs

    warnings.simplefilter("ignore", dg.BetaWarning)
    definitions = build_defs()
    jobs = {
        job.tags["rmm_assets/connection"]: job.name
        for job in definitions.resolve_all_job_defs()
        if "rmm_assets/connection" in job.tags
    }
    broken = broken_connections(definitions)
    chosen = _chosen(names, definitions, jobs, {*jobs, *broken})
    problems = {name: problem for name, problem in broken.items() if name in chosen}
    with dagster_instance() as instance:
        for run in end_lost_runs(instance):
            click.echo(f"Ended run {run.run_id} of {run.job_name}: its process is gone.", err=True)
        results = []
        for name, resources in _listing_first(chosen).items():
            if name not in jobs:
                continue
            try:
                runs = _runs(definitions, jobs[name], instance, tenants)
            except TenantError as error:
                problems[name] = str(error)
                continue
            if runs.problem:
                problems[name] = runs.problem
            results.append(
                _sync_one(definitions, jobs[name], name, resources, runs.tags, instance, strict=strict, quiet=as_json)
            )
    if as_json:
        assets = [line.as_json(key) for result in results for key, line in result.lines.items()]
        click.echo(json.dumps({"assets": assets, "broken": problems}, indent=2))
    else:
        for name, problem in problems.items():
            what = "is not loaded: " if name in broken else ""
            _console().print(f"[red]{name}[/red] {what}{escape(problem)}", highlight=False)
    leave(0 if all(result.succeeded for result in results) and not problems else 1)


class _Runs(NamedTuple):
    """The runs of a connection's job.

    Attributes:
        tags: The tags of each run.
        problem: What is wrong with the list of tenants; empty if nothing is.
    """

    tags: Iterable[Mapping[str, str]]
    problem: str = ""


def _runs(
    definitions: dg.Definitions, job_name: str, instance: dg.DagsterInstance, tenants: Sequence[str]
) -> _Runs:  # fmt: skip
    """Returns the runs of a connection's job: one, or one for each batch of its tenants.

    Raises:
        TenantError: The tenants cannot be read.
        click.UsageError: The connection has no such tenant.
    """
    from rmm_assets.cli.arguments import connection_named
    from rmm_assets.orchestration.tenants import batches, partitions_of, update_partitions

    job = definitions.resolve_job_def(job_name)
    if job.partitions_def is None:
        if tenants:
            raise click.UsageError(f"the connection of {job_name} has no tenants")
        return _Runs([{}])
    connection = connection_named(job.tags["rmm_assets/connection"])
    assert connection.tenants is not None
    known, problem = update_partitions(instance, connection)
    if unknown := [name for name in tenants if name not in known]:
        raise click.UsageError(f"{connection.name} has no tenant {unknown[0]}" + (f": {problem}" if problem else ""))
    names, size = (list(dict.fromkeys(tenants)), 1) if tenants else (known, connection.tenants.batch)
    partitions = str(partitions_of(connection).name)

    def tags() -> Iterator[Mapping[str, str]]:
        for start in range(0, len(names), size):
            # Tenants may have gone while the batches before this one were read.
            there = {*instance.get_dynamic_partitions(partitions)}
            yield from batches([name for name in names[start : start + size] if name in there], size)

    return _Runs(tags(), problem)


def _listing_first(chosen: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Returns the connections in the order in which they are synced: one whose rows are another's tenants is before it."""
    from rmm_assets.cli.arguments import known_connections

    known, ordered = known_connections(), dict[str, list[str]]()

    def add(name: str, below: Set[str]) -> None:
        tenants = known[name].tenants if name in known else None
        source = (tenants.from_ or "").partition("/")[0] if tenants is not None else ""
        if source in chosen and source not in below:
            add(source, below | {name})
        ordered.setdefault(name, chosen[name])

    for name in chosen:
        add(name, {name})
    return ordered


def _chosen(
    names: Sequence[str], definitions: dg.Definitions, jobs: Mapping[str, str], known: Set[str]
) -> dict[str, list[str]]:
    """Returns the connections that the arguments name, each with the resources that they name; an empty list means all.

    Raises:
        click.UsageError: A name is neither a connection nor a resource of the one before it.
    """
    if not names:
        return {name: [] for name in sorted(known)}
    chosen: dict[str, list[str]] = {}
    of: dict[str, list[str]] = {}
    for name in names:
        last = next(reversed(chosen), None)
        if name in known:
            chosen.setdefault(name, [])
            continue
        if last is None or last not in jobs:
            raise click.UsageError(
                f"unknown connection {name}; known connections: {', '.join(sorted(known)) or 'none'}"
            )
        if last not in of:
            keys = definitions.resolve_job_def(jobs[last]).asset_layer.executable_asset_keys
            of[last] = sorted(key.path[-1] for key in keys)
        if name not in of[last]:
            raise click.UsageError(
                f"{name} is neither a connection ({', '.join(sorted(known))}) nor a resource of {last} ({', '.join(of[last])})"
            )
        chosen[last].append(name)
    return chosen


# What the runs for a connection's batches of tenants add up to.
_ADDED = (
    "rows_loaded", "rows_new", "rows_changed", "rows_absent", "rows_rejected", "rows_repeated", "pages", "seconds"
)  # fmt: skip


@dataclass(frozen=True)
class _Synced:
    """The outcome of a connection's run."""

    succeeded: bool
    lines: dict[dg.AssetKey, _AssetSummary]


Verdict = Literal["passed", "warned", "failed"]


@dataclass
class _AssetSummary:
    """One row of the table that `rmm sync` prints."""

    before: int | None = None
    loaded: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Verdict] = field(default_factory=dict)
    problem: str = ""

    @property
    def passed(self) -> int:
        """Number of checks that passed."""
        return len(self._checks("passed"))

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return self._checks("failed")

    @property
    def warned(self) -> list[str]:
        """Names of the checks that warn."""
        return self._checks("warned")

    def _checks(self, verdict: Verdict) -> list[str]:
        return [name for name, found in self.checks.items() if found == verdict]

    def add(self, loaded: Mapping[str, Any]) -> None:
        """Adds what a run did; several runs load the batches of a connection's tenants."""
        self.loaded = {
            **loaded,
            **{name: self.loaded[name] + loaded[name] for name in _ADDED if name in self.loaded and name in loaded},
        }

    def cells(self) -> tuple[str, ...]:
        """Returns the cells that follow the asset's name."""
        number = self.passed + len(self.warned) + len(self.failed)
        checks = f"{self.passed} of {number}" if number else ""
        failed = f" [red]({', '.join(self.failed)})[/red]" if self.failed else ""
        failed += f" [yellow](warns: {', '.join(self.warned)})[/yellow]" if self.warned else ""
        if self.problem and not self.loaded:
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

    def as_json(self, key: dg.AssetKey) -> dict[str, Any]:
        """Returns the result for programs."""
        counts = ("rows_loaded", "rows_new", "rows_changed", "rows_absent", "rows_rejected", "pages", "seconds")
        return {
            "asset": key.to_user_string(),
            "succeeded": bool(self.loaded) and not self.problem and not self.failed,
            "rows": self.loaded.get("dagster/row_count"),
            **{name: self.loaded.get(name) for name in counts},
            "complete": self.loaded.get("complete"),
            "checks_passed": self.passed,
            "checks_failed": self.failed,
            "checks_warned": self.warned,
            "problem": self.problem,
        }

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
    definitions: dg.Definitions, job_name: str, connection: str, resources: Sequence[str],
    runs: Iterable[Mapping[str, str]], instance: dg.DagsterInstance, *, strict: bool, quiet: bool,
) -> _Synced:  # fmt: skip
    """Runs a connection's job, for some of its resources if any are given, and prints its results unless `quiet`.

    Args:
        runs: The tags of each run.
    """
    import dagster as dg

    console = _console()
    job = definitions.resolve_job_def(job_name)
    keys = sorted(key for key in job.asset_layer.executable_asset_keys if not resources or key.path[-1] in resources)
    lines = {key: _AssetSummary(before=_row_count(instance, key)) for key in keys}
    # The op of a connection with tenants loads all of its assets.
    asset_of = {
        assets.op.name: next(iter(assets.keys)) if len(assets.keys) == 1 else dg.AssetKey(connection)
        for assets in definitions.resolve_asset_graph().assets_defs
        if assets.is_executable and assets.keys & {*keys}
    }
    succeeded = [_run_job(job, tags, keys if resources else None, instance, asset_of, lines) for tags in runs]
    if not quiet:
        console.print(_table(lines))
        for key, line in lines.items():
            if line.problem:
                console.print(f"[red]{key.to_user_string()}[/red] {escape(line.problem)}", highlight=False)
        _print_places(console, definitions, connection, lines)
    failed = any(line.failed or (strict and line.warned) for line in lines.values())
    return _Synced(all(succeeded) and not failed, lines)


def _run_job(
    job: dg.JobDefinition, tags: Mapping[str, str], keys: Sequence[dg.AssetKey] | None, instance: dg.DagsterInstance,
    asset_of: Mapping[str, dg.AssetKey], lines: Mapping[dg.AssetKey, _AssetSummary],
) -> bool:  # fmt: skip
    """Runs a job once, adds what it did to the assets' lines, and returns whether it succeeded."""
    import dagster as dg

    from rmm_assets.orchestration.lost_runs import tag_of_this_process

    # Dagster's log lines are not printed; they are stored in the instance, where `dagster dev` shows them.
    silent = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    run_id = str(uuid4())
    with progress_of(instance, run_id, asset_of):
        try:
            result = job.execute_in_process(
                instance=instance, raise_on_error=False, run_config=silent, tags={**tag_of_this_process(), **tags},
                run_id=run_id, asset_selection=keys,
            )  # fmt: skip
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            _interrupted(instance, run_id)
    if any(_is_interrupt(event) for event in result.get_step_failure_events()):
        _interrupted(instance, run_id)
    # An observation describes a batch of tenants; each of its materializations, one tenant.
    loads = [(event.asset_key, event.asset_observation_data.asset_observation.metadata) for event in result.all_events
             if event.is_asset_observation] or [
        (event.asset_key, event.materialization.metadata) for event in result.get_asset_materialization_events()
    ]  # fmt: skip
    for key, metadata in loads:
        if key is not None:
            lines[key].add({name: value.value for name, value in metadata.items()})
    for check in result.get_asset_check_evaluations():
        failed: Verdict = "failed" if check.severity is dg.AssetCheckSeverity.ERROR else "warned"
        checks = lines[check.asset_key].checks
        # A later batch of tenants does not make good what an earlier one showed.
        if checks.get(check.check_name, "passed") == "passed":
            checks[check.check_name] = "passed" if check.passed else failed
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        said = (failure and failure.description) or event.message or "failed"
        found = asset_of[str(event.step_key)]
        by_resource = {} if failure is None else {name: str(value.value) for name, value in failure.metadata.items()}
        for key, line in lines.items():
            problem = by_resource.get(key.path[-1], "" if by_resource else said)
            if key == found or (found not in lines and problem):
                line.problem = "\n".join(filter(None, (line.problem, problem)))
    return result.success


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
    """Returns the number of rows that the asset's last load says, or None if there is none."""
    event, found = instance.get_latest_materialization_event(key), list[Mapping[str, Any]]()
    if event is not None and event.asset_materialization is not None:
        found.append(event.asset_materialization.metadata)
    # Of a connection with tenants, a materialization has the rows of one of them.
    found += [
        record.asset_observation.metadata
        for record in instance.fetch_observations(key, limit=1).records if record.asset_observation is not None
    ]  # fmt: skip
    counts = [metadata["dagster/row_count"].value for metadata in found if "dagster/row_count" in metadata]
    return int(counts[0]) if counts else None
