"""Shows a connection with tenants to Dagster: one set of assets, with a dynamic partition for each tenant.

One op loads all resources, as a step that fails would keep those after it from running for the tenants that are well. A run
takes a batch of tenants; what each did is in `rmm_syncs`, its partition's event has a few numbers, and one observation of an
asset describes the batch.
"""

# No `from __future__ import annotations`: Dagster inspects the type annotation of `context`.

from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, NamedTuple

import dagster as dg

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.errors import RmmError
from rmm_assets.loading.outcome import TenantOutcome
from rmm_assets.loading.tenants import tenants_of
from rmm_assets.orchestration.dagster_internals import backfills_of
from rmm_assets.orchestration.lost_runs import IN_PROGRESS

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"

# Failed tenants that a run's message quotes; all are in `rmm_syncs`.
_QUOTED = 5


class Tenancy(NamedTuple):
    """The tenants that have partitions.

    Attributes:
        names: Their names, in Dagster's order.
        problem: What is wrong with the list of tenants; empty if nothing is.
    """

    names: list[str]
    problem: str


def partitions_of(connection: Connection) -> dg.DynamicPartitionsDefinition:
    """Returns the partitions of a connection's assets, one for each tenant."""
    return dg.DynamicPartitionsDefinition(name=f"{connection.name}_tenants")


def update_partitions(instance: dg.DagsterInstance, connection: Connection) -> Tenancy:
    """Adds partitions of new tenants, and removes those of tenants that are gone once nothing in progress names them.

    Raises:
        TenantError: The tenants cannot be read; the partitions stay as they are.
    """
    name = str(partitions_of(connection).name)
    found = tenants_of(connection, store_of(connection))
    current = [tenant.name for tenant in found.tenants]
    there = instance.get_dynamic_partitions(name)
    if added := [tenant for tenant in current if tenant not in {*there}]:
        instance.add_dynamic_partitions(name, added)
    gone = set[str]() if found.faults else {*there} - {*current}
    for tenant in gone - _in_use(instance, connection, gone):
        instance.delete_dynamic_partition(name, tenant)
    names = [tenant for tenant in instance.get_dynamic_partitions(name) if tenant not in gone]
    return Tenancy(names, found.problem)


def _in_use(instance: dg.DagsterInstance, connection: Connection, gone: Set[str]) -> Set[str]:
    """Returns the tenants whose partitions runs and backfills in progress name.

    Without the first or last partition of its range, a run fails for all of its tenants; without any, a backfill does (1.13.27).
    """
    if not gone or backfills_of(instance, connection.name):
        return gone
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, *IN_PROGRESS]))
    return {run.tags[tag] for run in runs for tag in (RANGE_START, RANGE_END, PARTITION) if tag in run.tags}


def batches(names: Sequence[str], size: int) -> Iterator[dict[str, str]]:
    """Yields the tags of a run for each batch of tenants, which follow each other in Dagster's order."""
    for start in range(0, len(names), size):
        batch = names[start : start + size]
        yield {RANGE_START: batch[0], RANGE_END: batch[-1]}


def build_tenants_asset(
    connection: Connection,
    specs: Sequence[dg.AssetSpec],
    check_specs: Sequence[dg.AssetCheckSpec],
    resources: Sequence[Resource],
    execute: Callable[[dg.AssetExecutionContext, Resource], Iterator[Any]],
    resource_key: str,
) -> dg.AssetsDefinition:
    """Builds the assets and checks of all resources, in one op."""
    assert connection.tenants is not None

    @dg.multi_asset(
        name=f"{connection.name}__tenants",
        specs=[spec.replace_attributes(partitions_def=partitions_of(connection)) for spec in specs],
        check_specs=check_specs,
        can_subset=True,
        required_resource_keys={resource_key},
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=connection.tenants.batch),
        description=f"Reads the resources of {connection.name} for a batch of tenants and loads them.",
    )
    def load(context: dg.AssetExecutionContext) -> Iterator[Any]:
        selected = {*context.selected_asset_keys, *(check.asset_key for check in context.selected_asset_check_keys)}
        failed: dict[str, str] = {}
        for spec, resource in zip(specs, resources, strict=True):
            if spec.key not in selected:
                continue
            try:
                yield from execute(context, resource)
            except dg.Failure as failure:
                failed[resource.name] = str(failure.description)
        if failed:
            said = "\n".join(f"{name}: {sentence}" for name, sentence in failed.items())
            raise dg.Failure(said, metadata={name: dg.MetadataValue.text(said) for name, said in failed.items()})

    return load


def failure_of(outcomes: Sequence[TenantOutcome]) -> str | None:
    """Returns what to say of the tenants that failed; None if none did."""
    failed = [outcome for outcome in outcomes if outcome.error]
    if not failed:
        return None
    quoted = "; ".join(f"tenant {outcome.tenant}: {outcome.error}" for outcome in failed[:_QUOTED])
    more = f"; and {len(failed) - _QUOTED} more (see rmm_syncs)" if len(failed) > _QUOTED else ""
    return f"{len(failed)} of {len(outcomes)} tenants failed: {quoted}{more}"


def tenant_metadata(outcome: TenantOutcome, load_id: str) -> dict[str, Any]:
    """Returns the metadata of a tenant's partition."""
    return {
        "dagster/partition_row_count": outcome.row_count or 0,
        "rows_loaded": outcome.rows_received,
        "rows_written": outcome.rows_written,
        "rows_new": outcome.rows_new,
        "rows_absent": outcome.rows_absent,
        "absences_held_back": bool(outcome.held_back),
        "complete": outcome.report.complete,
        "evidence": outcome.report.evidence.name.lower() if outcome.report.evidence is not None else "",
        "load_id": load_id,
        "seconds": round(outcome.seconds, 3),
    }


def run_requests(
    connection: Connection, only: Sequence[dg.AssetKey] | None, context: dg.ScheduleEvaluationContext
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Yields a run for each batch of tenants, as the requests of a schedule.

    Args:
        only: The assets of the schedule's job that a run materializes; all of them if None.
    """
    assert connection.tenants is not None
    try:
        names, _ = update_partitions(context.instance, connection)  # the sensor reports the problem
    except RmmError as error:  # so does each run
        context.log.error(f"launching runs for the tenants known so far: {error}")
        names = list(context.instance.get_dynamic_partitions(str(partitions_of(connection).name)))
    for tags in batches(names, connection.tenants.batch):
        # Dagster wants a key of each run that has not been there before.
        key = f"{context.scheduled_execution_time} {tags[RANGE_START]}"
        yield dg.RunRequest(run_key=key, tags=tags, asset_selection=only)
    if not names:
        yield dg.SkipReason("no tenants")


def build_tenants_sensor(connection: Connection) -> dg.SensorDefinition:
    """Builds the sensor that keeps the partitions of a connection like its tenants."""

    @dg.sensor(
        name=f"{connection.name}_tenants",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Adds and removes partitions as tenants of {connection.name} come and go.",
    )
    def tenants(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        before = {*context.instance.get_dynamic_partitions(str(partitions_of(connection).name))}
        try:
            names, problem = update_partitions(context.instance, connection)
        except RmmError as error:
            raise dg.Failure(str(error)) from None
        if problem:
            raise dg.Failure(f"{problem}. The other tenants are synced; no partition is removed")
        now = {*names}
        return dg.SkipReason(f"{len(now)} tenants, {len(now - before)} new, {len(before - now)} gone")

    return tenants
