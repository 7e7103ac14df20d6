"""Runs a resource for Dagster: loads it through dagster-dlt, evaluates its checks, and says why a load failed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource
from dlt.common.pipeline import LoadInfo
from dlt.extract.resource import DltResource
from pydantic import PrivateAttr

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.config.tenants import Tenant
from rmm_assets.errors import PublishedError, RmmError, TenantError
from rmm_assets.http.auth import Secrets
from rmm_assets.loading.attempt import Attempt, explained_by, sentence_of
from rmm_assets.loading.dlt_internals import LongSteps
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.run import Run, open_run
from rmm_assets.loading.shared import Shared
from rmm_assets.loading.tenants import Access, Batch, tenants_of
from rmm_assets.orchestration.checks import COMPLETE, Check, Loaded, all_checks, checks_of
from rmm_assets.orchestration.locations import refuse_tables_of_another_location
from rmm_assets.orchestration.machines import refuse_files_of_one_machine
from rmm_assets.orchestration.metadata import materialization
from rmm_assets.orchestration.resources import RmmApi, api_resource, resource_key
from rmm_assets.orchestration.specs import Translator, asset_key, asset_spec
from rmm_assets.orchestration.tenants import (
    failure_of,
    tenant_metadata,
)
from rmm_assets.tables.table import Table

# Number of loads from which the band of the `row_count` check is calculated.
HISTORY = 10

Event = dg.MaterializeResult[Any] | dg.AssetCheckResult


def run_resource(connection: Connection, context: dg.AssetExecutionContext, resource: Resource) -> Iterator[Event]:
    """Runs the selected part of a resource: its asset, its checks, or both.

    Raises:
        dagster.Failure: The load failed, or could not coordinate with other machines or code locations; the description says why.
    """
    refuse_files_of_one_machine(context.instance, context.job_def.executor_def.name, connection)
    key, plan = asset_key(connection, resource.name), plan_load(connection, resource)
    if key in context.selected_asset_keys:
        refuse_tables_of_another_location(context.instance, context.run, key)
    selected = {check.name for check in context.selected_asset_check_keys if check.asset_key == key}
    if connection.tenants is not None:
        checks = [check for _, check in all_checks(connection, resource) if check.name in selected]
        if key in context.selected_asset_keys:
            shared: Shared = getattr(context.resources, resource_key(connection)).shared
            yield from _load_tenants(context, connection, plan, checks, shared)
        else:
            yield from _check(context, connection, plan, checks)
        return
    wanted = [check for check in checks_of(connection, resource) if check.name in selected]
    if key in context.selected_asset_keys:
        api: RmmApi = getattr(context.resources, resource_key(connection))
        yield from _load(context, connection, plan, api, wanted)
    else:
        yield from _check(context, connection, plan, wanted)


def _load(
    context: dg.AssetExecutionContext,
    connection: Connection,
    plan: LoadPlan,
    api: RmmApi,
    checks: Sequence[Check],
) -> Iterator[Event]:
    """Materializes the asset and evaluates its checks.

    Raises:
        dagster.Failure: The load failed; the description says why, and whether its rows are in the table nevertheless.
    """
    resource = plan.resource
    key = asset_key(connection, resource.name)
    before = _metadata(context.instance, key, limit=HISTORY)
    redact: Callable[[str], str] = str
    # Yielded once everything is closed: if Dagster cannot store an event, it never resumes this generator, and a lock that is
    # still held would make the next step of this process wait for itself.
    events: list[Event] = []
    try:
        with (
            api.session() as (base_url, secret),
            open_run(
                connection,
                resource,
                secret,
                base_url=base_url,
                log=context.log,
                progress=LongSteps(context.log),
                plan=plan,
                run_id=context.run.run_id,
                shared=api.shared,
            ) as run,
        ):
            redact = run.redact
            metadata = _Loader.of(run).load(context, connection)
            events.append(dg.MaterializeResult(asset_key=key, metadata=metadata))
            loaded = Loaded(metadata, before)
            with run.client as client:
                events.extend(check.result(key, Table(client, plan.table), loaded) for check in checks)
    except dg.Failure as failure:  # a secret is not set
        store = replace(store_of(connection), run_id=context.run.run_id)
        Attempt(store, plan, context.log).failed(failure, str(failure.description))
        raise
    except Exception as error:
        explained, sentence = _explained(error, resource, context.log, redact)
    else:
        yield from events
        return
    yield from events
    # Outside the except block, so that the failure does not carry frames and messages of libraries as its context.
    if (
        explained is not None
        and not isinstance(explained, PublishedError)
        and any(check.name == COMPLETE for check in checks)
    ):
        yield dg.AssetCheckResult(asset_key=key, check_name=COMPLETE, passed=False, metadata={"completeness": sentence})
    raise dg.Failure(description=sentence)


def _explained(
    error: Exception, resource: Resource, log: logging.Logger, redact: Callable[[str], str]
) -> tuple[RmmError | None, str]:
    """Returns the error that explains a failure, and its sentence; logs the traceback of one that nothing explains."""
    explained, sentence = explained_by(error), redact(sentence_of(error, resource.name))
    if explained is None:
        log.error(redact(traceback.format_exc()))
    return explained, sentence


def _load_tenants(
    context: dg.AssetExecutionContext, connection: Connection, plan: LoadPlan, checks: Sequence[Check], shared: Shared
) -> Iterator[Event]:
    """Loads the rows of the run's tenants, reports each tenant's partition, and evaluates the asset's checks.

    Raises:
        dagster.Failure: Some tenants failed; the description says which and why. The others are loaded.
    """
    resource, key = plan.resource, asset_key(connection, plan.resource.name)
    before = _observed(context.instance, key, limit=HISTORY)
    checked: list[Event] = []
    redact: Callable[[str], str] = str
    try:
        batch = _batch_of(connection, context.partition_keys, context.log)
        with open_run(
            connection, resource, None, log=context.log, progress=LongSteps(context.log), plan=plan, run_id=context.run.run_id,
            tenants=batch, shared=shared,
        ) as run:  # fmt: skip
            redact = run.redact
            loader = _Loader.of(run)
            metadata = loader.load(context, connection)
            outcome = loader.outcome
            failure = failure_of(outcome.tenants)
            metadata = {**metadata, "complete": outcome.report.complete and failure is None}
            with run.client as client:
                loaded = Loaded(metadata, before, batch.names)
                checked.extend(check.result(key, Table(client, plan.table), loaded) for check in checks)
    except Exception as error:
        _, failure = _explained(error, resource, context.log, redact)
    else:
        context.log_event(dg.AssetObservation(asset_key=key, metadata=metadata))
        for tenant in outcome.tenants:
            if not tenant.error:
                context.log_event(
                    dg.AssetMaterialization(
                        asset_key=key, partition=tenant.tenant, metadata=tenant_metadata(tenant, outcome.load_id)
                    )
                )
    yield from checked
    if failure is not None:
        raise dg.Failure(failure)


def _batch_of(connection: Connection, names: Sequence[str], log: logging.Logger) -> Batch:
    """Returns the tenants of a run's partitions, without those that have gone since it was launched.

    Raises:
        TenantError: The tenants cannot be read, or all of the run's are gone.
    """
    began = datetime.now(UTC)
    found = tenants_of(connection, store_of(connection))
    known = {tenant.name: tenant for tenant in found.tenants}

    def secrets_of(tenant: Connection) -> Secrets:
        try:
            return api_resource(tenant).secrets()
        except dg.Failure as failure:
            raise TenantError(str(failure.description)) from None

    gone = [name for name in names if name not in known]
    if gone and not found.faults:
        if len(gone) == len(names):
            raise TenantError(f"{connection.name} has no tenant {', '.join(gone[:3])} any more")
        log.info("no longer tenants of %s, so they are not read: %s", connection.name, ", ".join(gone))
        names = [name for name in names if name in known]
    unlisted = f"not in the list of tenants, which has faults: {found.problem}"
    accesses = [
        Access(known[name], secrets_of) if name in known else Access(Tenant(name=name), secrets_of, unlisted)
        for name in names
    ]
    return Batch(accesses, list(known), began, found.problem)


def _check(
    context: dg.AssetExecutionContext, connection: Connection, plan: LoadPlan, checks: Sequence[Check]
) -> Iterator[Event]:
    """Evaluates checks without loading; the table is opened read-only."""
    key, store, name = asset_key(connection, plan.resource.name), store_of(connection), plan.source_name
    history = _metadata if connection.tenants is None else _observed
    latest, *before = history(context.instance, key, limit=HISTORY + 1) or [{}]
    store.prepare()
    loaded = Loaded(latest, before, _names_of_tenants(connection, context))
    with store.reading(name, context.log) as client:
        # All of them, before Dagster may fail to store one while the lock is held.
        results = [check.result(key, Table(client, plan.table), loaded) for check in checks]
    yield from results


def _names_of_tenants(connection: Connection, context: dg.AssetExecutionContext) -> list[str]:
    try:
        return [tenant.name for tenant in tenants_of(connection, store_of(connection)).tenants]
    except TenantError as error:  # checks of rows can be evaluated nevertheless
        context.log.error(str(error))
        return []


class _Loader(DagsterDltResource):
    """dagster-dlt's resource with our own metadata.

    dagster-dlt's own removes columns from the live schema, fails on the second run, omits zeros, and includes paths of
    the server.
    """

    _open: Run = PrivateAttr()
    _outcome: Outcome = PrivateAttr()

    @classmethod
    def of(cls, run: Run) -> _Loader:
        loader = cls()
        loader._open = run
        return loader

    def load(self, context: dg.AssetExecutionContext, connection: Connection) -> Mapping[str, Any]:
        """Loads the run's resource through dagster-dlt; returns the metadata of its materialization."""
        # Dagster sets its own level on the loggers it manages; at that level dlt logs about a hundred lines per run.
        logging.getLogger("dlt").setLevel(dlt.current.run_context().runtime_config.log_level)
        run = self._open
        [result] = self.run(
            context,
            dlt_source=run.source,
            dlt_pipeline=run.pipeline,
            refresh=run.refresh,
            dagster_dlt_translator=Translator(partial(asset_spec, connection, run.plan.resource)),
        )
        return result.metadata or {}

    @property
    def outcome(self) -> Outcome:
        """The outcome of the run, once it has loaded."""
        return self._outcome

    def extract_resource_metadata(
        self, context: Any, resource: DltResource, load_info: LoadInfo, dlt_pipeline: dlt.Pipeline
    ) -> Mapping[str, Any]:
        self._outcome = outcome = self._open.finish(load_info)
        plan = self._open.plan
        tables = dlt_pipeline.default_schema.tables
        columns = tables[plan.table]["columns"] if plan.table in tables else {}
        return materialization(outcome, columns, plan.resource)


def _metadata(instance: dg.DagsterInstance, key: dg.AssetKey, *, limit: int) -> list[Mapping[str, Any]]:
    """Returns the metadata of the asset's latest materializations, newest first."""
    records = instance.fetch_materializations(key, limit=limit).records
    return [record.asset_materialization.metadata for record in records if record.asset_materialization is not None]


def _observed(instance: dg.DagsterInstance, key: dg.AssetKey, *, limit: int) -> list[Mapping[str, Any]]:
    """Returns the metadata of the latest batches of tenants, newest first."""
    records = instance.fetch_observations(key, limit=limit).records
    return [record.asset_observation.metadata for record in records if record.asset_observation is not None]
