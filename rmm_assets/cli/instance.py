"""Finds the Dagster instance that the commands use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def prepare_dagster_home() -> None:
    """Uses the Dagster instance in this folder, as `make dev` does, unless `DAGSTER_HOME` is set."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists() and Path("dagster.yaml").exists():
        shutil.copy("dagster.yaml", home)
