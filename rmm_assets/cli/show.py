"""`rmm show`: prints a connection file merged with its profile."""

from __future__ import annotations

import json

import click

from rmm_assets.cli.arguments import connection_named
from rmm_assets.cli.instance import leave


@click.command()
@click.argument("connection")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(connection: str, as_json: bool) -> None:
    """Print the file of CONNECTION merged with its profile, with settings and variables filled in.

    What it prints is a connection file, too: it loads the same tables without the profile. It contains no secret, only
    where each is looked up.
    """
    import yaml

    content = connection_named(connection).standalone()
    click.echo(
        json.dumps(content, indent=2) if as_json else yaml.safe_dump(content, sort_keys=False, width=120), nl=as_json
    )
    leave(0)
