"""Tests that profiles survive what their vendors' APIs do besides sending pages, or are red."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rmm_assets.errors import RmmError
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.vendors import lists
from rmm_assets_tests.vendors.dialect import Asked, Dialect
from rmm_assets_tests.vendors.loading import connection_of, differences, load, loads_everything, table

pytestmark = pytest.mark.slow


def test_a_token_that_expires_in_mid_run_is_renewed(tmp_path: Path) -> None:
    dialect = lists.Jamf()

    def expire(asked: Asked, number: int) -> Say | None:
        if number == 3:
            dialect.tokens.clear()
        return None

    dialect.faults = expire
    loads_everything(tmp_path, dialect, "buildings")
    assert len(dialect.tokens) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [(lists.Level, "alerts"), (lists.Hudu, "assets"), (lists.VsaX, "devices"), (lists.Tactical, "agents"),
     (lists.Jamf, "computers"), (lists.ConnectWise, "tickets"), (lists.Atera, "agents")],
    ids=lambda value: getattr(value, "profile", value),
)  # fmt: skip
def test_a_server_that_cuts_its_pages_loses_no_rows(kind: type[Dialect], name: str, tmp_path: Path) -> None:
    dialect = kind()
    cut = {path: replace(found, most=found.most // 3) for path, found in vars(kind)["lists"].func(dialect).items()}
    vars(dialect)["lists"] = cut
    loads_everything(tmp_path, dialect, name)


def test_one_agent_without_patches_does_not_stop_the_others(tmp_path: Path) -> None:
    dialect = lists.Atera()
    gone = dialect.resources()["agents"][3]["DeviceGuid"]
    dialect.faults = lambda asked, number: Say({"error": "no such agent"}, 404) if gone in asked.path else None
    with Scripted(dialect.answer) as server:
        load(tmp_path, connection_of(dialect, server.url), dialect, "available_patches")
    others = [row for row in dialect.resources()["available_patches"] if row["_agents_DeviceGuid"] != gone]
    assert differences(table(tmp_path, "available_patches"), others) == []


@pytest.mark.parametrize("kind", [lists.Level, lists.Syncro, lists.Hudu], ids=lambda kind: kind.profile)
def test_too_many_requests_are_sent_again_later(kind: type[Dialect], tmp_path: Path) -> None:
    dialect = kind()
    slow_down = Say({"error": "too many requests"}, 429, (("Retry-After", "0"),))
    dialect.faults = lambda asked, number: slow_down if number == 2 else None
    loads_everything(tmp_path, dialect, next(iter(dialect.resources())))
    assert dialect.requests > 3


def test_the_page_of_a_dashboard_is_red(tmp_path: Path) -> None:
    dialect = lists.Tactical()
    page = Say(b"<!DOCTYPE html><html></html>", headers=(("Content-Type", "text/html"),))
    dialect.faults = lambda asked, number: page
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match="JSON"):
        load(tmp_path, connection_of(dialect, server.url), dialect, "agents")
