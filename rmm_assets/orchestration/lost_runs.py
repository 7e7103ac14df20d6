"""Ends runs whose process was killed, ran out of memory, or died with its machine.

Dagster's code server ends the runs of its own child processes. It misses runs whose server died with them and runs that a
command executed, such as `rmm sync`: Dagster's default launcher does not check their processes and keeps showing them as
running. So each run stores its process in a tag, and the next `rmm sync`, the schedule and a sensor check whether that
process still exists.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import dagster as dg

PROCESS_TAG = "rmm_assets/process"

# A command's run has a process in every one of these statuses. A queued run has none yet.
IN_PROGRESS = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

# Seconds by which two start times of the same process may differ, because clocks are adjusted.
_TOLERANCE = 5.0


@dataclass(frozen=True)
class Process:
    """A process on this machine or another.

    Attributes:
        started: Start time in seconds since 1970; 0 if unknown.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Returns the process with this id on this machine."""
        return cls(socket.gethostname(), pid, _started(pid) or 0.0)

    @classmethod
    def from_tag(cls, tag: str) -> Self | None:
        """Returns the process that a tag names, or None if the tag does not name one."""
        try:
            host, pid, started = tag.split(" ")
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started:.2f}"

    @property
    def gone(self) -> bool:
        """Whether the process has certainly ended; False for processes on other machines, which cannot be checked."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        started = _started(self.pid)
        if started is None:  # it has just ended, is a zombie, or this machine has no /proc
            return Path("/proc/self/stat").exists()
        return bool(self.started) and abs(started - self.started) > _TOLERANCE


def _started(pid: int) -> float | None:
    """Returns a process's start time in seconds since 1970; None if it has ended or the time is unknown."""
    try:
        # The name, in parentheses, may contain any character.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        if state in "ZX":
            return None
        return float(booted.split()[1]) + int(rest[18]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def tag_of_this_process() -> dict[str, str]:
    """Returns the tag for a run that this process executes."""
    return {PROCESS_TAG: str(Process.of(os.getpid()))}


def tag_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tags a run with the process that executes it; called in that process, or in a child it started for a step.

    A step on another machine, as with Celery's executor, adds no tag: its launcher monitors the run. A run that repeats another
    has that one's tag, which is replaced.
    """
    tagged = Process.from_tag(run.tags.get(PROCESS_TAG, ""))
    if tagged is not None and tagged.pid in (os.getpid(), os.getppid()) and str(Process.of(tagged.pid)) == str(tagged):
        return
    pid = next((pid for pid in _pids(instance, run) if pid in (os.getpid(), os.getppid())), None)
    if pid is not None:
        instance.add_run_tags(run.run_id, {PROCESS_TAG: str(Process.of(pid))})


def end_lost_runs(instance: dg.DagsterInstance, job_name: str | None = None) -> list[dg.DagsterRun]:
    """Ends the runs whose process is gone, and returns them.

    Args:
        job_name: Job whose runs are checked; all jobs by default.
    """
    lost = []
    for run, process in find_lost_runs(instance, job_name):
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            continue
        message = (
            f"The process of this run ({process.pid} on {process.host}) is gone: it was killed, ran out of memory, or its "
            "machine was restarted. The next run reads again what this one did not load."
        )
        if current.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(current, message)
        else:
            instance.report_run_failed(current, message)
        lost.append(run)
    return lost


def find_lost_runs(
    instance: dg.DagsterInstance, job_name: str | None = None
) -> Iterator[tuple[dg.DagsterRun, Process]]:
    """Yields the runs in progress whose process is gone, with that process."""
    for run in instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=IN_PROGRESS)):
        process = Process.from_tag(_own_tag(instance, run)) or _before_its_tag(instance, run)
        if process is not None and process.gone:
            yield run, process


def _own_tag(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Returns the tag of a run's process; empty if Dagster has copied it from the run that this one repeats (1.13.27)."""
    tag = run.tags.get(PROCESS_TAG, "")
    parent = instance.get_run_by_id(run.parent_run_id) if tag and run.parent_run_id else None
    return "" if parent is not None and parent.tags.get(PROCESS_TAG) == tag else tag


def _before_its_tag(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Process | None:
    """Returns the process of a run that was not tagged yet, from Dagster's events, which do not name the machine."""
    # With SQLite, all processes of an instance are on one machine.
    if type(instance.run_storage).__name__ != "SqliteRunStorage":
        return None
    pid = next(iter(_pids(instance, run)), None)
    return None if pid is None else Process(socket.gethostname(), pid, _started_before(instance, run, pid))


def _started_before(instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int) -> float:
    """Returns when the run's process started, or the time of its event if another process has reused its id since."""
    started, record = _started(pid) or 0.0, instance.get_run_record_by_id(run.run_id)
    created = record.create_timestamp.timestamp() if record is not None else time.time()
    # The process writes this event before anything else, so one that started later is another process.
    event = max((at for at, named in _engine_events(instance, run) if named == pid), default=created)
    return started if started <= event + _TOLERANCE else event


def _pids(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[int]:
    return [pid for _, pid in _engine_events(instance, run)]


def _engine_events(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[tuple[float, int]]:
    """Returns time and process id of the events in which the run's process, not a step's, reports its id."""
    found = []
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None and event.step_key is None else None
        if pid is not None and str(pid.value).isdigit():
            found.append((entry.timestamp, int(str(pid.value))))
    return found


@dg.sensor(
    name="lost_runs",
    minimum_interval_seconds=45,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process is gone, because schedules and locks would wait for them.",
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ends runs whose process is gone."""
    ended = end_lost_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(run.run_id for run in ended)}" if ended else "no lost runs")
