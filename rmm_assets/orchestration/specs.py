"""Builds the spec of a resource's asset, as documented in the contracts."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
from dagster_dlt import DagsterDltTranslator
from dagster_dlt.translator import DltResourceTranslatorData

from rmm_assets.config import Connection, Resource
from rmm_assets.config.store import store_of
from rmm_assets.loading.plan import plan_load
from rmm_assets.orchestration.column_schema import COLUMN_SCHEMA, declared_columns
from rmm_assets.orchestration.descriptions import describe
from rmm_assets.orchestration.schedules import freshness


def asset_key(connection: Connection, resource_name: str) -> dg.AssetKey:
    """Returns `[connection, resource]`, the key that downstream code locations rely on."""
    return dg.AssetKey([connection.name, resource_name])


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
