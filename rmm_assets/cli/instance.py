"""Finds the Dagster instance that the commands use, and ends a command."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn


def prepare_dagster_home() -> None:
    """Uses the Dagster instance in the working directory, as `make dev` does, unless `DAGSTER_HOME` is set."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists() and Path("dagster.yaml").exists():
        shutil.copy("dagster.yaml", home)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    It does not use sys.exit: at interpreter shutdown, DuckDB's binding prints a page of leak reports about objects that
    Python's caches of generic types still reference, and the process would wait for pending requests.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
