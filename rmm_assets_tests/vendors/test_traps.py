"""Tests that profiles survive what their vendors' APIs do besides sending pages, or are red."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from rmm_assets.errors import RmmError
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.vendors import lists, nested, netbox, posts, sessions, tactical
from rmm_assets_tests.vendors.dialect import Asked, Dialect, Sessions
from rmm_assets_tests.vendors.loading import connection_of, differences, load, receive, receives_everything, table

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (lists.Jamf, "buildings"), (nested.NinjaOne, "activities"), (nested.Action1, "endpoints"),
        (sessions.Datto, "devices"), (sessions.NCentral, "devices"), (sessions.Automate, "computers"),
        (sessions.Glpi, "tickets"),
    ],
    ids=lambda value: getattr(value, "profile", value),
)  # fmt: skip
def test_a_token_that_ends_in_mid_run_is_renewed(kind: type[Sessions], name: str, tmp_path: Path) -> None:
    dialect = kind()
    dialect.forget_tokens_at(3)
    receives_everything(tmp_path, dialect, name)
    assert len(dialect.tokens) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (lists.Level, "alerts"), (lists.Hudu, "assets"), (lists.VsaX, "devices"), (lists.Tactical, "agents"),
        (lists.Jamf, "computers"), (lists.ConnectWise, "tickets"), (lists.Atera, "agents"),
        (lists.EndpointCentral, "computers"), (nested.NinjaOne, "devices"), (nested.NinjaOne, "activities"),
        (posts.Addigy, "devices"), (sessions.Datto, "devices"), (sessions.NCentral, "devices"),
        (sessions.Automate, "computers"), (sessions.Glpi, "tickets"), (netbox.NetBox, "sites"),
    ],
    ids=lambda value: getattr(value, "profile", value),
)  # fmt: skip
def test_a_server_that_cuts_its_pages_loses_no_rows(kind: type[Dialect], name: str, tmp_path: Path) -> None:
    dialect = kind()
    cut = {path: replace(found, most=found.most // 3) for path, found in vars(kind)["lists"].func(dialect).items()}
    vars(dialect)["lists"] = cut
    receives_everything(tmp_path, dialect, name)


def test_one_agent_without_patches_does_not_stop_the_others(tmp_path: Path) -> None:
    dialect = lists.Atera()
    gone = dialect.resources()["agents"][3]["DeviceGuid"]
    dialect.faults = lambda asked, number: Say({"error": "no such agent"}, 404) if gone in asked.path else None
    with Scripted(dialect.answer) as server:
        received = receive(tmp_path, connection_of(dialect, server.url), dialect, "available_patches")
    others = [row for row in dialect.resources()["available_patches"] if row["_agents_DeviceGuid"] != gone]
    assert differences(received.rows, others) == []


@pytest.mark.parametrize("kind", [lists.Level, lists.Syncro, lists.Hudu], ids=lambda kind: kind.profile)
def test_too_many_requests_are_sent_again_later(kind: type[Dialect], tmp_path: Path) -> None:
    dialect = kind()
    slow_down = Say({"error": "too many requests"}, 429, (("Retry-After", "0"),))
    dialect.faults = lambda asked, number: slow_down if number == 2 else None
    assert receives_everything(tmp_path, dialect, next(iter(dialect.resources()))).traffic.throttled == 1


def test_the_page_of_a_dashboard_is_red(tmp_path: Path) -> None:
    dialect = lists.Tactical()
    page = Say(b"<!DOCTYPE html><html></html>", headers=(("Content-Type", "text/html"),))
    dialect.faults = lambda asked, number: page
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="JSON"):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "agents")


def test_a_last_page_that_is_repeated_behind_the_end_is_no_more_rows(tmp_path: Path) -> None:
    """Tactical RMM sends the last page of its audit log for every number above it, also if it is full."""
    dialect = tactical.TacticalStable()
    rows = dialect.lists["/logs/audit/"].rows
    del rows[2000:]
    receives_everything(tmp_path, dialect, "audit_log")


def test_agents_whose_updates_may_not_be_read_are_red(tmp_path: Path) -> None:
    """Without the permission to manage Windows updates, Tactical RMM answers 403 for each agent."""
    dialect = tactical.TacticalStable()
    dialect.faults = lambda asked, number: Say({"detail": "No."}, 403) if "winupdate" in asked.path else None
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="403"):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "windows_updates")


@pytest.mark.parametrize("status", [401, 500])
def test_an_agent_whose_updates_cannot_be_read_is_red(status: int, tmp_path: Path) -> None:
    dialect = tactical.TacticalStable()
    some = dialect.resources()["agents"][7]["agent_id"]
    dialect.faults = lambda asked, number: Say({"detail": "No."}, status) if some in asked.path else None
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match=str(status)):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "windows_updates")


def test_a_smaller_page_of_an_organization_is_followed(tmp_path: Path) -> None:
    """Action1's server may change the limit that was asked for."""
    dialect = nested.Action1()
    respond = dialect.respond

    def smaller(asked: Asked, number: int) -> Say | None:
        if "limit" not in asked.query:
            return None
        return respond(replace(asked, query={**asked.query, "limit": ["70"]}))

    dialect.faults = smaller
    receives_everything(tmp_path, dialect, "endpoints")


