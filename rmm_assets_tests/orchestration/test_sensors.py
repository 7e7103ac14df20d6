"""Tests that the sensors report each failure once, with its reason and without the webhook's URL."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.definitions import build_defs
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.problems import stale_assets, waiting_runs
from rmm_assets.orchestration.sensors import build_alert_sensors
from rmm_assets.orchestration.webhook import BASE_URL, FORM, WEBHOOK, Alert, WebhookError, form_of, post
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.orchestration import bench
from rmm_assets_tests.orchestration.receiver import SECRET, Receiver

pytestmark = pytest.mark.slow


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as listening:
        monkeypatch.setenv(WEBHOOK, listening.url)
        yield listening


class Watch:
    """A sensor that is evaluated by hand, and keeps its cursor between ticks as with the daemon."""

    def __init__(self, name: str, instance: dg.DagsterInstance) -> None:
        self.sensor = next(sensor for sensor in build_alert_sensors() if sensor.name == name)
        self.instance = instance
        self.cursor: str | None = None

    def tick(self, definitions: dg.Definitions | None = None) -> str | None:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=definitions)
        result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result.skip_message


def started(name: str, instance: dg.DagsterInstance) -> Watch:
    """Returns a sensor after its first tick, which reports later failures."""
    watch = Watch(name, instance)
    assert watch.tick() == "nothing to report"
    return watch


@pytest.fixture
def acme(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("ACME_API_KEY", bench.KEY)
    with Simulator(tables={"devices": bench.devices(3)}, api_key=bench.KEY) as rmm:
        yield rmm


def test_a_failed_run_is_reported_once_with_asset_reason_and_run(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    watch = started("run_failures", instance)
    acme.set_faults(Faults(status=500))
    result = bench.sync(bench.connection(acme.base_url), instance)
    (sentence,) = bench.failures(result)

    assert watch.tick() == "reported 2"
    assert watch.tick() == "nothing to report"
    (text,) = receiver.texts
    assert text.splitlines()[0] == f"`acme/devices failed: {sentence}` (run {result.run_id})"
    assert text.splitlines()[1].startswith("`acme/devices: check complete failed: ")


def test_the_run_is_linked_if_the_base_url_is_set(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE_URL, "https://dagster.example.com/")
    watch = started("run_failures", instance)
    acme.set_faults(Faults(status=500))
    result = bench.sync(bench.connection(acme.base_url), instance)
    watch.tick()
    assert f"https://dagster.example.com/runs/{result.run_id}" in receiver.texts[0]


def test_a_failed_check_of_a_successful_run_is_reported_once_without_values_of_rows(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    watch, runs = started("check_failures", instance), started("run_failures", instance)
    acme.set_rows("devices", [*bench.devices(2), {"id": 77001, "name": "x", "status": None}])
    result = bench.sync(bench.connection(acme.base_url), instance)
    assert result.success and bench.checks(result)["not_null_status"].metadata["rows_at_fault"].value == 1

    assert watch.tick() == "reported 1"
    assert watch.tick() == runs.tick() == "nothing to report"
    assert receiver.texts == [
        f"`acme/devices: check not_null_status failed: 1 of 3 rows are at fault` (run {result.run_id})"
    ]
    assert "77001" not in receiver.texts[0]


def test_a_warning_is_not_reported(acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver) -> None:
    bench.sync(bench.connection(acme.base_url), instance)
    watch = started("check_failures", instance)
    acme.set_rows("devices", bench.devices(3, colour="green"))
    result = bench.sync(bench.connection(acme.base_url), instance)
    check = bench.checks(result)["schema_change"]
    assert not check.passed and check.severity is dg.AssetCheckSeverity.WARN
    assert watch.tick() == "nothing to report"
    assert receiver.requests == 0


def test_a_message_that_is_not_delivered_is_sent_again_at_the_next_tick(
    acme: Simulator, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(answers=[503, 302]) as receiver:
        monkeypatch.setenv(WEBHOOK, receiver.url)
        watch = started("run_failures", instance)
        acme.set_faults(Faults(status=500))
        for _ in range(2):
            bench.sync(bench.connection(acme.base_url), instance)
        for status in (503, 302):
            with pytest.raises(WebhookError, match=f"HTTP {status}"):
                watch.tick()
        assert watch.tick() == "reported 4"
        assert watch.tick() == "nothing to report"
        assert len(receiver.texts) == 1 and receiver.requests == 3


def test_failures_before_the_sensor_was_started_are_not_reported(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    acme.set_faults(Faults(status=500))
    bench.sync(bench.connection(acme.base_url), instance)
    assert started("run_failures", instance).tick() == "nothing to report"
    assert receiver.requests == 0


def test_a_run_that_fails_before_its_first_step_is_reported(
    workplace: Path, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = started("run_failures", instance)

    @dg.resource
    def broken(_: object) -> None:
        raise RuntimeError("the <key> & the vault are gone")

    @dg.asset(required_resource_keys={"vault"})
    def anything() -> None: ...

    result = dg.materialize([anything], instance=instance, resources={"vault": broken}, raise_on_error=False)
    assert not result.success
    watch.tick()
    assert "the <key> & the vault are gone" in receiver.texts[0]

    result = dg.materialize([anything], instance=instance, resources={"vault": dg.ResourceDefinition.none_resource()})
    assert watch.tick() == "reported 1"
    assert receiver.texts[1].endswith(" recovered: it is loaded again`")


def test_the_sensors_are_stopped_without_a_webhook(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {sensor.default_status for sensor in build_alert_sensors()} == {dg.DefaultSensorStatus.RUNNING}
    watch = started("run_failures", instance)
    monkeypatch.delenv(WEBHOOK)
    assert {sensor.default_status for sensor in build_alert_sensors()} == {dg.DefaultSensorStatus.STOPPED}
    assert watch.tick() == "RMM_ALERT_WEBHOOK is not set"


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_errors_and_logs_do_not_contain_the_url_if_the_receiver_refuses(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with Receiver(answers=[status]) as receiver, caplog.at_level(logging.DEBUG):
        told = _refused(receiver.url, monkeypatch)
    assert receiver.requests == 1
    assert SECRET not in told + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "address",
    [f"http://127.0.0.1:1/{SECRET}", f"http://hooks.example.com/{SECRET}", f"hooks/{SECRET}", f"https://[{SECRET}"],
    ids=["no listener", "plain http to another machine", "not a URL", "incomplete URL"],
)
def test_errors_and_logs_do_not_contain_the_url_if_it_cannot_be_reached(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        told = _refused(address, monkeypatch)
    assert SECRET not in told + caplog.text + "".join(capfd.readouterr())


def _refused(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the whole error of a message that is not accepted."""
    monkeypatch.setenv(WEBHOOK, url)
    with pytest.raises(WebhookError, match=f"could not be delivered to the webhook in {WEBHOOK}") as caught:
        post([Alert("acme/devices", "failed")])
    chain = (caught.value.__cause__, caught.value.__context__)
    return "".join(traceback.format_exception(caught.value, chain=True)) + repr(chain)


