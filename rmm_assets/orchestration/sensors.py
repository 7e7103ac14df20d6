"""Builds the sensors that post failures, other problems and recoveries to a webhook.

They are off until `RMM_ALERT_WEBHOOK` is set. A message names assets and checks and says why they failed, but never
contains values of rows. Everything is reported once, and nothing is lost: a sensor's cursor only advances after the
receiver has accepted the message, so a tick that cannot deliver its message fails, and the next one sends it again.
Dagster's own `run_failure_sensor` advances either way. See `webhook` for the messages and `problems` for what is found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun

from rmm_assets.orchestration.problems import LOADS, broken_files, is_ours, stale_assets, waiting_runs
from rmm_assets.orchestration.webhook import WEBHOOK, Alert, post

NO_REASON = "Dagster gives no reason"

_RUNS_PER_TICK = 100


@dataclass
class _Seen:
    """The state that a sensor keeps between ticks.

    Attributes:
        events: Cursor of Dagster's event log; None before the first tick.
        open: Time of each reported failure that has not recovered, by subject.
    """

    events: str | None = None
    open: dict[str, float] = field(default_factory=dict)


_Find = Callable[[dg.SensorEvaluationContext, _Seen], list[Alert]]
"""Returns what to report, and updates the sensor's state."""


def build_alert_sensors() -> list[dg.SensorDefinition]:
    """Builds the sensors that watch the code location in which they are defined.

    By default they run if `RMM_ALERT_WEBHOOK` is set when the location is loaded, and are stopped otherwise.
    """
    return [
        _sensor(
            "run_failures", _failed_runs, 30,
            "each failed run: which asset failed and why, and when a failed asset is loaded again",
        ),
        _sensor(
            "check_failures", _failed_checks, 30,
            "each check that failed with severity ERROR in a successful run, and when it passes again. Failed checks of "
            "a failed run are part of that run's message; warnings are only shown in the UI",
        ),
        _sensor("broken_files", _broken_files, 60, "each connection file that cannot be loaded, and when it is fixed"),
        _sensor(
            "stale_assets", _stale_assets, 300,
            "each asset that was last loaded longer ago than `fresh_within`, or than twice its schedule's longest "
            "interval, and when it is loaded again. Assets of a stopped schedule do not become stale",
        ),
        _sensor("waiting_runs", _waiting_runs, 300, "each run that has waited to start, or has been running, for too long"),
    ]  # fmt: skip


