"""Defines the `rmm` command, for the few things that Dagster's own commands do not do: a module for each command."""

from __future__ import annotations

import signal
import threading

import click

from rmm_assets.cli.audit import audit
from rmm_assets.cli.forget import remove, reset
from rmm_assets.cli.prune import prune
from rmm_assets.cli.rename import rename
from rmm_assets.cli.simulate import simulate
from rmm_assets.cli.status import status
from rmm_assets.cli.sync import sync


@click.group()
def main() -> None:
    """Loads any RMM API into a warehouse, as Dagster assets."""
    if threading.current_thread() is threading.main_thread():
        # What a service manager sends ends a command as Ctrl-C does, so that what it does is put away.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


for command in (sync, status, audit, rename, reset, remove, prune, simulate):
    main.add_command(command)
