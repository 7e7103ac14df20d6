"""Turns a module of definitions into one command that materializes all of it, as a person would type it.

``dagster asset materialize`` runs each step in a process of its own; its time and memory count as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

# Every contender has its own, so nothing is shared and nothing is left over; telemetry needs a network.
_INSTANCE = "telemetry:\n  enabled: false\n"


def become_materialize(module: str, environment: Mapping[str, str], *, select: str = "*") -> NoReturn:
    """Replace this process by ``dagster asset materialize`` on ``module``; never returns.

    Args:
        module: Dotted name of the module that holds the definitions.
        environment: Variables to add to this process's own.
        select: Dagster asset selection.
    """
    home = Path("dagster_home").absolute()
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(_INSTANCE)
    dagster = str(Path(sys.executable).parent / "dagster")
    command = [dagster, "asset", "materialize", "-m", module, "--select", select]
    os.execve(dagster, command, {**os.environ, "DAGSTER_HOME": str(home), **environment})
