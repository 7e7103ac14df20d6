"""Builds a connection's audit job: one op per resource, which fails if the table and the API differ."""

# No `from __future__ import annotations`: Dagster inspects the type annotation of `context`.

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg
from dlt.destinations.exceptions import DatabaseException, DestinationConnectionError

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.config.tenants import Tenant
from rmm_assets.errors import RmmError, TenantError
from rmm_assets.http.tokens import Tokens
from rmm_assets.loading.tenants import tenants_of
from rmm_assets.orchestration.machines import refuse_files_of_one_machine
from rmm_assets.orchestration.resources import RmmApi, api_resource
from rmm_assets.orchestration.schedules import executor_of
from rmm_assets.tables.tenants import Scope

if TYPE_CHECKING:
    from rmm_assets.audit import Audit

# Tenants whose differences a run's message and its metadata quote; the log has all.
_QUOTED, _WORST = 5, 20


def build_audit_job(connection: Connection, resource_key: str, api: RmmApi) -> dg.JobDefinition:
    """Builds the job that compares every table of a connection with the API, without changing any.

    Args:
        resource_key: Key of the connection's resource.
        api: The resource.
    """
    ops = [_audit_op(connection, resource, resource_key) for resource in connection.resources if resource.selected]

    @dg.job(
        name=f"audit_{connection.name}",
        description=f"Re-reads every resource of {connection.name} by a different route and compares it with its table. "
        "Writes nothing.",
        tags={**connection.run_tags, "rmm_assets/audit": connection.name},
        resource_defs={resource_key: api},
        executor_def=executor_of(connection),
    )
    def job() -> None:
        for op in ops:
            op()

    return job


def _audit_op(connection: Connection, resource: Resource, resource_key: str) -> dg.OpDefinition:
    @dg.op(
        name=f"audit__{connection.name}__{resource.table}",
        description=f"Compares the table of {resource.name} with the API.",
        required_resource_keys={resource_key},
        out=dg.Out(dg.Nothing),
    )
    def run(context: dg.OpExecutionContext) -> None:
        refuse_files_of_one_machine(context.instance, context.job_def.executor_def.name, connection)
        api: RmmApi = getattr(context.resources, resource_key)
        if connection.tenants is not None:
            _audit_tenants(context, connection, resource, api.shared.tokens)
            return
        result = audit_resource(connection, resource, api, context.log)
        if result.verdict == "differences":
            # Examples are only in the metadata, because the description is posted to the webhook.
            differences = "; ".join(result.sentences(examples=False))
            raise dg.Failure(f"{resource.name}: {differences}", metadata=_metadata(result), allow_retries=False)
        for sentence in result.sentences():
            context.log.warning("%s: %s", resource.name, sentence)
        context.add_output_metadata(_metadata(result))

    return run


def _audit_tenants(context: dg.OpExecutionContext, connection: Connection, resource: Resource, tokens: Tokens) -> None:
    """Audits one resource of all tenants.

    Raises:
        dagster.Failure: Tables and APIs differ, or the tenants cannot be read.
    """
    from rmm_assets.audit import worst_first

    try:
        found = tenants_of(connection, store_of(connection))
    except TenantError as error:
        raise dg.Failure(f"{resource.name}: {error}", allow_retries=False) from None
    for fault in found.faults:
        context.log.warning("%s: %s", resource.name, fault)
    results = worst_first(audit_tenant(connection, resource, tenant, context.log, tokens) for tenant in found.tenants)
    for result in results:
        for sentence in result.sentences():
            context.log.warning("%s, tenant %s: %s", resource.name, result.tenant, sentence)
    shown = {str(result.tenant): result.sentences() for result in results if result.verdict != "equal"}
    metadata: dict[str, Any] = {
        "tenants": len(results),
        "not_equal": len(shown),
        "worst": dict(islice(shown.items(), _WORST)),
    }
    if differing := [result for result in results if result.verdict == "differences"]:
        quoted = "; ".join(
            f"tenant {result.tenant}: {'; '.join(result.sentences(examples=False))}" for result in differing[:_QUOTED]
        )
        more = f"; and {len(differing) - _QUOTED} more" if len(differing) > _QUOTED else ""
        said = f"{resource.name}: {len(differing)} of {len(results)} tenants differ: {quoted}{more}"
        raise dg.Failure(said, metadata=metadata, allow_retries=False)
    context.add_output_metadata(metadata)


def audit_tenant(
    connection: Connection, resource: Resource, tenant: Tenant, log: Any = None, tokens: Tokens | None = None
) -> "Audit":
    """Audits one resource of one tenant; if that is not possible, the result says why."""
    from rmm_assets.audit import unreadable

    assert connection.tenants is not None
    within = Scope(connection.tenants.column, (tenant.name,))
    try:
        own = connection.of_tenant(tenant)
        return audit_resource(own, own.resource(resource.name), api_resource(own), log, within, tokens)
    except (TenantError, dg.Failure) as error:
        problem = str(error.description) if isinstance(error, dg.Failure) else str(error)
        return unreadable(connection, resource, problem, tenant.name)


def audit_resource(
    connection: Connection, resource: Resource, api: RmmApi, log: Any = None, within: Scope | None = None,
    tokens: Tokens | None = None,
) -> "Audit":  # fmt: skip
    """Audits one resource with the connection's key.

    Args:
        within: The tenant whose connection it is, in a connection with tenants.
        tokens: The tokens that it shares with others; those of `api` by default.

    Raises:
        dagster.Failure: No secret is set, or the audit could not run.
    """
    # Imported here, because loading the code location does not need it.
    from rmm_assets.audit import audit

    with api.session() as (base_url, secret):
        try:
            store = store_of(connection)
            return audit(
                connection, resource, secret, store=store, base_url=base_url, log=log, within=within,
                tokens=tokens or api.shared.tokens,
            )  # fmt: skip
        except (RmmError, ValueError, DatabaseException, DestinationConnectionError, OSError) as error:
            problem = f"{resource.name}: {error}"
    raise dg.Failure(problem, allow_retries=False)


def _metadata(result: "Audit") -> Mapping[str, Any]:
    metadata = result.as_json()
    for key in ("connection", "resource", "loaded_at"):
        metadata.pop(key)
    metadata["unverified"] = list(result.unverified)
    metadata["examples"] = {kind: list(labels) for kind, labels in result.examples.items()}
    if result.loaded_at is not None:
        metadata["loaded_at"] = dg.MetadataValue.timestamp(result.loaded_at)
    return metadata
