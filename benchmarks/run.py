"""Runs a suite: contenders take turns, each as a whole process, and its table is checked after each run.

    python -m benchmarks.run main --runs 3 --markdown FILE --json FILE --plot FILE.svg

See ``benchmarks.contenders`` for what each contender does, and ``benchmarks.report`` for how the figures are shown.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path

import duckdb

from benchmarks import report, results
from benchmarks.contenders.registry import CONTENDERS, Contender
from benchmarks.contenders.task import DATASET
from benchmarks.process import run_measured
from benchmarks.results import Cell, Results, Run
from benchmarks.server import SMALL_ROWS, RunningServer, expected, measure

ROOT = Path(__file__).parents[1]
SMALL_RESOURCES = 20

SUITES = {
    "main": "100,000 rows at 0 and at 20 ms per page, for comparison with the goals",
    "sizes": "10,000, 100,000 and 1,000,000 rows",
    "latency": "0, 20 and 100 ms per page",
    "pages": "pages of 100 and of 1,000 rows",
    "small": f"{SMALL_RESOURCES} resources of {SMALL_ROWS} rows: the fixed cost of a run",
    "second-sync": "a second sync in which 1 % of the rows changed",
    "large": "10,000,000 rows of 12 columns and 100,000: first load and second sync",
    "million": "1,000,000 rows and 100,000: whether memory and CPU per row grow",
}


def cells(suite: str, *, rows: Sequence[int], pages: Sequence[int], latencies: Sequence[float]) -> list[Cell]:
    """Returns the settings of a suite; values from the command line override the suite's."""
    if suite == "small":
        settings = product((SMALL_RESOURCES * SMALL_ROWS,), pages or (100,), latencies or (0.0,))
        return [Cell(r, page, latency, resources=SMALL_RESOURCES) for r, page, latency in settings]
    if suite == "large":
        several = product(rows or (100_000, 10_000_000), pages or (1000,), latencies or (0.0,), (False, True))
        return [Cell(r, page, latency, second=second, software=True) for r, page, latency, second in several]
    sizes = {"sizes": (10_000, 100_000, 1_000_000), "million": (100_000, 1_000_000)}
    default_rows = sizes.get(suite, (100_000,))
    default_pages = (100, 1000) if suite == "pages" else (100,)
    default_latencies = {"main": (0.0, 20.0), "latency": (0.0, 20.0, 100.0)}.get(suite, (0.0,))
    settings = product(rows or default_rows, pages or default_pages, latencies or default_latencies)
    return [Cell(r, page, latency, second=suite == "second-sync") for r, page, latency in settings]


def wrong(database: Path, cell: Cell, revision: int) -> str:
    """Returns what is wrong with a contender's tables; empty if nothing is."""
    names = [f"resource_{number:02d}" for number in range(cell.resources)] or ["resource"]
    wanted = expected(SMALL_ROWS if cell.resources else cell.rows, revision)
    try:
        with duckdb.connect(str(database), read_only=True) as connection:
            for name in names:
                query = f"SELECT count(*), count(DISTINCT id), sum(revision) FROM {DATASET}.{name}"
                found = connection.execute(query).fetchone()
                if found != wanted:
                    return f"WRONG: {name} has (rows, ids, revisions) {found} instead of {wanted}"
    except duckdb.Error as error:
        return f"WRONG: {error}"
    return ""


def one_run(contender: Contender, cell: Cell, server: RunningServer, given: argparse.Namespace) -> Run:
    """Measures one run in an empty folder and checks its tables; of two syncs, the second counts."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.work) as name:
        folder = Path(name)
        database = folder / "loaded.duckdb"  # DuckDB rejects a schema with the name of its file
        command = [contender.python(), "-m", f"benchmarks.contenders.{contender.module}"]
        command += ["--base-url", server.base_url, "--database", str(database), "--rows", str(cell.rows)]
        command += ["--page", str(cell.page), "--resources", str(cell.resources)]
        command += ["--concurrency", str(given.concurrency)]
        revisions = (0, 1) if cell.second else (0,)
        for revision in revisions:
            if cell.second:
                server.set_revision(revision)
            log = folder / f"output_{revision}.txt"
            usage = run_measured(
                command,
                folder=folder,
                environment=environment(folder),
                timeout_s=given.timeout,
                memory_mb=given.memory,
                log=log,
            )
            problem = usage.problem or (wrong(database, cell, revision) if contender.loads else "")
            if problem:
                print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
                break
    return Run(contender.letter, usage.wall_s, usage.cpu_s, usage.peak_mb, usage.tree_mb, problem, load)


def environment(folder: Path) -> dict[str, str]:
    """Returns a contender's environment: the project on its path, its own home, telemetry off."""
    names = ("PATH", "LANG", "LC_ALL", "TMPDIR", "BENCH_DUCKDB_MEMORY")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "DLT_DATA_DIR": str(folder / "dlt"),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DO_NOT_TRACK": "1",
        "AIRBYTE_OFFLINE_MODE": "1",
    }


