"""Tests that profiles whose lists are requested with POST read on where they stopped, and are red where rows would be lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets.errors import RmmError
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.vendors import lists, posts
from rmm_assets_tests.vendors.loading import connection_of, differences, load, receive, table

pytestmark = pytest.mark.slow


def test_an_answer_without_rows_is_red(tmp_path: Path) -> None:
    """An endpoint of Endpoint Central whose rows have another name, or an error with status 200."""
    dialect = lists.EndpointCentral()
    error = {"message_type": "allsystems", "status": "error", "error_code": "1010", "error_description": "unknown"}
    dialect.faults = lambda asked, number: Say(error)
    with Scripted(dialect.answer) as server, pytest.raises(RmmError):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "patch_systems")


def test_jobs_of_a_second_run_are_those_that_started_or_ended_since(tmp_path: Path) -> None:
    dialect = posts.Comet()
    rows = dialect.lists["/get-jobs-for-date-range"].rows
    rows.sort(key=lambda row: row["StartTime"])
    running = next(row for row in rows if row["EndTime"] == 0)
    later = [rows.pop() for _ in range(5)]
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        load(tmp_path, made, dialect, "jobs")
        rows += later
        running["EndTime"] = max(row["StartTime"] for row in rows) + 60
        dialect.answered.clear()
        outcome = load(tmp_path, made, dialect, "jobs")
    assert outcome.rows_new == 5
    assert sum(number for _, number in dialect.answered) < len(rows) / 2
    assert differences(table(tmp_path, "jobs"), rows) == []


def test_a_second_user_of_the_same_name_is_red(tmp_path: Path) -> None:
    dialect = posts.Comet()
    twice = b'{"ana": {"Username": "ana", "AccountName": "a"}, "ana": {"Username": "ana", "AccountName": "b"}}'
    dialect.faults = lambda asked, number: Say(twice, headers=(("Content-Type", "application/json"),))
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="twice"):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "users")


def test_a_wrong_password_is_red(tmp_path: Path) -> None:
    dialect = posts.Comet()
    dialect.faults = lambda asked, number: Say({"Status": 403, "Message": "Access denied"}, 403)
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="403"):
        receive(tmp_path, connection_of(dialect, server.url), dialect, "policies")