def test_an_asset_and_a_check_that_recover_are_reported_once(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    runs, checks = started("run_failures", instance), started("check_failures", instance)
    target = bench.connection(acme.base_url)
    acme.set_faults(Faults(status=500))
    bench.sync(target, instance)
    runs.tick()
    acme.set_faults(Faults())
    acme.set_rows("devices", [{"id": 1, "name": "x", "status": None}])
    bench.sync(target, instance)
    assert runs.tick() == "reported 1" and receiver.texts[-1] == "`acme/devices recovered: it is loaded again`"
    checks.tick()
    acme.set_rows("devices", bench.devices(1))
    result = bench.sync(target, instance)
    assert checks.tick() == "reported 1"
    assert receiver.texts[-1] == (
        f"`acme/devices: check not_null_status recovered: it passes again` (run {result.run_id})"
    )
    assert runs.tick() == checks.tick() == "nothing to report"


def test_a_broken_file_fails_a_check_and_is_reported_until_it_is_fixed(
    workplace: Path, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    file = workplace / "connections" / "acme" / "defs.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("type: rmm_assets.RmmConnection\nattributes: {name: acme}\n")
    watch = Watch("broken_files", instance)
    broken = build_defs(folders=[workplace / "connections"])
    assert watch.tick(broken) == "reported 1"
    assert watch.tick(broken) == "nothing to report"
    (text,) = receiver.texts
    assert text.startswith("`acme/broken_connection is not loaded: connections/acme/defs.yaml:") and "resources" in text
    key = dg.AssetCheckKey(dg.AssetKey(["acme", "broken_connection"]), "loads")
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    assert record.status.value == "FAILED"

    file.unlink()
    file.parent.rmdir()
    assert watch.tick(build_defs(folders=[workplace / "connections"])) == "reported 1"
    assert receiver.texts[1] == "`acme/broken_connection recovered`"


@pytest.mark.parametrize(("status", "stale"), [("running", True), ("stopped", False)])
def test_an_asset_is_stale_only_while_its_schedule_runs(
    status: str, stale: bool, acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    # The last tick of an every-minute schedule was some time ago, so the test does not wait for the clock.
    schedule = {"cron": "* * * * *", "timezone": "UTC", "status": status}
    definitions = build_connection_defs(bench.connection(acme.base_url, schedule=schedule))
    key = dg.AssetKey(["acme", "devices"])
    assert Watch("stale_assets", instance).tick(definitions) == "nothing to report"  # was never loaded
    assert bench.run(definitions, "sync_acme", instance).success
    repository, later = definitions.get_repository_def(), datetime.now(UTC) + timedelta(minutes=10)
    found = list(stale_assets(instance, repository, None, later))
    expected = [Alert("acme/devices", "is stale: last loaded 10 minutes ago, expected every 2 minutes")]
    assert found == (expected if stale else [])
    assert not list(stale_assets(instance, repository, None, datetime.now(UTC)))
    policy = definitions.resolve_asset_graph().get(key).freshness_policy
    assert (policy is not None) is stale


def test_an_asset_with_a_schedule_of_its_own_is_stale_while_that_runs(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    every_minute = {"cron": "* * * * *", "status": "running"}
    own = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "schedule": every_minute}
    other = {"name": "alerts", "endpoint": {"path": "/v1/devices"}}
    stopped = bench.connection(acme.base_url, [own, other], schedule={"cron": "* * * * *"})
    definitions = build_connection_defs(stopped)
    assert bench.run(definitions, "sync_acme", instance).success
    repository, later = definitions.get_repository_def(), datetime.now(UTC) + timedelta(minutes=10)
    assert [alert.subject for alert in stale_assets(instance, repository, None, later)] == ["acme/devices"]


def test_a_run_that_waits_or_runs_for_too_long_is_reported(instance: dg.DagsterInstance, receiver: Receiver) -> None:
    @dg.job
    def nothing() -> None: ...

    now = datetime.now(UTC)
    waits = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTING)
    runs = instance.create_run_for_job(nothing)
    instance.report_engine_event("starts", runs)
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, nothing.name, message="starts"), run_id=runs.run_id
    )
    assert not list(waiting_runs(instance, None, now))
    found = {alert.run_id: alert.text for alert in waiting_runs(instance, None, now + timedelta(hours=7, minutes=1))}
    assert found == {waits.run_id: "has waited to start for 7 hours", runs.run_id: "has been running for 7 hours"}
    assert Watch("waiting_runs", instance).tick() == "nothing to report"


