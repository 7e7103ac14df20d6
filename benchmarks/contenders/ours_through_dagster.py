"""Contender d: the generic config as our connection file, through ``dagster asset materialize``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders.dagster_process import become_materialize
from benchmarks.contenders.ours_connection import KEY_VARIABLE, connection_file
from benchmarks.contenders.task import API_KEY, DATASET, task_from_arguments

if __name__ == "__main__":
    task = task_from_arguments()
    folder = Path("connections").absolute() / DATASET
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "defs.yaml").write_text(connection_file(task))
    become_materialize(
        "rmm_assets.definitions",
        {
            "RMM_CONNECTIONS": str(folder.parent),
            "RMM_DATABASE": str(task.database),
            KEY_VARIABLE: API_KEY,
        },
        select=f'key:"{DATASET}/*"',
    )
