"""Ends runs whose process is gone: killed, out of memory, or gone with its machine. Nobody else would.

Dagster's code server ends the runs of its own children. What remains are runs whose server died with them and runs that a
command executed, such as `rmm sync`: Dagster's default launcher never asks whether they live, and takes them for running. So
a run says in a tag which process it is, and the next `rmm sync`, the schedule and a sensor look whether that is still there.
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

# A command's run has a process from the beginning; one that waits for its launch has none yet.
IN_PROGRESS = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

# Seconds by which two statements of when a process started may differ: clocks are set.
_TOLERANCE = 5.0


@dataclass(frozen=True)
class Process:
    """A process of this or another machine.

    Attributes:
        started: When, in seconds since 1970; 0 where the machine does not say.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Returns the process of this machine with that id."""
        return cls(socket.gethostname(), pid, _started(pid) or 0.0)

    @classmethod
    def from_tag(cls, tag: str) -> Self | None:
        """Returns the process that a tag names, None where it names none."""
        try:
            host, pid, started = tag.split(" ")
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started:.2f}"

    @property
    def gone(self) -> bool:
        """Whether it is certainly over; of another machine's nothing is certain."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        started = _started(self.pid)
        if started is None:  # it ended just now, or is a zombie; or this machine has no /proc
            return Path("/proc/self/stat").exists()
        return bool(self.started) and abs(started - self.started) > _TOLERANCE


def _started(pid: int) -> float | None:
    """Returns when a process started, in seconds since 1970; None where it is over or the machine does not say."""
    try:
        # The name, in parentheses, may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        if state in "ZX":
            return None
        return float(booted.split()[1]) + int(rest[18]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def tag_of_this_process() -> dict[str, str]:
    """Returns the tag of a run that this process executes."""
    return {PROCESS_TAG: str(Process.of(os.getpid()))}


def tag_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Writes into a run's tags which process executes it; called in that process, or in one that it started for a step.

    A step that runs on another machine, as with Celery, says nothing: its launcher watches over the run.
    """
    if PROCESS_TAG in run.tags:
        return
    pid = next((pid for pid in _pids(instance, run) if pid in (os.getpid(), os.getppid())), None)
    if pid is not None:
        instance.add_run_tags(run.run_id, {PROCESS_TAG: str(Process.of(pid))})


def end_lost_runs(instance: dg.DagsterInstance, job_name: str | None = None) -> list[dg.DagsterRun]:
    """Ends the runs whose process is gone, and returns them.

    Args:
        job_name: Only those of this job.
    """
    lost = []
    for run, process in find_lost_runs(instance, job_name):
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            continue
        message = (
            f"The process of this run ({process.pid} on {process.host}) is gone: it was killed, ran out of memory, or its "
            "machine was restarted. What it had not published is read again by the next run."
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
        process = Process.from_tag(run.tags.get(PROCESS_TAG, "")) or _before_its_tag(instance, run)
        if process is not None and process.gone:
            yield run, process


def _before_its_tag(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Process | None:
    """The process of a run that had no time to write its tag, from Dagster's events; they do not say which machine."""
    # With SQLite, all of an instance's processes are on one machine.
    if type(instance.run_storage).__name__ != "SqliteRunStorage":
        return None
    pid = next(iter(_pids(instance, run)), None)
    return None if pid is None else Process(socket.gethostname(), pid, _started_before(instance, run, pid))


def _started_before(instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int) -> float:
    """When the process of a run must have started: as the one of that id did, unless that is younger than the run."""
    started, record = _started(pid) or 0.0, instance.get_run_record_by_id(run.run_id)
    created = record.create_timestamp.timestamp() if record is not None else time.time()
    # A run's process is made after the run, and writes the event before anything else; a later one took over its id.
    event = max((at for at, named in _engine_events(instance, run) if named == pid), default=created)
    return started if started <= event + _TOLERANCE else event


def _pids(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[int]:
    return [pid for _, pid in _engine_events(instance, run)]


def _engine_events(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[tuple[float, int]]:
    """The times and process ids of the events in which the run's process names itself; not those of steps."""
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
    description="Ends runs whose process is gone, so that nothing waits for them.",
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ends runs whose process is gone."""
    ended = end_lost_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(run.run_id for run in ended)}" if ended else "every run's process is there")
