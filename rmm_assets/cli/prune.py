"""`rmm prune`: deletes what is old."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

import click

from rmm_assets.cli.instance import leave, prepare_dagster_home


@click.command()
@click.option("--older-than", default="90d", show_default=True, help="Age, in days, weeks or hours: 90d, 12w, 36h.")
@click.option("--keep-last", default=10, show_default=True, help="Runs of each job that stay in any case.")
def prune(older_than: str, keep_last: int) -> None:
    """Delete old runs with their events and logs, ticks, and rows of rmm_syncs.

    The run of each asset's last materialization and of each check's last result stays, however old. Rows of your tables are
    never deleted.
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
    prepare_dagster_home()
    with dg.DagsterInstance.get() as instance:
        done = prune_all(instance, connections().values(), before, keep_last)
    click.echo(
        f"Deleted {done.runs:,} runs and {done.syncs:,} rows of rmm_syncs from before {before:%Y-%m-%d %H:%M} UTC."
    )
    for name, problem in done.problems.items():
        click.echo(f"{name}: its rows of rmm_syncs could not be deleted: {problem}", err=True)
    leave(1 if done.problems else 0)