def run_cell(cell: Cell, contenders: Sequence[Contender], given: argparse.Namespace) -> None:
    """Runs every contender ``given.runs`` times, in turns, and adds the runs to ``cell``."""
    print(f"\n{cell.title()}", flush=True)
    left_out: dict[str, str] = {}
    for contender in contenders:
        if contender.max_rows is not None and cell.rows > contender.max_rows:
            left_out[contender.letter] = f"skipped: {contender.why_max}"
            cell.runs.append(Run(contender.letter, problem=left_out[contender.letter]))
    large = 0 if cell.resources else cell.rows
    with RunningServer(
        rows=large or SMALL_ROWS,
        page_size=cell.page,
        latency_ms=cell.latency_ms,
        resources=cell.resources,
        software=cell.software,
    ) as server:
        for connections in (1, given.concurrency):
            # Fewer pages give the same figure if a connection waits for most of the time.
            pages = 200 if cell.latency_ms or cell.software else 2000
            ceiling = measure(server.port, limit=cell.page, pages=pages, connections=connections)
            cell.server.append(str(ceiling))
        print(f"  server alone: {'; '.join(cell.server)}", flush=True)
        for number in range(given.runs):
            for contender in contenders:
                if contender.letter in left_out:
                    continue
                run = one_run(contender, cell, server, given)
                cell.runs.append(run)
                print(
                    f"  {number + 1}/{given.runs} ({contender.letter}) {contender.title:32} "
                    f"{run.wall_s:7.2f} s wall {run.cpu_s:7.2f} s CPU {run.peak_mb:6,.0f} MB {run.problem}",
                    flush=True,
                )
                if run.problem.startswith(("killed", "failed")):
                    left_out[contender.letter] = run.problem


def machine() -> str:
    """Describes the machine: cores, processor, memory, Python."""
    facts = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in facts.splitlines() if "model name" in line), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    parts = (f"{cores} cores", model, f"{memory:.0f} GB", platform.system())
    return ", ".join([*filter(None, parts), f"Python {platform.python_version()}"])


def versions(contenders: Sequence[Contender]) -> str:
    """Returns the versions of the packages that the figures depend on."""
    names = ("dagster", "dagster-dlt", "dlt", "duckdb", "pyarrow", "aiohttp")
    found = [f"{name} {version(name)}" for name in names]
    found += [f"{line} (own environment)" for contender in contenders for line in contender.requirements()]
    return ", ".join(found)


def _numbers(text: str) -> list[int]:
    return [int(part.replace("_", "")) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _letters(text: str) -> list[str]:
    letters = text.split(",")
    unknown = [letter for letter in letters if letter not in CONTENDERS]
    if unknown:
        known = ", ".join(CONTENDERS)
        raise argparse.ArgumentTypeError(f"unknown contender {', '.join(unknown)}; known contenders: {known}")
    return letters


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    known = "\n".join(f"  {name:12} {text}" for name, text in SUITES.items())
    who = "\n".join(f"  {letter}  {contender.title}" for letter, contender in CONTENDERS.items())
    parser = argparse.ArgumentParser(
        description=f"Measures contenders side by side.\n\nsuites:\n{known}\n\ncontenders:\n{who}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="?", choices=SUITES, default="main")
    parser.add_argument("--rows", type=_numbers, default=[], help="one or more, separated by commas")
    parser.add_argument("--page", type=_numbers, default=[], help="rows per page, one or more, separated by commas")
    parser.add_argument("--latency", type=_floats, default=[], help="ms per page, one or more, separated by commas")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender in each setting")
    parser.add_argument("--only", type=_letters, default=list("abcdef"), help="contenders, separated by commas")
    parser.add_argument("--peers", action="store_true", help="add singer-sdk and PyAirbyte")
    parser.add_argument("--concurrency", type=int, default=8, help="concurrent pages, for contenders that support it")
    parser.add_argument(
        "--baseline", choices=CONTENDERS, default="a", help="the contender that others are compared with"
    )
    parser.add_argument("--timeout", type=float, default=600, help="maximum seconds per process")
    parser.add_argument(
        "--memory",
        type=float,
        default=0.7 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6,
        help="maximum MB of all processes of a contender together; default: 70 %% of the machine's",
    )
    parser.add_argument("--work", type=Path, help="folder for the runs' files; default: a temporary one")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG file")
    return parser.parse_args()


def main() -> None:
    """Measures, prints and writes results; exits with 1 if a contender failed or left a wrong table."""
    given = arguments()
    letters = list(dict.fromkeys([*given.only, *("sp" if given.peers else "")]))
    contenders = [CONTENDERS[letter] for letter in letters]
    for contender in contenders:
        contender.python()  # creates a missing environment here, not in a measured run
    settings = cells(given.suite, rows=given.rows, pages=given.page, latencies=given.latency)
    command = shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]])
    measured = Results(given.suite, command, machine(), versions(contenders), given.baseline, settings)
    print(f"{measured.machine}\n{measured.versions}\n{command}", flush=True)
    for cell in settings:
        run_cell(cell, contenders, given)
        if given.json:
            results.write(measured, given.json)  # after each cell, so that an interrupted suite keeps its results
    text = report.markdown(measured)
    print(f"\n{text}")
    if given.markdown:
        given.markdown.parent.mkdir(parents=True, exist_ok=True)
        given.markdown.write_text(text)
    if given.plot:
        report.plot(measured, given.plot)
    bad = [run for cell in settings for run in cell.runs if run.problem.startswith(("WRONG", "failed"))]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
