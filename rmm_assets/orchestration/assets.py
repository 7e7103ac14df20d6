"""Builds a connection's Dagster assets: one asset, one op and one dlt pipeline per resource, loaded through dagster-dlt.

It uses `multi_asset` with `build_dlt_asset_specs`, because `@dlt_assets` does not accept check specs, and creates a
source and a pipeline for each run, because dlt keeps state in both.
"""

# No `from __future__ import annotations`: Dagster inspects the type annotation of `context`.

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import dagster as dg
from dagster_dlt import build_dlt_asset_specs
from dagster_dlt.constants import META_KEY_PIPELINE, META_KEY_SOURCE, META_KEY_TRANSLATOR
from dagster_dlt.translator import DltResourceTranslatorData

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.loading.source import described
from rmm_assets.orchestration.audits import build_audit_job
from rmm_assets.orchestration.checks import Check, Loaded, all_checks, checks_of, reference_checks
from rmm_assets.orchestration.fleet_overview import build_fleet_overview
from rmm_assets.orchestration.machines import refuse_files_of_one_machine
from rmm_assets.orchestration.resources import RmmApi, api_resource, resource_key
from rmm_assets.orchestration.running import Event, run_resource
from rmm_assets.orchestration.schedules import Requests, build_job, build_own_job, build_schedule
from rmm_assets.orchestration.specs import Translator, asset_key, asset_spec
from rmm_assets.orchestration.tenants import (
    build_tenants_asset,
    build_tenants_sensor,
    run_requests,
)
from rmm_assets.tables.table import Table

SpecOf = Callable[[Resource, DltResourceTranslatorData], dg.AssetSpec]
Execute = Callable[[dg.AssetExecutionContext, Resource], Iterator[Event]]


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
    assets = list(dg.with_resources(assets, {resource_key(connection): api}))
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
    job, audit = build_job(connection, assets), build_audit_job(connection, resource_key(connection), api)
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
        for other, check in all_checks(connection, resource)
    ]
    asset = build_tenants_asset(
        connection, [_without_dlt(spec) for spec in specs], checks, resources, execute, resource_key(connection)
    )
    [bound] = dg.with_resources([asset], {resource_key(connection): api})
    keys = {resource.name: spec.key for resource, spec in zip(resources, specs, strict=True)}
    requests = partial(run_requests, connection)
    jobs, schedules = _jobs_and_schedules(connection, list(keys.values()), keys, api, requests)
    return dg.Definitions(assets=[bound], jobs=jobs, schedules=schedules, sensors=[build_tenants_sensor(connection)])


def _without_dlt(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Returns a spec without dagster-dlt's objects, on which it would fall back; they do not belong to a run."""
    keys = (META_KEY_SOURCE, META_KEY_PIPELINE, META_KEY_TRANSLATOR)
    return spec.replace_attributes(metadata={name: value for name, value in spec.metadata.items() if name not in keys})


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
        required_resource_keys={resource_key(connection)},
        description=f"Reads {resource.name} from the API of {connection.name} and loads it.",
    )
    def load(context: dg.AssetExecutionContext) -> Iterator[Event]:
        yield from execute(context, resource)

    return load


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
