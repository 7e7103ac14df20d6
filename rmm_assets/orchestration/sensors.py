"""Posts failed runs and checks to a webhook: two sensors, off until `RMM_ALERT_WEBHOOK` is set.

The message is JSON as accepted by Slack, Mattermost and many others: `{"text": ...}`. It names assets and checks and
says why they failed, but never contains values of rows. The webhook's URL is a secret, because anyone who knows it can
post: it is read when a tick needs it, and appears in no message, error or log.

Each failure is reported once, and none is lost: the cursor only advances when the receiver has answered, so a tick
whose message is not delivered fails, and the next one sends it again. Dagster's own `run_failure_sensor` advances
either way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, DagsterRun

WEBHOOK = "RMM_ALERT_WEBHOOK"
BASE_URL = "RMM_DAGSTER_URL"

NO_REASON = "Dagster gives no reason"

_TIMEOUT = 10.0  # seconds; Dagster allows sixty per tick
_RUNS_PER_TICK = 100
_MAX_LINES = 20  # per message; receivers truncate longer ones
_MAX_LINE_LENGTH = 500


class WebhookError(Exception):
    """Raised when a message is not delivered; the text says why, without the webhook's URL."""


def build_alert_sensors() -> list[dg.SensorDefinition]:
    """Builds `run_failures` and `check_failures`, which watch the code location that they are defined in.

    By default they run if `RMM_ALERT_WEBHOOK` is set when the location is loaded, and are stopped otherwise.
    """
    return [
        _sensor(
            "run_failures",
            DagsterEventType.RUN_FAILURE,
            _of_failed_run,
            f"Posts each failed run to the webhook in {WEBHOOK}: which asset failed, and why.",
        ),
        _sensor(
            "check_failures",
            DagsterEventType.RUN_SUCCESS,
            _of_checks,
            f"Posts each check that failed with severity ERROR in a successful run to the webhook in {WEBHOOK}. "
            "Failed checks of a failed run are part of that run's message; warnings are only shown in the UI.",
        ),
    ]


def _sensor(
    name: str,
    ended: DagsterEventType,
    lines_of: Callable[[dg.DagsterInstance, DagsterRun], Iterable[str]],
    description: str,
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        description=description,
        minimum_interval_seconds=30,
        default_status=(dg.DefaultSensorStatus.RUNNING if os.environ.get(WEBHOOK) else dg.DefaultSensorStatus.STOPPED),
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        webhook = os.environ.get(WEBHOOK)
        if not webhook:
            return dg.SkipReason(f"{WEBHOOK} is not set")
        if context.cursor is None:
            # Failures from before the sensor was started are not reported.
            context.update_cursor(context.instance.fetch_run_status_changes(ended, limit=1).cursor)
            return dg.SkipReason("first tick: failures are reported from now on")
        changes = context.instance.fetch_run_status_changes(
            ended, limit=_RUNS_PER_TICK, cursor=context.cursor, ascending=True
        )
        lines: list[str] = []
        for record in changes.records:
            run = context.instance.get_run_by_id(record.run_id)
            if run is not None and _is_ours(run, context):
                lines += lines_of(context.instance, run)
        if lines:
            post(webhook, "\n".join(_first(lines)))
        context.update_cursor(changes.cursor)
        return dg.SkipReason(f"reported {len(lines)}" if lines else "no failures")

    return watch


def _is_ours(run: DagsterRun, context: dg.SensorEvaluationContext) -> bool:
    # A run that was executed in process, as by `rmm sync`, has no origin and belongs to no location.
    origin, here = run.remote_job_origin, context.code_location_origin
    return origin is None or here is None or origin.location_name == here.location_name


def _of_failed_run(instance: dg.DagsterInstance, run: DagsterRun) -> Iterator[str]:
    place = _place(run)
    failures = [*_events(instance, run, DagsterEventType.STEP_FAILURE)]
    for event in failures:
        yield f"{_assets_of(instance, run, event)} failed: {_text(_reason(event))} {place}"
    if not failures:  # the run itself failed: its process died, or its code location is gone
        reasons = [_reason(event) for event in _events(instance, run, DagsterEventType.RUN_FAILURE)]
        yield f"{_text(run.job_name)} failed: {_text(reasons[-1] if reasons else NO_REASON)} {place}"
    yield from _of_checks(instance, run)


def _of_checks(instance: dg.DagsterInstance, run: DagsterRun) -> Iterator[str]:
    for event in _events(instance, run, DagsterEventType.ASSET_CHECK_EVALUATION):
        check = event.asset_check_evaluation_data
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
            name = f"{check.asset_key.to_user_string()}: check {check.check_name}"
            yield f"{_text(name)} failed: {_text(_finding(check))} {_place(run)}"


def _events(instance: dg.DagsterInstance, run: DagsterRun, kind: DagsterEventType) -> Iterator[DagsterEvent]:
    for entry in instance.all_logs(run.run_id, of_type=kind):
        if entry.dagster_event is not None:
            yield entry.dagster_event


def _assets_of(instance: dg.DagsterInstance, run: DagsterRun, failure: DagsterEvent) -> str:
    """Returns the assets that the failed step should have materialized, or the step's key if there are none."""
    planned = _events(instance, run, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    keys = {event.asset_key for event in planned if event.step_key == failure.step_key and event.asset_key}
    return _text(", ".join(sorted(key.to_user_string() for key in keys)) or failure.step_key or run.job_name)


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


def _place(run: DagsterRun) -> str:
    base = os.environ.get(BASE_URL, "").rstrip("/")
    return f"{base}/runs/{run.run_id}" if base else f"(run {run.run_id})"


def _text(text: str) -> str:
    """Returns one line of plain text, escaped so that an API's answer cannot create mentions or links."""
    line = " ".join(text.split())
    line = line if len(line) <= _MAX_LINE_LENGTH else f"{line[:_MAX_LINE_LENGTH]}…"
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MAX_LINES else [*lines[:_MAX_LINES], f"and {len(lines) - _MAX_LINES} more"]


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would be sent as a GET without the message."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(webhook: str, text: str) -> None:
    """Posts a message.

    Args:
        webhook: URL of the receiver: https, or http on this machine.

    Raises:
        WebhookError: The message was not delivered.
    """
    # urllib does not log, and the URL is a secret.
    problem = _send(webhook, text) if _is_address(webhook) else "it must be a URL that starts with https://"
    # Raised outside of the `except` block: the original error's text may contain the URL.
    if problem:
        raise WebhookError(f"the message could not be delivered to the webhook in {WEBHOOK}: {problem}")


def _is_address(webhook: str) -> bool:
    try:
        parts = urlsplit(webhook)
        return parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        )
    except ValueError:
        return False


def _send(webhook: str, text: str) -> str:
    """Posts the message, and returns what went wrong, or an empty string."""
    body = json.dumps({"text": text}).encode()
    try:
        request = Request(webhook, data=body, headers={"Content-Type": "application/json"})
        with build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
            return ""
    except HTTPError as error:
        return f"the receiver answered HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None)
        return f"{type(reason if isinstance(reason, Exception) else error).__name__}"
