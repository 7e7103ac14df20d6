"""Collects the status of every connection: what was loaded and when, what failed last, what needs attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from rmm_assets.config import Connection
from rmm_assets.loading.run import store_of
from rmm_assets.orchestration.assets import asset_key
from rmm_assets.orchestration.dagster_internals import failed_checks, schedule_is_running
from rmm_assets.orchestration.lost_runs import find_lost_runs
from rmm_assets.orchestration.problems import broken_files, stale_assets, waiting_runs
from rmm_assets.orchestration.schedules import schedule_name
from rmm_assets.tables import syncs


@dataclass
class ResourceStatus:
    """The status of one resource.

    Attributes:
        last_success: When it was last loaded (UTC); None if it never was.
        last_run: Id of the Dagster run that last tried to load it.
        verdict: The verdict of that run, as in `rmm_syncs`.
        error: Why that run failed; empty if it did not.
        stale: The alert if the asset is stale, else empty.
        failed_checks: Checks whose last result is a failure; warnings are left out.
    """

    name: str
    last_success: datetime | None = None
    rows: int | None = None
    rejected: int | None = None
    last_run: str = ""
    verdict: str = ""
    error: str = ""
    stale: str = ""
    failed_checks: list[str] = field(default_factory=list)

    @property
    def needs_a_person(self) -> bool:
        return bool(self.error or self.stale or self.failed_checks)


@dataclass
class ConnectionStatus:
    """The status of one connection.

    Attributes:
        schedule: Its cron expression; empty if the file sets none.
        running: Whether the schedule is on.
        problem: Why the connection is not loaded, or why its tables cannot be read; empty if neither.
    """

    name: str
    schedule: str = ""
    running: bool = False
    problem: str = ""
    resources: list[ResourceStatus] = field(default_factory=list)

    @property
    def needs_a_person(self) -> bool:
        return bool(self.problem) or any(resource.needs_a_person for resource in self.resources)


@dataclass
class Status:
    """The status of all connections.

    Attributes:
        runs: Why a run needs attention, by run id: it waits or runs too long, or its process is gone.
    """

    connections: list[ConnectionStatus]
    runs: dict[str, str]

    @property
    def needs_a_person(self) -> bool:
        return bool(self.runs) or any(connection.needs_a_person for connection in self.connections)

    def as_json(self, now: datetime) -> dict[str, Any]:
        """Returns the status as plain values, with times in ISO 8601 and ages in seconds."""
        connections = []
        for connection in self.connections:
            resources = []
            for resource in connection.resources:
                at = resource.last_success
                age = None if at is None else round((now - at).total_seconds())
                resources.append(
                    {**asdict(resource), "last_success": None if at is None else at.isoformat(), "age_seconds": age}
                )
            connections.append({**asdict(connection), "resources": resources})
        return {"needs_a_person": self.needs_a_person, "connections": connections, "runs": self.runs}


def status_of(
    connections: Mapping[str, Connection], definitions: dg.Definitions, instance: dg.DagsterInstance, now: datetime
) -> Status:
    """Collects the status of all connections from the tables `rmm_syncs` and from Dagster's instance.

    Args:
        connections: The connections that can be loaded, by name.
        definitions: The definitions of all connections, including broken ones.
    """
    repository = definitions.get_repository_def()
    stale = {alert.subject: alert.text for alert in stale_assets(instance, repository, None, now)}
    found = [
        ConnectionStatus(alert.subject.partition("/")[0], problem=alert.text) for alert in broken_files(repository)
    ]
    checks = list(repository.asset_graph.asset_check_keys)
    failed = failed_checks(instance, checks)
    for name, connection in sorted(connections.items()):
        status = ConnectionStatus(name)
        if repository.has_schedule_def(schedule_name(name)):
            schedule = repository.get_schedule_def(schedule_name(name))
            status.schedule, status.running = str(schedule.cron_schedule), schedule_is_running(instance, schedule)
        last_syncs: list[dict[str, syncs.Sync]] = [{}, {}]
        try:
            last_syncs = _last_syncs(connection)
        except Exception as error:  # each database raises its own
            status.problem = f"cannot read its tables: {error}".splitlines()[0]
        for resource in connection.resources:
            if resource.selected:
                key = asset_key(connection, resource.name)
                entry = _resource(resource.name, instance, key, *(each.get(resource.name) for each in last_syncs))
                entry.stale = stale.get(key.to_user_string(), "")
                entry.failed_checks = sorted(check.name for check in failed if check.asset_key == key)
                status.resources.append(entry)
        found.append(status)
    runs = {alert.run_id: alert.text for alert in waiting_runs(instance, None, now) if alert.run_id}
    runs |= {
        run.run_id: f"its process ({process.pid} on {process.host}) is gone; the next `rmm sync` ends it"
        for run, process in find_lost_runs(instance)
    }
    return Status(found, runs)


def _last_syncs(connection: Connection) -> list[dict[str, syncs.Sync]]:
    """Returns the last sync of each resource, and the last one that loaded something, by resource."""
    store = store_of(connection)
    if store.is_missing:
        return [{}, {}]
    with store.reading(f"{connection.name}__status") as client:
        return [syncs.latest(client), syncs.latest_loaded(client)]


def _resource(
    name: str, instance: dg.DagsterInstance, key: dg.AssetKey, last: syncs.Sync | None, loaded: syncs.Sync | None
) -> ResourceStatus:
    status = ResourceStatus(name)
    event = instance.get_latest_materialization_event(key)
    if event is not None and event.asset_materialization is not None:
        metadata = event.asset_materialization.metadata
        status.last_success = datetime.fromtimestamp(event.timestamp, UTC)
        status.rows, status.rejected = (_number(metadata.get(key)) for key in ("dagster/row_count", "rows_rejected"))
    if loaded is not None and (status.last_success is None or loaded.started > status.last_success):
        status.last_success, status.rows, status.rejected = loaded.started, loaded.row_count, loaded.rows_rejected
    if last is not None:
        status.last_run, status.verdict, status.error = last.run_id, last.verdict, last.error
    return status


def _number(value: Any) -> int | None:
    return None if value is None else int(value.value)
