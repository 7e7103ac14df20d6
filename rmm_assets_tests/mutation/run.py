"""Breaks promises in a copy of the code, one at a time, and prints those that no test notices: `make mutants`.

Exit code 1 means that a mutant survived without a stated reason, or that its text is no longer in the code.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from compileall import compile_dir
from contextlib import suppress
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Literal, NamedTuple

from rmm_assets_tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]

# Seconds for the tests of one mutant; they take about five. A test that hangs counts as noticing it.
LIMIT = 120.0
# Seconds for the tests of all mutants, on the unchanged code.
LIMIT_OF_ALL = 1800.0

Verdict = Literal["killed", "hung", "survived", "survived, with reason", "killed, despite reason", "stale", "error"]
_FAULTS: tuple[Verdict, ...] = ("survived", "killed, despite reason", "stale", "error")


class Outcome(NamedTuple):
    """The result of one mutant."""

    mutant: Mutant
    verdict: Verdict
    seconds: float


def main(words: Sequence[str]) -> int:
    """Runs the mutants whose promise or file contains one of the words; without words, all of them."""
    chosen = [mutant for mutant in MUTANTS if is_chosen(mutant, words)]
    if not chosen:
        print(f"no mutant's promise or file contains {' or '.join(words)}")
        return 1
    with tempfile.TemporaryDirectory(prefix="rmm-mutants-") as folder:
        copy = copy_of_the_code(Path(folder))
        if not is_green(copy, chosen):
            print("the tests fail on the unchanged code, so they show nothing about mutants")
            return 1
        outcomes = []
        for number, mutant in enumerate(chosen, start=1):
            outcome = try_out(copy, mutant)
            outcomes.append(outcome)
            print(f"{number:3} of {len(chosen)}  {outcome.verdict:22} {outcome.seconds:4.0f} s  {mutant}", flush=True)
    print(summary(outcomes))
    return int(any(outcome.verdict in _FAULTS for outcome in outcomes))


def is_chosen(mutant: Mutant, words: Sequence[str]) -> bool:
    """Returns whether a mutant's promise or file contains one of the words; True without words."""
    return not words or any(word.lower() in f"{mutant.file} {mutant.promise}".lower() for word in words)


def copy_of_the_code(folder: Path) -> Path:
    """Copies the package, its tests, the files that these read, and pytest's configuration."""
    for name in ("rmm_assets", "rmm_assets_tests", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    # By default, Python recognizes stale bytecode by the source's mtime in seconds and its size, which a mutant may share.
    compile_dir(folder / "rmm_assets", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


def is_green(copy: Path, mutants: Iterable[Mutant]) -> bool:
    """Returns whether all tests that should notice a mutant pass on the unchanged code."""
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    print(f"{len(tests)} tests on the unchanged code ...", flush=True)
    return run_tests(copy, list(tests), LIMIT_OF_ALL, show=True) == 0


def try_out(copy: Path, mutant: Mutant) -> Outcome:
    """Breaks the code, runs the tests that should notice, and restores it."""
    path, started = copy / "rmm_assets" / mutant.file, time.monotonic()
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return Outcome(mutant, "stale", 0.0)
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        code = run_tests(copy, mutant.tests, LIMIT)
    finally:
        path.write_text(text)
    return Outcome(mutant, verdict_of(mutant, code), time.monotonic() - started)


def verdict_of(mutant: Mutant, code: int | None) -> Verdict:
    """Returns the verdict on a mutant from pytest's exit code.

    Args:
        code: None if the tests timed out.
    """
    if code is None:
        return "hung"
    if code == 0:
        return "survived, with reason" if mutant.survives_because else "survived"
    if mutant.survives_because:
        return "killed, despite reason"
    # 1 means failed tests. Any other code, such as for a failed import, means that the mutant breaks more than its promise.
    return "killed" if code == 1 else "error"


def run_tests(copy: Path, tests: Sequence[str], limit: float, *, show: bool = False) -> int | None:
    """Returns pytest's exit code; None if it timed out."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--disable-warnings", "-p", "no:cacheprovider"]
    paths = [f"rmm_assets_tests/{test}" for test in tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "RMM_EXAMPLES": "all"}
    process = subprocess.Popen(
        [*command, *paths], cwd=copy, env=environment, start_new_session=True,
        stdout=None if show else subprocess.DEVNULL, stderr=None if show else subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the tests and any processes that they left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def summary(outcomes: Sequence[Outcome]) -> str:
    """Returns a table of the verdicts, and the mutants that need attention."""
    verdicts = [outcome.verdict for outcome in outcomes]
    lines = ["", *(f"{verdicts.count(verdict):4}  {verdict}" for verdict in dict.fromkeys(verdicts))]
    for outcome in outcomes:
        if outcome.verdict in _FAULTS:
            lines += ["", f"{outcome.verdict}: {outcome.mutant}", *(f"    {test}" for test in outcome.mutant.tests)]
        elif outcome.mutant.survives_because:
            lines += ["", f"{outcome.verdict}: {outcome.mutant}", f"    {outcome.mutant.survives_because}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
