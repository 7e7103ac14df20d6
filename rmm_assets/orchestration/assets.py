"""Builds a connection's Dagster assets: one asset, one op and one dlt pipeline per resource, loaded through dagster-dlt.

It uses `multi_asset` with `build_dlt_asset_specs`, because `@dlt_assets` does not accept check specs, and creates a
source and a pipeline for each run, because dlt keeps state in both.
"""

# No `from __future__ import annotations`: Dagster inspects the type annotation of `context`.

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, DagsterDltTranslator, build_dlt_asset_specs
from dagster_dlt.constants import META_KEY_PIPELINE, META_KEY_SOURCE, META_KEY_TRANSLATOR
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.common.pipeline import LoadInfo
from dlt.extract.resource import DltResource
from pydantic import PrivateAttr

from rmm_assets.config import Connection, Resource
from rmm_assets.config.tenants import Tenant
from rmm_assets.errors import PublishedError, RmmError, TenantError
from rmm_assets.http.auth import Secrets
from rmm_assets.loading.attempt import Attempt, explained_by, sentence_of
from rmm_assets.loading.dlt_internals import LongSteps
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.run import Run, open_run, store_of
from rmm_assets.loading.shared import Shared
from rmm_assets.loading.source import described
from rmm_assets.loading.tenants import Access, Batch, tenants_of
from rmm_assets.orchestration.audits import build_audit_job
from rmm_assets.orchestration.checks import COMPLETE, Check, Loaded, checks_of, reference_checks
from rmm_assets.orchestration.column_schema import COLUMN_SCHEMA, declared_columns
from rmm_assets.orchestration.descriptions import describe
from rmm_assets.orchestration.fleet_overview import build_fleet_overview
from rmm_assets.orchestration.locations import refuse_tables_of_another_location
from rmm_assets.orchestration.machines import refuse_files_of_one_machine
from rmm_assets.orchestration.metadata import materialization
from rmm_assets.orchestration.resources import RmmApi, api_resource
from rmm_assets.orchestration.schedules import Requests, build_job, build_own_job, build_schedule, freshness
from rmm_assets.orchestration.tenants import (
    build_tenants_asset,
    build_tenants_sensor,
    failure_of,
    run_requests,
    tenant_metadata,
)
from rmm_assets.tables.table import Table

# Number of loads from which the band of the `row_count` check is calculated.
HISTORY = 10

Event = dg.MaterializeResult[Any] | dg.AssetCheckResult
SpecOf = Callable[[Resource, DltResourceTranslatorData], dg.AssetSpec]
Execute = Callable[[dg.AssetExecutionContext, Resource], Iterator[Event]]


def asset_key(connection: Connection, resource_name: str) -> dg.AssetKey:
    """Returns `[connection, resource]`, the key that downstream code locations rely on."""
    return dg.AssetKey([connection.name, resource_name])


def build_connection_defs(
    connection: Connection, *, spec_of: SpecOf | None = None, execute: Execute | None = None,
    located: Callable[[dg.AssetSpec], dg.AssetSpec] = lambda spec: spec, api: RmmApi | None = None,
) -> dg.Definitions:  # fmt: skip
    """Builds the definitions of a connection.

    Its resource is bound to its own assets and jobs: Dagster describes those of `Definitions` in every job, so that the size of
    a code location would grow with the square of the number of its connections (1.13.27).

    Args:
        spec_of: Builds the spec of a resource's asset; defaults to `asset_spec`.
        execute: Runs one resource; defaults to `run_resource`.
        located: Adds to a spec a link to the line in the file that describes the asset.
        api: The connection's resource; defaults to one that looks up the secrets that the file names.
    """
    spec_of, execute = spec_of or partial(asset_spec, connection), execute or partial(run_resource, connection)
    resources = [resource for resource in connection.resources if resource.selected]
    api = api or api_resource(connection)
    plans = [plan_load(connection, resource) for resource in resources]
    translator = Translator(lambda data: spec_of(connection.resource(data.resource.name), data))
    specs = build_dlt_asset_specs(described(connection, plans), None, translator)  # type: ignore[arg-type]
    if connection.tenants is not None:
        return _tenants_defs(connection, plans, [located(spec) for spec in specs], execute, api)
    assets = [build_resource_asset(connection, plan, spec, execute) for plan, spec in zip(plans, specs, strict=True)]
    assets = list(dg.with_resources(assets, {_resource_key(connection): api}))
    keys = {resource.name: asset.key for resource, asset in zip(resources, assets, strict=True)}
    charts = build_fleet_overview(connection, keys)
    if charts is not None:
        assets.append(charts)
    jobs, schedules = _jobs_and_schedules(connection, [asset.key for asset in assets], keys, api)
    return dg.Definitions(
        assets=[asset.map_asset_specs(located) for asset in assets],
        asset_checks=[check for resource in resources for check in _reference_checks(connection, resource)],
        jobs=jobs,
        schedules=schedules,
    )


def _jobs_and_schedules(
    connection: Connection, assets: Sequence[dg.AssetKey], keys: Mapping[str, dg.AssetKey], api: RmmApi,
    requests: Requests | None = None,
) -> tuple[list[dg.JobDefinition], list[dg.ScheduleDefinition]]:  # fmt: skip
    """Builds the jobs of a connection and their schedules.

    Args:
        assets: All of its assets.
        keys: Those of its resources, by name.
        requests: Returns the runs of a tick; by default one.
    """
    job, audit = build_job(connection, assets), build_audit_job(connection, _resource_key(connection), api)
    own = {name: each.schedule for name in keys if (each := connection.resource(name)).schedule}
    own_jobs = {name: build_own_job(connection, connection.resource(name), keys[name]) for name in own}
    others = [key for key in assets if key not in {keys[name] for name in own}] if own else None
    schedules = (
        build_schedule(connection.schedule, job, others, requests),
        *(build_schedule(schedule, own_jobs[name], None, requests) for name, schedule in own.items()),
        build_schedule(connection.audit, audit),
    )
    return [job, *own_jobs.values(), audit], [schedule for schedule in schedules if schedule]


