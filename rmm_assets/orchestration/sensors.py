"""Runs and checks that failed to a message at a webhook: two sensors, off until `RMM_ALERT_WEBHOOK` is set.

The message is JSON as Slack, Mattermost and many others take it: `{"text": ...}`. It names assets, checks and the
sentence why, never values of rows. The address is a secret, because whoever knows it can post: it is read when a tick
needs it and stands in no message, no error and no log.

Each failure is told once and none is lost: the cursor moves when the receiver has answered, so a tick whose message
does not arrive is red, and the next one tells it again. Dagster's own `run_failure_sensor` moves on either way.
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

_TIMEOUT = 10.0  # seconds; Dagster gives a tick sixty
_RUNS_A_TICK = 100
_LINES = 20  # of a message; more would be cut by the receivers
_LETTERS = 500  # of a line


class WebhookError(Exception):
    """A message did not arrive; the text says why and does not name the address."""


def build_alert_sensors() -> list[dg.SensorDefinition]:
    """`run_failures` and `check_failures`, for the code location that they are defined in.

    Running from the start where `RMM_ALERT_WEBHOOK` is set when the location is loaded, stopped where it is not.
    """
    return [
        _sensor(
            "run_failures",
            DagsterEventType.RUN_FAILURE,
            _of_failed_run,
            f"Tells the webhook in {WEBHOOK} of each run that failed: which asset, and the sentence why.",
        ),
        _sensor(
            "check_failures",
            DagsterEventType.RUN_SUCCESS,
            _of_checks,
            f"Tells the webhook in {WEBHOOK} of each check that failed with severity ERROR in a run that succeeded. "
            "Checks of a failed run stand in that run's message; warnings stay in the UI.",
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
            return dg.SkipReason(f"{WEBHOOK} is not set: nobody to tell")
        if context.cursor is None:
            # What failed before anybody asked to be told is history.
            context.update_cursor(context.instance.fetch_run_status_changes(ended, limit=1).cursor)
            return dg.SkipReason("watching from now on")
        changes = context.instance.fetch_run_status_changes(
            ended, limit=_RUNS_A_TICK, cursor=context.cursor, ascending=True
        )
        lines: list[str] = []
        for record in changes.records:
            run = context.instance.get_run_by_id(record.run_id)
            if run is not None and _is_ours(run, context):
                lines += lines_of(context.instance, run)
        if lines:
            post(webhook, "\n".join(_first(lines)))
        context.update_cursor(changes.cursor)
        return dg.SkipReason(f"told of {len(lines)}" if lines else "nothing failed")

    return watch


def _is_ours(run: DagsterRun, context: dg.SensorEvaluationContext) -> bool:
    # A run that was started in a process of its own, as by `rmm sync`, has no origin and is of no location.
    origin, here = run.remote_job_origin, context.code_location_origin
    return origin is None or here is None or origin.location_name == here.location_name


def _of_failed_run(instance: dg.DagsterInstance, run: DagsterRun) -> Iterator[str]:
    place = _place(run)
    failures = [*_events(instance, run, DagsterEventType.STEP_FAILURE)]
    for event in failures:
        yield f"{_assets_of(instance, run, event)} failed: {_text(_sentence(event))} {place}"
    if not failures:  # the run itself: its process died, or its code location is gone
        ends = [_sentence(event) for event in _events(instance, run, DagsterEventType.RUN_FAILURE)]
        yield f"{_text(run.job_name)} failed: {_text(ends[-1] if ends else NO_REASON)} {place}"
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
    """The assets that the failed step was to make; the step's key where it was to make none."""
    planned = _events(instance, run, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    keys = {event.asset_key for event in planned if event.step_key == failure.step_key and event.asset_key}
    return _text(", ".join(sorted(key.to_user_string() for key in keys)) or failure.step_key or run.job_name)


def _sentence(failure: DagsterEvent) -> str:
    """What a person wrote to say why, or else the innermost error."""
    data: Any = failure.event_specific_data  # of a step or of a run, which have the error in common
    written = getattr(data, "user_failure_data", None)
    if written is not None and written.description:
        return str(written.description)
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message) if error is not None else failure.message or NO_REASON


def _finding(check: dg.AssetCheckEvaluation) -> str:
    """Why a check failed, from what our checks note; no example values, which are the customer's."""
    noted: dict[str, Any] = {name: value.value for name, value in check.metadata.items()}
    said = [str(noted[name]) for name in ("completeness", "reason", "note") if noted.get(name)]
    if "rows_at_fault" in noted:
        said.insert(0, f"{noted['rows_at_fault']:,} of {noted.get('rows_looked_at', 0):,} rows are at fault")
    return ". ".join([*said, *filter(None, [check.description])]) or "see its metadata"


def _place(run: DagsterRun) -> str:
    base = os.environ.get(BASE_URL, "").rstrip("/")
    return f"{base}/runs/{run.run_id}" if base else f"(run {run.run_id})"


def _text(text: str) -> str:
    """One line that a receiver takes for text: no mentions, no links made by what an API answered."""
    line = " ".join(text.split())
    line = line if len(line) <= _LETTERS else f"{line[:_LETTERS]}…"
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _LINES else [*lines[:_LINES], f"and {len(lines) - _LINES} more"]


class _NoRedirect(HTTPRedirectHandler):
    """A redirected message would arrive nowhere, as a GET without it."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(webhook: str, text: str) -> None:
    """Send a message.

    Args:
        webhook: Address of the receiver: https, or http on this machine.

    Raises:
        WebhookError: it did not arrive.
    """
    # urllib, because it writes no log: the address is a secret.
    problem = _sent(webhook, text) if _is_address(webhook) else "it must be an address that starts with https://"
    # Out of reach of the error it comes from, whose texts may hold the address.
    if problem:
        raise WebhookError(f"the message did not reach the webhook in {WEBHOOK}: {problem}")


def _is_address(webhook: str) -> bool:
    try:
        parts = urlsplit(webhook)
        return parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        )
    except ValueError:
        return False


def _sent(webhook: str, text: str) -> str:
    """Post; what went wrong, empty if nothing did."""
    body = json.dumps({"text": text}).encode()
    try:
        request = Request(webhook, data=body, headers={"Content-Type": "application/json"})
        with build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
            return ""
    except HTTPError as error:
        return f"it answered HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None)
        return f"{type(reason if isinstance(reason, Exception) else error).__name__}"
