"""Finds the connections and resources that a command's arguments name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rmm_assets.config import Connection
    from rmm_assets.config.tenants import Tenant
    from rmm_assets.orchestration.component import RmmConnection


def known_connections() -> Mapping[str, RmmConnection]:
    """Returns the connections of the working directory by name, without Dagster's warnings about beta features."""
    import dagster as dg

    from rmm_assets.definitions import connections

    warnings.simplefilter("ignore", dg.BetaWarning)
    return connections()


def known_and_broken() -> tuple[Mapping[str, RmmConnection], Mapping[str, str]]:
    """Returns the connections of the working directory by name, and why others cannot be loaded, by the name of the folder."""
    import dagster as dg

    from rmm_assets.definitions import loaded_and_broken

    warnings.simplefilter("ignore", dg.BetaWarning)
    return loaded_and_broken()


def connection_named(name: str) -> RmmConnection:
    """Returns the connection of that name.

    Raises:
        click.UsageError: There is none.
    """
    known = known_connections()
    if name not in known:
        raise click.UsageError(f"unknown connection {name}; known connections: {', '.join(sorted(known)) or 'none'}")
    return known[name]


def for_requests(connection: Connection, tenant: str | None) -> Connection:
    """Returns the connection to send requests with: that of a tenant (by default the first one), if there are tenants.

    Raises:
        click.UsageError: There is no such tenant, or its settings have faults.
    """
    from rmm_assets.errors import TenantError

    found = tenants_named(connection, [] if tenant is None else [tenant])
    try:
        return connection.of_tenant(found[0]) if found else connection
    except TenantError as error:
        raise click.UsageError(str(error)) from None


def tenants_named(connection: Connection, names: Sequence[str]) -> list[Tenant]:
    """Returns the tenants of these names; without names, all tenants. A connection without tenants has none.

    Raises:
        click.UsageError: There is no such tenant, or the tenants cannot be read.
    """
    from rmm_assets.config.store import store_of
    from rmm_assets.errors import TenantError
    from rmm_assets.loading.tenants import tenants_of

    if connection.tenants is None and names:
        raise click.UsageError(f"{connection.name} has no tenants")
    try:
        found = tenants_of(connection, store_of(connection))
    except TenantError as error:
        raise click.UsageError(str(error)) from None
    known = {tenant.name: tenant for tenant in found.tenants}
    if found.faults:
        click.echo(f"{connection.name}: {found.problem}", err=True)
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"{connection.name} has no tenant {unknown[0]}")
    return [known[name] for name in names or known]


def resources_named(connection: Connection, name: str | None) -> list[str]:
    """Returns the name if the connection loads a resource of that name; without a name, those of all that it loads.

    Raises:
        click.UsageError: It has no such resource.
    """
    names = [each.name for each in connection.resources if each.selected]
    if name is None:
        return names
    if name not in names:
        raise click.UsageError(f"{connection.name} has no resource {name}; its resources: {', '.join(sorted(names))}")
    return [name]