def _sensor(name: str, find: _Find, seconds: int, posts: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        description=f"Posts to the webhook in {WEBHOOK} {posts}.",
        minimum_interval_seconds=seconds,
        default_status=(dg.DefaultSensorStatus.RUNNING if os.environ.get(WEBHOOK) else dg.DefaultSensorStatus.STOPPED),
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if not os.environ.get(WEBHOOK):
            return dg.SkipReason(f"{WEBHOOK} is not set")
        seen = _read(context.cursor)
        alerts = find(context, seen)
        if alerts:
            post(alerts)
        context.update_cursor(json.dumps({"events": seen.events, "open": seen.open}))
        return dg.SkipReason(f"reported {len(alerts)}" if alerts else "nothing to report")

    return watch


def _read(cursor: str | None) -> _Seen:
    try:
        return _Seen(**json.loads(cursor)) if cursor else _Seen()
    except (ValueError, TypeError):  # before 0.2, only the cursor of the event log was stored
        return _Seen(cursor)


# Failures of runs and checks, from the event log


def _changed(
    context: dg.SensorEvaluationContext, seen: _Seen, ended: DagsterEventType
) -> Iterator[tuple[DagsterRun, float]]:
    """Yields our runs that ended since the last tick, with their end times."""
    log = context.instance
    if seen.events is None:
        # Failures from before the sensor was started are not reported.
        seen.events = log.fetch_run_status_changes(ended, limit=1).cursor or ""
        return
    changes = log.fetch_run_status_changes(ended, limit=_RUNS_PER_TICK, cursor=seen.events or None, ascending=True)
    for record in changes.records:
        run = log.get_run_by_id(record.run_id)
        if run is not None and is_ours(run, _location(context)):
            yield run, record.timestamp
    seen.events = changes.cursor


def _failed_runs(context: dg.SensorEvaluationContext, seen: _Seen) -> list[Alert]:
    log = context.instance
    alerts = [
        Alert(subject, "recovered: it is loaded again")
        for subject, since in seen.open.items()
        if _succeeded_since(log, subject, since)
    ]
    for alert in alerts:
        del seen.open[alert.subject]
    for run, at in _changed(context, seen, DagsterEventType.RUN_FAILURE):
        steps = [*_events(log, run, DagsterEventType.STEP_FAILURE)]
        for event in steps:
            for asset in _assets_of(log, run, event):
                alerts.append(Alert(asset, f"failed: {_reason(event)}", run.run_id))
                seen.open[asset] = at
        if not steps:  # the run itself failed: its process died, or its code location is gone
            reasons = [_reason(event) for event in _events(log, run, DagsterEventType.RUN_FAILURE)]
            alerts.append(Alert(run.job_name, f"failed: {reasons[-1] if reasons else NO_REASON}", run.run_id))
            seen.open[run.job_name] = at
        alerts += [alert for alert, failed in _checks(log, run) if failed]
    return alerts


def _succeeded_since(log: DagsterInstance, subject: str, since: float) -> bool:
    """Returns whether an asset was materialized, or a job succeeded, after a point in time."""
    event = log.get_latest_materialization_event(dg.AssetKey.from_user_string(subject))
    if event is not None:
        return event.timestamp > since
    succeeded = dg.RunsFilter(
        job_name=subject, statuses=[dg.DagsterRunStatus.SUCCESS], created_after=datetime.fromtimestamp(since, UTC)
    )
    return bool(log.get_run_records(succeeded, limit=1))


def _failed_checks(context: dg.SensorEvaluationContext, seen: _Seen) -> list[Alert]:
    alerts = []
    for run, at in _changed(context, seen, DagsterEventType.RUN_SUCCESS):
        for alert, failed in _checks(context.instance, run):
            if failed:
                alerts.append(alert)
                seen.open[alert.subject] = at
            elif seen.open.pop(alert.subject, None) is not None:
                alerts.append(Alert(alert.subject, "recovered: it passes again", run.run_id))
    return alerts


def _checks(log: DagsterInstance, run: DagsterRun) -> Iterator[tuple[Alert, bool]]:
    """Yields every check that a run evaluated, and whether it failed with severity ERROR."""
    for event in _events(log, run, DagsterEventType.ASSET_CHECK_EVALUATION):
        check = event.asset_check_evaluation_data
        failed = not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
        if failed or check.passed:
            subject = f"{check.asset_key.to_user_string()}: check {check.check_name}"
            yield Alert(subject, f"failed: {_finding(check)}" if failed else "", run.run_id), failed


def _events(log: DagsterInstance, run: DagsterRun, kind: DagsterEventType) -> Iterator[DagsterEvent]:
    for entry in log.all_logs(run.run_id, of_type=kind):
        if entry.dagster_event is not None:
            yield entry.dagster_event


def _assets_of(log: DagsterInstance, run: DagsterRun, failure: DagsterEvent) -> list[str]:
    """Returns the assets that the failed step should have materialized, or the step's key if there are none."""
    planned = _events(log, run, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    keys = {event.asset_key for event in planned if event.step_key == failure.step_key and event.asset_key}
    return sorted(key.to_user_string() for key in keys) or [failure.step_key or run.job_name]


def _reason(failure: DagsterEvent) -> str:
    """Returns the description of a `dagster.Failure`, or the message of the innermost error."""
    data: Any = failure.event_specific_data  # of a step or of a run; both have `error`
    failure_data = getattr(data, "user_failure_data", None)
    if failure_data is not None and failure_data.description:
        return str(failure_data.description)
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message) if error is not None else failure.message or NO_REASON


def _finding(check: dg.AssetCheckEvaluation) -> str:
    """Returns why a check failed, from the metadata of our checks, without examples: those are customer data."""
    metadata: dict[str, Any] = {name: value.value for name, value in check.metadata.items()}
    parts = [str(metadata[name]) for name in ("completeness", "reason", "note") if metadata.get(name)]
    if "rows_at_fault" in metadata:
        parts.insert(0, f"{metadata['rows_at_fault']:,} of {metadata.get('rows_looked_at', 0):,} rows are at fault")
    return ". ".join([*parts, *filter(None, [check.description])]) or "see its metadata"


# Current problems, without events


def _broken_files(context: dg.SensorEvaluationContext, seen: _Seen) -> list[Alert]:
    found = list(broken_files(_repository(context)))
    for alert in found:
        if alert.subject not in seen.open:
            # Marks the connection as failed in the UI, too, although none of its assets has run.
            key = dg.AssetKey.from_user_string(alert.subject)
            failed = dg.AssetCheckEvaluation(asset_key=key, check_name=LOADS, passed=False, description=alert.text)
            context.instance.report_runless_asset_event(failed)
    return _compare(found, seen)


def _stale_assets(context: dg.SensorEvaluationContext, seen: _Seen) -> list[Alert]:
    now = datetime.now(UTC)
    return _compare(stale_assets(context.instance, _repository(context), _location(context), now), seen)


def _waiting_runs(context: dg.SensorEvaluationContext, seen: _Seen) -> list[Alert]:
    return _compare(waiting_runs(context.instance, _location(context), datetime.now(UTC)), seen)


def _compare(found: Iterable[Alert], seen: _Seen) -> list[Alert]:
    """Returns what is new since the last tick, and what has recovered."""
    now = {alert.subject: alert for alert in found}
    recovered = [Alert(subject, "recovered") for subject in seen.open if subject not in now]
    new = [alert for subject, alert in now.items() if subject not in seen.open]
    seen.open = {subject: seen.open.get(subject, datetime.now(UTC).timestamp()) for subject in now}
    return [*new, *recovered]


def _repository(context: dg.SensorEvaluationContext) -> dg.RepositoryDefinition:
    if context.repository_def is None:
        raise ValueError("this sensor needs the code location's definitions; let Dagster evaluate it, or pass them")
    return context.repository_def


def _location(context: dg.SensorEvaluationContext) -> str | None:
    origin = context.code_location_origin
    return origin.location_name if origin is not None else None
