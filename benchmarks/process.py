"""Turns a command into what its whole process tree cost: seconds, processor seconds, memory.

What the command does, and whether it did it right, is not its business. Linux only: it reads ``/proc``.
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
    """What one process tree took.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system seconds of the process and of every descendant that was waited for.
        peak_mb: Highest resident memory of the largest single process, in 10^6 bytes, as the kernel kept it.
        tree_mb: Highest sum over all processes, sampled four times a second; pages shared between them count
            once for each.
        problem: Why it did not end well; empty where it did.
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
    """Run ``command`` to its end, or end it at a limit.

    Args:
        command: Program and arguments.
        folder: Its working directory.
        environment: Its whole environment.
        timeout_s: Seconds after which it is killed.
        memory_mb: Sum of resident memory, in 10^6 bytes, above which it is killed.
        log: File that takes its output.

    Returns:
        What it took, also where it failed.
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
    """Resident memory of every process of a session, in 10^6 bytes."""
    total = 0.0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                with open(f"/proc/{entry.name}/stat") as stat:
                    # The name in parentheses may hold spaces and parentheses itself.
                    fields = stat.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session:
                total += int(fields[21]) * _PAGE_MB
    return total
