"""Tests that the next run brings a table to exactly the right state after a run was killed at any moment."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import IncompleteError
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults
from rmm_assets_tests.integration.runs import PHASES, Running
from rmm_assets_tests.syncing import absent, connection, devices, resource, rows_of, run

pytestmark = pytest.mark.slow

KILLS = 8


def change(rng: random.Random, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deletes, inserts, restores and renames some rows."""
    stay = [row for row in rows if rng.random() > 0.05]
    for row in rng.sample(stay, len(stay) // 10):
        stay[stay.index(row)] = {**row, "name": f"renamed {rng.randrange(1000)}"}
    held = {row["id"] for row in stay}
    come = [row for row in devices(700) if row["id"] not in held and rng.random() < 0.05]
    return sorted([*stay, *come], key=lambda row: row["id"])


class Killer:
    """Kills runs, alternately at any time and at the start of a phase, and counts the phases."""

    def __init__(self, rng: random.Random, folder: Path, base_url: str, made: Connection) -> None:
        self._rng = rng
        self._start: Callable[[], Running] = lambda: Running(folder, base_url, made)
        self._number = 0
        self.killed: Counter[str] = Counter()
        assert self._start().end()["verdict"] == "green"
        started = time.monotonic()
        assert self._start().end()["verdict"] == "green"
        self._length = time.monotonic() - started

    def kill(self) -> None:
        """Starts a run and kills it; if it ended before, starts another one."""
        while True:
            running, aimed = self._start(), ""
            self._number += 1
            if self._number % 2:
                deadline = time.monotonic() + self._rng.random() * self._length
                while (left := deadline - time.monotonic()) > 0 and running.verdict is None:
                    running.listen(left)
            else:
                aimed = min(PHASES, key=self.killed.__getitem__)
                running.reaches(aimed)
            running.kill()
            if running.verdict is None:
                self.killed[aimed or running.phase or "starting"] += 1
                return
            self._length *= 0.9


def test_the_next_run_repairs_the_table_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(7)
    made = connection(resource(max_absent_share=1))
    rows = devices(600)
    compared = 0
    with Simulator(tables={"devices": rows}, faults=Faults(delay=0.01)) as server:
        killer = Killer(rng, tmp_path, server.base_url, made)
        for _ in range(KILLS):
            before = {row["id"] for row in rows_of(tmp_path)}
            rows = change(rng, rows)
            server.set_rows("devices", rows)
            killer.kill()
            seen = {row["id"] for row in rows}
            if rng.random() < 0.5:
                rows = change(rng, rows)
                server.set_rows("devices", rows)

            run(tmp_path, server.base_url, made)

            held = {row["id"] for row in rows}
            gone = absent(tmp_path)
            assert [row for row in rows_of(tmp_path) if row["id"] not in gone] == rows
            # Every loaded row stays, marked if it is missing: the earlier ones, and possibly those of the killed run.
            assert before - held <= gone <= (before | seen) - held
            compared += len(rows) + len(gone)
    print(f"{killer.killed.total()} kills: {dict(killer.killed)}; {compared} rows compared")
    assert killer.killed.total() == KILLS
    assert all(killer.killed[phase] for phase in PHASES), killer.killed


def test_an_incomplete_working_folder_of_a_killed_run_does_not_stop_the_next(tmp_path: Path) -> None:
    made = connection()
    with Simulator(tables={"devices": devices(30)}) as server:
        run(tmp_path, server.base_url, made)
        server.set_faults(Faults(total_off=1))
        with pytest.raises(IncompleteError):
            run(tmp_path, server.base_url, made)
        # The failed run left its folder, like a killed one, which may have a state without its schema.
        [schemas] = (tmp_path / "work" / "load").rglob("schemas")
        shutil.rmtree(schemas)
        server.set_faults([])
        assert run(tmp_path, server.base_url, made).row_count == 30
