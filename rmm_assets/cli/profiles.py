"""`rmm profiles`: lists the vendors whose APIs are known."""

from __future__ import annotations

import json
import sys

import click

from rmm_assets.cli.instance import leave


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the profiles as JSON.")
def profiles(as_json: bool) -> None:
    """List the profiles that a connection file can name, with their settings and resources."""
    from rich.console import Console
    from rich.table import Table

    from rmm_assets.config.profiles import names, profile_named

    known = {name: profile_named(name) for name in names()}
    if as_json:
        facts = {
            name: {
                **profile.model_dump(mode="json", exclude={"type", "attributes"}),
                "resources": list(profile.resources),
            }
            for name, profile in known.items()
        }
        click.echo(json.dumps(facts, indent=2))
        leave(0)
    table = Table()
    for title in ("profile", "vendor", "settings", "resources"):
        table.add_column(title, no_wrap=title == "profile")
    for name, profile in known.items():
        table.add_row(name, profile.vendor, ", ".join(profile.settings), ", ".join(profile.resources))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    leave(0)
