"""Builds `fleet_overview`, an asset downstream of a connection's tables that charts the fleet.

It writes the charts to one HTML page; its metadata contains the numbers and the page's path. See `rmm_assets.overview`.
"""

# No `from __future__ import annotations`: Dagster inspects the type annotations of `context` and `config`.

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from rmm_assets.config import Connection
from rmm_assets.config.store import store_of
from rmm_assets.orchestration.metadata import sensitive_columns
from rmm_assets.tables.table import Table

NAME = "fleet_overview"
NEEDED = ("devices", "alerts")
LOOKED_AT = (*NEEDED, "patches", "organizations")


def build_fleet_overview(connection: Connection, keys: Mapping[str, dg.AssetKey]) -> dg.AssetsDefinition | None:
    """Builds the asset `[connection, fleet_overview]`.

    Returns None if the connection does not load devices and alerts, or if the extra `charts` is not installed.

    Args:
        keys: Asset keys of the loaded resources, by resource name.
    """
    if not all(name in keys for name in NEEDED) or find_spec("matplotlib") is None:
        return None
    resources = {name: connection.resource(name) for name in LOOKED_AT if name in keys}

    class Overview(dg.Config):
        page: str = Field(
            default="data/fleet.html" if connection.name == "demo" else f"data/{connection.name}_fleet.html",
            description="HTML file to write, relative to the working directory; if empty, no page is written.",
        )

    @dg.asset(
        key=dg.AssetKey([connection.name, NAME]),
        deps=[keys[name] for name in resources],
        group_name=connection.name,
        owners=list(connection.resource_defaults.owners),
        kinds={"matplotlib", connection.destination.type},
        description=(
            f"Charts of the {connection.name} fleet: status by organization, agents not seen lately, alerts by severity "
            "over time, age of pending patches. Each materialization writes them to one HTML page, with a list of all "
            "agents not seen lately. Rows that are gone at the source are not counted."
        ),
    )
    def fleet_overview(context: dg.AssetExecutionContext, config: Overview) -> dg.MaterializeResult[Any]:
        # Imported here, because importing matplotlib takes a second and loading the code location does not need it.
        from rmm_assets.overview.charts import read_overview
        from rmm_assets.overview.drawing import draw
        from rmm_assets.overview.page import page, write

        store, name = store_of(connection), f"{connection.name}__{NAME}"
        loads = {name: context.instance.get_latest_materialization_event(keys[name]) for name in resources}
        loaded_at = {name: datetime.fromtimestamp(load.timestamp, UTC) for name, load in loads.items() if load}
        with store.reading(name, context.log) as client:
            tables = {name: Table(client, resource.table) for name, resource in resources.items()}
            hidden = {name: sensitive_columns(resources[name], table.columns()) for name, table in tables.items()}
            overview = read_overview(connection.name, tables, hidden=hidden, loaded_at=loaded_at)
        metadata = {
            chart.name: dg.MetadataValue.md("\n\n".join(filter(None, [chart.headline, chart.note])))
            for chart in overview.charts
        }
        if not config.page:
            return dg.MaterializeResult(metadata=metadata)
        images = {chart.name: draw(chart) for chart in overview.charts if chart.series}
        write(page(overview, images), Path(config.page))
        return dg.MaterializeResult(metadata={**metadata, "charts": len(images), "page": config.page})

    return fleet_overview
