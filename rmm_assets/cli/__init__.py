"""Defines the `rmm` command, for what Dagster's own commands do not cover; each subcommand has a module."""

from __future__ import annotations

import signal
import threading

import click

from rmm_assets.cli.audit import audit
from rmm_assets.cli.check import check
from rmm_assets.cli.forget import remove, reset
from rmm_assets.cli.init import init
from rmm_assets.cli.preview import preview
from rmm_assets.cli.profiles import profiles
from rmm_assets.cli.prune import prune
from rmm_assets.cli.rename import rename
from rmm_assets.cli.retry import retry_rejected
from rmm_assets.cli.show import show
from rmm_assets.cli.simulate import simulate
from rmm_assets.cli.status import status
from rmm_assets.cli.sync import sync


@click.group()
def main() -> None:
    """Loads any RMM API into a warehouse, as Dagster assets."""
    if threading.current_thread() is threading.main_thread():
        # Service managers send SIGTERM; handled like Ctrl-C, it lets a command clean up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


for command in (
    *(profiles, init, check, preview, show),
    *(sync, status, audit, retry_rejected, rename, reset, remove, prune, simulate),
):
    main.add_command(command)