def test_too_many_requests_of_which_the_body_says_how_long_to_wait(tmp_path: Path) -> None:
    dialect = nested.Action1()
    slow_down = Say({"error": "too many requests", "retry_after": 4}, 429)
    dialect.faults = lambda asked, number: slow_down if number == 3 else None
    began = time.monotonic()
    assert receives_everything(tmp_path, dialect, "organizations").traffic.throttled == 1
    assert time.monotonic() - began > 4


def test_a_403_that_means_too_many_requests_is_waited_for(tmp_path: Path) -> None:
    dialect = nested.Auvik()
    slow_down = Say({"errors": [{"title": "Rate limit exceeded", "detail": "rate limit"}]}, 403)
    dialect.faults = lambda asked, number: slow_down if number == 3 else None
    assert receives_everything(tmp_path, dialect, "devices").traffic.throttled == 1


def test_a_403_that_means_no_permission_is_named_and_red_if_no_tenant_can_be_read(tmp_path: Path) -> None:
    dialect = nested.Auvik()
    forbidden, hidden = Say({"errors": [{"title": "Forbidden"}]}, 403), [dialect.tenants[1]["id"]]
    dialect.faults = lambda asked, number: forbidden if asked.first("tenants") in hidden else None
    with Scripted(dialect.answer) as server:
        report = receive(tmp_path, connection_of(dialect, server.url), dialect, "devices").report
        assert (report.parents, report.parents_refused) == (3, 1)
        assert f"(HTTP 403: tenants id={hidden[0]})" in report.reason
        hidden += [tenant["id"] for tenant in dialect.tenants]
        with pytest.raises(RmmError, match="403"):
            receive(tmp_path, connection_of(dialect, server.url), dialect, "devices")


def test_a_200_that_means_too_many_requests_is_waited_for(tmp_path: Path) -> None:
    dialect = nested.SuperOps()
    limit = {"extensions": {"clientError": [{"code": "rate_limit_exceeded"}]}, "message": "rate_limit_exceeded"}
    dialect.faults = lambda asked, number: Say({"errors": [limit], "data": None}) if number == 3 else None
    assert receives_everything(tmp_path, dialect, "assets").traffic.throttled == 1


def test_rows_and_messages_that_mention_a_limit_are_rows(tmp_path: Path) -> None:
    dialect = nested.SuperOps()
    dialect.queries["getAlertList"][1][3]["message"] = "rate_limit_exceeded"
    assert receives_everything(tmp_path, dialect, "alerts").traffic.throttled == 0


def test_an_error_with_200_is_red(tmp_path: Path) -> None:
    dialect = nested.SuperOps()
    error = {"errors": [{"message": "Internal Server Error"}], "data": None}
    dialect.faults = lambda asked, number: Say(error) if number >= 2 else None
    with Scripted(dialect.answer) as server, pytest.raises(RmmError):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "assets")


def test_activities_of_a_second_run_are_the_new_ones(tmp_path: Path) -> None:
    dialect = nested.NinjaOne()
    rows = dialect.lists["/v2/activities"].rows
    later = [rows.pop() for _ in range(5)]
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        load(tmp_path, made, dialect, "activities")
        rows += later
        dialect.answered.clear()
        outcome = load(tmp_path, made, dialect, "activities")
    assert outcome.rows_new == 5
    assert sum(number for _, number in dialect.answered) < 100
    assert differences(table(tmp_path, "activities"), rows) == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "field"),
    [
        (lists.ConnectWise, "tickets", "/service/tickets", "_info.lastUpdated"),
        (lists.ConnectWise, "time_entries", "/time/entries", "_info.lastUpdated"),
        (lists.Hudu, "assets", "/api/v1/assets", "updated_at"),
        (lists.Hudu, "articles", "/api/v1/articles", "updated_at"),
        (netbox.NetBox, "ip_addresses", "/ipam/ip-addresses/", "last_updated"),
    ],
    ids=lambda value: getattr(value, "profile", value),
)
def test_a_second_run_requests_what_has_changed(
    kind: type[Dialect], name: str, path: str, field: str, tmp_path: Path
) -> None:
    dialect = kind()
    rows = vars(kind)["lists"].func(dialect)[path].rows
    vars(dialect)["lists"] = {path: replace(vars(kind)["lists"].func(dialect)[path], rows=rows)}
    above, _, last = field.rpartition(".")
    later = max((row[above] if above else row)[last] for row in rows)
    changed = rows[7][above] if above else rows[7]
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        load(tmp_path, made, dialect, name)
        changed[last] = f"{int(later[:4]) + 1}{later[4:]}"
        dialect.answered.clear()
        outcome = load(tmp_path, made, dialect, name)
    assert outcome.rows_written == 1
    assert sum(number for _, number in dialect.answered) < len(rows) / 2
    assert differences(table(tmp_path, name), rows) == []
