"""Reacts to the assets of `rmm_assets` from another code location, which does not import `rmm_assets`.

It relies only on the documented contracts: asset keys, check names, and the metadata of a materialization. It shows three
ways to react, from the most flexible to the strictest:

1. `devices_changed`, a sensor, starts a job if the last load changed rows.
2. `device_report`, an asset with `AutomationCondition.eager()`, runs after loads, whether or not they changed anything.
3. `licence_bill`, an asset that waits until blocking checks have passed, never misses a load, because money is at stake.

The sensors are stopped by default: switch them on under Automation in the UI, materialize `demo/devices`, and watch.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

# The asset key is the only connection between the two code locations.
DEVICES = dg.AssetKey(["demo", "devices"])


def changed_rows(metadata: Mapping[str, Any]) -> int | None:
    """Returns how many rows a load changed, or None if its metadata does not say."""
    names = ("rows_new", "rows_changed", "rows_absent")
    counts = [int(metadata[name].value) for name in names if name in metadata]
    return sum(counts) if len(counts) == len(names) else None


# 1. A job, started by a sensor


@dg.op
def update_inventory(context: dg.OpExecutionContext) -> None:
    # The load's id is a tag of the run; in the table, it is the `_dlt_load_id` of the load's rows.
    context.log.info("updating the inventory with the devices of load %s", context.run.tags.get("load_id"))


@dg.job
def inventory() -> None:
    update_inventory()


@dg.asset_sensor(asset_key=DEVICES, job=inventory, minimum_interval_seconds=10)
def devices_changed(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry
) -> dg.RunRequest | dg.SkipReason:
    """Starts `inventory` if rows are new, changed or gone."""
    materialization = asset_event.asset_materialization
    metadata = materialization.metadata if materialization else {}
    changed = changed_rows(metadata)
    if changed == 0:
        return dg.SkipReason("demo/devices was loaded, and nothing changed")
    # If the metadata does not say, an unnecessary run is better than a missing one.
    load = metadata.get("load_id")
    load_id = str(load.value) if load is not None else str(asset_event.timestamp)
    # One run per load, even if the sensor sees it more than once.
    return dg.RunRequest(run_key=load_id, tags={"load_id": load_id})


# 2. An asset that runs after loads


@dg.asset(
    deps=[DEVICES],
    group_name="downstream",
    # Runs after a load of its upstream, in a separate run, even if the load changed nothing or its checks failed:
    # `blocking` stops downstream assets in the same run, not in other locations. A load that ends before the asset's own
    # run has ended is missed until the next one; `after_every_load` below does not miss any.
    automation_condition=dg.AutomationCondition.eager(),
)
def device_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """Reports the number of devices, from metadata alone, without a connection to the database."""
    return dg.MaterializeResult(metadata=_device_metadata(context))


# 3. An asset that waits for the checks, and does not miss a load


def after_every_load() -> dg.AutomationCondition[dg.AssetKey]:
    """Returns a condition that is true from an upstream's load until a run is requested after it.

    `eager()` treats every load before the end of the asset's own run as handled (tested with Dagster 1.13), even one that
    ended too late to be read by that run. Here, a load only counts as handled once a run is requested after it.
    """
    condition = dg.AutomationCondition
    loaded = condition.any_deps_updated()
    # A load that ended right after a request is seen in the same tick as the request and would count as handled, so it
    # counts for one more tick. At worst, this causes an unnecessary run.
    loaded_a_tick_ago = (~loaded).newly_true()
    return (
        (loaded | loaded_a_tick_ago).since(condition.newly_requested() | condition.initial_evaluation())
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    )


@dg.asset(
    deps=[DEVICES],
    group_name="downstream",
    # Also requires that every blocking check of the upstream passed on its latest load. The blocking check of a resource
    # is the one on its primary key; to require all of its checks, write
    #   AutomationCondition.all_deps_match(AutomationCondition.all_checks_match(AutomationCondition.check_passed()))
    automation_condition=after_every_load() & dg.AutomationCondition.all_deps_blocking_checks_passed(),
)
def licence_bill(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """Calculates the cost of the devices; a device that is in the table twice would be billed twice."""
    devices = _device_metadata(context)
    return dg.MaterializeResult(metadata={**devices, "licences": devices["devices"]})


def _device_metadata(context: dg.AssetExecutionContext) -> dict[str, Any]:
    event = context.instance.get_latest_materialization_event(DEVICES)
    if event is None or event.asset_materialization is None:
        raise dg.Failure("demo/devices was never materialized")
    metadata = event.asset_materialization.metadata
    return {
        "devices": metadata["dagster/row_count"].value,
        "table": metadata["dagster/table_name"].value,
        "load_id": metadata["load_id"].value,
    }


# A sensor evaluates conditions. Dagster's default one is stopped; this one sets its own name and interval.
downstream_automation = dg.AutomationConditionSensorDefinition(
    "downstream_automation",
    target=dg.AssetSelection.groups("downstream"),
    minimum_interval_seconds=10,
)

defs = dg.Definitions(
    assets=[device_report, licence_bill],
    jobs=[inventory],
    sensors=[devices_changed, downstream_automation],
)
