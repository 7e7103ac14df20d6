"""`rmm retry-rejected`: loads rejected rows that can land now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rmm_assets.cli.arguments import connection_named, resources_named, tenants_named
from rmm_assets.cli.instance import dagster_instance, leave

if TYPE_CHECKING:
    from rmm_assets.loading.retry import Retried


@click.command("retry-rejected")
@click.argument("connection")
@click.argument("resource", required=False)
@click.option("--tenant", "tenants", multiple=True, help="Only rows of this tenant of the CONNECTION; may be repeated.")
def retry_rejected(connection: str, resource: str | None, tenants: tuple[str, ...]) -> None:
    """Try the rejected rows of CONNECTION, or of one RESOURCE, again, after its columns, key or contract were changed.

    Rows that can land now are loaded and no longer rejected; the others stay, with their reason. It does not call the API. A
    row does not land if the table has a newer one with its key. Ends with 1 if something failed.
    """
    import dagster as dg

    from rmm_assets.loading import retry
    from rmm_assets.loading.attempt import sentence_of

    found = connection_named(connection)
    chosen = [tenant.name for tenant in tenants_named(found, tenants)]
    failed = False
    for name in resources_named(found, resource):
        try:
            done = retry.retry_rejected(found, found.resource(name), tenants=chosen)
        except Exception as error:
            click.echo(f"{connection}/{name}: {sentence_of(error, name)}", err=True)
            failed = True
            continue
        click.echo(f"{connection}/{name}: {_sentence(done)}")
        if done.landed:
            with dagster_instance() as instance:
                # Not a materialization: nothing was read, so the asset is as fresh as before.
                observed = dg.AssetObservation([connection, name], metadata={**vars(done)})
                instance.report_runless_asset_event(observed)
    leave(1 if failed else 0)


def _sentence(done: Retried) -> str:
    parts = [f"{done.landed:,} rejected rows were loaded ({done.new:,} new, {done.changed:,} changed)"] * bool(
        done.landed
    )
    parts += [f"{done.rejected:,} are rejected again"] * bool(done.rejected)
    parts += [f"{done.outdated:,} stay, as there are newer rows with their keys"] * bool(done.outdated)
    parts += [f"{done.earlier:,} stay, as the last run, which read everything, did not reject them"] * bool(
        done.earlier
    )
    return "; ".join(parts) or "no rejected rows"
