"""Shows the progress of a run in this process: one live line per resource on a terminal, log lines elsewhere."""

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
        asset_of: The asset that each step loads, by step key; other steps are not shown.
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
        TextColumn("{task.fields[message]}"),
    )
    # Cleared at the end, when the summary table is printed.
    with Progress(*columns, console=console, transient=True) as progress:
        instance.add_event_listener(run_id, _Bars(names, progress))
        yield


class _Lines:
    """Prints the events of each resource as log lines."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def __call__(self, entry: dg.EventLogEntry) -> None:
        name, event = self._names.get(entry.step_key or ""), entry.dagster_event
        if name is None:
            return
        if event is None:
            # Other messages are only of interest on the run's page.
            if int(entry.level) >= logging.WARNING or entry.user_message.startswith("waiting for"):
                self._print(name, entry.user_message.partition("\n")[0])
        elif event.is_step_start:
            self._print(name, "reading")
        elif (message := _end_of(event)) is not None:
            self._print(name, message)

    def _print(self, name: str, message: str) -> None:
        click.echo(f"{name}: {message}", err=True)


class _Bars:
    """Shows the latest log message of each resource that has started."""

    def __init__(self, names: Mapping[str, str], progress: Progress) -> None:
        self._names = names
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, entry: dg.EventLogEntry) -> None:
        name, event = self._names.get(entry.step_key or ""), entry.dagster_event
        if name is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=1, message="")
        if event is None:
            self._update(name, entry.user_message.partition("\n")[0])
        elif (message := _end_of(event)) is not None:
            self._update(name, message, completed=1)

    def _update(self, name: str, message: str, completed: float | None = None) -> None:
        self._progress.update(self._tasks[name], message=escape(message[:100]), completed=completed)


def _end_of(event: dg.DagsterEvent) -> str | None:
    """Returns how a step ended, as text; None if it has not."""
    if event.is_step_failure:
        failure = event.step_failure_data.user_failure_data
        message = (failure and failure.description) or event.message or ""
        return f"failed: {message.partition(chr(10))[0]}"
    return "done" if event.is_step_success else None
