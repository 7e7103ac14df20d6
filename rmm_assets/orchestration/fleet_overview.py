"""A connection's tables to `fleet_overview`: an asset behind them whose metadata holds pictures, and an HTML page.

Which numbers and how they look is `rmm_assets.overview`'s business.
"""

# No `from __future__ import annotations`: Dagster reads the types of `context` and `config` off the function.

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from rmm_assets.config import Connection
from rmm_assets.loading.run import store_of
from rmm_assets.orchestration.metadata import sensitive_columns
from rmm_assets.tables.table import Table

NAME = "fleet_overview"
NEEDED = ("devices", "alerts")
LOOKED_AT = (*NEEDED, "patches", "organizations")


def build_fleet_overview(
    connection: Connection, keys: Mapping[str, dg.AssetKey], *, pool: str | None
) -> dg.AssetsDefinition | None:
    """Builds the asset `[connection, fleet_overview]`.

    None where the connection loads no devices or no alerts, or where the extra `charts` is not installed.

    Args:
        keys: Asset keys of the resources that are loaded, by resource.
        pool: Of the loads: DuckDB's file is closed to readers while one of them writes.
    """
    if not all(name in keys for name in NEEDED) or find_spec("matplotlib") is None:
        return None
    resources = {name: connection.resource(name) for name in LOOKED_AT if name in keys}

    class Overview(dg.Config):
        page: str = Field(
            default="data/fleet.html" if connection.name == "demo" else f"data/{connection.name}_fleet.html",
            description="HTML file to write, from the working directory; nothing is written where it is empty.",
        )

    @dg.asset(
        key=dg.AssetKey([connection.name, NAME]),
        deps=[keys[name] for name in resources],
        group_name=connection.name,
        owners=list(connection.resource_defaults.owners),
        kinds={"matplotlib", connection.destination.type},
        pool=pool,
        description=(
            f"The fleet of {connection.name} in pictures: status by organization, agents not seen lately, alerts by "
            "severity over time, age of patches that wait. Each materialization holds them as images; the same stand "
            "on one HTML page. Rows that are gone at the source are left out."
        ),
    )
    def fleet_overview(context: dg.AssetExecutionContext, config: Overview) -> dg.MaterializeResult[Any]:
        # Here: matplotlib takes a second to import, and the code location is loaded without it.
        from rmm_assets.overview.charts import read_overview
        from rmm_assets.overview.drawing import data_uri, draw
        from rmm_assets.overview.page import page, write

        store, name = store_of(connection), f"{connection.name}__{NAME}"
        with store.alone(name, context.log), store.pipeline(name, read_only=True).sql_client() as client:
            tables = {name: Table(client, resource.table) for name, resource in resources.items()}
            hidden = {name: sensitive_columns(resources[name], table.columns()) for name, table in tables.items()}
            overview = read_overview(connection.name, tables, hidden=hidden)
        pictures = {chart.name: draw(chart) for chart in overview.charts if chart.series}
        metadata: dict[str, dg.MetadataValue[Any] | str | int] = {"pictures": len(pictures)}
        for chart in overview.charts:
            image = f"![{chart.title}]({data_uri(pictures[chart.name])})" if chart.name in pictures else ""
            metadata[chart.name] = dg.MetadataValue.md("\n\n".join(filter(None, [chart.headline, image, chart.note])))
        if config.page:
            write(page(overview, pictures), Path(config.page))
            metadata["page"] = config.page
        return dg.MaterializeResult(metadata=metadata)

    return fleet_overview