def _tenants_defs(
    connection: Connection, plans: Sequence[LoadPlan], specs: Sequence[dg.AssetSpec], execute: Execute, api: RmmApi
) -> dg.Definitions:
    """Builds the definitions of a connection with tenants; one asset's checks may read another one's table in its op."""
    resources = [plan.resource for plan in plans]
    checks = [
        check.spec(spec.key, *([asset_key(connection, other)] if other else []))
        for spec, resource in zip(specs, resources, strict=True)
        for other, check in _all_checks(connection, resource)
    ]
    asset = build_tenants_asset(
        connection, [_without_dlt(spec) for spec in specs], checks, resources, execute, _resource_key(connection)
    )
    [bound] = dg.with_resources([asset], {_resource_key(connection): api})
    keys = {resource.name: spec.key for resource, spec in zip(resources, specs, strict=True)}
    requests = partial(run_requests, connection)
    jobs, schedules = _jobs_and_schedules(connection, list(keys.values()), keys, api, requests)
    return dg.Definitions(assets=[bound], jobs=jobs, schedules=schedules, sensors=[build_tenants_sensor(connection)])


def _all_checks(connection: Connection, resource: Resource) -> list[tuple[str, Check]]:
    """Returns the checks of a resource, each with the resource whose table it also reads."""
    return [("", check) for check in checks_of(connection, resource)] + list(
        reference_checks(connection, resource).items()
    )


def _without_dlt(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Returns a spec without dagster-dlt's objects, on which it would fall back; they do not belong to a run."""
    keys = (META_KEY_SOURCE, META_KEY_PIPELINE, META_KEY_TRANSLATOR)
    return spec.replace_attributes(metadata={name: value for name, value in spec.metadata.items() if name not in keys})


def _resource_key(connection: Connection) -> str:
    return f"{connection.name}_api"


def build_resource_asset(
    connection: Connection, plan: LoadPlan, spec: dg.AssetSpec, execute: Execute
) -> dg.AssetsDefinition:
    """Builds the asset and the checks of one resource, in one op."""
    resource = plan.resource

    @dg.multi_asset(
        name=plan.source_name,
        specs=[_without_dlt(spec)],
        check_specs=[check.spec(spec.key) for check in checks_of(connection, resource)],
        can_subset=True,
        required_resource_keys={_resource_key(connection)},
        description=f"Reads {resource.name} from the API of {connection.name} and loads it.",
    )
    def load(context: dg.AssetExecutionContext) -> Iterator[Event]:
        yield from execute(context, resource)

    return load


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
        checks = [check for _, check in _all_checks(connection, resource) if check.name in selected]
        if key in context.selected_asset_keys:
            shared: Shared = getattr(context.resources, _resource_key(connection)).shared
            yield from _load_tenants(context, connection, plan, checks, shared)
        else:
            yield from _check(context, connection, plan, checks)
        return
    wanted = [check for check in checks_of(connection, resource) if check.name in selected]
    if key in context.selected_asset_keys:
        api: RmmApi = getattr(context.resources, _resource_key(connection))
        yield from _load(context, connection, plan, api, wanted)
    else:
        yield from _check(context, connection, plan, wanted)


def _reference_checks(connection: Connection, resource: Resource) -> Iterator[dg.AssetChecksDefinition]:
    """Yields the checks that also depend on another resource's table."""
    key = asset_key(connection, resource.name)
    for other, check in reference_checks(connection, resource).items():
        yield _reference_check(connection, plan_load(connection, resource), key, asset_key(connection, other), check)


def _reference_check(
    connection: Connection, plan: LoadPlan, key: dg.AssetKey, other: dg.AssetKey, check: Check
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=key, additional_deps=[other], name=check.name, description=check.description)
    def evaluate(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        refuse_files_of_one_machine(context.instance, context.job_def.executor_def.name, connection)
        store = store_of(connection)
        store.prepare()
        name = plan.source_name
        with store.reading(name, context.log) as client:
            return check.result(key, Table(client, plan.table), Loaded({}))

    return evaluate


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
    def of(cls, run: Run) -> "_Loader":
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


class Translator(DagsterDltTranslator):
    """Provides dagster-dlt with the spec of one resource's asset."""

    def __init__(self, spec_of: Callable[[DltResourceTranslatorData], dg.AssetSpec]) -> None:
        self._spec_of = spec_of

    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        return self._spec_of(data)


def asset_spec(connection: Connection, resource: Resource, _: DltResourceTranslatorData) -> dg.AssetSpec:
    """Builds the spec of a resource's asset, as documented in the contracts."""
    plan = plan_load(connection, resource)
    parent = connection.resource(resource.parent) if resource.parent else None
    # dagster-dlt's default dependency is an asset that is never materialized, so `on_cron` would never fire.
    deps = [asset_key(connection, parent.name)] if parent is not None and parent.selected else []
    return dg.AssetSpec(
        key=asset_key(connection, resource.name),
        deps=deps,
        group_name=connection.name,
        kinds={"dlt", connection.destination.type},
        description=describe(connection, plan),
        freshness_policy=freshness(connection, resource),
        owners=list(resource.owners),
        tags=dict(resource.tags),
        metadata={
            COLUMN_SCHEMA: declared_columns(plan),
            "dagster/table_name": f"{connection.dataset_name}.{plan.table}",
            "rmm_assets/place": store_of(connection).place(),
        },
    )
