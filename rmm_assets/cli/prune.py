"""`rmm prune`: deletes old runs, ticks and rows of rmm_syncs."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

import click

from rmm_assets.cli.instance import dagster_instance, leave


@click.command()
@click.option("--older-than", default="90d", show_default=True, help="Age, in days, weeks or hours: 90d, 12w, 36h.")
@click.option("--keep-last", default=10, show_default=True, help="Runs of each job to keep, however old.")
def prune(older_than: str, keep_last: int) -> None:
    """Delete old runs with their events and logs, old ticks, and old rows of rmm_syncs.

    Always keeps the runs of each asset's last materialization and of each check's last result. Never deletes rows of your
    tables.
    """
    import dagster as dg

    from rmm_assets.definitions import connections
    from rmm_assets.orchestration.prune import age_of
    from rmm_assets.orchestration.prune import prune as prune_all

    warnings.simplefilter("ignore", dg.BetaWarning)
    try:
        before = datetime.now(UTC) - age_of(older_than)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--older-than") from None
    with dagster_instance() as instance:
        done = prune_all(instance, connections().values(), before, keep_last)
    click.echo(
        f"Deleted {done.runs:,} runs and {done.syncs:,} rows of rmm_syncs older than {before:%Y-%m-%d %H:%M} UTC."
    )
    for name, problem in done.problems.items():
        click.echo(f"{name}: cannot delete its rows of rmm_syncs: {problem}", err=True)
    leave(1 if done.problems else 0)
