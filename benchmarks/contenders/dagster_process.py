"""Materializes all assets of a module with the same command that a user would type.

``dagster asset materialize`` runs each step in its own process, whose time and memory count, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

# Every contender has its own instance, so that nothing is shared or left over; telemetry needs a network.
_INSTANCE = "telemetry:\n  enabled: false\n"


def become_materialize(module: str, environment: Mapping[str, str], *, select: str = "*") -> NoReturn:
    """Replaces this process by ``dagster asset materialize`` on ``module``; never returns.

    Args:
        module: Dotted name of the module with the definitions.
        environment: Variables to add to this process's own.
        select: Dagster asset selection.
    """
    home = Path("dagster_home").absolute()
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(_INSTANCE)
    dagster = str(Path(sys.executable).parent / "dagster")
    command = [dagster, "asset", "materialize", "-m", module, "--select", select]
    os.execve(dagster, command, {**os.environ, "DAGSTER_HOME": str(home), **environment})
