"""Whoever is to be told of a failure is told, once, in a sentence, and nobody learns the webhook's address."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.orchestration.sensors import BASE_URL, WEBHOOK, WebhookError, build_alert_sensors, post
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.orchestration import bench
from rmm_assets_tests.orchestration.receiver import SECRET, Receiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as listening:
        monkeypatch.setenv(WEBHOOK, listening.url)
        yield listening


class Watch:
    """One of the sensors, ticked by hand; it keeps its cursor between ticks, as the daemon does for it."""

    def __init__(self, name: str, instance: dg.DagsterInstance) -> None:
        self.sensor = next(sensor for sensor in build_alert_sensors() if sensor.name == name)
        self.instance = instance
        self.cursor: str | None = None
        assert self.tick() == "first tick: failures are reported from now on"

    def tick(self) -> str | None:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result.skip_message


@pytest.fixture
def acme(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("ACME_API_KEY", bench.KEY)
    with Simulator(tables={"devices": bench.devices(3)}, api_key=bench.KEY) as rmm:
        yield rmm


def test_a_failed_run_is_told_once_with_asset_sentence_and_run(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    watch = Watch("run_failures", instance)
    acme.set_faults(Faults(status=500))
    result = bench.sync(bench.connection(acme.base_url), instance)
    (sentence,) = bench.failures(result)

    assert watch.tick() == "reported 2"
    assert watch.tick() == "no failures"
    (text,) = receiver.texts
    assert text.splitlines()[0] == f"acme/devices failed: {sentence} (run {result.run_id})"
    assert text.splitlines()[1].startswith("acme/devices: check complete failed: ")


def test_the_run_is_linked_where_the_base_url_is_known(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE_URL, "https://dagster.example.com/")
    watch = Watch("run_failures", instance)
    acme.set_faults(Faults(status=500))
    result = bench.sync(bench.connection(acme.base_url), instance)
    watch.tick()
    assert f"https://dagster.example.com/runs/{result.run_id}" in receiver.texts[0]


def test_a_failed_check_of_a_good_run_is_told_once_without_values_of_rows(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    watch, runs = Watch("check_failures", instance), Watch("run_failures", instance)
    acme.set_rows("devices", [*bench.devices(2), {"id": 77001, "name": "x", "status": None}])
    result = bench.sync(bench.connection(acme.base_url), instance)
    assert result.success and bench.checks(result)["not_null_status"].metadata["rows_at_fault"].value == 1

    assert watch.tick() == "reported 1"
    assert watch.tick() == runs.tick() == "no failures"
    assert receiver.texts == [
        f"acme/devices: check not_null_status failed: 1 of 3 rows are at fault (run {result.run_id})"
    ]
    assert "77001" not in receiver.texts[0]


def test_a_warning_is_not_told(acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver) -> None:
    bench.sync(bench.connection(acme.base_url), instance)
    watch = Watch("check_failures", instance)
    acme.set_rows("devices", bench.devices(3, colour="green"))
    result = bench.sync(bench.connection(acme.base_url), instance)
    check = bench.checks(result)["schema_change"]
    assert not check.passed and check.severity is dg.AssetCheckSeverity.WARN
    assert watch.tick() == "no failures"
    assert receiver.requests == 0


def test_a_message_that_does_not_arrive_is_sent_again_at_the_next_tick(
    acme: Simulator, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(answers=[503, 302]) as receiver:
        monkeypatch.setenv(WEBHOOK, receiver.url)
        watch = Watch("run_failures", instance)
        acme.set_faults(Faults(status=500))
        for _ in range(2):
            bench.sync(bench.connection(acme.base_url), instance)
        for status in (503, 302):
            with pytest.raises(WebhookError, match=f"HTTP {status}"):
                watch.tick()
        assert watch.tick() == "reported 4"
        assert watch.tick() == "no failures"
        assert len(receiver.texts) == 1 and receiver.requests == 3


def test_what_failed_before_the_sensor_was_switched_on_is_not_told(
    acme: Simulator, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    acme.set_faults(Faults(status=500))
    bench.sync(bench.connection(acme.base_url), instance)
    assert Watch("run_failures", instance).tick() == "no failures"
    assert receiver.requests == 0


def test_a_run_that_fails_before_its_first_step_is_told(
    workplace: Path, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch("run_failures", instance)

    @dg.resource
    def broken(_: object) -> None:
        raise RuntimeError("the <key> & the vault are gone")

    @dg.asset(required_resource_keys={"vault"})
    def anything() -> None: ...

    result = dg.materialize([anything], instance=instance, resources={"vault": broken}, raise_on_error=False)
    assert not result.success
    watch.tick()
    assert "the &lt;key&gt; &amp; the vault are gone" in receiver.texts[0]


def test_the_sensors_stand_still_until_there_is_a_webhook(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {sensor.default_status for sensor in build_alert_sensors()} == {dg.DefaultSensorStatus.RUNNING}
    watch = Watch("run_failures", instance)
    monkeypatch.delenv(WEBHOOK)
    assert {sensor.default_status for sensor in build_alert_sensors()} == {dg.DefaultSensorStatus.STOPPED}
    assert watch.tick() == "RMM_ALERT_WEBHOOK is not set"


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_the_address_stands_in_no_error_and_no_log_when_the_receiver_refuses(
    status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with Receiver(answers=[status]) as receiver, caplog.at_level(logging.DEBUG):
        told = _refused(receiver.url)
    assert receiver.requests == 1
    assert SECRET not in told + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "address",
    [f"http://127.0.0.1:1/{SECRET}", f"http://hooks.example.com/{SECRET}", f"hooks/{SECRET}", f"https://[{SECRET}"],
    ids=["nobody listens", "plain http to elsewhere", "no address", "half an address"],
)
def test_the_address_stands_in_no_error_and_no_log_when_it_cannot_be_reached(
    address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        told = _refused(address)
    assert SECRET not in told + caplog.text + "".join(capfd.readouterr())


def _refused(url: str) -> str:
    """Everything that the error says when a message is not taken."""
    with pytest.raises(WebhookError, match=f"could not be delivered to the webhook in {WEBHOOK}") as caught:
        post(url, "text")
    chain = (caught.value.__cause__, caught.value.__context__)
    return "".join(traceback.format_exception(caught.value, chain=True)) + repr(chain)


def test_the_sensors_are_those_of_the_code_location() -> None:
    from rmm_assets.definitions import build_defs

    names = {sensor.name for sensor in build_defs().sensors or []}
    assert {"run_failures", "check_failures"} <= names
