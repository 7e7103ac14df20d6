"""Runs a command and measures its whole process tree: seconds, CPU seconds, memory.

It does not check the command's results. Linux only, because it reads ``/proc``.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.25
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Usage:
    """The resources that one process tree used.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system seconds of the process and of every descendant that was waited for.
        peak_mb: Peak resident memory of the largest single process, in 10^6 bytes, as recorded by the kernel.
        tree_mb: Highest sum over all processes, sampled four times per second; shared pages count once per process.
        problem: Why it failed or was killed; empty if it succeeded.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    tree_mb: float
    problem: str


def run_measured(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    memory_mb: float,
    log: Path,
) -> Usage:
    """Runs ``command`` until it ends or exceeds a limit.

    Args:
        command: Program and arguments.
        folder: Its working directory.
        environment: Its whole environment.
        timeout_s: Seconds after which it is killed.
        memory_mb: Sum of resident memory, in 10^6 bytes, above which it is killed.
        log: File for its output.

    Returns:
        The resources it used, even if it failed.
    """
    problem = ""
    tree_mb = 0.0
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=output, stderr=output, start_new_session=True
        )
        watch = os.pidfd_open(process.pid)
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        while not poll.poll(SAMPLE_SECONDS * 1000):
            tree_mb = max(tree_mb, session_memory_mb(process.pid))
            if tree_mb > memory_mb:
                problem = f"killed: over {memory_mb:,.0f} MB"
            elif time.perf_counter() - began > timeout_s:
                problem = f"killed: over {timeout_s:,.0f} s"
            if problem:
                os.killpg(process.pid, signal.SIGKILL)
                break
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        os.close(watch)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not problem:
        problem = f"failed: exit code {process.returncode}"
    peak_mb = used.ru_maxrss * 1024 / 1e6
    return Usage(wall_s, used.ru_utime + used.ru_stime, peak_mb, max(tree_mb, peak_mb), problem)


def session_memory_mb(session: int) -> float:
    """Returns the resident memory of all processes of a session, in 10^6 bytes."""
    total = 0.0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                with open(f"/proc/{entry.name}/stat") as stat:
                    # The name in parentheses may contain spaces and parentheses.
                    fields = stat.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session:
                total += int(fields[21]) * _PAGE_MB
    return total
