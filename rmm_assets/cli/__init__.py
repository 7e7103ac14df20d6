"""Defines the `rmm` command, for the few things that Dagster's own commands do not do: a module for each command."""

from __future__ import annotations

import click

from rmm_assets.cli.audit import audit
from rmm_assets.cli.simulate import simulate
from rmm_assets.cli.sync import sync


@click.group()
def main() -> None:
    """Loads any RMM API into a warehouse, as Dagster assets."""


for command in (sync, audit, simulate):
    main.add_command(command)
