"""Shows how far a run in this process is: a line a resource on a terminal, lines as they come in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    import dagster as dg


@contextmanager
def progress_of(instance: dg.DagsterInstance, run_id: str, asset_of: Mapping[str, dg.AssetKey]) -> Iterator[None]:
    """Shows the progress of a run that this process executes, on standard error.

    Args:
        asset_of: The asset that each step loads, by the step's key; other steps are not shown.
    """
    names = {step: key.to_user_string() for step, key in asset_of.items()}
    if not sys.stderr.isatty():
        instance.add_event_listener(run_id, _Lines(names))
        yield
        return
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    # Taken away at the end, when the table says it all.
    with Progress(*columns, console=console, transient=True) as progress:
        instance.add_event_listener(run_id, _Bars(names, progress))
        yield


class _Lines:
    """Prints what happens to each resource, as a log."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def __call__(self, entry: dg.EventLogEntry) -> None:
        name, event = self._names.get(entry.step_key or ""), entry.dagster_event
        if name is None:
            return
        if event is None:
            # What is only worth a look at a run's page is left out.
            if int(entry.level) >= logging.WARNING or entry.user_message.startswith("waiting for"):
                self._print(name, entry.user_message.partition("\n")[0])
        elif event.is_step_start:
            self._print(name, "reads")
        elif (said := _end_of(event)) is not None:
            self._print(name, said)

    def _print(self, name: str, said: str) -> None:
        click.echo(f"{name}: {said}", err=True)


class _Bars:
    """Keeps a line for each resource that has begun: what its run's log said last."""

    def __init__(self, names: Mapping[str, str], progress: Progress) -> None:
        self._names = names
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, entry: dg.EventLogEntry) -> None:
        name, event = self._names.get(entry.step_key or ""), entry.dagster_event
        if name is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=1, said="")
        if event is None:
            self._update(name, entry.user_message.partition("\n")[0])
        elif (said := _end_of(event)) is not None:
            self._update(name, said, completed=1)

    def _update(self, name: str, said: str, completed: float | None = None) -> None:
        self._progress.update(self._tasks[name], said=escape(said[:100]), completed=completed)


def _end_of(event: dg.DagsterEvent) -> str | None:
    """How a step ended, in words; None if it has not."""
    if event.is_step_failure:
        failure = event.step_failure_data.user_failure_data
        said = (failure and failure.description) or event.message or ""
        return f"failed: {said.partition(chr(10))[0]}"
    return "done" if event.is_step_success else None