HOSTILE = "<!channel> & @all *bold* [click](http://evil.example) `code` ![](http://evil.example/x.png)"


@pytest.mark.parametrize("form", ["slack", "mattermost", "teams"])
def test_what_an_api_sends_stays_plain_text(form: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORM, form)
    monkeypatch.setenv(BASE_URL, "https://dagster.example.com")
    post([Alert("acme/devices", f"failed: {HOSTILE}", "1234")])
    (body,) = receiver.bodies
    url = "https://dagster.example.com/runs/1234"
    if form == "slack":
        # https://api.slack.com/reference/surfaces/formatting: only these three characters are special.
        assert body["mrkdwn"] is False and not body["unfurl_links"]
        assert "<" not in body["text"] and "&lt;!channel&gt; &amp; @all" in body["text"]
        assert body["text"].endswith(url)
    elif form == "mattermost":
        # One code span, in which nothing is rendered as Markdown or as a mention.
        before, quoted, after = body["text"].split("`")
        assert (before, after) == ("", f" {url}") and "'code'" in quoted and "@all" in quoted
    else:
        (block,) = body["attachments"][0]["content"]["body"]
        text, link = block["inlines"]
        assert block["type"] == "RichTextBlock" and text == {
            "type": "TextRun",
            "text": f"acme/devices failed: {HOSTILE}",
        }
        assert link["selectAction"] == {"type": "Action.OpenUrl", "url": url}


@pytest.mark.parametrize(
    ("host", "form"),
    [
        ("hooks.slack.com", "slack"),
        ("acme.webhook.office.com", "teams"),
        ("prod-1.westeurope.logic.azure.com", "teams"),
        ("chat.example.com", "mattermost"),
        ("hooks.slack.com.example.com", "mattermost"),
    ],
)
def test_the_format_follows_from_the_host(host: str, form: str) -> None:
    assert form_of(f"https://{host}/services/x") == form


def test_an_unknown_format_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORM, "pager")
    with pytest.raises(WebhookError, match=f"{FORM} must be one of slack, mattermost, teams"):
        post([Alert("acme/devices", "failed")])


def test_the_sensors_are_those_of_the_code_location() -> None:
    names = {sensor.name for sensor in build_defs().sensors or []}
    assert names >= {"run_failures", "check_failures", "broken_files", "stale_assets", "waiting_runs"}
