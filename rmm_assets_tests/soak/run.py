"""Runs ten connections for a while, half of their runs on a bad day, and looks what is left: `make soak`.

`python -m rmm_assets_tests.soak.run [--runs 300] [--seed 7] [--folder FOLDER]` starts `rmm sync` processes, two at once: some
are killed, get a wrong key, a full disk or a server with faults. After each run the tables are compared with the servers; at
the end nothing may be stuck, no key may be in any file, and Dagster's instance may have grown by twice of what it stores of
empty assets. Ends with 1 if anything is not so, and says what. Everything is on this machine.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import dagster as dg
import portalocker
import yaml

from rmm_assets.simulator import Simulator
from rmm_assets_tests.commands import Started
from rmm_assets_tests.http.leaks import leaks_in
from rmm_assets_tests.soak import tables
from rmm_assets_tests.soak.days import Day, day

ROOT = Path(__file__).parents[2]
# Seconds; a run that takes longer is stuck.
LONGEST_RUN = 900.0
AT_ONCE = 2
_LAST = "a good day at the end"


@dataclass
class Party:
    """One connection, its server and its table."""

    name: str
    kind: str
    key: str
    server: Simulator
    database: Path
    rng: random.Random
    ever: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for resource in tables.RESOURCES:
            self._set(resource, tables.first_rows(self.kind, resource))

    def changes(self) -> None:
        """Lets some rows come, go and change."""
        for resource in tables.RESOURCES:
            self._set(resource, tables.changed_rows(self.rng, self.kind, resource, self.server.rows(resource)))

    def _set(self, resource: str, rows: list[dict[str, Any]]) -> None:
        self.ever.setdefault(resource, set()).update(tables.texts(rows))
        self.server.set_rows(resource, rows)

    def held(self) -> dict[str, tables.Held]:
        return {each: tables.held(self.database, self.name, self.kind, each) for each in tables.RESOURCES}


@dataclass
class Report:
    """What a soak found.

    Attributes:
        runs: Number of runs by what happened to them and how they ended.
        compared: Number of rows of green tables that were compared with their server.
        problems: What is wrong; empty if nothing is.
        sizes: Bytes of Dagster's instance after each number of its runs.
        searched: Number of files that were searched for keys.
    """

    runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    compared: int = 0
    green: int = 0
    problems: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    searched: int = 0
    lost: int = 0
    seconds: float = 0.0
    grown: float = 0.0
    grown_of_empty: float = 0.0

    def lines(self) -> Iterator[str]:
        """Yields the report in Markdown."""
        yield "| what happened | runs | green | red | killed |"
        yield "|---|---|---|---|---|"
        for name in sorted({name for name, _ in self.runs}):
            ends = [self.runs[name, end] for end in ("green", "red", "killed")]
            yield f"| {name} | {sum(ends)} | {' | '.join(map(str, ends))} |"
        yield ""
        yield (
            f"{self.runs.total()} runs in {self.seconds / 60:.0f} minutes; {self.green} green tables, {self.compared:,} rows "
            f"compared with their server; {self.lost} lost runs ended; {self.searched:,} files searched for keys; a run adds "
            f"{self.grown / 1024:,.0f} KB to Dagster's instance, {self.grown_of_empty / 1024:,.0f} KB with empty assets."
        )
        yield from (f"- WRONG: {problem}" for problem in self.problems)


class Soak:
    """Ten connections in a folder, until it is closed."""

    def __init__(self, folder: Path, seed: int, connections: int = 10) -> None:
        self.folder, self.report = folder, Report()
        self._rng, self._lock, self._stack = random.Random(seed), threading.Lock(), ExitStack()
        self._usual = [10.0]  # seconds that green runs took
        self.enough = threading.Event()
        (folder / "home").mkdir(parents=True)
        (folder / "outputs").mkdir()
        shutil.copy(ROOT / "dagster.yaml", folder / "home")
        self._measure()  # makes Dagster's databases, which `rmm` does under a lock that this process does not take
        self.parties = [self._party(number) for number in range(connections)]
        self.wrong_key = secrets.token_urlsafe(24)

    def _party(self, number: int) -> Party:
        name, kind = f"rmm_{number}", list(tables.KINDS)[number % len(tables.KINDS)]
        # Half of them take turns with one file.
        database = self.folder / "data" / ("shared.duckdb" if number < 5 else f"own_{number}.duckdb")
        key = f"{secrets.token_urlsafe(24)}/+="
        server = self._stack.enter_context(Simulator(tables={each: [] for each in tables.RESOURCES}, api_key=key))
        party = Party(name, kind, key, server, database, random.Random(self._rng.random()))
        file = self.folder / "connections" / name / "defs.yaml"
        file.parent.mkdir(parents=True)
        attributes = tables.connection(name, kind, server.base_url, str(database))
        file.write_text(yaml.safe_dump({"type": "rmm_assets.RmmConnection", "attributes": attributes}))
        return party

    def close(self) -> None:
        """Ends the servers."""
        self._stack.close()

    def run(self, runs: int) -> Report:
        """Runs that often, or until there were enough, then once for each connection on a good day; looks what is left."""
        began = time.monotonic()
        days = [day(self._rng, bad=number % 2 == 1) for number in range(runs)]
        self._rng.shuffle(days)
        # Of each connection one after the other: what its server holds must not change while it is read.
        turns: dict[str, threading.Lock] = {party.name: threading.Lock() for party in self.parties}
        with ThreadPoolExecutor(AT_ONCE) as workers:
            good = [Day(_LAST, bad=False)] * len(self.parties)
            for each in (days, good):
                list(workers.map(partial(self._one, turns), range(len(each)), each))
        self.report.seconds = time.monotonic() - began
        self._look_for_what_is_stuck()
        keys = [self.wrong_key, *(party.key for party in self.parties)]
        self.report.searched, finds = leaks_in(self.folder, keys)
        self.report.problems += finds
        return self.report

    def _one(self, turns: Mapping[str, threading.Lock], number: int, what: Day) -> None:
        if self.enough.is_set() and what.name != _LAST:
            return
        party = self.parties[number % len(self.parties)]
        with turns[party.name]:
            party.changes()
            before = party.held()
            party.server.set_faults(what.faults)
            began = time.monotonic()
            code = self._sync(number, party, what)
            took = time.monotonic() - began
            party.server.set_faults([])
            end = "killed" if code == -9 else "green" if code == 0 else "red"
            problems = list(self._wrong(party, what, end, code, before))
        with self._lock:
            self.report.runs[what.name, end] += 1
            self.report.problems += [f"run {number} of {party.name} ({what.name}): {problem}" for problem in problems]
            self._measure()
            self._usual += [took] if end == "green" else []
            print(
                f"{number:4} {party.name} {party.kind:9} {what.name:30} {end:7} {took:5.1f} s",
                file=sys.stderr,
                flush=True,
            )
            for problem in problems:
                print(f"     WRONG: {problem}", file=sys.stderr, flush=True)

    def _sync(self, number: int, party: Party, what: Day) -> int:
        """Runs `rmm sync` in a process of its own, and returns its exit code; -9 if it was killed."""
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.folder / "home"),
            "RMM_CONNECTIONS": str(self.folder / "connections" / party.name),
            "PYTHONPATH": str(ROOT),
            **{tables.variable(each.name): each.key for each in self.parties},
        }
        if what.wrong_key:
            environment[tables.variable(party.name)] = self.wrong_key
        limit = None if what.largest_file is None else what.largest_file * 1024
        process = Started(["sync", party.name], self.folder, environment, largest_file=limit)
        done = process.end(LONGEST_RUN if what.kill_at is None else what.kill_at * median(self._usual[-9:]))
        output = self.folder / "outputs" / f"{number:04}-{party.name}-{time.time_ns()}"
        output.write_text(done.stdout + done.stderr)
        return done.returncode

    def _wrong(self, party: Party, what: Day, end: str, code: int, before: Mapping[str, tables.Held]) -> Iterator[str]:
        if end == "killed" and what.kill_at is None:
            yield f"was not over after {LONGEST_RUN:.0f} s"
        if end == "red" and not what.bad:
            yield f"red on a good day (exit code {code})"
        if end == "green" and what.wrong_key:
            yield "green with a wrong key"
        for resource, table in party.held().items():
            server = party.server.rows(resource)
            if end == "green":
                problem = tables.faults_of_a_green_table(server, table)
                with self._lock:
                    self.report.green += 1
                    self.report.compared += len(server)
            else:
                known = party.ever[resource].__contains__
                problem = tables.faults_of_another_table(before[resource], server, known, table)
            if problem:
                yield f"{resource}: {problem}"

    def _measure(self) -> None:
        """Notes how many runs Dagster's instance holds, and its size."""
        size = sum(file.stat().st_size for file in (self.folder / "home").rglob("*") if file.is_file())
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            self.report.sizes.append((instance.get_runs_count(), size))

    def _look_for_what_is_stuck(self) -> None:
        problems = self.report.problems
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            for run in instance.get_runs():
                if not run.is_finished:
                    problems.append(f"run {run.run_id} of {run.job_name} is {run.status.value}")
            self.report.lost = sum(
                "is gone" in (entry.message or "")
                for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
            )
            storage = instance.event_log_storage
            for key in storage.get_concurrency_keys():
                if storage.get_concurrency_info(key).active_slot_count:
                    problems.append(f"a slot of {key} is taken")
        for file in self.folder.rglob("*.lock"):
            with file.open("rb") as opened:
                try:
                    portalocker.lock(opened, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                except portalocker.LockException:
                    problems.append(f"{file.relative_to(self.folder)} is locked")

    def compare_growth(self) -> None:
        """Compares what a run adds to Dagster's instance with what it adds with empty assets and as many checks."""
        from benchmarks.growth import empty, sizes
        from rmm_assets.orchestration.assets import build_connection_defs
        from rmm_assets.orchestration.component import RmmConnection

        # Dagster makes its tables and indexes in the first runs.
        first, last = self.report.sizes[len(self.report.sizes) // 4], self.report.sizes[-1]
        self.report.grown = (last[1] - first[1]) / max(1, last[0] - first[0])
        of_empty = []
        for kind in tables.KINDS:
            attributes = tables.connection("demo", kind, "http://127.0.0.1:9", str(self.folder / "unused.duckdb"))
            made = RmmConnection.from_attributes_dict(attributes=attributes)
            found = sizes(empty(build_connection_defs(made)), 6, lambda _: None)
            of_empty.append((found[-1] - found[0]) / (len(found) - 1))
        self.report.grown_of_empty = sum(of_empty) / len(of_empty)
        if self.report.grown > 2 * self.report.grown_of_empty:
            self.report.problems.append("Dagster's instance grows by more than twice of what empty assets add")


@click.command()
@click.option("--runs", default=300, show_default=True)
@click.option(
    "--seed", default=7, show_default=True, help="The same seed makes the same days; kills hit other moments."
)
@click.option(
    "--folder", type=Path, help="Where everything is written, and stays; by default a folder that is removed."
)
def main(runs: int, seed: int, folder: Path | None) -> None:
    """Run ten connections for a while, half of their runs on a bad day, and print what is left."""
    with tempfile.TemporaryDirectory(prefix="rmm-soak-") as temporary:
        soak = Soak((folder or Path(temporary)) / "soak", seed)
        # Ends with the runs that there were, and a report of them.
        signal.signal(signal.SIGTERM, lambda *_: soak.enough.set())
        try:
            report = soak.run(runs)
            soak.compare_growth()
        finally:
            soak.close()
    print("\n".join(report.lines()), flush=True)
    sys.stdout.flush()
    os._exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
