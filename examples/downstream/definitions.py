"""Somebody else's code location: it reacts to the assets of `rmm_assets`, whose code it never imports.

It relies on what docs promise and nothing else: asset keys, check names, and the metadata of a materialization. Three
ways to react stand here, from the freest to the strictest:

1. `devices_changed`, a sensor: starts a job where the last load changed rows, and not where it only ran.
2. `device_report`, an asset with `AutomationCondition.eager()`: it follows loads, whether they changed anything or not.
3. `licence_bill`, an asset that waits until the checks that block have passed, and overlooks no load. Money is at stake.

Its sensors start stopped, so that nothing runs in your instance that you did not ask for: switch them on under
Automation in the UI, materialize `demo/devices`, and watch.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

# The key of an asset is all that ties two code locations together.
DEVICES = dg.AssetKey(["demo", "devices"])


def changed_rows(metadata: Mapping[str, Any]) -> int | None:
    """How many rows a load changed; None where its metadata does not say."""
    names = ("rows_new", "rows_changed", "rows_absent")
    counts = [int(metadata[name].value) for name in names if name in metadata]
    return sum(counts) if len(counts) == len(names) else None


# 1. A job, started by a sensor


@dg.op
def update_inventory(context: dg.OpExecutionContext) -> None:
    # The load's id comes as a tag: in the table, the rows of that load have it in `_dlt_load_id`.
    context.log.info("devices of load %s go into the inventory", context.run.tags.get("load_id"))


@dg.job
def inventory() -> None:
    update_inventory()


@dg.asset_sensor(asset_key=DEVICES, job=inventory, minimum_interval_seconds=10)
def devices_changed(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry
) -> dg.RunRequest | dg.SkipReason:
    """Starts `inventory` when rows came, changed or went."""
    materialization = asset_event.asset_materialization
    metadata = materialization.metadata if materialization else {}
    changed = changed_rows(metadata)
    if changed == 0:
        return dg.SkipReason("demo/devices was loaded, and nothing changed")
    # Where nothing is said, rather once too often than never.
    load = metadata.get("load_id")
    load_id = str(load.value) if load is not None else str(asset_event.timestamp)
    # One run a load, however often the sensor sees it.
    return dg.RunRequest(run_key=load_id, tags={"load_id": load_id})


# 2. An asset that follows


@dg.asset(
    deps=[DEVICES],
    group_name="downstream",
    # After a load of its upstream, in a run of its own. A load that changed nothing counts, too, and so does one whose
    # checks failed: `blocking` stops what is downstream in the same run, not in other locations. A load that ends
    # before the asset's own run has ended is overlooked until the next one; `after_every_load` below overlooks none.
    automation_condition=dg.AutomationCondition.eager(),
)
def device_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """How many devices there are, from metadata alone: no connection to the database."""
    return dg.MaterializeResult(metadata=_said_of_devices(context))


# 3. An asset that waits for the checks, and overlooks no load


def after_every_load() -> dg.AutomationCondition[dg.AssetKey]:
    """True from a load of an upstream until a run is requested after it.

    `eager()` takes every load before the end of the asset's own run for handled (seen with Dagster 1.13), also one that
    ended while that run was under way, too late to be read by it. Here only a request handles a load.
    """
    condition = dg.AutomationCondition
    loaded = condition.any_deps_updated()
    # A load that ended right after a request is seen in the same tick as the request, which would handle it; so it
    # counts for one tick more. At worst there is a run too many.
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
    # And every blocking check of the upstream has passed on its latest load. The blocking check of a resource is the
    # one on its primary key; for all of its checks write
    #   AutomationCondition.all_deps_match(AutomationCondition.all_checks_match(AutomationCondition.check_passed()))
    automation_condition=after_every_load() & dg.AutomationCondition.all_deps_blocking_checks_passed(),
)
def licence_bill(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """What the devices cost: a device that stands in the table twice would be paid twice."""
    said = _said_of_devices(context)
    return dg.MaterializeResult(metadata={**said, "licences": said["devices"]})


def _said_of_devices(context: dg.AssetExecutionContext) -> dict[str, Any]:
    event = context.instance.get_latest_materialization_event(DEVICES)
    if event is None or event.asset_materialization is None:
        raise dg.Failure("demo/devices was never materialized")
    metadata = event.asset_materialization.metadata
    return {
        "devices": metadata["dagster/row_count"].value,
        "table": metadata["dagster/table_name"].value,
        "load_id": metadata["load_id"].value,
    }


# Conditions are looked at by a sensor. Dagster makes one by itself, which is stopped; this one has a name and a pace.
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
