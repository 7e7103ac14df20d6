"""Finds the Dagster instance that the commands use, and ends a command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import portalocker

if TYPE_CHECKING:
    import dagster as dg


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Yields the Dagster instance in the working directory, as `make dev` does, unless `DAGSTER_HOME` is set.

    Raises:
        click.ClickException: Dagster's instance cannot be read or written.
    """
    from sqlalchemy.exc import DBAPIError

    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    try:
        instance = _instance_in(home)
        with instance:
            yield instance
    except DBAPIError as error:  # also later: a full disk, a database that has become read-only
        raise _unusable(home, str(error.orig)) from error


def _instance_in(home: Path) -> dg.DagsterInstance:
    import dagster as dg

    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists() and (shipped := Path("dagster.yaml")).exists():
            shutil.copy(shipped, home)
        # Two processes that make an instance's databases at the same time leave them in a state that none can open (1.13.27).
        with (home / "rmm.lock").open("a") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)
            return dg.DagsterInstance.get()
    except (OSError, dg.DagsterError) as error:
        raise _unusable(home, str(error)) from error


def _unusable(home: Path, reason: str) -> click.ClickException:
    return click.ClickException(
        f"Dagster's instance in {home} cannot be used: {reason}. DAGSTER_HOME is the folder that Dagster writes to"
    )


def wipe_assets(path: Sequence[str]) -> None:
    """Deletes the history of all assets whose keys begin with `path`."""
    with dagster_instance() as instance:
        instance.wipe_assets([key for key in instance.all_asset_keys() if list(key.path[: len(path)]) == list(path)])


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    It does not use sys.exit: at interpreter shutdown, DuckDB's binding prints a page of leak reports about objects that
    Python's caches of generic types still reference, and the process would wait for pending requests.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
