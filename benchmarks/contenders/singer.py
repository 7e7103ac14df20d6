"""Contender s: a singer-sdk tap piped into target-duckdb, two processes, as ``tap | target``.

Runs in its own environment (``singer.requirements.txt``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders.task import DATASET, task_from_arguments

if __name__ == "__main__":
    task = task_from_arguments()
    config = Path("target.json")
    config.write_text(
        json.dumps(
            {
                "path": str(task.database),
                "default_target_schema": DATASET,
                "data_flattening_max_level": 1,
            }
        )
    )
    tap = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.contenders.singer_tap", *sys.argv[1:]], stdout=subprocess.PIPE
    )
    target = subprocess.Popen(
        [str(Path(sys.executable).parent / "target-duckdb"), "--config", str(config)],
        stdin=tap.stdout,
        stdout=subprocess.DEVNULL,
    )
    assert tap.stdout is not None
    tap.stdout.close()  # only the target may keep the pipe open, or the tap would not notice that the target died
    sys.exit(target.wait() or tap.wait())
