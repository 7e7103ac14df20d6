"""Collects the status of every connection: what was loaded and when, what failed last, what needs attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from rmm_assets.config import Connection
from rmm_assets.config.store import store_of
from rmm_assets.errors import TenantError
from rmm_assets.loading.tenants import tenants_of
from rmm_assets.orchestration.dagster_internals import failed_checks, schedule_is_running
from rmm_assets.orchestration.lost_runs import find_lost_runs
from rmm_assets.orchestration.problems import broken_files, stale_assets, waiting_runs
from rmm_assets.orchestration.schedules import schedule_name
from rmm_assets.orchestration.specs import asset_key
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
class TenantStatus:
    """The status of one tenant.

    Attributes:
        errors: Why resources could not be loaded in their last runs, by resource.
        last_success: When all of its resources were loaded (UTC): the oldest of their last loads; None if one never was.
        rows: The number of rows of all its resources; None if it is unknown, as after a load whose later step failed.
    """

    name: str
    errors: dict[str, str] = field(default_factory=dict)
    last_success: datetime | None = None
    rows: int | None = 0


@dataclass
class ConnectionStatus:
    """The status of one connection.

    Attributes:
        tenants: Its tenants, the worst first: those with most errors, then those whose last load is oldest.
        schedule: Its cron expression; empty if the file sets none.
        running: Whether the schedule is on.
        problem: Why the connection is not loaded, or why its tables cannot be read; empty if neither.
    """

    name: str
    schedule: str = ""
    running: bool = False
    problem: str = ""
    resources: list[ResourceStatus] = field(default_factory=list)
    tenants: list[TenantStatus] = field(default_factory=list)

    @property
    def needs_a_person(self) -> bool:
        failed = any(tenant.errors for tenant in self.tenants)
        return bool(self.problem) or failed or any(resource.needs_a_person for resource in self.resources)


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
            tenants = [
                {**asdict(tenant), "last_success": tenant.last_success and tenant.last_success.isoformat()}
                for tenant in connection.tenants
            ]
            connections.append({**asdict(connection), "resources": resources, "tenants": tenants})
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
            if connection.tenants is None:
                last_syncs = _last_syncs(connection)
            else:
                status.tenants, last_syncs[1], status.problem = _tenants(connection)
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


def _tenants(connection: Connection) -> tuple[list[TenantStatus], dict[str, syncs.Sync], str]:
    """Returns the status of each tenant, what their last syncs add up to by resource, and what is wrong with their list."""
    store, names = store_of(connection), {resource.name for resource in connection.resources if resource.selected}
    try:
        listed = tenants_of(connection, store)
        current, problem = {tenant.name for tenant in listed.tenants}, listed.problem
    except TenantError as error:
        current, problem = set[str](), str(error)
    if store.is_missing:
        return [], {}, problem
    with store.reading(f"{connection.name}__status") as client:
        latest = [sync for sync in syncs.latest_of_tenants(client) if sync.resource in names]
        loaded = syncs.latest_of_tenants(client, loaded=True)
    found: dict[str, TenantStatus] = {}
    for sync in latest:
        name = str(sync.tenant)
        if not problem and name not in current:
            continue  # what failed last does not matter once it is gone
        tenant = found.setdefault(name, TenantStatus(name))
        if sync.error:
            tenant.errors[sync.resource] = sync.error
    for name, tenant in found.items():
        times = {sync.resource: sync.started for sync in loaded if sync.tenant == name and sync.resource in names}
        tenant.last_success = min(times.values()) if names <= times.keys() else None
        tenant.rows = _sum(sync.row_count for sync in loaded if sync.tenant == name)
    never = datetime.min.replace(tzinfo=UTC)
    worst = sorted(found.values(), key=lambda each: (-len(each.errors), each.last_success or never, each.name))
    totals: dict[str, syncs.Sync] = {}
    for sync in loaded:
        other = totals.get(sync.resource)
        totals[sync.resource] = sync if other is None else replace(
            sync, started=max(sync.started, other.started), row_count=_sum((sync.row_count, other.row_count))
        )  # fmt: skip
    return worst, totals, problem


def _resource(
    name: str, instance: dg.DagsterInstance, key: dg.AssetKey, last: syncs.Sync | None, loaded: syncs.Sync | None
) -> ResourceStatus:
    status = ResourceStatus(name)
    event = instance.get_latest_materialization_event(key)
    if event is not None and event.asset_materialization is not None:
        metadata = event.asset_materialization.metadata
        status.last_success = datetime.fromtimestamp(event.timestamp, UTC)
        status.rows, status.rejected = (_number(metadata.get(key)) for key in ("dagster/row_count", "rows_rejected"))
    if loaded is not None and (
        status.last_success is None or status.rows is None or loaded.started > status.last_success
    ):
        status.last_success, status.rows, status.rejected = loaded.started, loaded.row_count, loaded.rows_rejected
    if last is not None:
        status.last_run, status.verdict, status.error = last.run_id, last.verdict, last.error
    return status


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Returns the sum of numbers; None if one of them is unknown."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known))


def _number(value: Any) -> int | None:
    return None if value is None else int(value.value)
