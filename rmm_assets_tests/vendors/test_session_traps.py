"""Tests that profiles whose tokens are fetched survive what their vendors' APIs do besides sending pages, or are red."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets.cli.check import checked
from rmm_assets.errors import RmmError
from rmm_assets.orchestration.audits import audit_resource
from rmm_assets.orchestration.resources import api_resource
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.vendors import sessions
from rmm_assets_tests.vendors.dialect import Asked
from rmm_assets_tests.vendors.loading import connection_of, differences, load, receive, receives_everything, table

pytestmark = pytest.mark.slow


def test_a_device_of_another_class_has_no_software_whatever_the_status(tmp_path: Path) -> None:
    dialect = sessions.Datto()
    other = [row["uid"] for row in dialect.resources()["devices"] if row["deviceClass"] != "device"]
    dialect.faults = lambda asked, number: (
        Say({"error": "device class"}, 400) if any(uid in asked.path for uid in other) else None
    )
    with Scripted(dialect.answer) as server:
        received = receive(tmp_path, connection_of(dialect, server.url), dialect, "software")
    assert differences(received.rows, dialect.resources()["software"]) == []


@pytest.mark.parametrize(("status", "requests"), [(429, 2), (503, 2)])
def test_too_many_requests_are_sent_again_later(status: int, requests: int, tmp_path: Path) -> None:
    dialect = sessions.Datto()
    slow_down = Say({"error": "too many requests"}, status, (("Retry-After", "0"),))
    dialect.faults = lambda asked, number: slow_down if number == requests else None
    receives_everything(tmp_path, dialect, "sites")


def test_a_403_which_may_mean_blocked_or_not_allowed_is_red(tmp_path: Path) -> None:
    dialect = sessions.Datto()
    dialect.faults = lambda asked, number: Say({"error": "forbidden"}, 403) if number == 3 else None
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="403"):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "sites")


def test_a_wrong_key_is_red_and_asked_for_no_rows(tmp_path: Path) -> None:
    dialect = sessions.Datto()
    dialect.faults = lambda asked, number: Say({"error": "unauthorized"}, 401) if "token" in asked.path else None
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="401"):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "sites")
    assert dialect.answered == []


def test_a_refresh_token_saves_the_login_and_a_restart_of_the_server_needs_it(tmp_path: Path) -> None:
    dialect = sessions.NCentral()
    dialect.forget_tokens_at(3)
    receives_everything(tmp_path / "expired", dialect, "devices")
    assert dialect.logins == 1

    dialect = sessions.NCentral()

    def restart(asked: Asked, number: int) -> Say | None:
        if number == 3:
            dialect.tokens.clear()
            dialect.refreshable = ""
        return None

    dialect.faults = restart
    receives_everything(tmp_path / "restarted", dialect, "devices")
    assert dialect.logins == 2


def test_a_check_and_the_audits_of_a_connection_log_in_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dialect = sessions.NCentral()
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url, resources=["sites", "devices"])
        for name, reference in {"api_key": made.api_key, **made.secrets}.items():
            if reference is not None and name in dialect.secrets:
                monkeypatch.setenv(str(reference.env), dialect.secrets[name])
        assert [sample.problems for sample in checked(made, None).resources] == [[], []]
        assert dialect.logins == 1
        api = api_resource(made)
        for resource in made.resources:
            assert audit_resource(made, resource, api).rows_api
        assert dialect.logins == 2


def test_an_error_that_is_answered_with_200_is_red(tmp_path: Path) -> None:
    dialect = sessions.NCentral()
    dialect.faults = lambda asked, number: Say({"message": "Error Message", "status": 500}) if number >= 3 else None
    with Scripted(dialect.answer) as server, pytest.raises(RmmError):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "sites")


def test_one_customer_that_is_gone_does_not_stop_the_others(tmp_path: Path) -> None:
    dialect = sessions.NCentral()
    gone = dialect.resources()["customers"][0]["customerId"]
    dialect.faults = lambda asked, number: Say({}, 404) if f"/org-units/{gone}/" in asked.path else None
    with Scripted(dialect.answer) as server:
        received = receive(tmp_path, connection_of(dialect, server.url), dialect, "active_issues")
    others = [row for row in dialect.resources()["active_issues"] if row["_customers_customerId"] != gone]
    assert differences(received.rows, others) == []


def test_a_second_run_reads_new_activities_over_links_without_the_time(tmp_path: Path) -> None:
    dialect = sessions.Datto()
    rows = dialect.activities
    later = [rows.pop() for _ in range(120)][::-1]
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        load(tmp_path, made, dialect, "activity_log")
        rows += later
        dialect.answered.clear()
        assert load(tmp_path, made, dialect, "activity_log").rows_new == 120
    assert [number for _, number in dialect.answered] == [100, 21]
    assert differences(table(tmp_path, "activity_log"), rows) == []
